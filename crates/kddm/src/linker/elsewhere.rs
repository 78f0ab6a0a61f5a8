//! What nodes ask each other about their linkers: to have a first touch, to say what one has been asked for, to read a value
//! for a node that has no linker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::SetId;
use kddm_core::message::RequestKind;
use serde::{Deserialize, Serialize};

use super::error::LinkerError;
use super::here::{LinkerInfo, count};
use super::linked::Linked;
use super::task::drive;
use crate::chain::chain;
use crate::error::{AccessError, Error, MembershipError};
use crate::node::{Node, Owner};
use crate::pending::Pending;
use crate::rpc::frame::BODY_LIMIT_BYTES;
use crate::rpc::{Incoming, RpcError};
use crate::runtime::Runtime;
use crate::runtime::told::SetHere;
use crate::set::Set;
use crate::value::Value;

/// The name under which nodes ask; no service can be registered under it.
pub(crate) const SERVICE: &str = "kddm.linkers";

/// Linkers of which one node tells: some hundred KiB.
const REPORTED: usize = 1024;

/// The largest value that is read for a node without the linker: what a call carries, with room around it.
const VALUE_LIMIT_BYTES: usize = BODY_LIMIT_BYTES - 1024;

/// What a node asks another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// What the linkers there have been asked for.
    Report,
    /// To have the first touch of an object, and to own it; `makes`: also where nothing stands behind it.
    Touch { set: u64, object: u64, makes: bool },
    /// What an object is.
    Value { set: u64, object: u64 },
}

/// What it answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Report(Vec<LinkerInfo>),
    Touched,
    NotFound,
    Value {
        version: u64,
        bytes: Vec<u8>,
    },
    /// The set has no linker there.
    NoLinker,
    /// It cannot touch anything now: it leaves, is fenced, has too much to do.
    NotNow {
        reason: String,
    },
    Failed {
        reason: String,
    },
    Malformed,
}

/// Hears what the answer is.
pub(super) type Answer = Box<dyn FnOnce(Told) + Send>;

/// A question about an object, to whoever has the linker of its set.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub set: SetId,
    pub object: u64,
    pub what: What,
    pub limit: Duration,
}

#[derive(Clone, Copy)]
pub(super) enum What {
    Touch { makes: bool },
    Value,
}

impl<T: Value> Linked<T> {
    /// Answers when it has an answer.
    pub(super) fn answer_for(self: Arc<Self>, runtime: &Arc<Runtime>, name: String, asked: Asked, answer: Answer) {
        let Asked { set, object, what, limit } = asked;
        let here = SetHere { runtime: Arc::clone(runtime), set };
        let handle = self.handle(&here, name, limit);
        drive(async move {
            let told = match (handle, what) {
                (None, _) => Told::NoLinker,
                (Some(set), What::Touch { makes }) => self.touch(&set, object, makes).await,
                (Some(set), What::Value) => value(&set, object).await,
            };
            answer(told);
        });
    }

    async fn touch(&self, set: &Set<T>, object: u64, makes: bool) -> Told {
        count(&self.counts.for_others, 1);
        // Whoever would be asked from here is not: two who name each other would ask each other for ever.
        let _only_here = self.only_here(object);
        let touched = set.grab_and_let_go(object, RequestKind::Grab { existing: !makes }).await;
        touched.map_or_else(told_of, |()| Told::Touched)
    }
}

async fn value<T: Value>(set: &Set<T>, object: u64) -> Told {
    let guard = match set.get_existing(object).await {
        Ok(guard) => guard,
        Err(error) => return told_of(error),
    };
    let mut bytes = Vec::new();
    match T::encode(&guard, &mut bytes) {
        Err(error) => Told::Failed { reason: error.to_string() },
        Ok(()) if bytes.len() > VALUE_LIMIT_BYTES => {
            Told::Failed { reason: format!("it has {} bytes, and at most {VALUE_LIMIT_BYTES} are sent", bytes.len()) }
        }
        Ok(()) => Told::Value { version: guard.version(), bytes },
    }
}

fn told_of(error: Error) -> Told {
    match error {
        Error::Access(AccessError::NotFound) => Told::NotFound,
        // Another node may, where the linker has no other reason to want this one.
        Error::Membership(_)
        | Error::Access(
            AccessError::TimedOut { .. }
            | AccessError::Overloaded { .. }
            | AccessError::OverBudget { .. }
            | AccessError::Fenced,
        )
        | Error::Linker(LinkerError::TimedOut { .. } | LinkerError::Overloaded { .. }) => {
            Told::NotNow { reason: error.to_string() }
        }
        error => Told::Failed { reason: error.to_string() },
    }
}

impl Runtime {
    /// Another node, or a program of this one, asks about linkers.
    pub(crate) fn asked_about_linkers(self: &Arc<Self>, incoming: Incoming) {
        let Incoming { reply_to, body, deadline, .. } = incoming;
        let (set, object, what) = match postcard::from_bytes(&body) {
            Ok(Question::Touch { set, object, makes }) => (set, object, What::Touch { makes }),
            Ok(Question::Value { set, object }) => (set, object, What::Value),
            Ok(Question::Report) => {
                let mut infos = self.linkers.infos();
                infos.truncate(REPORTED);
                return self.rpc.answer(reply_to, Ok(bytes(&Told::Report(infos))));
            }
            Err(_) => return self.rpc.answer(reply_to, Ok(bytes(&Told::Malformed))),
        };
        let runtime = Arc::clone(self);
        let answer: Answer = Box::new(move |told| runtime.rpc.answer(reply_to, Ok(bytes(&told))));
        let limit = deadline.saturating_duration_since(Instant::now());
        let asked = Asked { set: SetId(set), object, what, limit };
        match self.linkers.named(asked.set) {
            Some((name, linked)) => linked.asked_for(self, name, asked, answer),
            None => answer(Told::NoLinker),
        }
    }

    /// Asks another node.
    pub(super) fn ask_about_linkers(self: &Arc<Self>, node: u16, question: Question, limit: Duration) -> Pending<Told> {
        let asked = Node(Owner::guest(Arc::clone(self))).rpc().call(node, SERVICE, &bytes(&question), limit);
        let late = |limit: Duration| not_in_time(limit);
        chain(async move { told(node, asked.await?) }, late)
    }
}

fn not_in_time(limit: Duration) -> Error {
    let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
    MembershipError::JoinTimedOut { limit_ms, reason: "the linkers of all members were still asked for".into() }.into()
}

/// Writing to memory does not fail.
fn bytes<M: Serialize>(message: &M) -> Vec<u8> {
    postcard::to_stdvec(message).unwrap_or_default()
}

fn told(node: u16, body: Vec<u8>) -> Result<Told, Error> {
    let wrong = |reason: String| RpcError::Codec { node, service: SERVICE.into(), what: "the answer", reason }.into();
    match postcard::take_from_bytes(&body) {
        Ok((told, [])) => Ok(told),
        Ok((_, rest)) => Err(wrong(format!("{} bytes are left over", rest.len()))),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// What an object is, as its codec has it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EncodedValue {
    /// Puts that it has seen.
    pub version: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Who has read it.
    pub read_by: u16,
}

/// The linkers of one node, or why it has not said.
pub type LinkersOf = (u16, Result<Vec<LinkerInfo>, Error>);

impl Node {
    /// The linkers of each member, as [`linkers`](Node::linkers) says of this one: at most 1,024 of a node. A member that
    /// does not answer within the limit has an error in their place.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let store = kddm::linker::Memory::new();
    /// let rows: kddm::Set<u64> = nodes[1].set("rows").linker("memory", store).open().wait()?;
    /// rows.get(7).wait()?;
    /// let of_all = nodes[0].linkers_of_all(std::time::Duration::from_secs(5)).wait()?;
    /// assert_eq!((of_all[0].0, of_all[0].1.as_ref().map(Vec::len).ok()), (1, Some(0)));
    /// let of_second = of_all[1].1.as_ref().expect("it answers");
    /// assert_eq!((&*of_second[0].linker, of_second[0].counts.reads), ("memory", 1));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `WouldBlock` where nothing may be waited for.
    pub fn linkers_of_all(&self, limit: Duration) -> Pending<Vec<LinkersOf>> {
        let runtime = Arc::clone(self.runtime());
        let own = runtime.lender.is_none().then(|| self.id());
        let mut members: Vec<u16> = self.members().iter().map(|member| member.id).collect();
        members.sort_unstable();
        let ask = |node: u16| (own != Some(node)).then(|| runtime.ask_about_linkers(node, Question::Report, limit));
        let asked: Vec<_> = members.into_iter().map(|node| (node, ask(node))).collect();
        let node = self.clone();
        let steps = async move {
            let mut all = Vec::with_capacity(asked.len());
            for (id, asked) in asked {
                let said = match asked {
                    None => Ok(node.linkers()),
                    Some(asked) => match asked.await {
                        Ok(Told::Report(infos)) => Ok(infos),
                        Ok(other) => Err(unexpected(id, &other)),
                        Err(error) => Err(error),
                    },
                };
                all.push((id, said));
            }
            Ok(all)
        };
        chain(steps, not_in_time)
    }

    /// The value of an object that exists, in the cluster or behind its set, read by a member that has the linker of the set:
    /// for those that do not, as a daemon. Blocks.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let rows: kddm::Set<u64> = nodes[1].set("rows").linker("memory", kddm::linker::Memory::new()).open().wait()?;
    /// rows.update(7, |row| { *row = 5; Ok(()) }).wait()?;
    /// let value = nodes[0].read_where_linked("rows", 7, std::time::Duration::from_secs(5))?;
    /// assert_eq!((value.bytes, value.read_by), (vec![5], 2));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Missing` if no member has the linker, or the set has none; `Elsewhere` with what the member says; `NotFound`; `Unknown`.
    pub fn read_where_linked(&self, set: &str, object: u64, limit: Duration) -> Result<EncodedValue, Error> {
        let info = self.set_info(set)?;
        let linker = info.linker.unwrap_or_default();
        let (mut unheard, deadline) = (None, crate::runtime::wait::deadline_in(limit));
        for member in self.members() {
            let question = Question::Value { set: info.id, object };
            let left = deadline.saturating_duration_since(Instant::now());
            let reason = match self.runtime().ask_about_linkers(member.id, question, left).wait() {
                Ok(Told::Value { version, bytes }) => return Ok(EncodedValue { version, bytes, read_by: member.id }),
                Ok(Told::NotFound) => return Err(AccessError::NotFound.into()),
                Ok(Told::NoLinker) => continue,
                Ok(Told::Failed { reason }) => reason,
                // Another member may have the linker, too.
                Ok(Told::NotNow { reason }) => {
                    unheard =
                        Some(LinkerError::Elsewhere { linker: linker.clone(), object, node: member.id, reason }.into());
                    continue;
                }
                Ok(other) => return Err(unexpected(member.id, &other)),
                Err(error) => {
                    unheard = Some(error);
                    continue;
                }
            };
            return Err(LinkerError::Elsewhere { linker, object, node: member.id, reason }.into());
        }
        Err(unheard.unwrap_or_else(|| LinkerError::Missing { set: set.into(), linker }.into()))
    }
}

pub(super) fn unexpected(node: u16, told: &Told) -> Error {
    let reason = format!("{told:?} is no answer to what was asked");
    RpcError::Codec { node, service: SERVICE.into(), what: "the answer", reason }.into()
}
