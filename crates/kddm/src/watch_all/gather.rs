//! The thread of a watch: it asks all members, and those that come, and gathers what they tell.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use kddm_core::id::SetId;

use super::Change;
use super::inbox::Inbox;
use super::position::{Heard, Mark, Membership, Position};
use crate::error::{AccessError, Error, MembershipError, SetError};
use crate::pending::Pending;
use crate::rpc::frame::{Manner, Sort};
use crate::rpc::{RpcError, STREAMS_LIMIT, StreamReceiver, StreamSender};
use crate::runtime::Runtime;
use crate::runtime::changes::{Ask, FULL, WATCH_SERVICE, WATCHERS_LIMIT};
use crate::runtime::feed::{News, Since};
use crate::runtime::outbox::Batch;
use crate::watch::Seen;

/// After how long a member that could not be asked is asked again.
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
    next: Pending<Option<Batch>>,
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
}

/// Whom that could be asked.
struct Asked {
    all_asked: bool,
    /// No stream to a member is left, or it serves as many watchers as it may: so many.
    refused_at: Option<usize>,
}

/// How a round has gone.
#[derive(Default)]
struct Heed {
    is_news: bool,
    is_lost: bool,
    /// One serves as many watchers as it may, or has as many streams of this node: so many.
    refused_at: Option<usize>,
}

/// See the module.
pub(super) fn gather(runtime: &Weak<Runtime>, wanted: Wanted, inbox: &Arc<Inbox>) {
    let mut gathering = Gathering::new(wanted);
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
        if runtime.lanes[0].lock().destroyed.contains(gathering.set) {
            return inbox.fail(SetError::Destroyed.into());
        }
        let Asked { all_asked, refused_at: none_left } = gathering.ask_members(&runtime, inbox);
        drop(runtime);
        let asked = gathering.sources.len();
        let Heed { is_news, is_lost, refused_at } = gathering.hear(inbox);
        if let Some(limit) = refused_at.or(none_left).filter(|_| !gathering.has_begun) {
            return inbox.fail(AccessError::Overloaded { outstanding: limit, limit }.into());
        }
        let all_asked = all_asked && gathering.sources.len() == asked;
        if all_asked {
            gathering.all_begun(inbox);
        }
        if is_news {
            inbox.seat.tell();
            if !is_lost {
                continue;
            }
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

impl Gathering {
    fn new(wanted: Wanted) -> Gathering {
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
        if self.members.as_ref().is_some_and(|before| !now.follows(before)) {
            self.misses(inbox);
            inbox.seat.tell();
        }
        let is_member = |node: u16, incarnation: u32| now.members.contains(&(node, incarnation));
        self.sources.retain(|source| is_member(source.node, source.incarnation));
        self.heard.retain(|node, heard| is_member(*node, heard.incarnation));
        self.begun_at.retain(|node, heard| is_member(*node, heard.incarnation));
        self.full.retain(|node, _| now.members.iter().any(|(member, _)| member == node));
        let (mut all_asked, mut refused_at) = (true, None);
        for (node, incarnation) in &now.members {
            if self.sources.iter().any(|source| source.node == *node) {
                continue;
            }
            if self.full.get(node).is_some_and(|(again, _)| Instant::now() < *again) {
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
            let (keeps, mut tells) = match runtime.open_stream(*node, WATCH_SERVICE, &ask, FOREVER, manner) {
                Ok(ends) => ends,
                Err(error) => {
                    all_asked = false;
                    if let Some(limit) = limit_of(&error) {
                        refused_at = Some(limit);
                        if self.refused(*node, inbox) {
                            inbox.seat.tell();
                        }
                    }
                    continue;
                }
            };
            let (node, incarnation, next) = (*node, *incarnation, tells.receive());
            self.sources.push(Source { node, incarnation, has_begun: false, _keeps: keeps, tells, next });
        }
        self.members = Some(now);
        Asked { all_asked, refused_at }
    }

    /// If all members tell, they are those of the position.
    fn all_begun(&mut self, inbox: &Inbox) {
        if !self.sources.iter().all(|source| source.has_begun) {
            return;
        }
        let members = self.members.clone().filter(|_| self.marked != self.members).map(Mark::Members);
        self.marked.clone_from(&self.members);
        if self.has_begun {
            return members.into_iter().for_each(|members| inbox.mark(members));
        }
        (self.has_begun, self.is_behind) = (true, true);
        let begun_at = std::mem::take(&mut self.begun_at).into_iter();
        let marks = begun_at.map(|(node, heard)| Mark::Source(node, heard)).chain(members).collect();
        inbox.begins_at(marks, self.is_gap);
    }

    /// Takes what has come.
    fn hear(&mut self, inbox: &Arc<Inbox>) -> Heed {
        let waker = Waker::from(Arc::clone(inbox));
        let mut heed = Heed::default();
        let mut sources = std::mem::take(&mut self.sources);
        sources.retain_mut(|source| {
            loop {
                match Pin::new(&mut source.next).poll(&mut Context::from_waker(&waker)) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(Some(batch))) => {
                        source.has_begun = true;
                        heed.is_news |= self.take(batch, inbox, source.node, source.incarnation);
                        source.next = source.tells.receive();
                    }
                    Poll::Ready(Err(Error::Rpc(RpcError::Idle { .. }))) => source.next = source.tells.receive(),
                    Poll::Ready(Err(error)) if limit_of(&error).is_some() => {
                        heed.refused_at = limit_of(&error);
                        heed.is_news |= self.refused(source.node, inbox);
                        return false;
                    }
                    Poll::Ready(_) => {
                        heed.is_lost |= source.has_begun;
                        return false;
                    }
                }
            }
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
    use super::*;

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
}
