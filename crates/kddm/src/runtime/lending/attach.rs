//! How a program attaches to a node, and what it asks of it beside objects.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, Time};
use kddm_core::node::Node as Core;
use kddm_view::{MemberEntry, Nowhere, State};
use parking_lot::Mutex;

use super::clock::{Clock, Reading};
use super::door::{Opening, Purpose, Question, Reply, Told, Welcome};
use super::link::Link;
use super::views;
use super::{TAKES_NOTHING, VERSION};
use crate::cell::Lease;
use crate::error::{AccessError, ConfigurationError, Error, MembershipError};
use crate::inspect::SetInfo;
use crate::node::MemberInfo;
use crate::options::{Config, DEFAULT_OUTSTANDING, DEFAULT_PEER_BUFFER_BYTES};
use crate::runtime::control::CONTROL_LIMIT;
use crate::runtime::join::identity_of;
use crate::runtime::lane::{Lane, LaneState, Limits};
use crate::runtime::membership::Membership;
use crate::runtime::notify::Notify;
use crate::runtime::part::Part;
use crate::runtime::placing::Signals;
use crate::runtime::threads::{Spawn, spawn};
use crate::runtime::{Parts, Runtime};
use crate::system::{Description, Wanted};
use crate::transport::stream::dial;
use crate::transport::{Address, DialError, Poller, Stream, greeting};

/// How much longer than what was asked for the answer may take.
const ANSWER_MARGIN: Duration = Duration::from_secs(30);

/// How long `members` and `epoch` wait for the node before they tell what it said last.
const MEMBERS_LIMIT: Duration = Duration::from_secs(1);

/// How long a service that is unregistered waits for the node to know.
const WITHDRAW_LIMIT: Duration = Duration::from_secs(1);

/// How often a stop looks whether the node has taken the last puts.
const PUT_ROUND: Duration = Duration::from_micros(200);

/// The node that this program is attached to.
pub(crate) struct Lender {
    pub(super) socket: PathBuf,
    /// By which the node knows this program.
    pub(super) pass: Mutex<Pass>,
    /// Held by whoever looks whether there is a connection for services, and makes it.
    pub(crate) serving: Mutex<()>,
    /// What it last said of the members, for when it says nothing any more.
    pub(super) members: Mutex<(u32, Vec<MemberInfo>)>,
}

/// What a program has to name with its questions, and which life of the node has given that out.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    pub session: u32,
    pub secret: u64,
    pub incarnation: Incarnation,
}

/// Attaches to the node that accepts programs there.
pub(crate) fn attach(socket: &Path) -> Result<Arc<Runtime>, Error> {
    attach_by(socket, &mut spawn)
}

/// The same with threads that begin like that.
pub(super) fn attach_by(socket: &Path, spawn: Spawn<'_>) -> Result<Arc<Runtime>, Error> {
    if !crate::runtime::wait::may_block() {
        return Err(AccessError::WouldBlock.into());
    }
    let (welcome, reading, streams) = be_let_in(socket)?;
    let runtime = make(socket, &welcome, reading, streams)?;
    if let Err(error) = runtime.start_attached(spawn) {
        // The threads that have begun end, and so does the attachment.
        runtime.stop_within(Duration::ZERO, Duration::ZERO);
        return Err(ConfigurationError::System { what: "threads", reason: error.to_string() }.into());
    }
    Ok(runtime)
}

/// Is let in: what the node says, how its deadlines are read here, and a connection for each lane.
pub(super) fn be_let_in(socket: &Path) -> Result<(Welcome, Reading, Vec<Stream>), Error> {
    let asked = Clock::here();
    let stream = open(socket, &Purpose::Attach { name: own_name() }, CONTROL_LIMIT)?;
    let welcome = match receive(socket, &stream)? {
        Reply::Welcome(welcome) => welcome,
        Reply::Refused(reason) => return Err(not_attached(socket, reason)),
        _ => return Err(not_attached(socket, "it gives an answer to another question".into())),
    };
    let mut streams = vec![stream];
    let (session, secret) = (welcome.session, welcome.secret);
    for lane in 1..welcome.lanes {
        let stream = open(socket, &Purpose::Lane { session, secret, lane }, CONTROL_LIMIT)?;
        match receive(socket, &stream)? {
            Reply::Lane => streams.push(stream),
            Reply::Refused(reason) => return Err(not_attached(socket, reason)),
            _ => return Err(not_attached(socket, "it gives an answer to another question".into())),
        }
    }
    let reading = Reading::between(asked, welcome.clock);
    Ok((welcome, reading, streams))
}

fn make(socket: &Path, welcome: &Welcome, reading: Reading, streams: Vec<Stream>) -> Result<Arc<Runtime>, Error> {
    let state = State::decode(&welcome.state).map_err(|error| not_attached(socket, error.to_string()))?;
    let address: Address = welcome.address.parse().map_err(|error| not_attached(socket, format!("{error}")))?;
    let system = |what| move |error: std::io::Error| ConfigurationError::System { what, reason: error.to_string() };
    let identity = identity_of(&state, NodeId(welcome.node))?;
    let mut config = Config::new().session(welcome.cluster_session);
    config = config.wait_limit(Duration::from_millis(welcome.wait_limit_ms));
    let limits = Limits {
        outstanding: DEFAULT_OUTSTANDING,
        object_bytes: welcome.object_limit_bytes as usize,
        peer_buffer_bytes: DEFAULT_PEER_BUFFER_BYTES,
        program_takes_nothing: TAKES_NOTHING,
    };
    let view = views::decode(&welcome.view).map_err(|reason| not_attached(socket, reason.into()))?;
    let notify = Arc::new(Notify::new(config.notifier_limit, identity.id.0, &[])?);
    notify.begin_with(view);
    let (signals, lease) = (Signals::default(), Arc::<Lease>::default());
    // What is lent here is used no longer than by the node that lends it.
    lease.set_deadline_ns(reading.here_ns(welcome.lease_until_ns));
    let mut lanes = Vec::new();
    for ((number, part), stream) in (0..).zip(Part::all(streams.len())).zip(streams) {
        let poller = Poller::new().map_err(system("polling"))?;
        // Nothing is ever handed to this core: the link stands in its place.
        let core = Core::new(identity.id, identity.incarnation, number);
        let mut lane = LaneState::new(core, part, limits, signals.clone(), Arc::clone(&lease));
        lane.link =
            Some(Box::new(Link::new(stream, &poller, Arc::clone(&notify), reading).map_err(system("the socket"))?));
        lane.shares = true;
        lanes.push(Arc::new(Lane::new(poller, lane)));
    }
    let pass = Pass { session: welcome.session, secret: welcome.secret, incarnation: identity.incarnation };
    let (pass, members) = (Mutex::new(pass), Mutex::new(known(&state, identity.id)));
    let lender = Some(Lender { socket: socket.into(), pass, serving: Mutex::default(), members });
    let membership = Membership::follow(state, identity.id, identity.nonce, Time(0), Box::new(Nowhere));
    let membership = membership.map_err(|error| not_attached(socket, error.to_string()))?;
    let listener = None;
    let parts = Parts {
        secret: None,
        config,
        identity,
        address,
        listener,
        lender,
        lanes,
        limits,
        membership,
        notify,
        signals,
        lease,
    };
    Ok(Arc::new(Runtime::new(parts)))
}

/// The members, as the node has told them when this program attached.
pub(super) fn known(state: &State, lender: NodeId) -> (u32, Vec<MemberInfo>) {
    let info = |(id, entry): (NodeId, &MemberEntry)| MemberInfo {
        id: id.0,
        incarnation: entry.incarnation.0,
        state: entry.state,
        address: entry.address.clone(),
        reachable: id == lender,
    };
    (state.view().epoch.0, state.members().map(info).collect())
}

/// What this program calls itself.
fn own_name() -> String {
    let program = std::env::args_os().next().map(PathBuf::from);
    program.and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned())).unwrap_or_default()
}

fn not_attached(socket: &Path, reason: String) -> Error {
    MembershipError::NotAttached { socket: socket.display().to_string(), reason }.into()
}

/// Dials, and says what for.
pub(super) fn open(socket: &Path, purpose: &Purpose, limit: Duration) -> Result<Stream, Error> {
    let advice = "start `kddmd`, or name its socket in KDDM_ATTACH or its directory in KDDM_DATA_DIR";
    let stream = dial(&Address::Unix(socket.into()), limit.min(CONTROL_LIMIT)).map_err(|error| {
        let reason = match error {
            DialError::NobodyListens(_) => format!("no daemon is there; {advice}"),
            DialError::TimedOut(_) => "it does not answer; is it alive?".into(),
            DialError::Unreachable { reason, .. } => format!("{reason}; run as the daemon's user, or {advice}"),
        };
        not_attached(socket, reason)
    })?;
    let said = || {
        stream.set_limit(Some(limit))?;
        greeting::send(&stream, &Opening { version: VERSION })?;
        greeting::send(&stream, purpose)
    };
    said().map_err(|error| not_attached(socket, error.to_string()))?;
    Ok(stream)
}

fn receive(socket: &Path, stream: &Stream) -> Result<Reply, Error> {
    greeting::receive(stream).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => not_attached(socket, "it does not answer; is it alive?".into()),
        std::io::ErrorKind::InvalidData => {
            not_attached(socket, format!("it speaks another language ({error}); use one version of kddm for both"))
        }
        _ => not_attached(socket, error.to_string()),
    })
}

impl Lender {
    fn ask(&self, question: Question, limit: Duration) -> Result<Told, Error> {
        self.ask_within(question, limit.saturating_add(ANSWER_MARGIN))
    }

    pub(super) fn ask_within(&self, question: Question, limit: Duration) -> Result<Told, Error> {
        if !crate::runtime::wait::may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let Pass { session, secret, .. } = *self.pass.lock();
        let purpose = Purpose::Ask { session, secret, question };
        let answered = match open(&self.socket, &purpose, limit) {
            Ok(stream) => greeting::receive(&stream),
            Err(_) => return Err(MembershipError::Reattaching.into()),
        };
        match answered {
            Ok(Reply::Told(Told::Failed(failure))) => Err(failure.error()),
            Ok(Reply::Told(told)) => Ok(told),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let reason = format!("it has not answered within {limit:?}; is it alive?");
                Err(MembershipError::Unserved { reason }.into())
            }
            // Whoever is there now does not know this program, or is gone meanwhile: what was asked for may
            // have been done.
            Ok(_) | Err(_) => Err(MembershipError::Detached.into()),
        }
    }

    /// A connection for calls to that node.
    pub fn connect_calls(&self, node: u16) -> Result<Stream, Error> {
        let Pass { session, secret, .. } = *self.pass.lock();
        self.connect(&Purpose::Calls { session, secret, node })
    }

    /// A connection on which the node calls services of this program.
    pub fn connect_serving(&self) -> Result<Stream, Error> {
        if !crate::runtime::wait::may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let Pass { session, secret, .. } = *self.pass.lock();
        self.connect(&Purpose::Serve { session, secret })
    }

    fn connect(&self, purpose: &Purpose) -> Result<Stream, Error> {
        let Ok(stream) = open(&self.socket, purpose, CONTROL_LIMIT) else {
            return Err(MembershipError::Reattaching.into());
        };
        match greeting::receive(&stream) {
            Ok(Reply::Lane) => Ok(stream),
            // Whoever is there now does not know this program yet.
            _ => Err(MembershipError::Reattaching.into()),
        }
    }

    pub fn offer(&self, service: &str) -> Result<(), Error> {
        self.ask(Question::Offer(service.into()), Duration::ZERO).map(|_| ())
    }

    pub fn withdraw(&self, service: &str) {
        if let Err(error) = self.ask_within(Question::Withdraw(service.into()), WITHDRAW_LIMIT) {
            tracing::debug!(%error, service, "the daemon does not know that it is served no more");
        }
    }

    /// The number of this program's attachment.
    pub fn session(&self) -> u32 {
        self.pass.lock().session
    }

    /// The life of the node.
    pub fn incarnation(&self) -> Incarnation {
        self.pass.lock().incarnation
    }

    pub fn open(&self, wanted: &Wanted) -> Result<Description, Error> {
        match self.ask(Question::Open(wanted.clone()), Duration::ZERO)? {
            Told::Set(description) => Ok(description),
            _ => Err(another_question()),
        }
    }

    pub fn destroy(&self, name: &str, limit: Duration) -> Result<(), Error> {
        let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
        self.ask(Question::Destroy { name: name.into(), limit_ms }, limit).map(|_| ())
    }

    pub fn accept_loss(&self, name: &str, object: Option<u64>, limit: Duration) -> Result<(), Error> {
        let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
        self.ask(Question::AcceptLoss { name: name.into(), object, limit_ms }, limit).map(|_| ())
    }

    pub fn sets(&self) -> Result<Vec<SetInfo>, Error> {
        let Told::Sets(sets) = self.ask(Question::Sets, Duration::ZERO)? else { return Err(another_question()) };
        let mut sets: Vec<SetInfo> = sets.into_iter().map(SetInfo::from).collect();
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(sets)
    }

    pub fn set_info(&self, name: &str) -> Result<SetInfo, Error> {
        match self.ask(Question::Set(name.into()), Duration::ZERO)? {
            Told::Set(description) => Ok(description.into()),
            _ => Err(another_question()),
        }
    }

    /// Once so many members are possible: the epoch and all of them.
    pub fn wait_for_members(&self, possible: usize, limit: Duration) -> Result<(u32, Vec<MemberInfo>), Error> {
        self.members_within(possible, limit, limit.saturating_add(ANSWER_MARGIN))
    }

    fn members_within(
        &self,
        possible: usize,
        limit: Duration,
        within: Duration,
    ) -> Result<(u32, Vec<MemberInfo>), Error> {
        let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
        let possible = possible.try_into().unwrap_or(u32::MAX);
        match self.ask_within(Question::Members { possible, limit_ms }, within)? {
            Told::Members { epoch, members } => {
                let known = (epoch, members.into_iter().map(MemberInfo::from).collect());
                *self.members.lock() = known;
                Ok(self.members.lock().clone())
            }
            _ => Err(another_question()),
        }
    }

    /// The epoch and the members, as the node says, or as it has said last if it does not answer soon.
    pub fn members(&self) -> (u32, Vec<MemberInfo>) {
        let answered = self.members_within(0, Duration::ZERO, MEMBERS_LIMIT);
        answered.unwrap_or_else(|_| self.members.lock().clone())
    }
}

fn another_question() -> Error {
    MembershipError::Unserved { reason: "it gives an answer to another question".into() }.into()
}

impl Runtime {
    /// Has the threads of a program begin. Where one does not, the others are there still.
    fn start_attached(self: &Arc<Self>, spawn: Spawn<'_>) -> std::io::Result<()> {
        for lane in &self.lanes {
            let lane = Arc::clone(lane);
            let thread = spawn("kddm-lane", Box::new(move || lane.drive()))?;
            self.threads.lock().push(thread);
        }
        let tells = Arc::clone(self);
        // As in a node: a stop waits for the notifiers, up to a limit, and not for their thread.
        let _teller = spawn("kddm-notify", Box::new(move || tells.run_notifiers()))?;
        let keeps = Arc::clone(self);
        // Not among those that a stop waits for: it may be waiting for the node.
        let _keeper = spawn("kddm-attached", Box::new(move || keeps.keep_attached()))?;
        Ok(())
    }

    /// An attached program stops: what it has put is on its way to the node.
    pub fn wait_for_puts(&self, limit: Duration) {
        let deadline = Instant::now() + limit.min(CONTROL_LIMIT);
        let unsent = || self.lanes.iter().any(|lane| lane.lock().unsent_bytes() > 0);
        while unsent() && Instant::now() < deadline {
            std::thread::park_timeout(PUT_ROUND);
        }
    }
}
