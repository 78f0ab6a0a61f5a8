//! From nothing to a full member.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{NodeId, Time};
use kddm_core::node::Node as Core;
use kddm_core::view::NodeState;
use kddm_view::{Change, ClusterId, Identity as ClusterIdentity, SessionId, Site, State};

use crate::cell::Lease;
use crate::error::{AccessError, ConfigurationError, Error, MembershipError};
use crate::guardian::Secret;
use crate::options::{Config, MOST_LANES, MOST_OBJECT_LIMIT_BYTES};
use crate::runtime::control::{Answer, CONTROL_LIMIT, Question};
use crate::runtime::elsewhere;
use crate::runtime::lane::{Lane, LaneState, Limits};
use crate::runtime::leasing::check_length;
use crate::runtime::lending::TAKES_NOTHING;
use crate::runtime::membership::{Founder, Membership};
use crate::runtime::notify::Notify;
use crate::runtime::part::Part;
use crate::runtime::placing::Signals;
use crate::runtime::reviving::{self, Kept};
use crate::runtime::threads::{Spawn, spawn};
use crate::runtime::{Identity, Parts, Runtime};
use crate::transport::greeting::{GreetError, Hello, PROTOCOL, Purpose, call_timed};
use crate::transport::{Address, Listener, Poller};

/// How soon a cluster that cannot decide just now is asked again.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How often admission is looked at while links are being made.
pub(crate) const JOIN_ROUND: Duration = Duration::from_millis(5);

pub(crate) fn join(config: Config) -> Result<Arc<Runtime>, Error> {
    join_by(config, &mut spawn)
}

/// The same with threads that begin like that.
fn join_by(config: Config, spawn: Spawn<'_>) -> Result<Arc<Runtime>, Error> {
    if !super::wait::may_block() {
        return Err(AccessError::WouldBlock.into());
    }
    let session = check(&config)?;
    let listen = |reason: String| ConfigurationError::Listen { address: config.listen.clone(), reason };
    let listener = Arc::new(Listener::bind(&config.listen, config.insecure).map_err(listen)?);
    let secret = Secret::draw()?;
    let nonce = secret.hash();
    let address = listener.address().to_string();
    let lease_ms = check_length(config.lease)?;
    let kept = match config.view_log_in.as_deref() {
        Some(source) => Some(elsewhere::kept(&config, source, (session, lease_ms), nonce)?),
        None => reviving::kept(&config, nonce)?,
    };
    let (identity, membership) = match kept {
        Some(kept) => come_back(&config, &listener, kept, nonce)?,
        None => come_in(&config, address, nonce, session, lease_ms)?,
    };
    let runtime = make(config, secret, identity, listener, membership)?;
    if let Err(error) = runtime.start_threads(spawn) {
        // The threads that have begun end. It has been let in already: it leaves, or is one that has ended without that.
        runtime.stop_within(Duration::ZERO, Duration::ZERO);
        return Err(ConfigurationError::System { what: "threads", reason: error.to_string() }.into());
    }
    // Whoever asked has waited long enough: a notifier that does not return is not waited for again.
    let (state, limit) = (runtime.config.start_as, runtime.config.join_limit);
    become_member(&runtime, state, limit).inspect_err(|_| runtime.stop_within(Duration::ZERO, Duration::ZERO))?;
    Ok(runtime)
}

/// A node that has kept the log of a cluster which it has not left.
fn come_back(
    config: &Config,
    listener: &Arc<Listener>,
    kept: Kept,
    nonce: u64,
) -> Result<(Identity, Membership), Error> {
    let revived = reviving::revive(config, listener, kept, nonce)?;
    let identity = identity_of(&revived.state, revived.id)?;
    Ok((identity, Membership::revived(revived)))
}

/// A node that is new.
fn come_in(
    config: &Config,
    address: String,
    nonce: u64,
    session: SessionId,
    lease_ms: u32,
) -> Result<(Identity, Membership), Error> {
    let refused = |reason: String| MembershipError::Refused { reason };
    let storage = reviving::storage(config.view_log.as_deref())?;
    if config.contacts.is_empty() {
        let id = NodeId(config.node_id.unwrap_or(1));
        let cluster = ClusterIdentity { cluster: ClusterId(random()), session };
        let founder = Founder { cluster, id, address, nonce, site: config.site.clone(), lease_ms };
        let membership = Membership::found(founder, storage).map_err(|error| refused(error.to_string()))?;
        return Ok((identity_of(&membership.state, id)?, membership));
    }
    let (id, state, asked) = ask_for_admission(config, &address, nonce)?;
    let identity = identity_of(&state, id)?;
    let membership = Membership::follow(state, id, nonce, asked, storage);
    Ok((identity, membership.map_err(|error| refused(error.to_string()))?))
}

/// Who the member `id` is.
pub(crate) fn identity_of(state: &State, id: NodeId) -> Result<Identity, Error> {
    let missing = || MembershipError::Refused { reason: format!("node {id} is not in the state that it was given") };
    let entry = state.member(id).ok_or_else(missing)?;
    Ok(Identity { id, incarnation: entry.incarnation, cluster: state.identity(), nonce: entry.nonce })
}

fn check(config: &Config) -> Result<SessionId, Error> {
    let out = |setting, value: String, rule| Err(ConfigurationError::OutOfRange { setting, value, rule }.into());
    let Ok(session) = SessionId::new(config.session) else {
        return out("session", config.session.to_string(), "it must be from 1 to 9999");
    };
    if config.site.witness && config.site.preferred {
        return out("preferred", "set for a witness".into(), "it is for nodes that share objects");
    }
    if config.node_id == Some(0) {
        return out("node_id", "0".into(), "it must be from 1 to 65535");
    }
    if config.object_limit_bytes == 0 || config.object_limit_bytes > MOST_OBJECT_LIMIT_BYTES {
        return out("object_limit_bytes", config.object_limit_bytes.to_string(), "it must be from 1 to 1 GiB");
    }
    // With any of these at zero a node joins, and then nothing that it asks for ever comes.
    if config.outstanding_limit == 0 {
        return out("outstanding_limit", "0".into(), "it must be at least 1 request");
    }
    if config.peer_buffer_limit_bytes == 0 {
        return out("peer_buffer_limit_bytes", "0".into(), "it must be at least 1 byte");
    }
    if !(1..=MOST_LANES).contains(&config.lanes) {
        return out(
            "lanes",
            config.lanes.to_string(),
            "it must be from 1 to 16, and the same for all nodes of the cluster",
        );
    }
    if config.wait_limit.is_zero() {
        return out("wait_limit", "0".into(), "it must be longer than nothing; single waits may have less");
    }
    Ok(session)
}

/// A number that no other process has: from the standard library's random hasher.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish().max(1)
}

/// What came of asking all contacts once.
pub(crate) enum Round {
    Admitted(NodeId, State, Time),
    /// It is worth asking again.
    Later(String),
    Nobody(String),
}

fn ask_for_admission(config: &Config, address: &str, nonce: u64) -> Result<(NodeId, State, Time), Error> {
    let deadline = super::wait::deadline_in(config.join_limit);
    loop {
        let reason = match ask_all(config, address, ClusterId(0), nonce, deadline)? {
            Round::Admitted(node, state, asked) => return Ok((node, state, asked)),
            Round::Later(reason) if Instant::now() + ASK_AGAIN < deadline => {
                tracing::debug!(reason, "not let in yet");
                std::thread::park_timeout(ASK_AGAIN);
                continue;
            }
            Round::Later(reason) | Round::Nobody(reason) => reason,
        };
        return Err(MembershipError::NoContact { reason }.into());
    }
}

/// Whoever has a log of `cluster` is let in by no other one; 0 if any will do.
pub(crate) fn ask_all(
    config: &Config,
    address: &str,
    ClusterId(cluster): ClusterId,
    nonce: u64,
    deadline: Instant,
) -> Result<Round, Error> {
    let (session, purpose) = (config.session, Purpose::Control);
    let hello = Hello { protocol: PROTOCOL, session, cluster, node: 0, incarnation: 0, nonce, purpose };
    let (mut reasons, mut is_worth_it) = (Vec::new(), false);
    let mut contacts = config.contacts.clone();
    let mut at = 0;
    while let Some(contact) = contacts.get(at).cloned() {
        at += 1;
        let limit = deadline.saturating_duration_since(Instant::now()).min(CONTROL_LIMIT);
        if limit.is_zero() {
            reasons.push(format!("{contact} was not asked any more: the limit of this join is over"));
            continue;
        }
        let (wanted, address, site) = (config.node_id, address.into(), config.site.clone());
        let Site { zone, witness, preferred } = site;
        let lanes = config.lanes as u8;
        let question = Question::Join { wanted, address, nonce, zone, witness, preferred, lanes };
        match call_timed(&contact, &hello, &question, limit) {
            Ok((Answer::Admitted { node, state }, asked)) => match State::decode(&state) {
                // The lease of who is let in counts from before it has asked, and not from before it could.
                Ok(state) => return Ok(Round::Admitted(NodeId(node), state, Lease::time_of(asked))),
                Err(error) => reasons.push(format!("{contact}: {error}")),
            },
            Ok((Answer::No(reason), _)) | Err(GreetError::Refused(reason)) => {
                return Err(MembershipError::Refused { reason }.into());
            }
            Ok((Answer::Ask(voter), _)) => {
                // Whoever decides may be another one by the time that it is asked.
                is_worth_it = true;
                match voter.parse::<Address>() {
                    Ok(voter) if !contacts.contains(&voter) => contacts.push(voter),
                    _ => reasons.push(format!("{contact} names no other node to ask")),
                }
            }
            Ok((Answer::Later(reason), _)) => {
                is_worth_it = true;
                reasons.push(format!("{contact}: {reason}"));
            }
            Ok(_) => reasons.push(format!("{contact} gave an answer to another question")),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    let reason = reasons.join("; ");
    Ok(if is_worth_it { Round::Later(reason) } else { Round::Nobody(reason) })
}

fn make(
    config: Config,
    secret: Secret,
    identity: Identity,
    listener: Arc<Listener>,
    membership: Membership,
) -> Result<Arc<Runtime>, Error> {
    let system = |what| move |error: std::io::Error| ConfigurationError::System { what, reason: error.to_string() };
    let limits = Limits {
        // Each lane has its share.
        outstanding: config.outstanding_limit.div_ceil(config.lanes),
        object_bytes: config.object_limit_bytes,
        peer_buffer_bytes: config.peer_buffer_limit_bytes.div_ceil(config.lanes),
        program_takes_nothing: TAKES_NOTHING,
    };
    let mut lanes = Vec::new();
    let (signals, lease) = (Signals::default(), Arc::<Lease>::default());
    for (number, part) in (0..).zip(Part::all(config.lanes)) {
        let poller = Poller::new().map_err(system("polling"))?;
        let core = Core::new(identity.id, identity.incarnation, number);
        let lane = LaneState::new(core, part, limits, signals.clone(), Arc::clone(&lease));
        lanes.push(Arc::new(Lane::new(poller, lane)));
    }
    let notify = Notify::new(config.notifier_limit, identity.id.0, &config.notifiers)?;
    let first = membership.state.view();
    if !membership.decides_alone() {
        lease.set_deadline_ns(membership.leasing.until_ns());
    }
    let (address, listener, lender) = (listener.address().clone(), Some(listener), None);
    let runtime = Arc::new(Runtime::new(Parts {
        secret: Some(secret),
        config,
        identity,
        address,
        listener,
        lender,
        lanes,
        limits,
        membership,
        notify: Arc::new(notify),
        signals,
        lease,
    }));
    runtime.rpc.serves_objects_of(&runtime);
    runtime.signals.expiries.belong_to(&runtime);
    runtime.leases_follow(&mut runtime.membership.lock());
    runtime.follow_freezes(&mut runtime.membership.lock());
    runtime.install(&first);
    runtime.signals.settled.raise();
    Ok(runtime)
}

/// Online: waits for links with all members and for the notifiers. If it is to share objects, asks to
/// be possible, and is so once the notifiers have heard of that too.
pub(crate) fn become_member(runtime: &Arc<Runtime>, wanted: NodeState, limit: Duration) -> Result<(), Error> {
    let deadline = super::wait::deadline_in(limit);
    let Identity { id: node, incarnation, .. } = runtime.identity;
    let possible = Change::SetState { node, incarnation, state: NodeState::Possible };
    if wanted == NodeState::Possible
        && let Err(refused @ kddm_view::Refused::Witness { .. }) = runtime.membership.lock().state.check(&possible)
    {
        return Err(MembershipError::Refused { reason: refused.to_string() }.into());
    }
    let mut is_asked = false;
    loop {
        let told = runtime.notify.told(node, incarnation);
        let missing = runtime.unlinked();
        let is_ready = wanted < NodeState::Possible || runtime.lanes.iter().all(|lane| lane.lock().shares);
        if told >= wanted && is_ready && (told == NodeState::Possible || missing.is_empty()) {
            return Ok(());
        }
        if (told == NodeState::Online || runtime.is_draining()) && missing.is_empty() && !is_asked {
            runtime.propose(Change::SetState { node, incarnation, state: NodeState::Possible })?;
            is_asked = true;
        }
        if runtime.is_stopping() {
            return Err(MembershipError::Stopped.into());
        }
        // The answer came when the lease from before the question was over: this life never comes to anything.
        if runtime.is_out_of_lease(&runtime.membership.lock()) {
            return Err(AccessError::Fenced.into());
        }
        if Instant::now() >= deadline {
            let reason = match runtime.notify.running() {
                Some(name) => format!("the notifier `{name}` has not returned"),
                None if missing.is_empty() => "the first node has not agreed; is it alive?".into(),
                None => match &*runtime.link_refused.lock() {
                    Some(why) => format!("no connection with nodes {missing:?}: {why}"),
                    None => format!("no connection with nodes {missing:?}"),
                },
            };
            return Err(MembershipError::JoinTimedOut { limit_ms: limit.as_millis() as u64, reason }.into());
        }
        let mut membership = runtime.membership.lock();
        runtime.wait_for_change(&mut membership, deadline.min(Instant::now() + JOIN_ROUND));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::eventually::eventually;
    use crate::runtime::threads::tests::few;

    /// No test takes as long; one that does has failed.
    const LIMIT: Duration = Duration::from_secs(30);

    /// One for each of two lanes, and six more.
    const THREADS: usize = 8;

    #[test]
    fn a_node_without_a_thread_leaves_no_other_one_behind() {
        let config = || Config { guardian: None, ..Config::new().lanes(2) };
        for threads in 0..THREADS {
            let (mut spawn, alive) = few(threads);
            let error = join_by(config(), &mut spawn).map(drop).expect_err("one is missing").to_string();
            assert!(error.contains("threads"), "{error}");
            eventually(LIMIT, "all that have begun end", || alive.load(Ordering::Acquire) == 0);
        }
        let (mut spawn, alive) = few(THREADS);
        let runtime = join_by(config(), &mut spawn).expect("that is all");
        assert_eq!(alive.load(Ordering::Acquire), THREADS);
        runtime.stop();
        eventually(LIMIT, "its threads end", || alive.load(Ordering::Acquire) == 0);
    }
}
