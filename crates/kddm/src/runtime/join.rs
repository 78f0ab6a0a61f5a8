//! From nothing to a full member.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId};
use kddm_core::node::Node as Core;

use crate::cell::Lease;
use crate::error::{ConfigurationError, Error, MembershipError};
use crate::options::{Config, MOST_OBJECT_LIMIT_BYTES};
use crate::runtime::control::{Answer, CONTROL_LIMIT, Cluster, Question};
use crate::runtime::lane::{Lane, LaneState, Limits};
use crate::runtime::{Identity, Runtime};
use crate::transport::greeting::{Hello, PROTOCOL, Purpose, call};
use crate::transport::{Address, Listener, Poller};

/// Lanes of a node. One thread keeps up with one processor's worth of messages.
const LANES: usize = 1;

/// How often admission is looked at while links are being made.
const JOIN_ROUND: Duration = Duration::from_millis(5);

pub(crate) fn join(config: Config) -> Result<Arc<Runtime>, Error> {
    check(&config)?;
    let listen = |reason: String| ConfigurationError::Listen { address: config.listen.clone(), reason };
    let listener = Arc::new(Listener::bind(&config.listen, config.insecure).map_err(listen)?);
    let nonce = random();
    let address = listener.address().to_string();
    let (id, cluster) = if config.contacts.is_empty() {
        let id = config.node_id.unwrap_or(1);
        let mut cluster = Cluster { id: random(), voter: id, epoch: 1, placement: 1, ..Cluster::default() };
        cluster.admit(Some(id), address, nonce).map_err(|reason| MembershipError::Refused { reason })?;
        cluster.make_possible(id);
        (id, cluster)
    } else {
        ask_for_admission(&config, address, nonce)?
    };
    let runtime = start(config, id, nonce, listener, cluster)?;
    become_possible(&runtime).inspect_err(|_| runtime.stop())?;
    Ok(runtime)
}

fn check(config: &Config) -> Result<(), Error> {
    let out = |setting, value: String, rule| Err(ConfigurationError::OutOfRange { setting, value, rule }.into());
    if !(1..=9999).contains(&config.session) {
        return out("session", config.session.to_string(), "it must be from 1 to 9999");
    }
    if config.node_id == Some(0) {
        return out("node_id", "0".into(), "it must be from 1 to 65535");
    }
    if config.object_limit_bytes == 0 || config.object_limit_bytes > MOST_OBJECT_LIMIT_BYTES {
        return out("object_limit_bytes", config.object_limit_bytes.to_string(), "it must be from 1 to 1 GiB");
    }
    Ok(())
}

/// A number that no other process has: from the standard library's random hasher.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish().max(1)
}

fn ask_for_admission(config: &Config, address: String, nonce: u64) -> Result<(u16, Cluster), Error> {
    let purpose = Purpose::Control;
    let hello =
        Hello { protocol: PROTOCOL, session: config.session, cluster: 0, node: 0, incarnation: 0, nonce, purpose };
    let mut reasons = Vec::new();
    let mut contacts = config.contacts.clone();
    let mut at = 0;
    while let Some(contact) = contacts.get(at).cloned() {
        at += 1;
        let question = Question::Join { wanted: config.node_id, address: address.clone(), nonce };
        match call(&contact, &hello, &question, CONTROL_LIMIT) {
            Ok(Answer::Admitted { id, cluster }) => return Ok((id, cluster)),
            Ok(Answer::No(reason)) => return Err(MembershipError::Refused { reason }.into()),
            Ok(Answer::Ask(voter)) => match voter.parse::<Address>() {
                Ok(voter) if !contacts.contains(&voter) => contacts.push(voter),
                _ => reasons.push(format!("{contact} names no other node to ask")),
            },
            Ok(_) => reasons.push(format!("{contact} gave an answer to another question")),
            Err(crate::transport::greeting::GreetError::Refused(reason)) => {
                return Err(MembershipError::Refused { reason }.into());
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(MembershipError::NoContact { reason: reasons.join("; ") }.into())
}

fn start(
    config: Config,
    id: u16,
    nonce: u64,
    listener: Arc<Listener>,
    cluster: Cluster,
) -> Result<Arc<Runtime>, Error> {
    let system = |what| move |error: std::io::Error| ConfigurationError::System { what, reason: error.to_string() };
    let limits = Limits {
        outstanding: config.outstanding_limit,
        object_bytes: config.object_limit_bytes,
        peer_buffer_bytes: config.peer_buffer_limit_bytes,
    };
    let incarnation = Incarnation(cluster.entry(id).map_or(0, |entry| entry.incarnation));
    let identity = Identity { id: NodeId(id), incarnation, cluster: cluster.id, nonce };
    let mut lanes = Vec::new();
    for number in 0..LANES {
        let poller = Poller::new().map_err(system("polling"))?;
        let core = Core::new(identity.id, incarnation, number as u8);
        lanes.push(Arc::new(Lane::new(poller, LaneState::new(core, limits))));
    }
    let empty = Cluster { id: cluster.id, ..Cluster::default() };
    let runtime = Arc::new(Runtime::new(config, identity, listener, lanes, limits, Lease::default(), empty));
    runtime.learn(cluster);
    runtime.start_threads().map_err(system("threads"))?;
    Ok(runtime)
}

/// Online: waits for links with all members, then asks to share objects.
fn become_possible(runtime: &Arc<Runtime>) -> Result<(), Error> {
    let limit = runtime.config.join_limit;
    let deadline = Instant::now() + limit;
    let id = runtime.identity.id.0;
    let mut asked = false;
    loop {
        if runtime.cluster.lock().entry(id).is_some_and(|entry| entry.possible) {
            return Ok(());
        }
        let missing = runtime.unlinked();
        if missing.is_empty() && !asked {
            runtime.ask_voter(Question::Possible { id })?;
            asked = true;
        }
        if Instant::now() >= deadline {
            let limit_ms = limit.as_millis() as u64;
            let reason = format!("no connection with nodes {missing:?}");
            return Err(MembershipError::JoinTimedOut { limit_ms, reason }.into());
        }
        let mut cluster = runtime.cluster.lock();
        runtime.wait_for_change(&mut cluster, Instant::now() + JOIN_ROUND);
    }
}
