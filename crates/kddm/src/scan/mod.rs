//! Which objects a set has, in the whole cluster and here. See `docs/scan.md`.
//!
//! The homes know which objects there are: of each shard its home is asked for a page of them, in ascending order. So
//! an object is found where it is counted, not where it happens to be, and neither its moves nor those of homes hide it.

/// The page for users, whose example is tried.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/scan.md")]
struct Page;

mod ask;
mod detail;
mod here;
mod local;
mod look;
mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use kddm_core::id::SHARDS_PER_SET;
use serde::{Deserialize, Serialize};

pub use detail::{AtOwner, ObjectDetail, ObjectEvent, ObjectFate, ObjectHistory};
pub use local::{HeldAs, Local, LocalObject};
pub use look::{ObjectInfo, ObjectPage};

pub(crate) use here::Scanning;

use crate::error::{AccessError, Error, WaitingFor};
use crate::guard::ReadGuard;
use crate::operation::{Asked, Get};
use crate::pending::Pending;
use crate::promise::promise;
use crate::runtime::told::SetHere;
use crate::set::Set;
use crate::value::Value;

/// The name under which nodes ask each other which objects there are. No service may have it.
pub(crate) const SERVICE: &str = "kddm.scan";

/// Objects of a page: some hundred KiB at most while it is on its way.
pub const PAGE_LIMIT: usize = 4096;

/// Shards of which homes are asked at one time, at first and at most. As many as fill a page are best.
const WIDTH: u16 = 64;
const MOST_WIDTH: u16 = 256;

/// Values that are on their way while a scan of values goes on.
const AHEAD: usize = 16;

/// How far a scan has come. It means the same at each node, and later: a scan may go on from it elsewhere.
///
/// ```
/// let begun: kddm::Cursor = "17:4711".parse().expect("the shard, and the last object of it that was seen");
/// assert_eq!(begun.to_string(), "17:4711");
/// assert_eq!(kddm::Cursor::default().to_string(), "0");
/// assert!("1024".parse::<kddm::Cursor>().is_err(), "a set has 1,024 shards");
/// ```
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cursor {
    shard: u16,
    after: Option<u64>,
    /// How many shards the next page asks for: no part of where it is.
    width: u16,
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Cursor) -> bool {
        (self.shard, self.after) == (other.shard, other.after)
    }
}

impl Eq for Cursor {}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor { shard: 0, after: None, width: WIDTH }
    }
}

impl Cursor {
    /// Another node may have said it.
    fn is_good(&self) -> bool {
        self.shard < SHARDS_PER_SET && (1..=MOST_WIDTH).contains(&self.width)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.after {
            None => write!(f, "{}", self.shard),
            Some(after) => write!(f, "{}:{after}", self.shard),
        }
    }
}

/// That is no [`Cursor`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a place in a scan is a shard below 1024, or a shard and an object as in 17:4711")]
pub struct BadCursor;

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Cursor, BadCursor> {
        let (shard, after) = match text.split_once(':') {
            None => (text, None),
            Some((shard, after)) => (shard, Some(after.parse().map_err(|_| BadCursor)?)),
        };
        let cursor = Cursor { shard: shard.parse().map_err(|_| BadCursor)?, after, width: WIDTH };
        if cursor.is_good() { Ok(cursor) } else { Err(BadCursor) }
    }
}

/// What the home of an object knows of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ObjectState {
    /// It was given to somebody to be made, a moment ago at most unless that failed: it may have a value or not.
    New,
    /// It has an owner.
    Owned,
    /// It is being removed.
    Ending,
    /// Its newest version cannot be proven present: an access is answered with [`Lost`](AccessError::Lost).
    Lost,
}

/// An object that a scan has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Found {
    /// The object.
    pub id: u64,
    /// Its home, which has said so.
    pub home: u16,
    /// Its owner, as far as its home has heard.
    pub owner: Option<u16>,
    /// What its home knows of it.
    pub state: ObjectState,
}

/// A part of a scan.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScanPage {
    /// What was found: at most 4,096 (`PAGE_LIMIT`), and perhaps nothing though there is more.
    pub found: Vec<Found>,
    /// Where the next page begins; `None`: that was all.
    pub next: Option<Cursor>,
    /// Shards of this page that may have objects of which nobody knows any more: their directories were lost with
    /// more members than the set survives, and nobody has accepted that.
    pub in_doubt: u16,
}

impl<T: Value> Set<T> {
    /// All objects of the set in the cluster, each once, a page of them at a time. The iterator blocks.
    ///
    /// What exists while the scan lasts is found, wherever it moves meanwhile; what is made or removed meanwhile is found or
    /// not. Nothing is held or fetched: an object that is found may be removed before it is looked at, so ask for it by
    /// [`get_existing`](Set::get_existing). See `docs/scan.md`.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let set: kddm::Set<u64> = nodes[0].set("scanned").open().wait()?;
    /// for object in [3, 14, 15] {
    ///     set.grab(object).wait()?.put().wait()?;
    /// }
    /// let there: kddm::Set<u64> = nodes[1].set("scanned").open().wait()?;
    /// let mut ids = there.scan().map(|found| Ok(found?.id)).collect::<Result<Vec<u64>, kddm::Error>>()?;
    /// ids.sort();
    /// assert_eq!(ids, [3, 14, 15]);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// An item may be one: `TimedOut` where a home does not answer within the limit of the set, also because it waits for what
    /// others have to report after a loss; `Destroyed`, `Fenced` and the like; and at the end `InDoubt`, if members were
    /// lost with directories of the set. The next item then is asked for again, from where it was.
    pub fn scan(&self) -> Scan<T> {
        self.scan_from(Cursor::default())
    }

    /// As [`scan`](Set::scan), from where another scan of the same set has come to: [`Scan::cursor`].
    pub fn scan_from(&self, cursor: Cursor) -> Scan<T> {
        Scan { set: self.clone(), next: Some(cursor), here: VecDeque::new(), last: None, in_doubt: 0, is_over: false }
    }

    /// One page of a scan, for those who `.await`.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(1)?;
    /// # let set: kddm::Set<u64> = nodes[0].set("paged").open().wait()?;
    /// # set.grab(7).wait()?.put().wait()?;
    /// let (mut next, mut count) = (Some(kddm::Cursor::default()), 0);
    /// while let Some(cursor) = next {
    ///     let page = set.scan_page(cursor).wait()?; // or `.await`
    ///     count += page.found.len();
    ///     next = page.next;
    /// }
    /// assert_eq!(count, 1);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`scan`](Set::scan), but for `InDoubt`: that is said in the page.
    pub fn scan_page(&self, cursor: Cursor) -> Pending<ScanPage> {
        let set = self.clone();
        promise("kddm-scan", move || set.page(cursor), late)
    }

    /// As [`scan`](Set::scan), with the values: each as it was when it was read, and none that was removed before.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let set: kddm::Set<u64> = nodes[0].set("values").open().wait()?;
    /// set.update(1, |count| { *count = 20; Ok(()) }).wait()?;
    /// set.update(2, |count| { *count = 22; Ok(()) }).wait()?;
    /// let mut sum = 0;
    /// for found in set.scan_values() {
    ///     sum += *found?.1;
    /// }
    /// assert_eq!(sum, 42);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`scan`](Set::scan), and what a get can meet: after the error of one object the next ones follow.
    pub fn scan_values(&self) -> ScanValues<T> {
        ScanValues { scan: self.scan(), ahead: VecDeque::new(), waiting: None }
    }

    /// How many objects the set has in the cluster. Each home is asked once for its shards; what is made or removed
    /// meanwhile counts or not.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let set: kddm::Set<u64> = nodes[0].set("counted").open().wait()?;
    /// set.grab(7).wait()?.put().wait()?;
    /// assert_eq!(set.len().wait()?, 1);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`scan`](Set::scan).
    pub fn len(&self) -> Pending<u64> {
        let set = self.clone();
        let count = move || {
            let counted = ask::census(&set.0.here, set.0.wait_limit)?;
            set.check_end()?;
            match counted.in_doubt {
                0 => Ok(counted.objects),
                shards => Err(ask::in_doubt(set.name(), shards)),
            }
        };
        promise("kddm-scan", count, late)
    }

    /// A page. Blocks.
    fn page(&self, cursor: Cursor) -> Result<ScanPage, Error> {
        let page = ask::page(&self.0.here, cursor, PAGE_LIMIT, self.0.wait_limit)?;
        self.check_end()?;
        Ok(page)
    }

    /// Whether the home of an object knows of it, or cannot say that. Blocks.
    pub(crate) fn is_known(&self, object: u64) -> Result<bool, Error> {
        let (here, limit) = (&self.0.here, self.0.wait_limit);
        let shard = kddm_core::id::ObjectId(object).shard(here.set.policy().unwrap_or_default()).0;
        let from = Cursor { shard, after: object.checked_sub(1), width: 1 };
        let page = ask::page(here, from, 1, limit)?;
        let is_found = page.in_doubt > 0 || page.found.iter().any(|found| found.id == object);
        // Of a shard in doubt that is said behind its last object only.
        let behind = Cursor { after: Some(u64::MAX), ..from };
        let is_known = is_found || ask::page(here, behind, 1, limit)?.in_doubt > 0;
        self.check_end().map(|()| is_known)
    }

    /// Who is asked for that.
    pub(crate) fn who_knows(&self, object: u64) -> WaitingFor {
        let SetHere { runtime, set } = &self.0.here;
        if runtime.lender.is_some() {
            return WaitingFor::Node(runtime.identity.id.0);
        }
        let shard = kddm_core::id::ObjectId(object).shard(set.policy().unwrap_or_default());
        WaitingFor::Node(runtime.lane_of_shard(shard).lock().core.answers_for(*set, shard).0)
    }

    /// Of a set that has ended nodes know nothing.
    fn check_end(&self) -> Result<(), Error> {
        self.0.table.ended().map_or(Ok(()), |ended| Err(ended.into()))
    }
}

/// Whoever waits has less time than the homes need.
fn late(limit: Duration) -> Error {
    let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
    AccessError::TimedOut { limit_ms, waiting_for: WaitingFor::LocalHolders }.into()
}

/// The objects of a set: [`Set::scan`].
pub struct Scan<T: Value> {
    set: Set<T>,
    next: Option<Cursor>,
    here: VecDeque<Found>,
    /// The last object that was said, with the shard it is of.
    last: Option<Cursor>,
    in_doubt: u16,
    is_over: bool,
}

impl<T: Value> Scan<T> {
    /// Where it has come to: a scan from there finds what this one has not said yet. `None` at the end.
    pub fn cursor(&self) -> Option<Cursor> {
        if self.here.is_empty() { self.next } else { self.last.or(Some(Cursor::default())) }
    }

    /// Shards so far of which nobody can say any more what they have: see [`ScanPage::in_doubt`].
    pub fn in_doubt(&self) -> u16 {
        self.in_doubt
    }

    fn shard_of(&self, object: u64) -> u16 {
        let policy = self.set.0.here.set.policy().unwrap_or_default();
        kddm_core::id::ObjectId(object).shard(policy).0
    }
}

impl<T: Value> Iterator for Scan<T> {
    type Item = Result<Found, Error>;

    fn next(&mut self) -> Option<Result<Found, Error>> {
        loop {
            if let Some(found) = self.here.pop_front() {
                let cursor = Cursor { shard: self.shard_of(found.id), after: Some(found.id), width: WIDTH };
                self.last = Some(cursor);
                return Some(Ok(found));
            }
            let Some(cursor) = self.next else {
                let is_unsaid = self.in_doubt > 0 && !std::mem::replace(&mut self.is_over, true);
                return is_unsaid.then(|| Err(ask::in_doubt(self.set.name(), self.in_doubt.into())));
            };
            match self.set.page(cursor) {
                Ok(page) => {
                    // What is before the first object of the page was said.
                    self.last = Some(cursor);
                    (self.here, self.next) = (page.found.into(), page.next);
                    self.in_doubt += page.in_doubt;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The objects of a set with their values: [`Set::scan_values`].
pub struct ScanValues<T: Value> {
    scan: Scan<T>,
    ahead: VecDeque<(u64, Pending<ReadGuard<T>>)>,
    /// The scan could not go on. That is said behind what it had found.
    waiting: Option<Error>,
}

impl<T: Value> ScanValues<T> {
    /// Asks for some more.
    fn look_ahead(&mut self) {
        while self.ahead.len() < AHEAD && self.waiting.is_none() {
            match self.scan.next() {
                // One that nobody has made yet is waited for nowhere.
                Some(Ok(found)) => self.ahead.push_back((found.id, self.ask(found.id))),
                Some(Err(error)) => self.waiting = Some(error),
                None => return,
            }
        }
    }
}

impl<T: Value> ScanValues<T> {
    /// What somebody wants of a frozen set, and nobody has made, is waited for nowhere: also if something stands behind the set.
    fn ask(&self, object: u64) -> Pending<ReadGuard<T>> {
        let shared = &self.scan.set.0;
        let here = &shared.here;
        // Of a program only its node knows whether the set is frozen.
        let may_be_frozen = || here.runtime.lender.is_some() || here.lane(object).lock().is_frozen(here.set);
        if shared.linked.is_some() && may_be_frozen() {
            return Pending::asked(Get(Asked::made(shared, object)));
        }
        self.scan.set.get_existing(object)
    }
}

impl<T: Value> Iterator for ScanValues<T> {
    type Item = Result<(u64, Arc<T>), Error>;

    fn next(&mut self) -> Option<Result<(u64, Arc<T>), Error>> {
        loop {
            self.look_ahead();
            let Some((object, asked)) = self.ahead.pop_front() else {
                return self.waiting.take().map(Err);
            };
            match asked.wait() {
                Ok(guard) => return Some(Ok((object, guard.snapshot()))),
                Err(Error::Access(AccessError::NotFound)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
