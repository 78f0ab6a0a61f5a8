//! The thread of a watch: it asks all members, and those that come. What they tell is gathered by whoever has read it from
//! its connection, which may be the thread that waits for it; by the thread of the watch only where that is at work.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use kddm_core::id::SetId;
use parking_lot::Mutex;

use super::Change;
use super::inbox::Inbox;
use super::position::{Heard, Mark, Membership, Position};
use crate::error::{AccessError, Error, MembershipError, SetError};
use crate::rpc::frame::{Manner, Sort};
use crate::rpc::{RpcError, STREAMS_LIMIT, StreamReceiver, StreamSender};
use crate::runtime::Runtime;
use crate::runtime::changes::{Ask, FULL, WATCH_SERVICE, WATCHERS_LIMIT};
use crate::runtime::feed::{News, Since};
use crate::runtime::outbox::Batch;
use crate::watch::Seen;

/// After how long a member that could not be asked is asked again, and one whose stream has ended: it may end again at
/// once, as where a node has lost its lease.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The longest pause before one is asked again that serves as many watchers as it may.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A stream between nodes that watch each other's sets has no limit but this.
const FOREVER: Duration = Duration::from_secs(86_400);

/// A member that is asked.
struct Source {
    node: u16,
    incarnation: u32,
    has_begun: bool,
    /// Its end tells the member that nobody watches any more.
    _keeps: StreamSender<()>,
    tells: StreamReceiver<Batch>,
    /// Woken by whoever has read something that it tells.
    ear: Waker,
}

/// What is watched, and from where on.
pub(crate) struct Wanted {
    pub set: SetId,
    /// One object alone.
    pub object: Option<u64>,
    pub from: Option<Position>,
}

/// What has been heard, and of whom.
struct Gathering {
    set: SetId,
    object: Option<u64>,
    /// How far each member was heard: one whose stream has ended goes on there.
    heard: BTreeMap<u16, Heard>,
    /// The members that are asked, or those of the position that the watch goes on from.
    members: Option<Membership>,
    /// Those that the position names.
    marked: Option<Membership>,
    /// Whoever is not heard yet has something to tell of what was before.
    is_behind: bool,
    /// It is told what was from here on; before that nothing can be taken.
    has_begun: bool,
    /// Where each member began to tell, until all do.
    begun_at: BTreeMap<u16, Heard>,
    /// Before all did, something may have been missed.
    is_gap: bool,
    sources: Vec<Source>,
    /// Those that serve as many watchers as they may, or to which no stream is left: when each is asked again, and the pause after that.
    full: BTreeMap<u16, (Instant, Duration)>,
    /// Lives of members whose stream has ended: when each is asked again.
    ended: BTreeMap<(u16, u32), Instant>,
    gathered: Weak<Gathered>,
}

/// Whom that could be asked.
struct Asked {
    all_asked: bool,
    is_news: bool,
    /// No stream to a member is left, or it serves as many watchers as it may: so many.
    refused_at: Option<usize>,
}

/// What has come.
#[derive(Default)]
struct Heed {
    is_news: bool,
    /// One has begun to tell, or has ended: the thread of the watch has more to do about it.
    is_other: bool,
    /// One serves as many watchers as it may, or has as many streams of this node: so many.
    refused_at: Option<usize>,
}

/// What a watch has gathered, for its thread and for those that read connections.
struct Gathered {
    gathering: Mutex<Gathering>,
    inbox: Arc<Inbox>,
}

/// Woken by whoever has read something that a member tells.
struct Ear {
    gathered: Weak<Gathered>,
    node: u16,
}

impl Wake for Ear {
    fn wake(self: Arc<Self>) {
        if let Some(gathered) = self.gathered.upgrade() {
            gathered.hear_at_once(self.node);
        }
    }
}

impl Gathered {
    /// What the thread of the watch does each time that it looks. Whether all members are asked, or why the watch does not
    /// begin.
    fn look(&self, runtime: &Arc<Runtime>) -> Result<bool, Error> {
        let mut gathering = self.gathering.lock();
        let asked = gathering.ask_members(runtime, &self.inbox);
        let sources = gathering.sources.len();
        let heed = gathering.hear(&self.inbox, None);
        if let Some(limit) = heed.refused_at.or(asked.refused_at).filter(|_| !gathering.has_begun) {
            return Err(AccessError::Overloaded { outstanding: limit, limit }.into());
        }
        let all_asked = asked.all_asked && gathering.sources.len() == sources;
        let begins = all_asked && gathering.all_begun(&self.inbox);
        drop(gathering);
        if begins || asked.is_news || heed.is_news {
            self.inbox.seat.tell();
        }
        Ok(all_asked)
    }

    /// Takes what has come from a member, on the thread that has read it. What more there is to do is left to the thread of the
    /// watch, and all of it while that one is at work, or not all have begun: nobody waits for it here.
    fn hear_at_once(&self, node: u16) {
        let gathering = self.gathering.try_lock().filter(|gathering| gathering.has_begun);
        let Some(mut gathering) = gathering else { return self.inbox.tell() };
        let heed = gathering.hear(&self.inbox, Some(node));
        drop(gathering);
        if heed.is_news {
            self.inbox.seat.tell();
        }
        if heed.is_other {
            self.inbox.tell();
        }
    }
}

/// See the module.
pub(super) fn gather(runtime: &Weak<Runtime>, wanted: Wanted, inbox: &Arc<Inbox>) {
    let set = wanted.set;
    let gathered = Arc::new_cyclic(|gathered| Gathered {
        gathering: Mutex::new(Gathering::new(wanted, Weak::clone(gathered))),
        inbox: Arc::clone(inbox),
    });
    loop {
        let Some(runtime) = runtime.upgrade() else { return inbox.fail(MembershipError::Stopped.into()) };
        let mut inside = inbox.inside.lock();
        inside.is_told = false;
        let is_closed = inside.is_closed;
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
        let all_asked = match gathered.look(&runtime) {
            Ok(all_asked) => all_asked,
            Err(error) => return inbox.fail(error),
        };
        drop(runtime);
        let mut inside = inbox.inside.lock();
        if !inside.is_told {
            if all_asked {
                inbox.news.wait(&mut inside);
            } else {
                inbox.news.wait_for(&mut inside, ASK_AGAIN);
            }
        }
    }
}

impl Gathering {
    fn new(wanted: Wanted, gathered: Weak<Gathered>) -> Gathering {
        let Wanted { set, object, from } = wanted;
        let is_behind = from.is_some();
        // One of another set, as where one of that name was made again, says nothing of this one.
        let from = from.filter(|from| from.set == set.0);
        let is_gap = is_behind && from.is_none();
        let members = from.as_ref().map(Position::membership);
        let heard = from.map(|from| from.sources).unwrap_or_default();
        Gathering {
            set,
            object,
            heard,
            members,
            marked: None,
            is_behind,
            has_begun: false,
            begun_at: BTreeMap::new(),
            is_gap,
            sources: Vec::new(),
            full: BTreeMap::new(),
            ended: BTreeMap::new(),
            gathered,
        }
    }

    /// Something may be missing.
    fn misses(&mut self, inbox: &Inbox) {
        if self.has_begun {
            inbox.push(Change::Skipped { count: None }, None);
        } else {
            self.is_gap = true;
        }
    }

    /// Asks members that are not asked yet.
    fn ask_members(&mut self, runtime: &Arc<Runtime>, inbox: &Inbox) -> Asked {
        let now = Membership::of(&runtime.view());
        // Whoever is gone may have had something to tell, and so may one that came and went.
        let mut is_news = self.members.as_ref().is_some_and(|before| !now.follows(before));
        if is_news {
            self.misses(inbox);
        }
        let is_member = |node: u16, incarnation: u32| now.members.contains(&(node, incarnation));
        self.sources.retain(|source| is_member(source.node, source.incarnation));
        self.heard.retain(|node, heard| is_member(*node, heard.incarnation));
        self.begun_at.retain(|node, heard| is_member(*node, heard.incarnation));
        let time = Instant::now();
        self.ended.retain(|(node, incarnation), again| time < *again && is_member(*node, *incarnation));
        self.full.retain(|node, _| now.members.iter().any(|(member, _)| member == node));
        let (mut all_asked, mut refused_at) = (true, None);
        for (node, incarnation) in &now.members {
            if self.sources.iter().any(|source| source.node == *node) {
                continue;
            }
            let is_full = self.full.get(node).is_some_and(|(again, _)| time < *again);
            if is_full || self.ended.contains_key(&(*node, *incarnation)) {
                all_asked = false;
                continue;
            }
            let since = match self.heard.get(node) {
                Some(heard) => Since::Mark(heard.upto),
                None if self.is_behind => Since::All,
                None => Since::Now,
            };
            let ask = Ask { set: self.set.0, object: self.object, since };
            // Writing to memory does not fail.
            let ask = postcard::to_stdvec(&ask).unwrap_or_default();
            let manner = Manner { sort: Sort::Stream, at_once: true, ..Manner::default() };
            let (keeps, tells) = match runtime.open_stream(*node, WATCH_SERVICE, &ask, FOREVER, manner) {
                Ok(ends) => ends,
                Err(error) => {
                    all_asked = false;
                    if let Some(limit) = limit_of(&error) {
                        refused_at = Some(limit);
                        is_news |= self.refused(*node, inbox);
                    }
                    continue;
                }
            };
            let (node, incarnation) = (*node, *incarnation);
            let ear = Waker::from(Arc::new(Ear { gathered: Weak::clone(&self.gathered), node }));
            self.sources.push(Source { node, incarnation, has_begun: false, _keeps: keeps, tells, ear });
        }
        self.members = Some(now);
        Asked { all_asked, is_news, refused_at }
    }

    /// If all members tell, they are those of the position. Whether the watch begins with that.
    fn all_begun(&mut self, inbox: &Inbox) -> bool {
        if !self.sources.iter().all(|source| source.has_begun) {
            return false;
        }
        let members = self.members.clone().filter(|_| self.marked != self.members).map(Mark::Members);
        self.marked.clone_from(&self.members);
        if self.has_begun {
            members.into_iter().for_each(|members| inbox.mark(members));
            return false;
        }
        (self.has_begun, self.is_behind) = (true, true);
        let begun_at = std::mem::take(&mut self.begun_at).into_iter();
        let marks = begun_at.map(|(node, heard)| Mark::Source(node, heard)).chain(members).collect();
        inbox.begins_at(marks, self.is_gap);
        true
    }

    /// Takes what has come, of one member or of all. Its ear is woken when there is more.
    fn hear(&mut self, inbox: &Inbox, only: Option<u16>) -> Heed {
        let mut heed = Heed::default();
        let mut sources = std::mem::take(&mut self.sources);
        sources.retain_mut(|source| {
            if only.is_some_and(|only| only != source.node) {
                return true;
            }
            while let Some(told) = source.tells.take_or_wake(&source.ear) {
                let full_at = match told {
                    Ok(Some(batch)) => {
                        source.has_begun = true;
                        heed.is_other |= batch.begins.is_some();
                        heed.is_news |= self.take(batch, inbox, source.node, source.incarnation);
                        continue;
                    }
                    Ok(None) => None,
                    Err(error) => limit_of(&error),
                };
                heed.is_other = true;
                match full_at {
                    Some(limit) => {
                        heed.refused_at = Some(limit);
                        heed.is_news |= self.refused(source.node, inbox);
                    }
                    None => _ = self.ended.insert((source.node, source.incarnation), Instant::now() + ASK_AGAIN),
                }
                return false;
            }
            true
        });
        self.sources = sources;
        heed
    }

    /// A member serves as many watchers as it may, or no stream to it is left. It is asked again after a pause, and a
    /// longer one after that; what it has to tell meanwhile may be forgotten by then. Whether that is news.
    fn refused(&mut self, node: u16, inbox: &Inbox) -> bool {
        let pause = self.full.get(&node).map(|(_, pause)| *pause);
        let next = pause.map_or(ASK_AGAIN, |pause| (2 * pause).min(LONGEST_PAUSE));
        self.full.insert(node, (Instant::now() + next, next));
        if pause.is_none() {
            self.misses(inbox);
        }
        pause.is_none()
    }

    /// What a member has told. Whether there is anything for whoever watches.
    fn take(&mut self, batch: Batch, inbox: &Inbox, node: u16, incarnation: u32) -> bool {
        let Batch { begins, news, upto } = batch;
        let heard = |upto| Heard { incarnation, upto };
        let mark = |upto| Some(Mark::Source(node, heard(upto)));
        if begins.is_some() {
            self.full.remove(&node);
        }
        let is_gap = begins == Some(false);
        match (is_gap, self.has_begun) {
            // What was removed there before it told of anything is not told.
            (true, true) => inbox.push(Change::Skipped { count: None }, mark(upto)),
            (true, false) => self.is_gap = true,
            (false, _) => {}
        }
        if begins.is_some() && !self.has_begun {
            let first = self.begun_at.entry(node).or_insert(heard(upto));
            if first.incarnation != incarnation {
                *first = heard(upto);
            }
        } else if news.is_empty() && self.has_begun {
            mark(upto).into_iter().for_each(|mark| inbox.mark(mark));
        }
        let is_news = is_gap || !news.is_empty();
        news.into_iter().for_each(|(news, upto)| inbox.push(change_of(news), mark(upto)));
        self.heard.insert(node, heard(upto));
        is_news
    }
}

/// The limit because of which there is no room for one more watch, there or on the way. What is full for a moment alone,
/// as where many calls are outstanding, is none.
fn limit_of(error: &Error) -> Option<usize> {
    match error {
        Error::Rpc(RpcError::Failed { reason, .. }) if reason == FULL => Some(WATCHERS_LIMIT),
        Error::Rpc(error) if error.has_no_stream_left() => Some(STREAMS_LIMIT),
        _ => None,
    }
}

fn change_of(news: News) -> Change {
    match news {
        News::Put { object, tenure, version } => Change::Put { object, seen: Seen { tenure, version } },
        News::Removed { object, tenure } => Change::Removed { object, tenure },
        News::Skipped { count } => Change::Skipped { count: Some(count) },
    }
}

#[cfg(test)]
mod tests {
    use kddm_core::view::View;

    use super::*;
    use crate::{Node, Set};

    #[test]
    fn what_is_full_for_a_moment_alone_is_no_refusal() {
        let service = || WATCH_SERVICE.to_string();
        let overloaded = |what: &str| RpcError::Overloaded { node: 2, service: service(), what: what.into() }.into();
        let failed = |reason: &str| RpcError::Failed { node: 2, service: service(), reason: reason.into() }.into();
        assert_eq!(limit_of(&failed(FULL)), Some(WATCHERS_LIMIT));
        assert_eq!(limit_of(&failed("that is no number of a set")), None);
        for what in ["256 streams to that node are open", "256 streams of this caller are open"] {
            assert!(what.starts_with(&STREAMS_LIMIT.to_string()));
            assert_eq!(limit_of(&overloaded(what)), Some(STREAMS_LIMIT));
        }
        for what in ["4096 calls to that node are outstanding", "that node has yet to take what was sent before"] {
            assert_eq!(limit_of(&overloaded(what)), None);
        }
    }

    const LIMIT: Duration = Duration::from_secs(60);

    /// Two nodes, one set at both, and a view in which nobody is a member: whoever installs it ends all connections for calls.
    fn two(name: &str) -> (Vec<Node>, [Set<u64>; 2], View) {
        let nodes = Node::local_cluster(2).expect("a cluster");
        let open = |node: &Node| node.set(name).open().wait_for(LIMIT).expect("the set opens");
        let sets = [open(&nodes[0]), open(&nodes[1])];
        (nodes, sets, View::default())
    }

    /// Nothing is missed, and nothing told twice: the watch goes on where it was.
    #[test]
    fn a_connection_may_end_while_whoever_waits_reads_it() {
        let (nodes, [here, there], nobody) = two("cut");
        let mut changes = here.watch_all().wait_for(LIMIT).expect("all answer");
        for object in 0..6 {
            let change = std::thread::scope(|scope| {
                let waits = scope.spawn(|| changes.receive().wait_for(LIMIT));
                nodes[0].runtime().rpc.installed(&nobody);
                there.grab(object).wait_for(LIMIT).expect("nobody has it").put().wait_for(LIMIT).expect("it is put");
                waits.join().expect("no panic")
            });
            assert!(matches!(change, Ok(Change::Put { object: of, .. }) if of == object), "{object}: {change:?}");
        }
    }

    /// Though the thread of the watch is told again and again that there is something to do.
    #[test]
    fn a_member_whose_stream_ends_each_time_is_asked_with_pauses() {
        let (nodes, [here, there], nobody) = two("paused");
        let mut changes = here.watch_all().wait_for(LIMIT).expect("all answer");
        let engine = &nodes[0].runtime().rpc;
        let (before, begin) = (engine.counted().streams, Instant::now());
        while begin.elapsed() < 10 * ASK_AGAIN {
            engine.installed(&nobody);
            std::thread::yield_now();
        }
        let asked = engine.counted().streams - before;
        // This node is one of both, and has the other end of its own stream.
        let pauses = begin.elapsed().as_millis() / ASK_AGAIN.as_millis();
        assert!((1..=3 * (pauses as u64 + 1)).contains(&asked), "{asked} in {pauses} pauses");
        there.grab(1).wait_for(LIMIT).expect("nobody has it").put().wait_for(LIMIT).expect("it is put");
        let change = changes.receive().wait_for(LIMIT);
        assert!(matches!(change, Ok(Change::Put { object: 1, .. })), "{change:?}");
    }
}
