//! What the threads of a log share: the book, and how to ask etcd about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kddm_core::id::NodeId;
use kddm_view::{Identity, State};
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde_json::{Value, json};

use crate::book::{Book, ENTRIES_KEPT, Wish};
use crate::client::{Client, EtcdError};
use crate::keys::{self, Entry, Kept, Keys, Leadership, PAGE};

/// How long a thread waits after etcd has not answered.
const AGAIN: Duration = Duration::from_millis(50);

/// For how long etcd keeps the key of a leader that says nothing, in seconds: the least that it grants at its
/// default pace.
const TTL_S: u32 = 2;

/// The longest of these: the longest lease of a cluster is 60 s, and has to be 2.5 times as long.
const TTL_S_MOST: u32 = 24;

/// Where the log is, and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The etcd servers, as `http://HOST:PORT`: one is enough, and with all of them any may be lost.
    pub endpoints: Vec<String>,
    /// Which cluster the log is of: it names the keys.
    pub identity: Identity,
    /// For how long etcd keeps the key of a leader that says nothing, in seconds. Etcd grants no less than one and a
    /// half of its election timeouts: 2 s at its default pace. From 1 to 24.
    pub ttl_s: u32,
    /// Entries kept beside the state, here and in etcd, as with voters: who is further behind takes the state.
    pub entries_kept: usize,
}

impl Settings {
    /// The log of that cluster on those servers.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>, identity: Identity) -> Settings {
        Settings {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            identity,
            ttl_s: TTL_S,
            entries_kept: ENTRIES_KEPT,
        }
    }

    /// The shortest lease of a cluster with this log. A member that has just not been answered has two thirds of its
    /// lease left at the least, and etcd needs its time and a second until another leader is there; it may itself
    /// have lost its leader, for as long.
    pub fn least_lease_ms(&self) -> u32 {
        self.ttl_s.clamp(1, TTL_S_MOST).saturating_mul(2_500)
    }
}

pub(crate) struct Shared {
    pub settings: Settings,
    pub keys: Keys,
    pub client: Client,
    book: Mutex<Book>,
    changed: Condvar,
    news: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    is_over: AtomicBool,
}

impl Shared {
    pub fn new(settings: &Settings, mut book: Book) -> Result<Shared, EtcdError> {
        book.entries_kept = settings.entries_kept.max(2);
        Ok(Shared {
            settings: Settings { ttl_s: settings.ttl_s.clamp(1, TTL_S_MOST), ..settings.clone() },
            keys: Keys::of(settings.identity),
            client: Client::new(&settings.endpoints)?,
            book: Mutex::new(book),
            changed: Condvar::new(),
            news: Mutex::new(None),
            is_over: AtomicBool::new(false),
        })
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    pub fn on_news(&self, tell: Arc<dyn Fn() + Send + Sync>) {
        *self.news.lock() = Some(tell);
    }

    /// Wakes the threads of the log.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    pub fn end(&self) {
        // With the lock, or a thread that has just looked would sleep on.
        let book = self.book.lock();
        self.is_over.store(true, Ordering::Release);
        drop(book);
        self.wake();
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Waits for a change of the book, until then at most.
    pub fn wait(&self, book: &mut MutexGuard<'_, Book>, until: Instant) {
        if !self.is_over() {
            self.changed.wait_until(book, until);
        }
    }

    /// A pause after a failure, which the end of the log ends.
    fn pause(&self) {
        let until = Instant::now() + AGAIN;
        let mut book = self.book.lock();
        while !self.is_over() && !self.changed.wait_until(&mut book, until).timed_out() {}
    }

    /// Takes in what etcd has said. Others hear of news outside the lock.
    pub fn take_in(&self, with: impl FnOnce(&mut Book) -> bool) {
        let is_news = with(&mut self.book.lock());
        if !is_news {
            return;
        }
        self.wake();
        let tell = self.news.lock().clone();
        if let Some(tell) = tell {
            tell();
        }
    }

    /// A transaction.
    pub fn transaction(&self, compare: &[Value], success: &[Value], failure: &[Value]) -> Result<Value, EtcdError> {
        let question = json!({"compare": compare, "success": success, "failure": failure});
        self.client.ask("/v3/kv/txn", &question)
    }

    // Following.

    /// The thread that reads: all that there is, and then what changes.
    pub fn follow(&self) {
        while !self.is_over() {
            match self.read_all() {
                Ok(revision) => {
                    let question = self.keys.watch(revision.saturating_add(1));
                    self.client.watch(&question, |answer| self.take_watched(answer));
                }
                Err(error) => {
                    tracing::debug!(%error, "the view log could not be read");
                    self.pause();
                }
            }
        }
    }

    /// Reads all that is not known here yet. The revision of the store that this was.
    pub fn read_all(&self) -> Result<u64, EtcdError> {
        loop {
            let next = self.book().last().saturating_add(1);
            let (keys, end) = (&self.keys, self.keys.entries_end());
            let questions = [
                keys::get(&keys.leader()),
                keys::get(&keys.heir()),
                keys::page(&keys.entry(0), &end, 1, true),
                keys::page(&keys.entry(next), &end, PAGE, false),
            ];
            let answer = self.transaction(&[], &questions, &[])?;
            let entries = keys::range(&answer, 3);
            let first = keys::range(&answer, 2).first().and_then(|kept| keys.index_of(&kept.key)).unwrap_or(0);
            if first > next {
                self.read_base()?;
                continue;
            }
            let revision = keys::revision(&answer);
            self.take_in(|book| {
                book.first = first;
                book.heir = keys::range(&answer, 1).first().map(|kept| Leadership::read(kept).node);
                let leader = keys::range(&answer, 0).first().map(Leadership::read);
                self.learn(book, &entries) | book.leader_seen(leader, revision, None)
            });
            if entries.len() < PAGE || self.book().failure.is_some() {
                return Ok(revision);
            }
        }
    }

    fn learn(&self, book: &mut Book, entries: &[Kept]) -> bool {
        let mut is_news = false;
        for kept in entries {
            is_news |= self.keys.index_of(&kept.key).is_some_and(|index| book.learn(index, &kept.value));
        }
        is_news
    }

    /// Entries that are not known here are kept no more: the state that the others follow.
    fn read_base(&self) -> Result<(), EtcdError> {
        let state = self.kept_base()?.ok_or_else(|| EtcdError::NoLog { prefix: self.keys.prefix.clone() })?;
        self.take_in(|book| {
            book.skip_to(&state);
            true
        });
        Ok(())
    }

    /// The state in etcd, if there is a log.
    pub fn kept_base(&self) -> Result<Option<State>, EtcdError> {
        let answer = self.transaction(&[], &[keys::get(&self.keys.base())], &[])?;
        let Some(kept) = keys::range(&answer, 0).pop() else { return Ok(None) };
        let strange = |what: String| EtcdError::Strange { prefix: self.keys.prefix.clone(), what };
        let state = keys::state(&kept).map_err(strange)?;
        if state.identity() != self.settings.identity {
            return Err(strange("its state is of another cluster".into()));
        }
        Ok(Some(state))
    }

    /// Takes in one answer of a watch. False if all has to be read again.
    fn take_watched(&self, answer: &Value) -> bool {
        let result = &answer["result"];
        if !result.is_object() || result["canceled"] == true {
            return false;
        }
        let mut is_whole = true;
        // What one transaction has done is seen at once.
        self.take_in(|book| {
            let mut is_news = false;
            for event in result["events"].as_array().into_iter().flatten() {
                let Some(kept) = keys::kept(&event["kv"]) else {
                    is_whole = false;
                    continue;
                };
                is_news |= self.take_event(book, &kept, event["type"] != "DELETE");
                // A gap: something is not as this program writes it, or this node was told otherwise.
                is_whole &= self.keys.index_of(&kept.key).is_none_or(|index| index <= book.last());
            }
            is_news
        });
        is_whole && !self.is_over()
    }

    fn take_event(&self, book: &mut Book, kept: &Kept, is_put: bool) -> bool {
        if kept.key == self.keys.leader() {
            return book.leader_seen(is_put.then(|| Leadership::read(kept)), kept.revision, None);
        }
        if kept.key == self.keys.heir() {
            book.heir = is_put.then(|| Leadership::read(kept).node);
            return true;
        }
        is_put && self.learn(book, std::slice::from_ref(kept))
    }

    // Writing.

    /// The thread that writes, one entry after the other.
    pub fn write(&self) {
        loop {
            let mut book = self.book();
            while book.failure.is_some() || (book.wishes.is_empty() && book.folds().is_none()) {
                if self.is_over() {
                    return;
                }
                self.wait(&mut book, Instant::now() + Duration::from_secs(1));
            }
            let (wish, at, origin) = (book.wishes.front().cloned(), book.last().saturating_add(1), book.origin);
            let folds = book.folds().map(|term| (term, book.base.clone()));
            drop(book);
            if self.is_over() {
                return;
            }
            let done = match (folds, wish) {
                (Some((term, state)), _) => self.fold(term, &state),
                (None, Some(wish)) => self.append(at, origin, &wish),
                (None, None) => Ok(()),
            };
            if let Err(error) = done {
                tracing::debug!(%error, "the view log could not be written to");
                self.pause();
            }
        }
    }

    /// Tries to make that the entry at `at`. Whether it has become that, or another one has, is learned either way.
    pub fn append(&self, at: u64, origin: u64, wish: &Wish) -> Result<(), EtcdError> {
        let keys = &self.keys;
        let entry = Entry { origin, ticket: wish.ticket, change: wish.change.clone() };
        let bytes =
            entry.encode().ok_or_else(|| EtcdError::Refused { reason: "a change that cannot be meant".into() })?;
        // Where entries were folded the one before is gone, too.
        let follows = if at <= 1 { keys::is_first(&keys.base()) } else { keys::is_there(&keys.entry(at - 1)) };
        let mut compare = vec![follows, keys::is_absent(&keys.entry(at))];
        compare.extend(wish.term.map(|term| keys::is_of(&keys.leader(), term)));
        let failure = [keys::page(&keys.entry(at), &keys.entries_end(), PAGE, false), keys::get(&keys.leader())];
        let answer = self.transaction(&compare, &[keys::put(&keys.entry(at), &bytes, 0)], &failure)?;
        if answer["succeeded"] == true {
            self.take_in(|book| book.learn(at, &bytes));
            return Ok(());
        }
        let (entries, revision) = (keys::range(&answer, 0), keys::revision(&answer));
        let leader = keys::range(&answer, 1).first().map(Leadership::read);
        let mut is_news = false;
        self.take_in(|book| {
            is_news = self.learn(book, &entries) | book.leader_seen(leader, revision, None);
            if leader.map(|leader| leader.term) != wish.term {
                book.wishes.retain(|other| other.term.is_none() || other.term != wish.term);
            }
            is_news
        });
        // What stands before is kept no more: the thread that reads finds that out.
        if entries.is_empty() && wish.term.is_none() && !is_news { self.read_all().map(|_| ()) } else { Ok(()) }
    }

    /// Puts that state in the place of the entries up to it, of which the last one stays: others may follow it only.
    fn fold(&self, term: u64, state: &State) -> Result<(), EtcdError> {
        let keys = &self.keys;
        let last = keys.entry(state.applied());
        let compare = [keys::is_of(&keys.leader(), term), keys::is_there(&last)];
        let success = [keys::put(&keys.base(), &state.encode(), 0), keys::delete_up_to(&keys.entry(0), &last)];
        let answer = self.transaction(&compare, &success, &[])?;
        if answer["succeeded"] == true {
            self.take_in(|book| {
                book.first = state.applied();
                false
            });
            return Ok(());
        }
        self.read_all().map(|_| ())
    }

    /// The heir is to be the next to lead, and nobody else as long as this node's lease lasts.
    pub fn hand_over(&self, led: Leadership, heir: Option<NodeId>) -> Result<(), EtcdError> {
        let keys = &self.keys;
        let mut success = vec![keys::delete(&keys.leader())];
        success.extend(heir.map(|heir| keys::put(&keys.heir(), &Leadership::encode(heir, 0), led.lease)));
        let answer =
            self.transaction(&[keys::is_of(&keys.leader(), led.term)], &success, &[keys::get(&keys.leader())])?;
        let is_done = answer["succeeded"] == true;
        let leader = if is_done { None } else { keys::range(&answer, 0).first().map(Leadership::read) };
        self.take_in(|book| {
            if is_done {
                book.heir = heir;
            }
            book.leader_seen(leader, keys::revision(&answer), None)
        });
        Ok(())
    }
}
