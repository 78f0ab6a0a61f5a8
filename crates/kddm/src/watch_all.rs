//! Watching a set, or one object of it.

/// The page for users, whose example is tried.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/watch.md")]
struct Page;

mod gather;
mod inbox;
mod position;

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use kddm_core::id::{SetId, Tenure};

pub(crate) use gather::Wanted;
pub(crate) use inbox::Inbox;
pub use position::{BadPosition, Position};
pub(crate) use position::{Heard, Mark};

use crate::error::{AccessError, Error, SetError};
use crate::node::Node;
use crate::pending::{Pending, Reply};
use crate::rpc::{Engine, RpcError};
use crate::runtime::Runtime;
use crate::runtime::changes::WATCH_SERVICE;
use crate::runtime::lending::watches::follow;
use crate::runtime::turn::AlarmKey;
use crate::runtime::wait::{deadline_in, may_block};
use crate::set::Set;
use crate::value::Value;
use crate::watch::Seen;
use gather::gather;

/// What has become of an object of a set that is watched, from [`WatchAll::receive`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Change {
    /// It was put, or there is a newer version than was told before.
    Put {
        /// The object.
        object: u64,
        /// Its state, as [`Set::changed`] would have it.
        seen: Seen,
    },
    /// It was removed.
    Removed {
        /// The object.
        object: u64,
        /// The tenure in which it was there last; or one after it, if it was passed on to be removed.
        tenure: u64,
    },
    /// Something was left out that may have been the last that there was to say of an object: what is to be
    /// known for certain has to be read again.
    Skipped {
        /// How many changes; `None` if nobody knows, because a member came or went away that had some to tell.
        count: Option<u64>,
    },
}

impl Change {
    /// The ownership in which that was: the epoch, and which one of the object it is. Not of what was skipped.
    pub fn ownership(&self) -> Option<(u32, u64)> {
        let tenure = match self {
            Change::Put { seen, .. } => Tenure(seen.tenure),
            Change::Removed { tenure, .. } => Tenure(*tenure),
            Change::Skipped { .. } => return None,
        };
        Some((tenure.epoch().0, tenure.n()))
    }
}

/// What changes in a set, from [`Set::watch_all`]. Dropping it ends the watch.
pub struct WatchAll {
    inbox: Arc<Inbox>,
    engine: Arc<Engine>,
    runtime: Weak<Runtime>,
    limit: Duration,
}

impl<T: Value> Set<T> {
    /// Watches all objects of the set, wherever they are: each owner tells of what is put and removed, with one
    /// message and without being held up. Whoever waits for it watches from then on; nothing of before is told.
    ///
    /// - Of each object its last change is told in the end, or [`Change::Skipped`] is, behind what was left out.
    /// - What one owner tells of an object comes in order. When it moves, what its former owner told may come behind:
    ///   the greater tenure is the newer one. Versions that are followed quickly by others may be left out, and one may be
    ///   told again when the object has another owner, or a member has joined. Between objects there is no order.
    /// - What was told may be read: a get that begins then sees that version or a newer one, unless the owner was
    ///   lost with it meanwhile.
    /// - A watcher that takes too little holds nobody up: it has `Skipped`, with a count. When a member comes, goes away, or is
    ///   lost, it has `Skipped` without one: something that this one had to tell may be missing.
    ///
    /// ```
    /// use kddm::Change;
    ///
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let here: kddm::Set<String> = nodes[0].set("watched").open().wait()?;
    /// let there: kddm::Set<String> = nodes[1].set("watched").open().wait()?;
    /// let mut changes = here.watch_all().wait()?;
    /// there.update(7, |text| { text.push_str("news"); Ok(()) }).wait()?;
    /// let change = changes.receive().wait()?; // or `.await`
    /// assert!(matches!(change, Change::Put { object: 7, .. }));
    /// there.remove(7).wait()?;
    /// assert!(matches!(changes.receive().wait()?, Change::Removed { object: 7, .. }));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Idle` if a member does not answer within the limit of the set; `Overloaded` if a member serves 256
    /// watchers already, or 256 streams to it are open, and in an attached program beyond 64 watches of all programs of its node; what ends the set or the node.
    pub fn watch_all(&self) -> Pending<WatchAll> {
        self.begin(None, None)
    }

    /// As [`watch_all`](Set::watch_all), of one object alone, that may exist or not. Nothing is read, and no copy kept: whoever
    /// wants the value of each change waits for it by [`changed`](Set::changed).
    ///
    /// # Errors
    /// As [`watch_all`](Set::watch_all).
    pub fn watch_object(&self, object: u64) -> Pending<WatchAll> {
        self.begin(Some(object), None)
    }

    /// As [`watch_all`](Set::watch_all), or [`watch_object`](Set::watch_object), from where another watch had come to: at this node or
    /// another one, in this process or a later one. What has changed since is told: the newest state of each object, and which
    /// were removed. Where that is not known any more, [`Change::Skipped`] is told, and then all that there is. It is known as
    /// long as somebody watches the set, and for two minutes after that, but for more than 4,096 removals at one node; and
    /// not if members have come or gone meanwhile.
    ///
    /// ```
    /// use kddm::Change;
    ///
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let here: kddm::Set<u64> = nodes[0].set("resumed").open().wait()?;
    /// let there: kddm::Set<u64> = nodes[1].set("resumed").open().wait()?;
    /// let watch = here.watch_all().wait()?;
    /// let kept = watch.position().to_string();
    /// drop(watch);
    /// here.update(7, |value| { *value += 1; Ok(()) }).wait()?;
    /// let mut watch = there.watch_from(None, &kept.parse().expect("it is one")).wait()?;
    /// assert!(matches!(watch.receive().wait()?, Change::Put { object: 7, .. }));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`watch_all`](Set::watch_all).
    pub fn watch_from(&self, object: Option<u64>, position: &Position) -> Pending<WatchAll> {
        self.begin(object, Some(position.clone()))
    }

    fn begin(&self, object: Option<u64>, from: Option<Position>) -> Pending<WatchAll> {
        let here = &self.0.here;
        begin(&here.runtime, Wanted { set: here.set, object, from }, self.0.wait_limit)
    }
}

impl Node {
    /// Watches a set of whatever type, as [`Set::watch_all`], [`Set::watch_object`] and [`Set::watch_from`] do. Blocks until the set is found.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let set: kddm::Set<String> = nodes[0].set("any").open().wait()?;
    /// let mut watch = nodes[1].watch_set("any", None, None)?.wait()?;
    /// set.grab(7).wait()?.put().wait()?;
    /// assert!(matches!(watch.receive().wait()?, kddm::Change::Put { object: 7, .. }));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unknown` if there is no such set, `Destroyed` if it ends; as [`Set::watch_all`].
    pub fn watch_set(
        &self,
        name: &str,
        object: Option<u64>,
        from: Option<&Position>,
    ) -> Result<Pending<WatchAll>, Error> {
        let info = self.set_info(name)?;
        if info.is_ending {
            return Err(SetError::Destroyed.into());
        }
        let wanted = Wanted { set: SetId(info.id), object, from: from.cloned() };
        Ok(begin(self.runtime(), wanted, self.runtime().config.wait_limit))
    }

    /// What this node has to do with watches of sets.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let set: kddm::Set<u64> = nodes[0].set("counted").open().wait()?;
    /// let _watch = set.watch_all().wait()?;
    /// assert_eq!((nodes[0].watch_counts().watchers, nodes[0].watch_counts().sets), (1, 1));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn watch_counts(&self) -> WatchCounts {
        let runtime = self.runtime();
        let (watchers, sets) = runtime.feeds.counts();
        WatchCounts { watchers, sets, of_programs: runtime.program_watches.count() }
    }
}

/// What a node has to do with watches: [`Node::watch_counts`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct WatchCounts {
    /// Watchers that it tells, of this node and of others.
    pub watchers: usize,
    /// Sets that they watch, or watched a moment ago.
    pub sets: usize,
    /// Those of its programs.
    pub of_programs: usize,
}

/// Begins a watch: by a thread that asks all members, or, in a program, its node.
pub(crate) fn begin(runtime: &Arc<Runtime>, wanted: Wanted, limit: Duration) -> Pending<WatchAll> {
    let (node, engine) = (runtime.identity.id.0, Arc::clone(&runtime.rpc));
    let (is_program, inbox) = (runtime.lender.is_some(), Arc::new(Inbox::new(wanted.set.0, wanted.from.as_ref())));
    let runtime = Arc::downgrade(runtime);
    engine.followed_by(&inbox);
    let (gathered, of) = (Arc::clone(&inbox), Weak::clone(&runtime));
    let work = move || if is_program { follow(&of, &wanted, &gathered) } else { gather(&of, wanted, &gathered) };
    if let Err(error) = engine.spawn("kddm-watcher", work) {
        let reason = format!("no thread could be started: {error}");
        return Pending::ready(Err(RpcError::Unreachable { node, reason }.into()));
    }
    let watch = WatchAll { inbox, engine, runtime, limit };
    let begun = watch.look(Inbox::begun, |inbox| inbox.begun().is_some());
    Pending::called(Begins { begun, watch: Some(watch) })
}

impl WatchAll {
    /// The next change. Dropped before it is there, nothing is lost.
    ///
    /// # Errors
    /// `Idle` at the limit of the set, or of `wait_for`: the watch goes on. `Destroyed` or `Stopped`: nothing follows.
    pub fn receive(&mut self) -> Pending<Change> {
        Pending::called(self.look(Inbox::take, Inbox::has_news))
    }

    /// Where it has come to: behind what was received. A watch goes on from there by [`Set::watch_from`].
    pub fn position(&self) -> Position {
        self.inbox.position()
    }

    /// The next change, and how the position goes on with it.
    pub(crate) fn receive_marked(&mut self) -> Pending<(Change, Vec<Mark>)> {
        Pending::called(self.look(Inbox::take_marked, Inbox::has_news))
    }

    /// A change that is here already.
    pub(crate) fn taken(&self) -> Option<Result<(Change, Vec<Mark>), Error>> {
        self.inbox.take_marked()
    }

    fn look<O>(&self, take: fn(&Inbox) -> Option<Result<O, Error>>, is_there: fn(&Inbox) -> bool) -> Look<O> {
        let (inbox, engine, runtime) = (Arc::clone(&self.inbox), Arc::clone(&self.engine), Weak::clone(&self.runtime));
        let (limit, deadline) = (self.limit, deadline_in(self.limit));
        Look { inbox, engine, runtime, take, is_there, limit, deadline, alarm: None }
    }
}

impl Drop for WatchAll {
    fn drop(&mut self) {
        self.inbox.inside.lock().is_closed = true;
        self.inbox.tell();
    }
}

/// A wait for something in an inbox.
struct Look<O> {
    inbox: Arc<Inbox>,
    engine: Arc<Engine>,
    runtime: Weak<Runtime>,
    take: fn(&Inbox) -> Option<Result<O, Error>>,
    is_there: fn(&Inbox) -> bool,
    limit: Duration,
    deadline: Instant,
    alarm: Option<AlarmKey>,
}

impl<O> Look<O> {
    fn idle(&self, limit: Duration) -> Error {
        let node = self.runtime.upgrade().map_or(0, |runtime| runtime.identity.id.0);
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        RpcError::Idle { node, service: WATCH_SERVICE.into(), limit_ms, what: "said" }.into()
    }
}

impl<O> Reply<O> for Look<O> {
    fn is_ready(&self) -> bool {
        (self.is_there)(&self.inbox)
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<O, Error> {
        let (limit, deadline) = limit.map_or((self.limit, self.deadline), |limit| (limit, deadline_in(limit)));
        loop {
            if let Some(result) = (self.take)(&self.inbox) {
                return result;
            }
            if !may_block() {
                return Err(AccessError::WouldBlock.into());
            }
            if Instant::now() >= deadline {
                return Err(self.idle(limit));
            }
            self.inbox.seat.wait(&self.engine, deadline, || (self.is_there)(&self.inbox));
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<O, Error>> {
        loop {
            if let Some(result) = (self.take)(&self.inbox) {
                return Poll::Ready(result);
            }
            if Instant::now() >= self.deadline {
                return Poll::Ready(Err(self.idle(self.limit)));
            }
            self.inbox.seat.wake_by(context.waker());
            if (self.is_there)(&self.inbox) {
                continue;
            }
            if self.alarm.is_none()
                && let Some(runtime) = self.runtime.upgrade()
            {
                let whom = Arc::downgrade(&self.inbox);
                self.alarm = runtime.lanes[0].wake_at(self.deadline, whom);
            }
            return Poll::Pending;
        }
    }
}

impl<O> Drop for Look<O> {
    fn drop(&mut self) {
        if let (Some(_), Some(runtime)) = (self.alarm, self.runtime.upgrade()) {
            runtime.lanes[0].lock().alarms.take_back(self.alarm);
        }
    }
}

/// A watch that has yet to begin.
struct Begins {
    begun: Look<()>,
    watch: Option<WatchAll>,
}

impl Reply<WatchAll> for Begins {
    fn is_ready(&self) -> bool {
        self.begun.is_ready()
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<WatchAll, Error> {
        self.begun.wait(limit)?;
        Ok(self.watch.take().expect("a watch begins once"))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<WatchAll, Error>> {
        let begun = self.begun.poll(context);
        begun.map(|begun| begun.map(|()| self.watch.take().expect("a watch begins once")))
    }
}
