//! What waits to be sent to one watcher of a set: of each object the newest, where what is older waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

use kddm_core::id::Mixer;
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::runtime::feed::News;

/// Objects of which something may wait to be sent to one watcher; of more it is told how many were skipped.
pub(super) const OUTBOX_LIMIT: usize = 4096;

/// Changes that are sent together.
pub(super) const BATCH: usize = 256;

/// One of whom nothing is told, because other objects change, is told how far it was heard when that is so much ahead.
pub(super) const AHEAD: u64 = 1000;

/// What is told together.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct Batch {
    /// From now on all is told; and whether nothing is missing before that.
    pub begins: Option<bool>,
    /// Each with the number up to which all is told with it, or was.
    pub news: Vec<(News, u64)>,
    /// All up to that number is told with this, or was.
    pub upto: u64,
}

/// Something waits, since that number.
struct Slot {
    first: u64,
    what: Waits,
}

#[derive(Clone, Copy)]
enum Waits {
    /// What is newest of that object.
    Object(u64),
    /// So many changes were left out.
    Skipped(u64),
}

#[derive(Default)]
pub(super) struct Waiting {
    pub(super) is_told: bool,
    order: VecDeque<Slot>,
    newest: HashMap<u64, News, Mixer>,
    /// The last number that there was.
    pub(super) last: u64,
    /// What was told of that number or before needs no more: it was said that something is missing.
    pub(super) floor: u64,
    /// The number that was sent last.
    said: u64,
    ended: Option<Error>,
}

impl Waiting {
    /// Up to where nothing waits.
    pub(super) fn upto(&self) -> u64 {
        self.order.front().map_or(self.last, |slot| slot.first - 1).max(self.floor)
    }

    /// What is left out is told where it would have stood: whoever comes back from before there is told of it, too.
    pub(super) fn skip(&mut self, first: u64, more: u64) {
        match self.order.back_mut() {
            Some(Slot { what: Waits::Skipped(count), .. }) => *count = count.saturating_add(more),
            _ => self.order.push_back(Slot { first, what: Waits::Skipped(more) }),
        }
    }

    fn is_ahead(&self) -> bool {
        self.upto().saturating_sub(self.said) >= AHEAD
    }
}

/// What waits to be sent to one watcher.
#[derive(Default)]
pub(crate) struct Outbox {
    /// One object alone is watched.
    only: Option<u64>,
    /// What is owned here is told it, too.
    pub(super) wants_all: bool,
    pub(super) waiting: Mutex<Waiting>,
    news: Condvar,
    /// Whoever has brought something to tell may send it by this, once the watch has begun.
    sends: OnceLock<Waker>,
}

impl Outbox {
    pub fn new(only: Option<u64>, wants_all: bool) -> Outbox {
        Outbox { only, wants_all, ..Outbox::default() }
    }

    pub(super) fn push(&self, mark: u64, object: u64, news: News) {
        if self.add(mark, object, news) {
            self.tell_thread();
        }
    }

    /// As [`push`](Outbox::push). What is to be woken without locks to have it sent, if the thread that sends is not told.
    pub(super) fn push_to_send(&self, mark: u64, object: u64, news: News) -> Option<&Waker> {
        let (is_news, sends) = (self.add(mark, object, news), self.sends.get());
        if is_news && sends.is_none() {
            self.tell_thread();
        }
        sends.filter(|_| is_news)
    }

    /// Whether somebody has to send it.
    fn add(&self, mark: u64, object: u64, news: News) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.last = waiting.last.max(mark);
        if self.only.is_some_and(|only| only != object) {
            self.look_how_far(waiting);
            return false;
        }
        if let Some(known) = waiting.newest.get_mut(&object) {
            *known = news;
        } else if waiting.order.len() < OUTBOX_LIMIT {
            waiting.order.push_back(Slot { first: mark, what: Waits::Object(object) });
            waiting.newest.insert(object, news);
        } else {
            waiting.skip(mark, 1);
        }
        true
    }

    /// From now on what is brought can be sent by that, too.
    pub fn is_sent_by(&self, sends: Waker) {
        let _once = self.sends.set(sends);
    }

    /// The thread that sends looks at everything again.
    pub fn tell_thread(&self) {
        self.waiting.lock().is_told = true;
        self.news.notify_one();
    }

    /// Of what has that number there is nothing to tell.
    pub(super) fn passes(&self, mark: u64) {
        let mut waiting = self.waiting.lock();
        waiting.last = waiting.last.max(mark);
        self.look_how_far(waiting);
    }

    /// Nothing is told, but perhaps how far that is.
    fn look_how_far(&self, mut waiting: MutexGuard<'_, Waiting>) {
        if !waiting.is_told && waiting.is_ahead() {
            waiting.is_told = true;
            drop(waiting);
            self.news.notify_one();
        }
    }

    pub fn end(&self, error: &Error) {
        let mut waiting = self.waiting.lock();
        waiting.ended.get_or_insert_with(|| error.clone());
        waiting.is_told = true;
        drop(waiting);
        self.news.notify_one();
    }

    /// Whoever sends looks at everything from here on: what is told meanwhile ends its next wait.
    pub fn looks(&self) {
        self.waiting.lock().is_told = false;
    }

    /// The first word to the watcher.
    pub fn begins(&self, is_whole: bool) -> Batch {
        let mut waiting = self.waiting.lock();
        waiting.said = waiting.upto();
        Batch { begins: Some(is_whole), news: Vec::new(), upto: waiting.said }
    }

    /// What is to be sent next, if anything is.
    pub fn take(&self) -> Option<Batch> {
        let mut waiting = self.waiting.lock();
        let mut news = Vec::new();
        while news.len() < BATCH
            && let Some(Slot { what, .. }) = waiting.order.pop_front()
        {
            let one = match what {
                Waits::Object(object) => waiting.newest.remove(&object),
                Waits::Skipped(count) => Some(News::Skipped { count }),
            };
            news.extend(one.map(|one| (one, waiting.upto())));
        }
        if news.is_empty() && !waiting.is_ahead() {
            return None;
        }
        waiting.said = waiting.upto();
        Some(Batch { begins: None, news, upto: waiting.said })
    }

    pub fn has_ended(&self) -> Option<Error> {
        self.waiting.lock().ended.clone()
    }

    pub fn wait(&self) {
        let mut waiting = self.waiting.lock();
        while !waiting.is_told {
            self.news.wait(&mut waiting);
        }
    }
}

impl Wake for Outbox {
    fn wake(self: Arc<Self>) {
        self.tell_thread();
    }
}
