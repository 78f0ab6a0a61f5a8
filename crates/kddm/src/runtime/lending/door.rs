//! Where programs come in: the socket, the first words on it, and questions about sets and members, which
//! have connections of their own. All bytes are hostile until checked.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kddm_core::id::SetId;
use serde::{Deserialize, Serialize};

use super::VERSION;
use super::clock::Clock;
use super::failure::Failure;
use super::parted;
use super::session::{SESSIONS, Session};
use super::views;
use super::watches;
use crate::error::{AccessError, ConfigurationError, Error, MembershipError, SetError};
use crate::linker::Opener;
use crate::node::{MemberInfo, Node, NodeState, Owner};
use crate::runtime::Runtime;
use crate::runtime::control::CONTROL_LIMIT;
use crate::runtime::join::random;
use crate::runtime::places::{Place, Places};
use crate::runtime::threads::{Spawn, spawn};
use crate::system::{Description, Wanted, described, find_described};
use crate::transport::{Address, Listener, Stream, greeting};

/// Connections that may be greeted at one time: what strangers can make us hold. Others wait at the socket.
const GREETINGS: usize = 64;

/// Longest name of a program that is kept, in bytes.
const NAME_BYTES: usize = 64;

/// Questions that may be answered at one time: four for each program.
const QUESTIONS: usize = 4 * SESSIONS;

/// A question keeps its node for so long at most, though nobody else may want it any more: no program
/// waits for the answer longer than that. Only the end of a set is awaited as long as it was asked for, and
/// members; that keeps no node.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long no connection is accepted after one could not be, as the log was told.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The first word: by it a program of another version is told apart.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Opening {
    pub version: u16,
}

/// The second word: what for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// To be lent objects. The connection is that of lane 0.
    Attach { name: String },
    /// The connection of another lane.
    Lane { session: u32, secret: u64, lane: u8 },
    /// For calls to that node.
    Calls { session: u32, secret: u64, node: u16 },
    /// To be called.
    Serve { session: u32, secret: u64 },
    /// One question, one answer.
    Ask { session: u32, secret: u64, question: Question },
    /// To hear what changes in a set.
    Watch(watches::Ask),
}

/// What a program asks beside objects.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    Open(Wanted),
    Destroy {
        name: String,
        limit_ms: u64,
    },
    /// Accept that an object, or all of a set, is gone, if it is lost.
    AcceptLoss {
        name: String,
        object: Option<u64>,
        limit_ms: u64,
    },
    Sets,
    Set(String),
    /// It serves calls of that name, or does no more.
    Offer(String),
    Withdraw(String),
    /// Once so many are possible.
    Members {
        possible: u32,
        limit_ms: u64,
    },
}

/// What is answered. A refusal stays where it is in all versions.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Refused(String),
    Welcome(Welcome),
    Lane,
    Told(Told),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Failed(Failure),
    Done,
    Set(Description),
    Sets(Vec<Description>),
    Members { epoch: u32, members: Vec<Member> },
}

/// What a program learns of its node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub session: u32,
    pub secret: u64,
    pub node: u16,
    pub address: String,
    /// The cluster's own session, and the limits of the node.
    pub cluster_session: u16,
    pub lanes: u8,
    pub object_limit_bytes: u64,
    pub wait_limit_ms: u64,
    /// The membership, as the node knows it.
    pub state: Vec<u8>,
    /// The view that the node has installed.
    pub view: Vec<u8>,
    /// Until when the node may use what it lends.
    pub lease_until_ns: u64,
    /// By this clock.
    pub clock: Clock,
}

/// A member, as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Member {
    id: u16,
    incarnation: u32,
    level: u8,
    address: String,
    reachable: bool,
}

impl From<MemberInfo> for Member {
    fn from(info: MemberInfo) -> Member {
        let MemberInfo { id, incarnation, state, address, reachable } = info;
        Member { id, incarnation, level: state as u8, address, reachable }
    }
}

impl From<Member> for MemberInfo {
    fn from(member: Member) -> MemberInfo {
        let Member { id, incarnation, level, address, reachable } = member;
        let states = [NodeState::Offline, NodeState::Online, NodeState::Possible];
        let state = states.into_iter().find(|state| *state as u8 == level).unwrap_or(NodeState::Offline);
        MemberInfo { id, incarnation, state, address, reachable }
    }
}

impl Node {
    /// Lets programs of this host attach to this node by a Unix socket at that path. Only this user's
    /// programs reach it. `kddmd` does this with `attach.sock` in its data directory.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let socket = std::env::temp_dir().join(format!("kddm-doc-{}.sock", std::process::id()));
    /// nodes[0].accept_programs(&socket)?;
    ///
    /// let program = kddm::Node::attach(&socket).wait()?; // mostly in another process
    /// let notes: kddm::Set<String> = program.set("notes").open().wait()?;
    /// let mut note = notes.grab(7).wait()?;
    /// note.push_str("hello");
    /// note.put().wait()?;
    /// let here: kddm::Set<String> = nodes[0].set("notes").open().wait()?;
    /// assert_eq!(*here.get(7).wait()?, "hello");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Listen` if that cannot be, or if this node accepts programs already; `Attached` in a program that
    /// is attached itself.
    pub fn accept_programs(&self, socket: impl AsRef<Path>) -> Result<(), Error> {
        self.accept_programs_by(socket.as_ref(), &mut spawn)
    }

    /// The same with threads that begin like that.
    pub(super) fn accept_programs_by(&self, socket: &Path, spawn: Spawn<'_>) -> Result<(), Error> {
        self.is_no_program("lend objects to others", "they attach to the daemon themselves")?;
        let address = Address::Unix(socket.into());
        let failed = |reason: String| Error::from(ConfigurationError::Listen { address: address.clone(), reason });
        let mut door = self.runtime().door.lock();
        if self.runtime().is_stopping() {
            return Err(MembershipError::Stopped.into());
        }
        if door.is_some() {
            return Err(failed("this node accepts programs at another socket".into()));
        }
        let listener = Arc::new(Listener::bind(&address, false).map_err(failed)?);
        let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(socket, only_owner).map_err(|error| failed(error.to_string()))?;
        self.begin_to_accept(&listener, spawn).map_err(|error| failed(error.to_string()))?;
        *door = Some(listener);
        Ok(())
    }

    /// Has one thread let programs in, and another one tell of those that have ended: both, or none.
    fn begin_to_accept(&self, listener: &Arc<Listener>, spawn: Spawn<'_>) -> io::Result<()> {
        let (owner, listens) = (Arc::downgrade(&self.0), Arc::clone(listener));
        let (begins, begin) = channel();
        let accept = move || {
            if begin.recv().is_ok() {
                accept_all(&owner, &listens);
            }
        };
        let accepts = spawn("kddm-attach", Box::new(accept))?;
        let (node, parted) = (Arc::downgrade(self.runtime()), Arc::clone(&self.runtime().signals.parted));
        let tell = move || parted::tell_of(&parted, &node);
        let tells = match spawn("kddm-parted", Box::new(tell)) {
            Ok(tells) => tells,
            Err(error) => {
                // It has let nobody in, and lets go of the socket.
                drop(begins);
                let _ended = accepts.join();
                return Err(error);
            }
        };
        let _it_waits_for_that = begins.send(());
        self.runtime().threads.lock().extend([accepts, tells]);
        Ok(())
    }

    /// An error in a program that is attached to a node: that is the node's business.
    pub(crate) fn is_no_program(&self, what: &'static str, instead: &'static str) -> Result<(), Error> {
        match self.runtime().lender {
            Some(_) => Err(MembershipError::Attached { what, instead }.into()),
            None => Ok(()),
        }
    }
}

fn accept_all(owner: &Weak<Owner>, listener: &Listener) {
    let (greeted, asking) = (Places::default(), Places::default());
    loop {
        // Whoever comes meanwhile waits at the socket.
        while greeted.taken() >= GREETINGS {
            if owner.upgrade().is_none_or(|owner| owner.0.is_stopping()) {
                return;
            }
            std::thread::park_timeout(ACCEPT_PAUSE);
        }
        let stream = match listener.accept() {
            Ok(Some(stream)) => stream,
            Ok(None) => return,
            Err(_) => {
                std::thread::park_timeout(ACCEPT_PAUSE);
                continue;
            }
        };
        let (owner, greeting, asking) = (Weak::clone(owner), greeted.take(), asking.clone());
        // A thread of its own, so that a silent stranger keeps nobody waiting.
        let served = std::thread::Builder::new().name("kddm-program".into()).spawn(move || {
            if let Err(error) = serve(&owner, stream, greeting, &asking) {
                if error.kind() == io::ErrorKind::InvalidData
                    && let Some(owner) = owner.upgrade()
                {
                    owner.0.lanes[0].lock().statistics.malformed += 1;
                }
                tracing::debug!(%error, "a program's connection ended before it was of use");
            }
        });
        if let Err(error) = served {
            tracing::warn!(%error, "no thread to greet a program with");
        }
    }
}

/// The node, as long as somebody wants it: whoever only talks with it does not keep it.
fn wanted(owner: &Weak<Owner>) -> Result<Node, Error> {
    owner.upgrade().map(Node).ok_or(MembershipError::Stopped.into())
}

/// Serves one connection: greets, then answers a question or hands the stream to its lane.
fn serve(owner: &Weak<Owner>, stream: Stream, greeting: Place, asking: &Places) -> io::Result<()> {
    stream.set_limit(Some(CONTROL_LIMIT))?;
    let opening: Opening = greeting::receive(&stream)?;
    let purpose = if opening.version == VERSION { Some(greeting::receive(&stream)?) } else { None };
    let node = wanted(owner).map_err(io::Error::other)?;
    let runtime = &Arc::clone(node.runtime());
    let Some(purpose) = purpose else {
        return refuse(
            runtime,
            &stream,
            format!(
                "it speaks version {VERSION} to programs, this program version {}; use one version of kddm for both",
                opening.version
            ),
        );
    };
    match purpose {
        Purpose::Attach { name } => let_in(runtime, stream, name),
        Purpose::Lane { session, secret, lane } => let_in_lane(runtime, stream, (session, secret), lane),
        Purpose::Calls { session, secret, node } => {
            if runtime.name_of(session, secret).is_none() {
                return refuse(runtime, &stream, NOT_ATTACHED.into());
            }
            greeting::send(&stream, &Reply::Lane)?;
            runtime.rpc.program_calls(session, node, stream)
        }
        Purpose::Serve { session, secret } => {
            if runtime.name_of(session, secret).is_none() {
                return refuse(runtime, &stream, NOT_ATTACHED.into());
            }
            let let_in = greeting::bytes_of(&Reply::Lane)?;
            runtime.rpc.program_serves(runtime.identity.id.0, session, stream, &let_in)
        }
        Purpose::Ask { session, secret, question } => {
            if runtime.name_of(session, secret).is_none() {
                return refuse(runtime, &stream, NOT_ATTACHED.into());
            }
            // It is no stranger: an answer may take long, and keeps nobody else from being greeted, nor the
            // node.
            drop((greeting, node));
            let _asks = asking.take();
            let outstanding = asking.taken();
            let answered = if outstanding > QUESTIONS {
                Err(AccessError::Overloaded { outstanding, limit: QUESTIONS }.into())
            } else {
                answer(owner, runtime, session, question)
            };
            let told = answered.unwrap_or_else(|error| Told::Failed(Failure::of(&error)));
            stream.set_limit(Some(CONTROL_LIMIT))?;
            greeting::send(&stream, &Reply::Told(told))
        }
        Purpose::Watch(ask) => {
            drop((greeting, node));
            watches::serve(runtime, &stream, ask)
        }
    }
}

pub(super) const NOT_ATTACHED: &str = "this program is not attached to it";

pub(super) fn refuse(runtime: &Runtime, stream: &Stream, reason: String) -> io::Result<()> {
    runtime.lanes[0].lock().statistics.refused_greetings += 1;
    greeting::send(stream, &Reply::Refused(reason))
}

/// The process at the other end, as the system knows it; zero if it does not say.
fn pid_of(stream: &Stream) -> u32 {
    rustix::net::sockopt::socket_peercred(stream).map_or(0, |peer| peer.pid.as_raw_nonzero().get().unsigned_abs())
}

fn let_in(runtime: &Arc<Runtime>, stream: Stream, name: String) -> io::Result<()> {
    static NUMBERED: AtomicU32 = AtomicU32::new(1);
    let lane = &runtime.lanes[0];
    let count = lane.lock().desk.session_count();
    if runtime.is_stopping() || count >= SESSIONS {
        let reason = format!("it is stopping, or has {SESSIONS} programs already");
        return refuse(runtime, &stream, reason);
    }
    let (session, secret) = (NUMBERED.fetch_add(1, Ordering::Relaxed), random());
    let name: String = name.chars().filter(|letter| !letter.is_control()).take(NAME_BYTES).collect();
    let pid = pid_of(&stream);
    tracing::debug!(program = session, pid, name, "a program is attached");
    let view = views::encode(lane.lock().core.view());
    let (state, lease_ns) = {
        let membership = runtime.membership.lock();
        (membership.state.encode(), membership.leasing.length_ns())
    };
    let welcome = Reply::Welcome(Welcome {
        session,
        secret,
        node: runtime.identity.id.0,
        address: runtime.address.to_string(),
        cluster_session: runtime.config.session,
        lanes: runtime.lanes.len() as u8,
        object_limit_bytes: runtime.limits.object_bytes as u64,
        wait_limit_ms: runtime.config.wait_limit.as_millis() as u64,
        state,
        view,
        lease_until_ns: runtime.lease_of_programs_ns(lease_ns),
        clock: Clock::here(),
    });
    let mut program = Session::new(stream, name, pid, secret);
    // Written once it is known here: its next word may be a question.
    program.outbox.push_greeting(&greeting::bytes_of(&welcome)?);
    let mut state = lane.lock();
    if state.stopped || state.fenced {
        return Err(io::Error::other("this node has stopped"));
    }
    runtime.signals.parted.is_attached(session);
    let connected = state.connect_program(session, program, &lane.poller);
    state.tell_program_of_view(session);
    state.desk.make_dirty(session);
    lane.finish(state);
    if connected.is_err() {
        _ = runtime.signals.parted.add(session, false);
    }
    connected
}

/// Another lane of a program that is let in.
fn let_in_lane(runtime: &Runtime, stream: Stream, (session, secret): (u32, u64), lane: u8) -> io::Result<()> {
    let Some(found) = runtime.lanes.get(usize::from(lane)).filter(|_| lane > 0) else {
        return refuse(runtime, &stream, "it has no such lane".into());
    };
    let Some(name) = runtime.name_of(session, secret) else {
        return refuse(runtime, &stream, NOT_ATTACHED.into());
    };
    let pid = pid_of(&stream);
    let mut program = Session::new(stream, name, pid, secret);
    // Written once it is known here, as with the first lane: then it may open sets.
    program.outbox.push_greeting(&greeting::bytes_of(&Reply::Lane)?);
    let mut state = found.lock();
    if state.stopped || state.fenced || state.program_name(session, secret).is_some() {
        return Err(io::Error::other("this node has stopped, or the program has that lane already"));
    }
    let connected = state.connect_program(session, program, &found.poller);
    state.desk.make_dirty(session);
    found.finish(state);
    if runtime.name_of(session, secret).is_none() {
        // It has ended meanwhile, and its other lanes with it.
        let mut state = found.lock();
        state.hear_program_out(session, &found.poller);
        found.finish(state);
    }
    connected
}

fn answer(owner: &Weak<Owner>, runtime: &Arc<Runtime>, session: u32, question: Question) -> Result<Told, Error> {
    match question {
        Question::Open(description) => {
            let description = description.find_or_create(&wanted(owner)?, Opener::Program).wait_for(ANSWER_LIMIT)?;
            for lane in &runtime.lanes {
                lane.lock().program_opens(session, SetId(description.set));
            }
            Ok(Told::Set(description))
        }
        Question::Destroy { name, limit_ms } => {
            let set = wanted(owner)?.begin_destroy(&name, None)?;
            runtime.destroy_everywhere(set, &name, Duration::from_millis(limit_ms))?;
            wanted(owner)?.end_destroy(set, &name).map(|()| Told::Done)
        }
        Question::AcceptLoss { name, object, limit_ms } => {
            let node = wanted(owner)?;
            let accepted = match object {
                Some(object) => node.accept_loss(&name, object),
                None => node.accept_losses(&name),
            };
            accepted.wait_for(Duration::from_millis(limit_ms)).map(|()| Told::Done)
        }
        Question::Sets if !runtime.has_sets()? => Ok(Told::Sets(Vec::new())),
        Question::Sets => described(&wanted(owner)?.system()?).map(Told::Sets),
        Question::Set(name) => {
            // Looking for a name would fix the homes of all objects; before that there are no sets.
            let found = runtime.has_sets()?.then(|| find_described(&wanted(owner)?.system()?, &name));
            found.unwrap_or(Err(SetError::Unknown { name }.into())).map(Told::Set)
        }
        Question::Offer(service) => runtime.rpc.offer(session, &service).map(|()| Told::Done),
        Question::Withdraw(service) => {
            runtime.rpc.take_offer_back(session, &service);
            Ok(Told::Done)
        }
        Question::Members { possible, limit_ms } => {
            if possible > 0 {
                runtime.wait_for_members(possible as usize, Duration::from_millis(limit_ms))?;
            }
            let members = runtime.members().into_iter().map(Member::from).collect();
            Ok(Told::Members { epoch: runtime.view().epoch.0, members })
        }
    }
}

impl Runtime {
    /// The name of an attached program that knows its secret.
    pub(super) fn name_of(&self, session: u32, secret: u64) -> Option<String> {
        self.lanes[0].lock().program_name(session, secret)
    }
}
