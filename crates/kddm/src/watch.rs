//! Waiting until an object changes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use kddm_core::id::{Epoch, Tenure};
use kddm_core::message::RequestKind;

use crate::error::{AccessError, Error};
use crate::guard::ReadGuard;
use crate::operation::{Asked, Get};
use crate::pending::{Operation, Pending};
use crate::runtime::local::Wish;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, Outcome};
use crate::set::{Set, Shared};
use crate::value::Value;

/// Which state of an object somebody has seen: from [`ReadGuard::seen`], for [`Set::changed`]. It means the same at each node and
/// later: as text it can be kept, so that a wait goes on from it in another process.
///
/// ```
/// let kept: kddm::Seen = "3.17:42".parse().expect("the tenure, and the version");
/// assert_eq!((kept.version, kept.to_string().as_str()), (42, "3.17:42"));
/// assert!("3.1099511627776:42".parse::<kddm::Seen>().is_err(), "there are fewer owners of one object");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seen {
    /// The tenure of the owner: greater at every change of owner.
    pub tenure: u64,
    /// How many puts the value had seen.
    pub version: u64,
}

impl Seen {
    /// How many puts there were since `earlier`: more than one tells that states were skipped. `None` if the object was
    /// removed and made again meanwhile.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(1)?;
    /// # let set: kddm::Set<u64> = nodes[0].set("seen").open().wait()?;
    /// let before = set.get(1).wait()?.seen();
    /// set.grab(1).wait()?.put().wait()?;
    /// set.grab(1).wait()?.put().wait()?;
    /// assert_eq!(set.changed(1, before).wait()?.puts_since(before), Some(2));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn puts_since(&self, earlier: Seen) -> Option<u64> {
        self.version.checked_sub(earlier.version)
    }
}

/// As text that can be kept: epoch and number of the tenure, and the version.
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Tenure(self.tenure), self.version)
    }
}

/// That is no [`Seen`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a state of an object is an epoch, the number of the ownership and a version, as in 3.17:42")]
pub struct BadSeen;

impl FromStr for Seen {
    type Err = BadSeen;

    fn from_str(text: &str) -> Result<Seen, BadSeen> {
        let (tenure, version) = text.split_once(':').ok_or(BadSeen)?;
        let (epoch, n) = tenure.split_once('.').ok_or(BadSeen)?;
        let (epoch, n) = (epoch.parse().map_err(|_| BadSeen)?, n.parse().map_err(|_| BadSeen)?);
        let tenure = Tenure::new(Epoch(epoch), n);
        // What does not fit would be another one.
        let fits = (tenure.epoch().0, tenure.n()) == (epoch, n);
        let version = version.parse().ok().filter(|_| fits).ok_or(BadSeen)?;
        Ok(Seen { tenure: tenure.0, version })
    }
}

impl<T: Value> ReadGuard<T> {
    /// Which state of the object this is.
    pub fn seen(&self) -> Seen {
        Seen { tenure: self.tenure(), version: self.version() }
    }
}

impl<T: Value> Set<T> {
    /// Waits until the object is not any more as it was seen, and says what it is then: at once if that is so already.
    /// Puts that follow each other quickly may be told as one. Nothing is polled and nothing held: this node keeps a
    /// copy, and hears of a change because it loses it, or because the put is its own; then it reads
    /// the object again. It may also come when only the owner is another one.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let here: kddm::Set<String> = nodes[0].set("watched").open().wait()?;
    /// let there: kddm::Set<String> = nodes[1].set("watched").open().wait()?;
    /// let before = here.get(7).wait()?.seen();
    /// let change = here.changed(7, before); // `.await` it, or `.wait()` for it
    /// there.update(7, |text| { text.push_str("news"); Ok(()) }).wait()?;
    /// let after = change.wait()?;
    /// assert_eq!(after.puts_since(before), Some(1));
    /// assert_eq!(*here.get(7).wait()?, "news");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unchanged` at the limit; `NotFound` if the object does not exist (any more), and stays so; `Overloaded` if this
    /// node waits for too many changes; what a get can meet, and whatever ends the set, the node or its lease.
    pub fn changed(&self, object: u64, since: Seen) -> Pending<Seen> {
        Pending::asked(Changed::new(&self.0, object, since, None, self.0.wait_limit))
    }

    /// As [`changed`](Set::changed), within that limit; and it comes also, with what was seen, when the membership
    /// changes after that was `heard` of it.
    pub(crate) fn changed_or_members(&self, object: u64, since: Seen, heard: u64, limit: Duration) -> Pending<Seen> {
        Pending::asked(Changed::new(&self.0, object, since, Some(heard), limit))
    }
}

/// `changed`.
struct Changed<T: Value> {
    shared: Arc<Shared<T>>,
    object: u64,
    since: Seen,
    heard: Option<u64>,
    limit: Duration,
    stage: Stage<T>,
}

enum Stage<T: Value> {
    /// It is asked for, to be looked at.
    Reads(Get<T>),
    /// It was as it had been seen when it was looked at last.
    Waits(Watch),
}

/// A wait for the end of a copy.
struct Watch {
    here: SetHere,
    object: u64,
    op: Arc<Op>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.op.is_done() {
            self.here.unwatch(self.object, &self.op);
        }
    }
}

impl<T: Value> Changed<T> {
    fn new(shared: &Arc<Shared<T>>, object: u64, since: Seen, heard: Option<u64>, limit: Duration) -> Changed<T> {
        // The wait looks first whether there is news already.
        let stage =
            Stage::Waits(Watch { here: shared.here.clone(), object, op: shared.here.watch(object, since, heard) });
        Changed { shared: Arc::clone(shared), object, since, heard, limit, stage }
    }

    /// What to do after it was read: it has changed, or is watched from now on.
    fn has_read(&mut self, guard: ReadGuard<T>) -> Option<Seen> {
        let seen = guard.seen();
        drop(guard);
        let here = &self.shared.here;
        if seen != self.since || self.heard.is_some_and(|heard| heard != here.members_heard(self.object)) {
            return Some(seen);
        }
        let op = here.watch(self.object, self.since, self.heard);
        self.stage = Stage::Waits(Watch { here: here.clone(), object: self.object, op });
        None
    }

    fn read(&mut self) -> Option<Seen> {
        if let Ok(hold) = self.shared.try_read(self.object)
            && let Ok(guard) = self.shared.read_guard(hold)
        {
            return self.has_read(guard);
        }
        let wish = Wish::Request(RequestKind::Get { existing: true });
        let get = Get(Asked::new(&self.shared, self.object, wish, None, None));
        get.claim();
        self.stage = Stage::Reads(get);
        None
    }
}

impl<T: Value> Operation<Seen> for Changed<T> {
    fn finish(&mut self) -> Option<Result<Seen, Error>> {
        loop {
            let seen = match &mut self.stage {
                Stage::Reads(get) => match get.finish()? {
                    Ok(guard) => self.has_read(guard),
                    Err(error) => return Some(Err(error)),
                },
                Stage::Waits(watch) => match watch.op.take()? {
                    Outcome::Failed(error) => return Some(Err(error)),
                    _ => self.read(),
                },
            };
            if let Some(seen) = seen {
                return Some(Ok(seen));
            }
        }
    }

    fn op(&self) -> &Arc<Op> {
        match &self.stage {
            Stage::Reads(get) => get.op(),
            Stage::Waits(watch) => &watch.op,
        }
    }

    /// What this thread holds keeps the change away for which it would wait.
    fn conflict(&self) -> Option<Error> {
        self.shared.conflict(self.object, true, None)
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        match &mut self.stage {
            Stage::Reads(get) => get.give_up(limit),
            Stage::Waits(_) => {
                AccessError::Unchanged { limit_ms: limit.as_millis().try_into().unwrap_or(u64::MAX) }.into()
            }
        }
    }

    fn limit(&self) -> Duration {
        self.limit
    }
}
