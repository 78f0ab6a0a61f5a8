//! What a daemon answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kddm::{BudgetInfo, Error, ExpiryInfo, HeldBy, Node, NodeState, SetInfo, SetUsage, ShardUsage};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::freezing::Freezes;
use super::protocol::{Command, Failure};
use super::{coordination, destroying, detail, linkers, listing, object};
use crate::ending::{self, End};
use crate::{bench, doctor, sharing};

/// Shards shown of a set: enough to see whether one is busier than the others.
const BUSIEST: usize = 8;

/// Objects of each set that are looked at for holders: about a millisecond.
const HOLDERS_LIMIT: usize = 10_000;

/// How often a benchmark says how far it is.
const PROGRESS: Duration = Duration::from_millis(100);

/// Longest wait for members that may be asked for: one day.
const MOST_WAIT_MS: u64 = 24 * 3600 * 1000;

/// A daemon, as those who ask see it.
#[derive(Clone)]
pub struct Subject {
    /// Its node.
    pub node: Node,
    /// When the daemon began.
    pub started: Instant,
    /// How long handing over may take.
    pub drain_limit: Duration,
    /// A stop has begun.
    pub is_stopping: Arc<AtomicBool>,
    /// Ends the daemon without handing over.
    pub end: End,
    /// What it has frozen for its operators.
    pub freezes: Freezes,
}

/// A daemon as it is now: its node may be another one after its lease has ended.
#[derive(Clone)]
pub struct Shown(Arc<Mutex<Subject>>);

impl Shown {
    /// So far.
    pub fn new(subject: Subject) -> Shown {
        Shown(Arc::new(Mutex::new(subject)))
    }

    /// As it is now.
    pub fn now(&self) -> Subject {
        self.0.lock().clone()
    }

    /// From now on.
    pub fn change(&self, change: impl FnOnce(&mut Subject)) {
        change(&mut self.0.lock());
    }
}

/// The three words of the states, as people see them.
pub fn word(state: NodeState) -> &'static str {
    match state {
        NodeState::Offline => "offline",
        NodeState::Online => "online",
        NodeState::Possible => "possible",
    }
}

impl Subject {
    /// A daemon that begins now.
    pub fn new(node: Node, started: Instant, drain_limit: Duration) -> Subject {
        let (is_stopping, freezes) = (Arc::default(), Freezes::default());
        Subject { node, started, drain_limit, is_stopping, end: Arc::new(|| {}), freezes }
    }

    /// The state of its node; one that stops is not to be counted on any more.
    pub fn state(&self) -> NodeState {
        if self.is_stopping.load(Ordering::Acquire) {
            return NodeState::Offline;
        }
        let id = self.node.id();
        self.node.members().iter().find(|member| member.id == id).map_or(NodeState::Offline, |member| member.state)
    }

    /// Measures the cluster. `told` hears how far it is, and says whether anybody still listens.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn bench(
        &self,
        operations: usize,
        case_limit_ms: u64,
        told: &mut dyn FnMut(Json) -> bool,
    ) -> Result<Json, Failure> {
        let case_limit = Duration::from_millis(case_limit_ms.min(MOST_WAIT_MS));
        let options = bench::Options { operations, case_limit, ..bench::Options::default() };
        let mut next = Instant::now();
        let report = bench::run(&self.node, &options, &mut |progress| {
            if Instant::now() >= next {
                next = Instant::now() + PROGRESS;
                let listens = told(json!({ "progress": progress }));
                options.cancel.fetch_or(!listens, Ordering::Release);
            }
        });
        let report = report.map_err(|error| Failure::new(error.to_string()))?;
        Ok(json!({ "report": report, "table": report.table(), "off_budget": report.off_budget().count() }))
    }

    /// The last answer to a command; `told` gets those that come before it.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn answer(&self, command: &Command, told: &mut dyn FnMut(Json)) -> Result<Json, Failure> {
        let mut progress = |progress| told(json!({ "progress": progress }));
        match command {
            Command::Status => Ok(self.status()),
            Command::Start { node } => {
                sharing::start(&self.node, *node, self.drain_limit, &mut progress).map(|()| self.status())
            }
            Command::Stop { node } => {
                sharing::stop(&self.node, *node, self.drain_limit, &mut progress).map(|()| self.status())
            }
            Command::End { is_meant } => {
                // A lease that ends meanwhile is no reason to begin again.
                ending::stop_all(&self.node, *is_meant, || self.is_stopping.store(true, Ordering::Release))
            }
            Command::Wait { members, limit_ms } => {
                let limit = Duration::from_millis((*limit_ms).min(MOST_WAIT_MS));
                self.node.wait_for_members(*members, limit)?;
                Ok(self.status())
            }
            Command::Sets => self.sets(),
            Command::Set { name } => {
                let info = self.node.set_info(name)?;
                let mut shown =
                    set(&info, self.node.usage().get(&info.id), &self.node.budgets(), &self.node.expiries());
                let shards = self.node.shards(info.id);
                shown["busiest_shards"] = shards.iter().take(BUSIEST).map(shard).collect();
                Ok(shown)
            }
            Command::ObjectShow { set, id } => detail::show(&self.node, set, *id),
            Command::ObjectHistory { set, id } => detail::history(&self.node, set, *id),
            Command::Object { set, id, form, replicas, action } => {
                object::act(&self.node, set, *id, *form, *replicas, action)
            }
            Command::AcceptLoss { set, id } => {
                match id {
                    Some(id) => self.node.accept_loss(set, *id),
                    None => self.node.accept_losses(set),
                }
                .wait()?;
                Ok(json!({"set": set, "id": id, "accepted": true}))
            }
            Command::Freeze { set, minutes } => self.freezes.freeze(&self.node, set, *minutes),
            Command::Thaw { set } => self.freezes.thaw(&self.node, set),
            Command::Destroy { set, limit_ms, meant } => {
                destroying::destroy(&self.node, set, Duration::from_millis(*limit_ms), *meant)
            }
            Command::Doctor => doctor::examine(&self.node),
            Command::Barriers => coordination::barriers(&self.node),
            Command::Latches => coordination::latches(&self.node),
            Command::Ids => coordination::ids(&self.node),
            Command::Linkers => linkers::linkers(&self.node),
            Command::Names { class, limit } => listing::names(&self.node, class.as_deref(), *limit),
            Command::Objects { set, after, limit } => listing::objects(&self.node, set, after.as_deref(), *limit),
            Command::Holders => self.holders(),
            Command::Bench { operations, case_limit_ms } => self.bench(*operations, *case_limit_ms, &mut |_| true),
            // One answer is the last one: whoever watches is told of events elsewhere.
            Command::Events { .. } => Err(Failure::new("events have answers of their own")),
            Command::Stats | Command::Watch { .. } => Ok(self.statistics()),
        }
    }

    fn status(&self) -> Json {
        let voting = self.node.voting();
        let members = self.node.members();
        let nodes: Vec<Json> = members
            .iter()
            .chain(&self.node.departed())
            .map(|member| {
                json!({
                    "zone": voting.zones.get(&member.id),
                    "witness": voting.witnesses.contains(&member.id),
                    "preferred": voting.preferred.contains(&member.id),
                    "disk_failed": voting.failing.contains(&member.id),
                    "decides": decides(&voting, member.id),
                    "id": member.id,
                    "state": word(member.state),
                    "incarnation": member.incarnation,
                    "address": member.address,
                    "reachable": member.reachable,
                })
            })
            .collect();
        let lease = self.node.lease();
        let recovery = self.node.recovery();
        json!({
            "lease_ms": lease.length.as_millis() as u64,
            "lease_left_ms": lease.remaining.map(|left| left.as_millis() as u64),
            "failures": lease.failures,
            "whole": recovery.is_whole,
            "recovering": recovery.is_recovering,
            "lost_here": recovery.lost,
            "replicas_here": recovery.replicas,
            "epoch": self.node.epoch(),
            "lanes": self.node.lanes(),
            "session": self.node.session(),
            "cluster": format!("{:016x}", self.node.cluster_id()),
            "voters": voting.voters,
            "kept_in": voting.kept_in,
            "leader": voting.leader,
            "term": voting.term,
            "voting_failure": voting.failure,
            "rule": rule(&voting, members.len()),
            // Of several nodes one decides alone: without it the others stop.
            "stops_with": (voting.voters.len() == 1 && members.len() > 1).then(|| voting.voters[0]),
            "answered_by": self.node.id(),
            "nodes": nodes,
            "programs": self.programs(),
        })
    }

    /// The programs that are attached to this daemon.
    fn programs(&self) -> Vec<Json> {
        let program = |info: kddm::ProgramInfo| {
            json!({
                "pid": info.pid,
                "name": info.name,
                "lent": info.lent,
                "lent_to_write": info.lent_to_write,
                "asked_back": info.asked_back,
                "waiting": info.waiting,
            })
        };
        self.node.programs().into_iter().map(program).collect()
    }

    fn sets(&self) -> Result<Json, Failure> {
        let usage = self.node.usage();
        let (budgets, expiries) = (self.node.budgets(), self.node.expiries());
        let sets = self.node.sets()?;
        let sets: Vec<Json> = sets.iter().map(|info| set(info, usage.get(&info.id), &budgets, &expiries)).collect();
        Ok(json!({"answered_by": self.node.id(), "sets": sets}))
    }

    fn holders(&self) -> Result<Json, Failure> {
        let holdings = self.node.holdings(HOLDERS_LIMIT);
        let names: Result<Vec<SetInfo>, Error> = self.node.sets();
        // The list of sets may itself be what nobody gets at: then the numbers must do.
        let names = names.unwrap_or_default();
        let name = |id: u64| names.iter().find(|info| info.id == id).map(|info| info.name.clone());
        let objects: Vec<Json> = holdings
            .objects
            .iter()
            .map(|holding| {
                json!({
                    "set": name(holding.set).unwrap_or_else(|| format!("#{}", holding.set)),
                    "object": holding.object,
                    "held": holding.is_held,
                    "waiting_here": holding.waiting_here,
                    "wanted_elsewhere": holding.wanted_elsewhere,
                    "in_the_way_ms": holding.in_the_way_for.map(|time| time.as_millis() as u64),
                    "held_by": holding.holders.iter().map(held_by).collect::<Vec<_>>().join(", "),
                })
            })
            .collect();
        Ok(json!({"answered_by": self.node.id(), "complete": holdings.is_complete, "objects": objects,
                  "programs": self.programs()}))
    }

    /// What this daemon counts, with the process around it.
    pub fn statistics(&self) -> Json {
        let counted = self.node.statistics();
        let usage = self.node.usage();
        let recovery = self.node.recovery();
        let sum = |of: fn(&SetUsage) -> usize| usage.values().map(of).sum::<usize>();
        let messages: serde_json::Map<String, Json> = counted
            .by_kind()
            .map(|(name, sent, received)| (name.into(), json!({"sent": sent, "received": received})))
            .collect();
        let members = self.node.members();
        let count = |state: NodeState| members.iter().filter(|member| member.state == state).count();
        json!({
            "node": self.node.id(),
            "epoch": self.node.epoch(),
            "uptime_seconds": self.started.elapsed().as_secs_f64(),
            "resident_bytes": resident_bytes(),
            "members": {"online": count(NodeState::Online), "possible": count(NodeState::Possible)},
            "objects": sum(|usage| usage.objects),
            "directory_entries": sum(|usage| usage.directory_entries),
            "metadata_bytes": sum(|usage| usage.metadata_bytes),
            "replicas": recovery.replicas,
            "lost": recovery.lost,
            "losses_accepted": counted.losses_accepted,
            "sets_destroyed": counted.sets_destroyed,
            "rolled_back": counted.rolled_back,
            "waits_for_thaw": counted.waits_for_thaw,
            "remembered": counted.remembered,
            "revalidated": counted.revalidated,
            "forgotten_copies": counted.forgotten_copies,
            "failures": recovery.failures,
            "misses": counted.misses,
            "moves": counted.moves(),
            "installs": counted.installs,
            "dropped": counted.dropped,
            "malformed": counted.malformed,
            "undecodable": counted.undecodable,
            "faults": counted.faults,
            "reconnects": counted.reconnects,
            "overdue_holds": counted.overdue_holds,
            "notifier_overruns": counted.notifier_overruns,
            "proven_dead": counted.proven_dead,
            "notifier_panics": counted.notifier_panics,
            "invoked": counted.invoking.invoked,
            "delegated": counted.invoking.delegated,
            "served": counted.invoking.served,
            "combined": counted.invoking.combined,
            "invoke_fallbacks": counted.invoking.fallbacks,
            "calls": calls(self.node.rpc().counts()),
            "names": names(counted.names),
            "watches": watches(self.node.watch_counts()),
            "programs": self.node.programs().len(),
            "frames_sent": counted.frames_sent,
            "frames_received": counted.frames_received,
            "messages_sent": counted.messages(),
            "messages": messages,
        })
    }
}

/// Calls and streams between nodes.
fn calls(counted: kddm::rpc::CallCounts) -> Json {
    json!({
        "sent": counted.called,
        "cast": counted.cast,
        "asked": counted.asked,
        "queued": counted.queued,
        "refused": counted.refused,
        "forwarded": counted.forwarded,
        "streams": counted.streams,
        "open_streams": counted.open_streams,
    })
}

fn watches(counted: kddm::WatchCounts) -> Json {
    json!({"watchers": counted.watchers, "sets": counted.sets, "of_programs": counted.of_programs})
}

fn names(counted: kddm::NameCounts) -> Json {
    json!({"used": counted.used, "untold": counted.untold, "uses_ended": counted.ended})
}

/// Which rule decides who is a member.
fn rule(voting: &kddm::VotingInfo, members: usize) -> &'static str {
    let is_one_of = |some: &[u16]| voting.voters.iter().any(|voter| some.contains(voter));
    match voting.voters.len() {
        _ if voting.kept_in.is_some() => "elsewhere",
        1 if members < 2 => "alone",
        1 if is_one_of(&voting.preferred) => "preferred node",
        1 => "first node",
        3 if is_one_of(&voting.witnesses) => "witness",
        3 => "three voters",
        _ => "five voters",
    }
}

/// What a node has to do with who is a member.
fn decides(voting: &kddm::VotingInfo, node: u16) -> &'static str {
    match (voting.voters.contains(&node), voting.leader == Some(node)) {
        (_, true) => "leads",
        (true, false) => "votes",
        (false, false) => "",
    }
}

fn held_by(holder: &HeldBy) -> String {
    format!("{} ({})", holder.who, if holder.is_write { "write" } else { "read" })
}

fn set(info: &SetInfo, usage: Option<&SetUsage>, budgets: &[BudgetInfo], expiries: &[ExpiryInfo]) -> Json {
    let usage = usage.copied().unwrap_or_default();
    let budget = budgets.iter().find(|budget| budget.set_id == info.id);
    let expiry = expiries.iter().find(|expiry| expiry.set_id == info.id);
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "name": info.name,
        "id": info.id,
        "codec": info.codec,
        "type": info.type_name,
        "placement": info.placed_by,
        "replicas": info.replicas,
        "on_loss": info.on_loss.word(),
        "linker": info.linker,
        "write_policy": info.write_policy.map(kddm::linker::WritePolicy::word),
        "ending": info.is_ending,
        "frozen_by": info.frozen_by,
        "expire_after_ms": info.expire_after.map(milliseconds),
        "expire_idle_ms": info.expire_idle.map(milliseconds),
        "expire_each": info.expire_each,
        "on_expiry": info.on_expiry.map(kddm::OnExpiry::word),
        "expired_here": expiry.map(|expiry| expiry.expired),
        "expiry_unread_here": expiry.map(|expiry| expiry.unread),
        "objects_here": usage.objects,
        "directory_entries_here": usage.directory_entries,
        "metadata_bytes_here": usage.metadata_bytes,
        "inputs_here": usage.inputs,
        "replicas_here": usage.replicas,
        "lost_here": usage.lost,
        "budget_bytes_here": budget.map(|budget| budget.limit_bytes),
        "counted_bytes_here": budget.map(|budget| budget.bytes),
        "hit_ratio_here": budget.and_then(|budget| budget.hit_ratio),
    })
}

fn shard(usage: &ShardUsage) -> Json {
    json!({
        "shard": usage.shard,
        "home": usage.home,
        "inputs": usage.inputs,
        "objects": usage.objects,
        "directory_entries": usage.directory_entries,
    })
}

/// Memory of this process, as the system counts it; zero where it does not say.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = resident.and_then(|text| text.trim().split(' ').next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
