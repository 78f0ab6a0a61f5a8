//! What changes in a set that is watched, as an owner of its objects knows it: which version of each was told last, and
//! what waits for each watcher, where what is newer takes the place of what is older. All that is told is numbered, so
//! that a watcher that comes back says how far it was.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kddm_core::Main;
use kddm_core::id::{Mixer, ObjectId};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::runtime::outbox::{OUTBOX_LIMIT, Outbox};
use crate::runtime::remembered::{ObjectFate, Past, Remembered};
use crate::runtime::turn::ToWake;

/// Whoever puts sends to so many watchers of a set itself; where there are more, the thread of each does, and a put costs
/// to wake them.
const SENT_AT_ONCE: usize = 4;

/// Removals that are remembered of a set, for those who come back: 100 KiB.
const REMOVED_LIMIT: usize = 4096;

/// From where on somebody watches.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) enum Since {
    /// What is put and removed from now on.
    Now,
    /// It may have missed anything: all that is owned here is told.
    All,
    /// What has that number was told, and all before.
    Mark(u64),
}

/// What an owner tells a watcher.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
pub(crate) enum News {
    Put {
        object: u64,
        tenure: u64,
        version: u64,
    },
    Removed {
        object: u64,
        tenure: u64,
    },
    /// So many changes are not told.
    Skipped {
        count: u64,
    },
}

/// An object with a value that this node owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owned {
    pub tenure: u64,
    /// The tenure in which this life of the object began.
    pub born: u64,
    pub version: u64,
}

fn put(object: ObjectId, owned: Owned) -> News {
    News::Put { object: object.0, tenure: owned.tenure, version: owned.version }
}

/// What was told last of an object that is owned here.
#[derive(Clone, Copy)]
struct Told {
    owned: Owned,
    mark: u64,
}

struct Known {
    outboxes: Vec<Weak<Outbox>>,
    told: HashMap<ObjectId, Told, Mixer>,
    /// Number, object and last tenure.
    removed: VecDeque<(u64, u64, u64)>,
    /// For people.
    past: Past,
    /// Before that number something may have been removed of which nothing is known.
    whole_from: u64,
    /// All that was owned here was looked at once. Before that nobody was told that a watch begins.
    is_walked: bool,
    is_over: bool,
    /// Nobody watches, and a thread waits until then for one who comes back.
    kept_until: Option<Instant>,
}

/// What one who comes back has missed: the first of it, as much as an outbox takes, however much there is.
#[derive(Default)]
struct Missed {
    first: BinaryHeap<(u64, u64, News)>,
    skipped: u64,
    /// The smallest number of those.
    first_skipped: Option<u64>,
}

impl Missed {
    fn add(&mut self, one: (u64, u64, News)) {
        if self.first.len() < OUTBOX_LIMIT {
            return self.first.push(one);
        }
        self.skipped += 1;
        let left_out = match self.first.peek_mut() {
            Some(mut last) if one < *last => std::mem::replace(&mut *last, one),
            _ => one,
        };
        self.first_skipped = Some(self.first_skipped.map_or(left_out.0, |first| first.min(left_out.0)));
    }
}

/// See the module. The lock of a lane is taken before that of a feed.
pub(crate) struct Feed {
    marks: Arc<AtomicU64>,
    known: Mutex<Known>,
    changed: Condvar,
}

impl Feed {
    pub fn new(marks: &Arc<AtomicU64>) -> Feed {
        // A number of its own, so that no earlier feed of the set was heard so far.
        let whole_from = marks.fetch_add(1, Ordering::Relaxed) + 1;
        let known = Known {
            outboxes: Vec::new(),
            told: HashMap::default(),
            removed: VecDeque::new(),
            past: Past::begin(),
            whole_from,
            is_walked: false,
            is_over: false,
            kept_until: None,
        };
        Feed { marks: Arc::clone(marks), known: Mutex::new(known), changed: Condvar::new() }
    }

    fn next(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// One more watches. Whether nothing is missing that it has not heard; `None` if this feed is over.
    pub fn join(&self, since: Since, only: Option<u64>) -> Option<(Arc<Outbox>, bool)> {
        let mut known = self.known.lock();
        if known.is_over {
            return None;
        }
        let last = self.marks.load(Ordering::Relaxed);
        let is_whole = match since {
            Since::Now => true,
            Since::All => false,
            Since::Mark(mark) => (known.whole_from..=last).contains(&mark),
        };
        let after = match since {
            Since::Now => last,
            Since::Mark(mark) if is_whole => mark,
            Since::All | Since::Mark(_) => 0,
        };
        let outbox = Arc::new(Outbox::new(only, !is_whole));
        let missed = if since == Since::Now { Missed::default() } else { known.missed(after, only, is_whole) };
        let Missed { first, skipped, first_skipped } = missed;
        first.into_sorted_vec().into_iter().for_each(|(mark, object, news)| outbox.push(mark, object, news));
        let mut waiting = outbox.waiting.lock();
        if let Some(first) = first_skipped {
            waiting.skip(first, skipped);
        }
        waiting.last = last;
        if !is_whole {
            // It is told first that something may be missing, and need not be told so again when it comes back.
            waiting.floor = known.whole_from;
        }
        drop(waiting);
        known.outboxes.retain(|outbox| outbox.strong_count() > 0);
        known.outboxes.push(Arc::downgrade(&outbox));
        self.changed.notify_all();
        Some((outbox, is_whole))
    }

    /// Whether all that was owned here was looked at once.
    pub fn is_walked(&self) -> bool {
        self.known.lock().is_walked
    }

    /// Of how many objects it is known that they are owned here.
    #[cfg(test)]
    pub fn known(&self) -> usize {
        self.known.lock().told.len()
    }

    /// All that was owned here was looked at.
    pub fn walked(&self) {
        self.known.lock().is_walked = true;
    }

    /// A lane owns that object, of which the feed may not have heard yet: nothing has become of it.
    pub fn begins_with(&self, object: ObjectId, owned: Owned) {
        let mut known = self.known.lock();
        if known.told.contains_key(&object) {
            return;
        }
        let mark = self.next();
        known.told.insert(object, Told { owned, mark });
        for outbox in known.outboxes.iter().filter_map(Weak::upgrade) {
            if outbox.wants_all {
                outbox.push(mark, object.0, put(object, owned));
            } else {
                outbox.passes(mark);
            }
        }
    }

    /// What is known of an object by now; and whether a value of it has gone just now. Those who are to be woken then send
    /// what there is to tell.
    pub fn looked_at(&self, object: ObjectId, owned: Option<Owned>, main: Main, has_ended: bool, to_wake: &mut ToWake) {
        let mut known = self.known.lock();
        let known = &mut *known;
        // It may have been here before anybody watched.
        let begins = !known.is_walked && owned.is_some() && !known.told.contains_key(&object);
        let news = match (owned, known.told.get_mut(&object)) {
            // Another tenure of the same owner, as after a loss, changes nothing.
            (Some(now), Some(Told { owned, .. })) if (owned.version, owned.born) == (now.version, now.born) => {
                return *owned = now;
            }
            (Some(now), told) => {
                let what = if told.is_some() { ObjectFate::Put } else { ObjectFate::Owned };
                known.past.note(object, what, now);
                put(object, now)
            }
            // Its value is not here for a moment, as while it is given back.
            (None, Some(_)) if matches!(main, Main::Owner { .. }) => return,
            (None, Some(Told { owned, .. })) => {
                let last = *owned;
                known.told.remove(&object);
                // Whoever has it now tells of it.
                if matches!(main, Main::Ghost { .. } | Main::Sharer { .. }) {
                    return known.past.note(object, ObjectFate::Passed, last);
                }
                known.past.note(object, ObjectFate::Removed, last);
                News::Removed { object: object.0, tenure: last.tenure }
            }
            // It went before it was looked at. Whoever owned it before has told of it, and nobody else tells of its end.
            // One that never had a value was never there.
            (None, None) => match main {
                Main::Tombstone { tenure, .. } if has_ended => {
                    let last = Owned { tenure: tenure.0.saturating_sub(1), born: 0, version: 0 };
                    known.past.note(object, ObjectFate::Removed, last);
                    News::Removed { object: object.0, tenure: last.tenure }
                }
                _ => return,
            },
        };
        let mark = self.next();
        match (owned, news) {
            (Some(owned), _) => _ = known.told.insert(object, Told { owned, mark }),
            (None, News::Removed { tenure, .. }) => known.remember_removed(mark, object.0, tenure),
            (None, _) => {}
        }
        let are_few = known.outboxes.len() <= SENT_AT_ONCE;
        for outbox in known.outboxes.iter().filter_map(Weak::upgrade) {
            if begins && !outbox.wants_all {
                outbox.passes(mark);
            } else if are_few {
                let sends = outbox.push_to_send(mark, object.0, news);
                sends.into_iter().for_each(|sends| to_wake.add_sender(sends, SENT_AT_ONCE));
            } else {
                outbox.push(mark, object.0, news);
            }
        }
    }

    /// For how long this is remembered, and what has become of that object.
    pub fn past_of(&self, object: ObjectId) -> (Duration, Vec<Remembered>) {
        self.known.lock().past.of(object)
    }

    /// Whoever watches is told why nothing follows.
    pub fn end(&self, error: &Error) {
        let mut known = self.known.lock();
        known.is_over = true;
        known.outboxes.drain(..).filter_map(|outbox| outbox.upgrade()).for_each(|outbox| outbox.end(error));
        self.changed.notify_all();
    }

    /// A watcher has gone, though whoever sends something to it just now may know it for a moment still.
    pub fn is_left_by(&self, outbox: &Arc<Outbox>) {
        self.known.lock().outboxes.retain(|known| known.as_ptr() != Arc::as_ptr(outbox));
    }

    /// A watcher has gone. If it was the last one, and nobody waits here already, waits until then for one who comes back.
    /// True: nobody has, or the set has ended, and the feed is over.
    pub fn is_left_until(&self, deadline: Instant) -> bool {
        let mut known = self.known.lock();
        let is_needed = known.is_watched() && !known.is_over;
        if is_needed || known.kept_until.replace(deadline).is_some() {
            return false;
        }
        loop {
            if known.is_over {
                return true;
            }
            if known.is_watched() {
                known.kept_until = None;
                return false;
            }
            let until = known.kept_until.unwrap_or(deadline);
            if Instant::now() >= until {
                known.is_over = true;
                return true;
            }
            self.changed.wait_until(&mut known, until);
        }
    }
}

impl Known {
    /// What was numbered behind that; of one object alone, if only that is watched.
    fn missed(&self, after: u64, only: Option<u64>, is_whole: bool) -> Missed {
        let mut missed = Missed::default();
        let mut add = |object: u64, told: &Told| {
            if told.mark > after {
                missed.add((told.mark, object, put(ObjectId(object), told.owned)));
            }
        };
        match only {
            Some(only) => _ = self.told.get(&ObjectId(only)).map(|told| add(only, told)),
            None => self.told.iter().for_each(|(object, told)| add(object.0, told)),
        }
        let removed = self.removed.iter().filter(|_| is_whole);
        let removed = removed.filter(|(mark, object, _)| *mark > after && only.is_none_or(|only| only == *object));
        for (mark, object, tenure) in removed {
            missed.add((*mark, *object, News::Removed { object: *object, tenure: *tenure }));
        }
        missed
    }

    fn is_watched(&self) -> bool {
        self.outboxes.iter().any(|outbox| outbox.strong_count() > 0)
    }

    fn remember_removed(&mut self, mark: u64, object: u64, tenure: u64) {
        if self.removed.len() >= REMOVED_LIMIT
            && let Some((forgotten, ..)) = self.removed.pop_front()
        {
            self.whole_from = forgotten;
        }
        self.removed.push_back((mark, object, tenure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::outbox::{AHEAD, BATCH, Batch};
    use kddm_core::id::{Epoch, Tenure};

    fn put(object: u64, version: u64) -> News {
        News::Put { object, tenure: 1, version }
    }

    fn removed(object: u64) -> News {
        News::Removed { object, tenure: 1 }
    }

    fn feed() -> Feed {
        let feed = Feed::new(&Arc::default());
        feed.walked();
        feed
    }

    fn look(feed: &Feed, object: u64, owned: Option<Owned>, main: Main, has_ended: bool) {
        feed.looked_at(ObjectId(object), owned, main, has_ended, &mut ToWake::default());
    }

    fn is_put(feed: &Feed, object: u64, version: u64) {
        let owned = Owned { tenure: 1, born: 1, version };
        look(feed, object, Some(owned), Main::None, false);
    }

    fn is_removed(feed: &Feed, object: u64) {
        look(feed, object, None, Main::None, true);
    }

    #[track_caller]
    fn join(feed: &Feed, since: Since) -> (Arc<Outbox>, bool) {
        feed.join(since, None).expect("it is not over")
    }

    fn news(batch: Batch) -> Vec<News> {
        batch.news.into_iter().map(|(news, _)| news).collect()
    }

    fn all(outbox: &Outbox) -> (Vec<News>, u64) {
        let mut told = Vec::new();
        while let Some(batch) = outbox.take() {
            assert!(batch.news.len() <= BATCH);
            told.extend(news(batch));
        }
        (told, outbox.waiting.lock().upto())
    }

    #[test]
    fn what_is_newer_takes_the_place_of_what_is_older() {
        let feed = feed();
        let (outbox, _) = join(&feed, Since::Now);
        for version in 1..=3 {
            (0..3).for_each(|object| is_put(&feed, object, version));
        }
        is_removed(&feed, 1);
        assert_eq!(all(&outbox).0, [put(0, 3), removed(1), put(2, 3)]);
        assert_eq!(all(&outbox).0, []);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_behind_the_rest() {
        let feed = feed();
        let (outbox, _) = join(&feed, Since::Now);
        (0..OUTBOX_LIMIT as u64 + 7).for_each(|object| is_put(&feed, object, 1));
        is_put(&feed, 3, 2);
        let (told, _) = all(&outbox);
        assert_eq!(told.len(), OUTBOX_LIMIT + 1);
        assert_eq!((told[3], told[OUTBOX_LIMIT]), (put(3, 2), News::Skipped { count: 7 }));
    }

    /// However busy the watcher is kept: what was left out is told behind what came before it, and whoever comes back from
    /// anywhere before that is told of it.
    #[test]
    fn what_is_left_out_is_told_though_the_outbox_is_never_empty() {
        let feed = feed();
        let (outbox, _) = join(&feed, Since::Now);
        let mut objects = 0..;
        let mut put_next = |count: usize| objects.by_ref().take(count).for_each(|object| is_put(&feed, object, 1));
        put_next(OUTBOX_LIMIT + 10);
        let (mut told, mut before_it) = (0, Vec::new());
        let at = loop {
            let batch = outbox.take().expect("it is never empty");
            put_next(BATCH);
            let skipped = batch.news.iter().position(|(news, _)| matches!(news, News::Skipped { .. }));
            before_it.extend(batch.news.iter().take(skipped.unwrap_or(BATCH)).map(|(_, upto)| *upto));
            told += batch.news.len();
            if let Some(at) = skipped {
                break (batch.news[at], told - batch.news.len() + at);
            }
        };
        let ((skipped, upto), at) = at;
        assert_eq!((skipped, at), (News::Skipped { count: 10 }, OUTBOX_LIMIT));
        let first_put = before_it[0];
        assert!(before_it.iter().zip(&before_it[1..]).all(|(one, next)| one + 1 == *next));
        assert_eq!((before_it.len(), upto), (OUTBOX_LIMIT, first_put + OUTBOX_LIMIT as u64 + 9));
        let again = join(&feed, Since::Mark(before_it[OUTBOX_LIMIT - 1])).0;
        let next = again.take().expect("it is told now").news[0].0;
        assert_eq!(next, put(OUTBOX_LIMIT as u64, 1), "what was left out is told to one that comes back");
    }

    /// One at a time: whoever comes back from behind each of them is told the next one, and comes to an end, also where
    /// what was removed is not known any more.
    #[test]
    fn whoever_takes_one_at_a_time_comes_to_an_end() {
        let feed = feed();
        let mut upto = join(&feed, Since::Now).0.begins(true).upto;
        (0..5).for_each(|object| is_put(&feed, object, 1));
        for object in 0..5 {
            let (news, next) = join(&feed, Since::Mark(upto)).0.take().expect("there is more").news[0];
            assert_eq!(news, put(object, 1));
            upto = next;
        }
        assert_eq!(all(&join(&feed, Since::Mark(upto)).0).0, []);
        for object in 10..=10 + REMOVED_LIMIT as u64 {
            is_put(&feed, object, 1);
            is_removed(&feed, object);
        }
        let (outbox, is_whole) = join(&feed, Since::Mark(upto));
        assert!(!is_whole, "a removal is not known any more");
        assert!(join(&feed, Since::Mark(outbox.begins(false).upto)).1, "that was said");
    }

    #[test]
    fn a_watch_of_one_object_hears_how_far_it_is_while_others_change() {
        let feed = feed();
        let outbox = feed.join(Since::Now, Some(7)).expect("it is not over").0;
        let begins = outbox.begins(true).upto;
        (0..AHEAD - 1).for_each(|version| is_put(&feed, 1, version + 1));
        assert_eq!((outbox.take(), outbox.waiting.lock().is_told), (None, false));
        is_put(&feed, 1, AHEAD);
        assert!(outbox.waiting.lock().is_told);
        assert_eq!(outbox.take(), Some(Batch { begins: None, news: Vec::new(), upto: begins + AHEAD }));
        assert_eq!(outbox.take(), None);
    }

    /// At each moment the number that was told stands for what was taken by then, and no more.
    #[test]
    fn whoever_comes_back_hears_what_it_has_not_heard() {
        let feed = feed();
        let (outbox, is_whole) = join(&feed, Since::Now);
        assert!(is_whole);
        (0..600).for_each(|object| is_put(&feed, object, 1));
        is_put(&feed, 0, 2);
        let first = outbox.take().expect("something waits");
        assert_eq!((first.news.len(), first.news[0].0), (BATCH, put(0, 2)));
        drop(outbox);
        (2..5).for_each(|object| is_removed(&feed, object));
        is_put(&feed, 599, 2);
        let (again, is_whole) = join(&feed, Since::Mark(first.upto));
        assert!(is_whole);
        let (told, upto) = all(&again);
        let rest = (BATCH as u64..599).map(|object| put(object, 1));
        let expected: Vec<News> = rest.chain([put(0, 2), removed(2), removed(3), removed(4), put(599, 2)]).collect();
        assert_eq!(told, expected);
        assert_eq!(all(&join(&feed, Since::Mark(upto)).0).0, []);
        let one = feed.join(Since::Mark(first.upto), Some(3)).expect("it is not over").0;
        assert_eq!(all(&one), (vec![removed(3)], upto));
    }

    /// However much there is, no more is kept for one watcher, and the rest is counted.
    #[test]
    fn whoever_has_missed_more_than_fits_is_told_how_much() {
        let feed = feed();
        let upto = join(&feed, Since::Now).0.begins(true).upto;
        (0..OUTBOX_LIMIT as u64 + 100).for_each(|object| is_put(&feed, object, 1));
        is_put(&feed, 5, 2);
        let outbox = join(&feed, Since::Mark(upto)).0;
        assert_eq!(outbox.begins(true).upto, upto, "nothing was told yet");
        let (told, last) = all(&outbox);
        let expected: Vec<News> =
            (0..OUTBOX_LIMIT as u64 + 1).filter(|object| *object != 5).map(|object| put(object, 1)).collect();
        assert_eq!(told[..OUTBOX_LIMIT], expected);
        assert_eq!(told[OUTBOX_LIMIT..], [News::Skipped { count: 100 }]);
        assert_eq!(all(&join(&feed, Since::Mark(last)).0).0, []);
    }

    #[test]
    fn what_is_not_known_any_more_is_said() {
        let marks = Arc::default();
        let feed = Feed::new(&marks);
        feed.walked();
        is_put(&feed, 1, 1);
        let upto = all(&join(&feed, Since::Now).0).1;
        for object in 0..=REMOVED_LIMIT as u64 {
            is_put(&feed, object, 1);
            is_removed(&feed, object);
        }
        is_put(&feed, 7, 1);
        for since in [Since::Mark(upto), Since::Mark(0), Since::Mark(u64::MAX), Since::All] {
            let (outbox, is_whole) = join(&feed, since);
            assert!(!is_whole, "{since:?}");
            assert_eq!(all(&outbox).0, [put(7, 1)], "all that there is");
        }
        // Another feed of the set knows nothing of what was before it, whatever number it is asked for.
        let last = all(&join(&feed, Since::Now).0).1;
        let next = Feed::new(&marks);
        assert!(!join(&next, Since::Mark(last)).1);
    }

    #[test]
    fn an_object_that_moves_is_told_by_whoever_has_it() {
        let feed = feed();
        let (outbox, _) = join(&feed, Since::Now);
        is_put(&feed, 1, 1);
        look(
            &feed,
            1,
            None,
            Main::Owner { tenure: Default::default(), version: Default::default(), born: Default::default() },
            false,
        );
        look(
            &feed,
            1,
            None,
            Main::Sharer { tenure: Default::default(), version: Default::default(), counter: 0 },
            true,
        );
        assert_eq!(all(&outbox).0, [put(1, 1)]);
        is_put(&feed, 1, 1);
        assert_eq!(all(&outbox).0, [put(1, 1)], "it is back");
        look(&feed, 1, Some(Owned { tenure: 1, born: 2, version: 1 }), Main::None, false);
        assert_eq!(all(&outbox).0, [put(1, 1)], "it is another one");
        look(&feed, 1, Some(Owned { tenure: 3, born: 2, version: 1 }), Main::None, false);
        assert_eq!(all(&outbox).0, []);
    }

    /// As where it has come with whoever wants to remove it, or a copy of it has become the object after a loss.
    #[test]
    fn the_end_of_an_object_is_told_once_though_nobody_has_seen_it() {
        let feed = feed();
        let (outbox, _) = join(&feed, Since::Now);
        let tenure = |epoch, n| Tenure::new(Epoch(epoch), n);
        let ends = |tenure| {
            let gone = Main::Tombstone { tenure, requester: Default::default() };
            // It is looked at again as often as something comes for it.
            [true, false].into_iter().for_each(|has_ended| look(&feed, 1, None, gone, has_ended));
            all(&outbox).0
        };
        let removed = |epoch, n| News::Removed { object: 1, tenure: tenure(epoch, n).0 };
        assert_eq!(ends(tenure(1, 5)), [removed(1, 4)]);
        let owned = Owned { tenure: tenure(1, 6).0, born: tenure(1, 6).0, version: 1 };
        look(&feed, 1, Some(owned), Main::None, false);
        assert_eq!(ends(tenure(1, 7)), [removed(1, 6)], "the newest of it");
        look(&feed, 1, None, Main::None, false);
        assert_eq!(all(&outbox).0, []);
        assert_eq!(ends(tenure(2, 3)), [removed(2, 2)], "another one, of an epoch that numbers anew");
        let (again, _) = join(&feed, Since::Mark(feed.marks.load(Ordering::Relaxed) - 4));
        assert_eq!(all(&again).0, [removed(2, 2)], "who comes back is told of the last one");
    }

    #[test]
    fn what_never_had_a_value_does_not_end() {
        let feed = feed();
        let (outbox, _) = join(&feed, Since::Now);
        let gone = Main::Tombstone { tenure: Tenure::new(Epoch(1), 2), requester: Default::default() };
        look(&feed, 1, None, gone, false);
        assert_eq!(all(&outbox).0, []);
    }

    /// Whoever watches from now on has not begun, and need not hear of what somebody looks at meanwhile.
    #[test]
    fn what_was_there_before_is_no_news_while_it_is_looked_at() {
        let feed = Feed::new(&Arc::default());
        let (outbox, everything) = (join(&feed, Since::Now).0, join(&feed, Since::All).0);
        is_put(&feed, 1, 1);
        feed.walked();
        assert_eq!((all(&outbox).0, all(&everything).0), (vec![], vec![put(1, 1)]));
        is_put(&feed, 1, 2);
        is_put(&feed, 2, 1);
        assert_eq!((all(&outbox).0, all(&everything).0), (vec![put(1, 2), put(2, 1)], vec![put(1, 2), put(2, 1)]));
    }

    #[derive(Default)]
    struct Counted(AtomicU64);

    impl std::task::Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Once in a turn, however much that brings; and a put to many watchers costs no more than to wake the thread of each.
    #[test]
    fn whoever_puts_sends_to_few_watchers_itself() {
        let (feed, counted) = (feed(), Arc::new(Counted::default()));
        let mut outboxes = Vec::new();
        for watchers in 1..=SENT_AT_ONCE as u64 + 1 {
            let (outbox, _) = join(&feed, Since::Now);
            outbox.is_sent_by(Arc::clone(&counted).into());
            outboxes.push(outbox);
            outboxes.iter().for_each(|outbox| outbox.looks());
            let mut to_wake = ToWake::default();
            for object in 0..2 {
                let owned = Owned { tenure: 1, born: 1, version: watchers };
                feed.looked_at(ObjectId(object), Some(owned), Main::None, false, &mut to_wake);
            }
            drop(to_wake);
            // Each has a waker of its own otherwise.
            let are_few = watchers <= SENT_AT_ONCE as u64;
            assert_eq!(counted.0.swap(0, Ordering::Relaxed), u64::from(are_few), "{watchers}");
            assert!(outboxes.iter().all(|outbox| outbox.waiting.lock().is_told != are_few), "{watchers}");
            assert!(outboxes.iter().all(|outbox| all(outbox).0 == [put(0, watchers), put(1, watchers)]));
        }
    }

    #[test]
    fn a_watcher_that_has_gone_is_gone_though_something_is_sent_to_it_just_now() {
        let feed = feed();
        let (sent_to, _) = join(&feed, Since::Now);
        feed.is_left_by(&sent_to);
        assert!(feed.is_left_until(Instant::now()), "nobody watches");
    }

    #[test]
    fn a_feed_is_kept_for_a_while_for_one_who_comes_back() {
        let feed = feed();
        let now = Instant::now();
        let outbox = join(&feed, Since::Now).0;
        assert!(!feed.is_left_until(now), "somebody watches");
        drop(outbox);
        assert!(feed.is_left_until(now));
        assert!(feed.join(Since::Now, None).is_none(), "it is over");
    }
}
