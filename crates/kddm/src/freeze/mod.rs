//! A set that nobody changes for a while: for a backup that is a picture of one moment, or before something that must
//! find all as it was. See `docs/freeze.md`.

/// The page for users, whose example is tried.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/freeze.md")]
struct Page;

mod error;

use std::sync::Arc;
use std::time::Duration;

use kddm_core::id::SetId;
use kddm_view::Frozen;

pub use error::FreezeError;

use crate::error::{AccessError, Error, MembershipError, SetError, WaitingFor};
use crate::node::{Node, Owner};
use crate::pending::Pending;
use crate::promise::{promise, promise_while};
use crate::runtime::Runtime;
use crate::set::Set;
use crate::value::Value;

/// A set that is frozen: while this is held nobody in the cluster writes or removes an object of it, or makes one. Reads
/// go on, and cost what they cost. Made by [`Set::freeze`]; ends when it is dropped, or with its node.
///
/// ```
/// use kddm::{AccessError, Error, WaitingFor};
/// use std::time::Duration;
///
/// let nodes = kddm::Node::local_cluster(2)?;
/// let here: kddm::Set<u64> = nodes[0].set("accounts").open().wait()?;
/// let there: kddm::Set<u64> = nodes[1].set("accounts").open().wait()?;
/// for account in 0..10 {
///     here.update(account, |balance| { *balance = 100; Ok(()) }).wait()?;
/// }
/// let freeze = here.freeze().wait()?;
/// let refused = there.grab(3).wait_for(Duration::from_millis(50)).map(drop);
/// assert!(matches!(
///     refused,
///     Err(Error::Access(AccessError::TimedOut { waiting_for: WaitingFor::Frozen(1), .. }))
/// ));
/// let picture = there.scan_values().collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(picture.iter().map(|(_, balance)| **balance).sum::<u64>(), 1_000);
/// freeze.check()?; // The picture is of one moment only if the set was frozen to its end.
/// freeze.thaw().wait()?;
/// there.update(3, |balance| { *balance -= 1; Ok(()) }).wait()?;
/// # Ok::<(), Error>(())
/// ```
#[must_use = "the set is frozen until this is dropped"]
pub struct Freeze {
    runtime: Arc<Runtime>,
    /// The node goes on as long as this is held.
    _node: Arc<Owner>,
    frozen: Frozen,
    name: String,
    limit: Duration,
}

impl Freeze {
    /// The name of the set.
    pub fn set(&self) -> &str {
        &self.name
    }

    /// Whether the set is frozen still, everywhere: see [`check`](Freeze::check).
    pub fn is_held(&self) -> bool {
        self.check().is_ok()
    }

    /// Whether nobody can have changed the set since it was frozen. Ask after what needs that.
    ///
    /// # Errors
    /// `Fenced` if this node has lost its lease: others may write since it was expelled; `Ended` if it was expelled and
    /// has come back; `Destroyed`, `Stopped`.
    pub fn check(&self) -> Result<(), Error> {
        self.runtime.check_freeze(&self.frozen, &self.name)
    }

    /// Ends it, and waits until that is decided: whoever waits to write goes on as soon as his node has heard of it. Goes
    /// on if the answer is dropped.
    ///
    /// # Errors
    /// `Refused` if those who decide who is a member have not done so within the limit of the set: they will.
    pub fn thaw(self) -> Pending<()> {
        let (runtime, frozen, limit) = (Arc::clone(&self.runtime), self.frozen, self.limit);
        drop(self);
        promise("kddm-thaw", move || runtime.await_thaw(&frozen, limit), late)
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        self.runtime.give_up_freeze(&self.frozen);
    }
}

impl std::fmt::Debug for Freeze {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Freeze").field("set", &self.name).field("is_held", &self.is_held()).finish()
    }
}

impl<T: Value> Set<T> {
    /// Freezes the set, in the whole cluster: see [`Freeze`]. Who holds an object to write, or had asked for one before, comes to
    /// his end first; who comes later waits, up to his own limit, until it is thawed. Several may freeze a set at one
    /// time: it is frozen until the last one has thawed it. Whoever freezes it does not write it either. An answer that is
    /// dropped before it has come gives the freeze up.
    ///
    /// # Errors
    /// `Written` names a member that was not done within the limit of the set, and what is in the way there; `TooMany`;
    /// `Attached` in a program without a node of its own; `Refused` if nobody decides who is a member now. Then the set
    /// is not frozen.
    pub fn freeze(&self) -> Pending<Freeze> {
        let (here, node) = (&self.0.here, Arc::clone(&self.0._node));
        freeze(&here.runtime, node, here.set, self.name(), self.0.wait_limit)
    }
}

impl Node {
    /// As [`Set::freeze`], of a set that need not be open here. Its writers have so much time to come to an end.
    ///
    /// # Errors
    /// As there, and `Unknown` if there is no such set, `Destroyed` if it is ending, `OutOfRange` if it is one that keeps the
    /// times of the objects of another set.
    pub fn freeze_set(&self, name: &str, limit: Duration) -> Pending<Freeze> {
        let (node, name) = (self.clone(), name.to_string());
        let begin = move |is_wanted: &dyn Fn() -> bool| {
            crate::expiry::check_may_freeze(&name)?;
            let found = node.set_info(&name)?;
            if found.is_ending {
                return Err(SetError::Destroyed.into());
            }
            freeze_now(node.runtime(), Arc::clone(&node.0), SetId(found.id), (&name, limit), is_wanted)
        };
        promise_while("kddm-freeze", begin, late)
    }
}

fn freeze(runtime: &Arc<Runtime>, node: Arc<Owner>, set: SetId, name: &str, limit: Duration) -> Pending<Freeze> {
    let (runtime, name) = (Arc::clone(runtime), name.to_string());
    let begin = move |is_wanted: &dyn Fn() -> bool| freeze_now(&runtime, node, set, (&name, limit), is_wanted);
    promise_while("kddm-freeze", begin, late)
}

fn freeze_now(
    runtime: &Arc<Runtime>,
    node: Arc<Owner>,
    set: SetId,
    (name, limit): (&str, Duration),
    is_wanted: &dyn Fn() -> bool,
) -> Result<Freeze, Error> {
    if runtime.lender.is_some() {
        let (what, instead) = ("freeze a set", "do it in a program that is a node, or by `kddmadm set freeze`");
        return Err(MembershipError::Attached { what, instead }.into());
    }
    let frozen = runtime.freeze_now(set, name, limit, is_wanted)?;
    Ok(Freeze { runtime: Arc::clone(runtime), _node: node, frozen, name: name.into(), limit })
}

/// Whoever waits has less time than the members need.
fn late(limit: Duration) -> Error {
    let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
    AccessError::TimedOut { limit_ms, waiting_for: WaitingFor::LocalHolders }.into()
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};
    use std::task::{Context, Wake, Waker};
    use std::time::Duration;

    use parking_lot::Mutex;

    use crate::error::{AccessError, Error};
    use crate::{Config, Node, Set};

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn who_loses_the_lease_has_frozen_nothing_any_more() {
        let first = Node::join(Config::new().node_id(1).lease(Duration::from_secs(2))).wait_for(LIMIT).expect("a node");
        let config = Config::new().node_id(2).contact(first.address().clone());
        let second = Node::join(config).wait_for(LIMIT).expect("it is let in");
        let open = |node: &Node| -> Set<u64> { node.set("leased").open().wait_for(LIMIT).expect("it opens") };
        let (here, there) = (open(&first), open(&second));
        let add = |by: u64| {
            let change = move |value: &mut u64| {
                *value += by;
                Ok(())
            };
            here.update(1, change).wait_for(LIMIT).expect("nobody has frozen it");
        };
        add(1);
        let freeze = there.freeze().wait_for(LIMIT).expect("it is frozen");
        assert!(freeze.is_held());
        for lane in &second.runtime().lanes {
            let mut state = lane.lock();
            state.fence("a test says so");
            lane.finish(state);
        }
        assert!(matches!(freeze.check(), Err(Error::Access(AccessError::Fenced))));
        // Once it is expelled.
        add(1);
        assert!(first.frozen_sets().is_empty() && !freeze.is_held());
        let second = second.rejoin(LIMIT).wait_for(LIMIT).expect("it comes back");
        assert!(freeze.check().is_err(), "what it had in a former life is over");
        drop(freeze);
        let again = open(&second).freeze().wait_for(LIMIT).expect("it is frozen anew");
        assert!(again.is_held() && first.frozen_sets().values().all(|by| *by == [2]));
    }

    /// Says which sets are frozen when it is woken.
    struct Asks(Node, Mutex<Sender<bool>>);

    impl Wake for Asks {
        fn wake(self: Arc<Self>) {
            let is_thawed = self.0.frozen_sets().is_empty();
            self.1.lock().send(is_thawed).expect("the test listens");
        }
    }

    #[test]
    fn who_is_woken_by_a_thaw_may_ask_his_node_at_once() {
        let node = Node::join(Config::new()).wait_for(LIMIT).expect("a node");
        let set: Set<u64> = node.set("asked").open().wait_for(LIMIT).expect("it opens");
        let freeze = set.freeze().wait_for(LIMIT).expect("nobody writes it");
        let (sender, woken) = channel();
        let waker = Waker::from(Arc::new(Asks(node.clone(), Mutex::new(sender))));
        let mut grab = pin!(set.grab(1).into_future());
        assert!(grab.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "it is frozen");
        freeze.thaw().wait_for(LIMIT).expect("it is thawed");
        assert_eq!(woken.recv_timeout(LIMIT), Ok(true));
        assert!(grab.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }
}
