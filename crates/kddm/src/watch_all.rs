//! Watching a whole set.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use kddm_core::id::SetId;
use parking_lot::{Condvar, Mutex};

use crate::error::{AccessError, Error, MembershipError, SetError};
use crate::pending::{Pending, Reply};
use crate::rpc::frame::{Manner, Sort};
use crate::rpc::{Engine, RpcError, Seat, StreamReceiver, StreamSender};
use crate::runtime::Runtime;
use crate::runtime::changes::{Ask, News, WATCH_SERVICE};
use crate::runtime::turn::{AlarmKey, Alarmed};
use crate::runtime::wait::{deadline_in, may_block};
use crate::set::Set;
use crate::value::Value;
use crate::watch::Seen;

/// Changes that may wait for whoever watches; of more it is told how many were skipped.
const INBOX_LIMIT: usize = 4096;

/// After how long a member that could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A stream between nodes that watch each other's sets has no limit but this.
const FOREVER: Duration = Duration::from_secs(86_400);

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
        /// The tenure in which it was there last.
        tenure: u64,
    },
    /// Something was left out that may have been the last that there was to say of an object: what is to be
    /// known for certain has to be read again.
    Skipped {
        /// How many changes; `None` if nobody knows, because a member went away that had some to tell.
        count: Option<u64>,
    },
}

#[derive(Default)]
struct Inside {
    is_told: bool,
    is_closed: bool,
    has_begun: bool,
    changes: VecDeque<Change>,
    skipped: u64,
    /// Nobody knows how many besides those.
    lost: bool,
    failed: Option<Error>,
}

/// Where changes wait for whoever watches.
#[derive(Default)]
pub(crate) struct Inbox {
    inside: Mutex<Inside>,
    /// Of the thread that gathers.
    news: Condvar,
    /// Of whoever takes.
    seat: Seat,
}

impl Inbox {
    /// The thread that gathers is to look again.
    pub fn tell(&self) {
        self.inside.lock().is_told = true;
        self.news.notify_one();
    }

    fn push(&self, change: Change) {
        let mut inside = self.inside.lock();
        match change {
            Change::Skipped { count: None } => inside.lost = true,
            Change::Skipped { count: Some(count) } => inside.skipped += count,
            // Behind what was left out nothing comes before that was told.
            _ if inside.changes.len() >= INBOX_LIMIT || inside.skipped > 0 || inside.lost => inside.skipped += 1,
            change => inside.changes.push_back(change),
        }
    }

    fn take(&self) -> Option<Result<Change, Error>> {
        let mut inside = self.inside.lock();
        if let Some(change) = inside.changes.pop_front() {
            return Some(Ok(change));
        }
        if std::mem::take(&mut inside.lost) {
            inside.skipped = 0;
            return Some(Ok(Change::Skipped { count: None }));
        }
        if inside.skipped > 0 {
            return Some(Ok(Change::Skipped { count: Some(std::mem::take(&mut inside.skipped)) }));
        }
        inside.failed.clone().map(Err)
    }

    fn has_news(&self) -> bool {
        let inside = self.inside.lock();
        !inside.changes.is_empty() || inside.lost || inside.skipped > 0 || inside.failed.is_some()
    }

    fn begun(&self) -> Option<Result<(), Error>> {
        let inside = self.inside.lock();
        match &inside.failed {
            Some(error) => Some(Err(error.clone())),
            None => inside.has_begun.then_some(Ok(())),
        }
    }

    fn fail(&self, error: Error) {
        self.inside.lock().failed.get_or_insert(error);
        self.seat.tell();
    }
}

impl Wake for Inbox {
    fn wake(self: Arc<Self>) {
        self.tell();
    }
}

impl Alarmed for Inbox {
    fn ring(&self) {
        self.seat.ring();
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
    /// - A watcher that takes too little holds nobody up: it has `Skipped`, with a count. When a member goes away, or is
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
    /// `Idle` if a member does not answer within the limit of the set; `NoStreams` in an attached program; what ends
    /// the set or the node.
    pub fn watch_all(&self) -> Pending<WatchAll> {
        let here = &self.0.here;
        if here.runtime.lender.is_some() {
            return Pending::ready(Err(RpcError::NoStreams.into()));
        }
        let (set, inbox, runtime) = (here.set, Arc::new(Inbox::default()), Arc::downgrade(&here.runtime));
        let engine = Arc::clone(&here.runtime.rpc);
        engine.followed_by(&inbox);
        let (gathered, of) = (Arc::clone(&inbox), Weak::clone(&runtime));
        if let Err(error) = engine.spawn("kddm-watcher", move || gather(&of, set, &gathered)) {
            let reason = format!("no thread could be started: {error}");
            return Pending::ready(Err(RpcError::Unreachable { node: here.runtime.identity.id.0, reason }.into()));
        }
        let watch = WatchAll { inbox: Arc::clone(&inbox), engine, runtime, limit: self.0.wait_limit };
        let begun = watch.look(|inbox| inbox.begun(), |inbox| inbox.begun().is_some());
        let watch = Some(watch);
        Pending::called(Begins { begun, watch })
    }
}

impl WatchAll {
    /// The next change. Dropped before it is there, nothing is lost.
    ///
    /// # Errors
    /// `Idle` at the limit of the set, or of `wait_for`: the watch goes on. `Destroyed` or `Stopped`: nothing follows.
    pub fn receive(&mut self) -> Pending<Change> {
        Pending::called(self.look(Inbox::take, Inbox::has_news))
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

/// A member that is asked.
struct Source {
    node: u16,
    incarnation: u32,
    has_begun: bool,
    /// Its end tells the member that nobody watches any more.
    _keeps: StreamSender<()>,
    tells: StreamReceiver<Vec<News>>,
    next: Pending<Option<Vec<News>>>,
}

/// The thread of a watch: it asks all members, and those that come, and gathers what they tell.
fn gather(runtime: &Weak<Runtime>, set: SetId, inbox: &Arc<Inbox>) {
    let mut sources: Vec<Source> = Vec::new();
    loop {
        let Some(runtime) = runtime.upgrade() else { return inbox.fail(MembershipError::Stopped.into()) };
        let mut inside = inbox.inside.lock();
        inside.is_told = false;
        let (is_closed, has_begun) = (inside.is_closed, inside.has_begun);
        drop(inside);
        if is_closed {
            return;
        }
        if runtime.is_stopping() {
            return inbox.fail(MembershipError::Stopped.into());
        }
        if runtime.lanes[0].lock().destroyed.contains(set) {
            return inbox.fail(SetError::Destroyed.into());
        }
        let all_asked = ask_members(&runtime, set, has_begun, &mut sources, inbox);
        drop(runtime);
        let asked = sources.len();
        let (is_news, is_lost) = hear(&mut sources, inbox);
        let all_asked = all_asked && sources.len() == asked;
        if !has_begun && all_asked && sources.iter().all(|source| source.has_begun) {
            inbox.inside.lock().has_begun = true;
            inbox.seat.tell();
        }
        if is_news || is_lost {
            inbox.seat.tell();
        }
        if is_news && !is_lost {
            continue;
        }
        let mut inside = inbox.inside.lock();
        if !inside.is_told {
            // One that has ended may end again at once, as where a node has lost its lease: it is not asked without a pause.
            if all_asked && !is_lost {
                inbox.news.wait(&mut inside);
            } else {
                inbox.news.wait_for(&mut inside, ASK_AGAIN);
            }
        }
    }
}

/// Asks members that are not asked yet. False if one of them could not be.
fn ask_members(runtime: &Arc<Runtime>, set: SetId, has_begun: bool, sources: &mut Vec<Source>, inbox: &Inbox) -> bool {
    let view = runtime.view();
    let before = sources.len();
    sources.retain(|source| {
        let is =
            |member: &kddm_core::view::Member| member.id.0 == source.node && member.incarnation.0 == source.incarnation;
        view.members.iter().any(is)
    });
    if sources.len() < before {
        inbox.push(Change::Skipped { count: None });
        inbox.seat.tell();
    }
    let mut all_asked = true;
    for member in &view.members {
        let node = member.id.0;
        if sources.iter().any(|source| source.node == node) {
            continue;
        }
        // Writing to memory does not fail.
        let ask = postcard::to_stdvec(&Ask { set: set.0, tells_all: has_begun }).unwrap_or_default();
        let manner = Manner { sort: Sort::Stream, at_once: true, ..Manner::default() };
        let Ok((keeps, mut tells)) = runtime.open_stream(node, WATCH_SERVICE, &ask, FOREVER, manner) else {
            all_asked = false;
            continue;
        };
        let (incarnation, next) = (member.incarnation.0, tells.receive());
        sources.push(Source { node, incarnation, has_begun: false, _keeps: keeps, tells, next });
    }
    all_asked
}

/// Takes what has come. Whether anything has, and whether one has ended.
fn hear(sources: &mut Vec<Source>, inbox: &Arc<Inbox>) -> (bool, bool) {
    let waker = Waker::from(Arc::clone(inbox));
    let (mut is_news, mut is_lost) = (false, false);
    sources.retain_mut(|source| {
        loop {
            match Pin::new(&mut source.next).poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => return true,
                Poll::Ready(Ok(Some(batch))) => {
                    source.has_begun = true;
                    is_news |= !batch.is_empty();
                    batch.into_iter().map(change_of).for_each(|change| inbox.push(change));
                    source.next = source.tells.receive();
                }
                Poll::Ready(Err(Error::Rpc(RpcError::Idle { .. }))) => source.next = source.tells.receive(),
                Poll::Ready(_) => {
                    is_lost |= source.has_begun;
                    return false;
                }
            }
        }
    });
    if is_lost {
        inbox.push(Change::Skipped { count: None });
    }
    (is_news, is_lost)
}

fn change_of(news: News) -> Change {
    match news {
        News::Put { object, tenure, version } => Change::Put { object, seen: Seen { tenure, version } },
        News::Removed { object, tenure } => Change::Removed { object, tenure },
        News::Skipped { count } => Change::Skipped { count: Some(count) },
    }
}
