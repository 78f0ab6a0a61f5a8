//! What each daemon says of itself when a doctor asks.

use std::collections::BTreeMap;
use std::time::Duration;

use kddm::rpc::Service;
use kddm::{Error, Node, NodeState, RpcError};
use serde::{Deserialize, Serialize};

use crate::admin::answer::resident_bytes;

/// The service's name.
const SERVICE: &str = "kddm.doctor";

/// How long a daemon may take for its answer: as long as it may take for anything that it only looks up.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Longest answer that is looked at, 4 MiB: what a daemon says of some ten thousand sets.
const FACTS_LIMIT_BYTES: usize = 4 << 20;

/// What a daemon knows of itself. It travels as JSON, so that daemons of different versions understand each other:
/// what one does not say has the value of nothing being wrong.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The node.
    pub node: u16,
    /// Its life.
    pub incarnation: u32,
    /// The version of its program.
    pub version: String,
    /// It shares objects.
    pub shares: bool,
    /// The length of a lease of its cluster.
    pub lease_ms: u64,
    /// What is left of its own; none if it needs none.
    pub lease_left_ms: Option<u64>,
    /// The shortest lease that its host should have.
    pub least_lease_ms: u64,
    /// It uses nothing any more.
    pub is_fenced: bool,
    /// What all is not whole for there.
    pub missing: Option<String>,
    /// Those who decide who is a member, as far as it knows.
    pub voters: Vec<u16>,
    /// It is one of them, and its vote counts.
    pub votes: bool,
    /// Why it decides no more.
    pub voting_failure: Option<String>,
    /// It keeps on disk what was decided.
    pub keeps_view_log: bool,
    /// A guardian watches it.
    pub is_guarded: bool,
    /// Members that it cannot reach, or that owe it an answer.
    pub unreachable: Vec<u16>,
    /// Members that were lost and have not come back, as far as it knows.
    pub lost_members: Vec<u16>,
    /// Broken invariants.
    pub faults: u64,
    /// Memory of its process.
    pub resident_bytes: u64,
    /// How much it may have, if that is limited.
    pub memory_limit_bytes: Option<u64>,
    /// Descriptors that its process has open.
    pub descriptors: u64,
    /// How many it may have.
    pub descriptor_limit: Option<u64>,
    /// By number of the set.
    pub sets: BTreeMap<u64, SetFacts>,
}

/// What a daemon knows of a set: see [`kddm::SetHealth`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SetFacts {
    /// Objects.
    pub objects: u64,
    /// Lost ones.
    pub lost: u64,
    /// Shards in doubt.
    pub in_doubt: u64,
    /// Objects with too few replicas.
    pub short: u64,
}

/// Why a member says nothing of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unsaid {
    /// It is there, and nobody answers such questions in its process.
    NotADaemon,
    /// It could not be asked, or did not answer, or not so that it can be read.
    Silent(String),
}

/// What a member has said.
pub type Said = Result<Facts, Unsaid>;

impl Facts {
    /// What this process can say of itself.
    pub fn of(node: &Node) -> Facts {
        let (health, lease, voting, id) = (node.health(), node.lease(), node.voting(), node.id());
        let members = node.members();
        let set = |set: kddm::SetHealth| SetFacts {
            objects: set.objects as u64,
            lost: set.lost as u64,
            in_doubt: set.in_doubt as u64,
            short: set.short as u64,
        };
        Facts {
            node: id,
            incarnation: node.incarnation(),
            version: env!("CARGO_PKG_VERSION").into(),
            shares: members.iter().any(|member| member.id == id && member.state == NodeState::Possible),
            lease_ms: lease.length.as_millis() as u64,
            lease_left_ms: lease.remaining.map(|left| left.as_millis() as u64),
            least_lease_ms: kddm::least_lease().as_millis() as u64,
            is_fenced: health.is_fenced,
            missing: health.missing,
            voters: voting.voters,
            votes: voting.votes,
            voting_failure: voting.failure,
            keeps_view_log: health.keeps_view_log,
            is_guarded: health.is_guarded,
            unreachable: members.iter().filter(|member| !member.reachable).map(|member| member.id).collect(),
            lost_members: health.lost_members,
            faults: node.statistics().faults,
            resident_bytes: resident_bytes(),
            memory_limit_bytes: memory_limit_bytes(),
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64),
            descriptor_limit: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            sets: health.sets.into_iter().map(|(id, health)| (id, set(health))).collect(),
        }
    }
}

/// The least of what the control groups around this process allow it.
fn memory_limit_bytes() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut limits = Vec::new();
    let mut group = std::path::Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    while group.starts_with("/sys/fs/cgroup") {
        let limit = std::fs::read_to_string(group.join("memory.max")).unwrap_or_default();
        limits.extend(limit.trim().parse::<u64>().ok());
        if !group.pop() {
            break;
        }
    }
    limits.into_iter().min()
}

/// Lets doctors elsewhere ask this node, until the answer is dropped.
///
/// # Errors
/// As registering a service.
pub fn serve(node: &Node) -> Result<Service, Error> {
    node.rpc().register_blocking(SERVICE, |request| {
        Ok(serde_json::to_vec(&Facts::of(request.node())).map_err(|error| error.to_string())?)
    })
}

/// Asks other members: what each says, or why it says nothing.
///
/// # Errors
/// As a call, where none of them could be asked at all.
pub fn ask(node: &Node, others: &[u16]) -> Result<Vec<(u16, Said)>, Error> {
    if others.is_empty() {
        return Ok(Vec::new());
    }
    let read = |body: Vec<u8>| {
        if body.len() > FACTS_LIMIT_BYTES {
            return Err(Unsaid::Silent(format!("its answer has {} bytes", body.len())));
        }
        let facts = serde_json::from_slice::<Facts>(&body);
        facts.map_err(|error| Unsaid::Silent(format!("its answer cannot be read: {error}")))
    };
    let replies = node.rpc().call_all(others, SERVICE, &[], ASK_LIMIT).wait()?;
    let read = |(from, answer): (u16, Result<Vec<u8>, _>)| match answer {
        // What it says of another node is nothing that it knows.
        Ok(body) => (from, read(body).map(|facts| Facts { node: from, ..facts })),
        Err(Error::Rpc(RpcError::NoService { .. })) => (from, Err(Unsaid::NotADaemon)),
        Err(error) => (from, Err(Unsaid::Silent(error.to_string()))),
    };
    Ok(replies.into_iter().map(read).collect())
}
