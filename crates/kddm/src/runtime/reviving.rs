//! A node that comes back with the log that it had kept, and may be needed before anybody can be let in:
//! after all nodes were stopped there is nobody else to let it in.
//!
//! Until then it speaks for its former life, and in the log alone. Live members come first: such a node wants to
//! lead only after nobody has led for a while. If it does lead, it grants nobody any time, and expels the lives
//! of before once no lease of theirs can last: its own process and those others have ended. Then it lets itself in,
//! and the others as they ask for it. Epochs and lives go on where they were, and what was in memory is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, Time};
use kddm_view::lease::Terms;
use kddm_view::{
    Cause, Change, ClusterId, MemberEntry, NodeLog, Nowhere, Outgoing, Pace, RedbDisk, State, Storage, ViewLog, Voters,
};
use parking_lot::{Condvar, Mutex};

use crate::cell::Lease;
use crate::error::{ConfigurationError, Error, MembershipError};
use crate::options::Config;
use crate::runtime::control::{Answer, CONTROL_LIMIT, Question};
use crate::runtime::couriers::{Couriers, Tells};
use crate::runtime::elsewhere;
use crate::runtime::join::{ASK_AGAIN, Round, ask_all};
use crate::runtime::telling::{Line, ask_on};
use crate::transport::greeting::{self, Hello, PROTOCOL, Purpose, Reply};
use crate::transport::{Address, Listener, Stream};

/// Connections that are served at one time: few are needed, and strangers may make some.
const SERVED: usize = 64;

/// For how long nobody leads before a node that is not back yet wants to: twice the lease, but not longer than
/// anybody waits who starts a cluster by hand.
const STANDS_AFTER_MOST: Duration = Duration::from_secs(2);

/// Where the log is kept; nowhere if the node has no place for it.
///
/// # Errors
/// The file is damaged, or in use: says what to do.
pub(crate) fn storage(file: Option<&Path>) -> Result<Box<dyn Storage>, Error> {
    let Some(file) = file else { return Ok(Box::new(Nowhere)) };
    let disk = RedbDisk::open(file).map_err(|error| unusable(file, &error))?;
    Ok(Box::new(disk))
}

fn unusable(file: &Path, error: &impl std::fmt::Display) -> Error {
    let what = "the view log";
    ConfigurationError::System { what, reason: format!("{}: {error}", file.display()) }.into()
}

/// What a node has kept of the cluster of which it was a member, if it did not leave it.
///
/// # Errors
/// As [`storage`].
pub(crate) fn kept(config: &Config, nonce: u64) -> Result<Option<Kept>, Error> {
    let Some(file) = config.view_log.as_deref() else { return Ok(None) };
    if !file.exists() {
        return Ok(None);
    }
    let mut disk = storage(Some(file))?;
    if disk.load().map_err(|error| unusable(file, &error))?.is_none() {
        return Ok(None);
    }
    let Some(id) = config.node_id.map(NodeId) else {
        let rule = "it must be given where a log is kept";
        return Err(ConfigurationError::OutOfRange { setting: "node_id", value: "none".into(), rule }.into());
    };
    let log = Voters::restart(id, nonce, disk).map_err(|error| unusable(file, &error))?;
    let Some(log) = log else { return Ok(None) };
    let mut state = log.base().clone();
    let members = |state: &State| state.members().map(|(node, entry)| (node, entry.clone())).collect::<Vec<_>>();
    let mut before = BTreeMap::from_iter(members(&state));
    let entries = log.decided_since(state.applied()).map_err(|error| unusable(file, &error))?;
    for entry in entries {
        state.apply(&entry).map_err(|error| unusable(file, &error))?;
        if matches!(entry.change, Change::Join { .. }) {
            before.extend(members(&state));
        }
    }
    // Whoever has been expelled may have a say still: others are named only after that, and all may have been
    // stopped in between. Without it nobody would be let in ever again.
    let has_a_say = |node: &NodeId| log.groups().iter().any(|group| group.contains(node));
    before.retain(|node, _| state.member(*node).is_some() || has_a_say(node));
    let Some(old) = before.get(&id).cloned() else { return Ok(None) };
    let session = state.identity().session;
    if session.number() != config.session {
        let reason = format!(
            "it is the log of session {session}, and this node is to be in session {}: give it session {session}, or \
             move the file away, and it takes part in the other session as a new node",
            config.session
        );
        return Err(unusable(file, &reason));
    }
    let log = Box::new(log.with_pace(Pace::for_lease_ms(state.lease_ms())));
    Ok(Some(Kept { id, log, state, old: Some(old), before }))
}

/// See [`kept`].
pub(crate) struct Kept {
    pub id: NodeId,
    pub log: Box<dyn NodeLog>,
    pub state: State,
    /// The former life of this node, if it had one.
    pub old: Option<MemberEntry>,
    /// The members, and those that are none any more and have a say.
    pub before: BTreeMap<NodeId, MemberEntry>,
}

/// A node that is a member again.
pub(crate) struct Revived {
    pub id: NodeId,
    pub state: State,
    pub log: Box<dyn NodeLog>,
    /// Its lease counts from then.
    pub asked: Time,
    /// From when the time of the log counts.
    pub since: Instant,
    /// Who was a member before can have a say still.
    pub before: BTreeMap<NodeId, MemberEntry>,
}

struct Ghost {
    config: Config,
    id: NodeId,
    hello: Hello,
    /// Lets this node in.
    join: Change,
    nonce: u64,
    before: BTreeMap<NodeId, MemberEntry>,
    started: Instant,
    /// Nothing once this node is back.
    inside: Mutex<Option<Inside>>,
    changed: Condvar,
    is_over: AtomicBool,
    served: AtomicUsize,
}

struct Inside {
    log: Box<dyn NodeLog>,
    state: State,
    outbox: Vec<Outgoing>,
    /// In which term this node leads, and since when.
    elected: Option<(u64, Time)>,
    /// When it has written that it is let in.
    asked: Option<Time>,
    /// A member lives that uses what it holds: it is not to be expelled.
    is_live: bool,
}

/// Comes back: let in by a cluster that goes on, or by one that is made to go on again.
///
/// # Errors
/// `Refused` with what is missing.
pub(crate) fn revive(config: &Config, listener: &Arc<Listener>, kept: Kept, nonce: u64) -> Result<Revived, Error> {
    let Kept { id, mut log, state, old, before } = kept;
    let lease = Duration::from_millis(state.lease_ms().into());
    if !log.has_voters() && state.members().next().is_none() {
        // There is no cluster yet.
        log.stand();
    } else if log.groups() != [vec![id]] {
        log.stand_back();
    }
    let life = old.as_ref().map(|old| (old.incarnation.0, old.nonce));
    let hello = Hello {
        protocol: PROTOCOL,
        session: config.session,
        cluster: state.identity().cluster.0,
        node: id.0,
        incarnation: life.unwrap_or_default().0,
        nonce: life.unwrap_or_default().1,
        purpose: Purpose::Control,
    };
    let address = listener.address().to_string();
    let join = Change::Join { node: Some(id), address: address.clone(), nonce, site: config.site.clone() };
    let epoch = state.view().epoch.0;
    let inside = Inside { log, state, outbox: Vec::new(), elected: None, asked: None, is_live: false };
    let ghost = Arc::new(Ghost {
        config: config.clone(),
        id,
        hello,
        join,
        nonce,
        before,
        started: Instant::now(),
        inside: Mutex::new(Some(inside)),
        changed: Condvar::new(),
        is_over: AtomicBool::new(false),
        served: AtomicUsize::new(0),
    });
    if life.is_some() {
        tracing::info!(node = id.0, epoch, "this node comes back with the view log that was kept");
    }
    let deadline = super::wait::deadline_in(config.join_limit.saturating_add(3 * lease));
    let system = |error: io::Error| ConfigurationError::System { what: "threads", reason: error.to_string() };
    // Nobody waits for their ends: what they have begun may take longer than a lease.
    let named = |name: &str| std::thread::Builder::new().name(name.into());
    let (accepts, listens) = (Arc::clone(&ghost), Arc::clone(listener));
    named("kddm-accept").spawn(move || accepts.accept_all(&listens)).map_err(system)?;
    let keeps = Arc::clone(&ghost);
    named("kddm-views").spawn(move || keeps.keep_log(lease)).map_err(system)?;
    let came = ghost.ask_until(&address, deadline);
    ghost.is_over.store(true, Ordering::Release);
    let inside = ghost.inside.lock().take();
    ghost.changed.notify_all();
    listener.wake();
    let (state, asked) = came?;
    let Some(Inside { mut log, .. }) = inside else { return Err(MembershipError::Stopped.into()) };
    log.stand();
    Ok(Revived { id, state, log, asked, since: ghost.started, before: ghost.before.clone() })
}

impl Tells for Arc<Ghost> {
    fn tell(&self, line: &mut Option<Line>, message: &Outgoing) -> bool {
        let Some(address) = self.address_of(message.to) else { return false };
        let question = Question::Log(message.message.clone());
        match ask_on(&self.hello, line, (message.to, &address), &question, CONTROL_LIMIT) {
            Ok(Answer::Log { said, .. }) => {
                let mut inside = self.inside.lock();
                let Some(inside) = &mut *inside else { return false };
                for answer in said {
                    self.step(inside, message.to, &answer);
                }
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(node = message.to.0, %error, "a message of the view log was lost");
                false
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

impl Ghost {
    fn now(&self) -> Time {
        Time(self.started.elapsed().as_nanos() as u64)
    }

    fn address_of(&self, node: NodeId) -> Option<Address> {
        let inside = self.inside.lock();
        let known = inside.as_ref().and_then(|inside| inside.state.member(node));
        known.or_else(|| self.before.get(&node))?.address.parse().ok()
    }

    fn step(&self, inside: &mut Inside, from: NodeId, message: &[u8]) {
        if let Err(error) = inside.log.step(from, message) {
            tracing::debug!(%error, "a message of the view log did nothing");
        }
        self.advance(inside);
    }

    /// Takes in what was decided, and does what is due where this node leads.
    fn advance(&self, inside: &mut Inside) {
        loop {
            if inside.state.applied() < inside.log.base().applied() {
                inside.state = inside.log.base().clone();
            }
            for entry in inside.log.decided_since(inside.state.applied()).unwrap_or_default() {
                let _refused_everywhere = inside.state.apply(&entry);
            }
            if !self.write_what_is_due(inside) {
                break;
            }
        }
        inside.outbox.extend(inside.log.take_outgoing());
        self.changed.notify_all();
    }

    /// True if something was written.
    fn write_what_is_due(&self, inside: &mut Inside) -> bool {
        let leads = inside.log.is_leader() && inside.state.term() == inside.log.term();
        if !leads || inside.state.voter() != self.id {
            inside.elected = None;
            return false;
        }
        let now = self.now();
        let term = inside.state.term();
        let (_, elected) = match inside.elected.filter(|(led, _)| *led == term) {
            Some(elected) => elected,
            None => {
                (inside.elected, inside.asked) = (Some((term, now)), None);
                (term, now)
            }
        };
        let terms = Terms::of_ms(inside.state.lease_ms());
        // As in `contacts`.
        let is_elsewhere = !inside.log.has_voters();
        let is_alone = inside.state.members().all(|(node, _)| node == self.id && !is_elsewhere);
        let is_waited_out = is_alone || now >= terms.whole_lease(elected);
        // A second change for the same life would be refused: what is not decided yet is not written again.
        if !(is_waited_out || inside.is_live) || inside.log.has_undecided() {
            return false;
        }
        let all_are_over = is_waited_out && !inside.is_live && inside.asked.is_none();
        let is_over = |(node, entry): &(NodeId, &MemberEntry)| {
            if *node == self.id { entry.nonce != self.nonce } else { all_are_over }
        };
        let over = inside.state.members().find(is_over).map(|(node, entry)| (node, entry.incarnation));
        let change = match over {
            // This process has the data directory, which one process has at a time.
            Some((node, incarnation)) if node == self.id && !is_elsewhere => {
                Change::Expel { node, incarnation, cause: Cause::Proof }
            }
            Some((node, incarnation)) => Change::Expel { node, incarnation, cause: Cause::Lease },
            None if inside.asked.is_none() => {
                inside.asked = Some(Time(Lease::now_ns()));
                self.join.clone()
            }
            None => return false,
        };
        match inside.log.write_as_leader(term, change) {
            Ok(has_written) => has_written,
            Err(error) => {
                tracing::error!(%error, "the view log cannot be written");
                false
            }
        }
    }

    /// Lets time pass, and has said what the log has to say.
    fn keep_log(self: &Arc<Self>, lease: Duration) {
        let stands_after = (2 * lease).min(STANDS_AFTER_MOST);
        let (mut led, couriers) = (Instant::now(), Couriers::default());
        std::thread::scope(|scope| {
            loop {
                let mut guard = self.inside.lock();
                let Some(inside) = &mut *guard else { break };
                if inside.log.leader().is_some() {
                    led = Instant::now();
                } else if led.elapsed() >= stands_after {
                    inside.log.stand();
                }
                inside.log.tick(self.now());
                self.advance(inside);
                let messages = std::mem::take(&mut inside.outbox);
                if messages.is_empty() {
                    let pace = Pace::for_lease_ms(inside.state.lease_ms());
                    self.changed.wait_for(&mut guard, Duration::from_nanos(pace.heartbeat_ns / 2));
                }
                drop(guard);
                for message in messages {
                    couriers.carry(self, scope, message);
                }
            }
            couriers.close();
        });
    }

    /// Asks whoever may be there to be let in, until it is, or has done it itself.
    fn ask_until(&self, address: &str, deadline: Instant) -> Result<(State, Time), Error> {
        let mut config = self.config.clone();
        loop {
            config.contacts = self.contacts(address);
            if let Some(back) = self.is_back() {
                return Ok(back);
            }
            let reason = match ask_all(&config, address, ClusterId(self.hello.cluster), self.nonce, deadline) {
                Ok(Round::Admitted(_, state, asked)) => return Ok((state, asked)),
                Ok(Round::Later(reason) | Round::Nobody(reason)) => reason,
                // Its number is that of its former life, until that is known to be over.
                Err(Error::Membership(MembershipError::Refused { reason })) if Instant::now() < deadline => reason,
                Err(error) => return Err(error),
            };
            let mut inside = self.inside.lock();
            self.changed.wait_for(&mut inside, ASK_AGAIN);
            if Instant::now() >= deadline {
                let groups = inside.as_ref().map(|inside| inside.log.groups()).unwrap_or_default();
                return Err(elsewhere::not_let_in(&groups, &reason));
            }
        }
    }

    /// Whom to ask: those that it was told of, and those that were members before, or are now.
    fn contacts(&self, own: &str) -> Vec<Address> {
        let inside = self.inside.lock();
        // Without a file that one process has at a time, there may be another one with this number.
        let is_elsewhere = inside.as_ref().is_some_and(|inside| !inside.log.has_voters());
        let now = inside.iter().flat_map(|inside| inside.state.members());
        let all = self.before.iter().map(|(node, entry)| (*node, entry)).chain(now);
        let others = all.filter(|(node, _)| *node != self.id || is_elsewhere);
        let mut contacts = self.config.contacts.clone();
        contacts.extend(others.filter_map(|(_, entry)| entry.address.parse().ok()));
        let mut known = BTreeSet::from([own.to_owned()]);
        contacts.retain(|contact| known.insert(contact.to_string()));
        contacts
    }

    /// The state in which this node is a member, if it has let itself in.
    fn is_back(&self) -> Option<(State, Time)> {
        let inside = self.inside.lock();
        let inside = inside.as_ref()?;
        let asked = inside.asked?;
        (inside.state.member_by_nonce(self.nonce) == Some(self.id)).then(|| (inside.state.clone(), asked))
    }

    fn accept_all(self: &Arc<Self>, listener: &Listener) {
        while !self.has_ended() {
            let stream = match listener.accept_while(|| !self.has_ended()) {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                Err(_) => {
                    std::thread::park_timeout(ASK_AGAIN);
                    continue;
                }
            };
            if self.served.load(Ordering::Acquire) >= SERVED {
                continue;
            }
            self.served.fetch_add(1, Ordering::AcqRel);
            let serves = Arc::clone(self);
            let serve = move || {
                let _it_asks_again = serves.serve(&stream);
                serves.served.fetch_sub(1, Ordering::AcqRel);
            };
            if std::thread::Builder::new().name("kddm-greet".into()).spawn(serve).is_err() {
                self.served.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Answers what comes on one connection. It ends soon after this node is back.
    fn serve(self: &Arc<Self>, stream: &Stream) -> io::Result<()> {
        stream.set_limit(Some(CONTROL_LIMIT))?;
        let hello: Hello = greeting::receive(stream)?;
        let is_ours = hello.cluster == 0 || hello.cluster == self.hello.cluster;
        if hello.protocol != PROTOCOL || hello.session != self.hello.session || !is_ours {
            return greeting::send(stream, &Reply::Refused("it is of another cluster, or another version".into()));
        }
        if hello.purpose != Purpose::Control {
            return greeting::send(stream, &Reply::Refused("this node is not back yet".into()));
        }
        greeting::send(stream, &Reply::Welcome { node: self.id.0, received: 0 })?;
        stream.set_limit(Some(ASK_AGAIN.saturating_mul(4)))?;
        while !self.has_ended() {
            let question = greeting::receive(stream)?;
            greeting::send(stream, &self.answer(&hello, question))?;
        }
        Ok(())
    }

    fn answer(&self, hello: &Hello, question: Question) -> Answer {
        let later = || Answer::Later("this node is on its way back, and lets nobody in yet".into());
        let (node, life) = (NodeId(hello.node), Incarnation(hello.incarnation));
        let mut guard = self.inside.lock();
        let Some(inside) = &mut *guard else { return later() };
        match question {
            Question::Log(message) if self.takes_from(inside, hello) => {
                self.step(inside, node, &message);
                let said = inside.outbox.extract_if(.., |out| out.to == node).map(|out| out.message).collect();
                Answer::Log { said, promised: inside.log.promised() }
            }
            Question::Join { .. } => {
                let leader = inside.log.leader().filter(|leader| *leader != self.id);
                let entry = leader.and_then(|leader| inside.state.member(leader));
                entry.map_or_else(later, |entry| Answer::Ask(entry.address.clone()))
            }
            Question::Renew { .. } if inside.state.has_life(node, life, hello.nonce) => {
                if !inside.log.has_voters() {
                    // It may grant time at once, and this node only after a lease.
                    let _another_one_leads_then = inside.log.reconfigure(&[node]);
                    inside.log.stand_back();
                } else {
                    inside.is_live = true;
                }
                self.advance(inside);
                later()
            }
            Question::Died { .. } => Answer::NotYet,
            Question::State
            | Question::Destroy { .. }
            | Question::AcceptLosses { .. }
            | Question::Freeze { .. }
            | Question::GreatestSet
            | Question::Renew { .. } => later(),
            Question::Log(_) => Answer::NotAMember,
        }
    }

    /// Whether that is a member or a voter, in a life that is known here or that is news.
    fn takes_from(&self, inside: &Inside, hello: &Hello) -> bool {
        let (node, life) = (NodeId(hello.node), Incarnation(hello.incarnation));
        let was_member = |entry: &MemberEntry| (entry.incarnation, entry.nonce) == (life, hello.nonce);
        let is_known = inside.state.has_life(node, life, hello.nonce) || self.before.get(&node).is_some_and(was_member);
        hello.cluster == self.hello.cluster && (is_known || life > inside.state.last_life())
    }
}
