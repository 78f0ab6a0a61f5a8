//! Objects that leave by themselves: how long they stay, who notices that their time is over, and how they go.
//! See `docs/expiry.md`.

/// The page for users, whose example is tried.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/expiry.md")]
struct Page;

mod each;
mod here;
mod keeper;
mod once;
mod removal;
mod rule;
mod sweep;
#[cfg(test)]
mod tests;
mod times;

use std::time::Duration;

use crate::system::SetBuilder;
use crate::value::Value;

pub use each::{Expire, PART_LIMIT};
pub(crate) use each::{beside, check_may_freeze, check_may_open, goes_with_its_set, is_beside, make_beside};
pub(crate) use here::Expiries;
pub use here::ExpiryInfo;
pub use rule::OnExpiry;
pub(crate) use rule::{Expiry, WantedExpiry};

/// The shortest time after which objects leave: it must be longer than the looks that find them.
pub const LEAST_EXPIRY: Duration = Duration::from_millis(20);

/// The longest, a year: time is counted by each node that owns an object, as long as its process lives.
pub const MOST_EXPIRY: Duration = Duration::from_secs(366 * 24 * 3600);

impl<T: Value> SetBuilder<T> {
    /// Objects leave that long after they were put last, or made. A sixteenth of that may pass until a put is noticed, and as
    /// much until the end is. Part of the set, the same at each node; compared with an existing set only if given. See
    /// docs/expiry.md.
    ///
    /// ```
    /// use std::time::Duration;
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let sessions: kddm::Set<String> = nodes[0].set("sessions").expire_after(Duration::from_millis(20)).open().wait()?;
    /// let mut changes = sessions.watch_all().wait()?;
    /// sessions.update(7, |name| Ok(name.push_str("somebody"))).wait()?;
    /// while !matches!(changes.receive().wait()?, kddm::Change::Removed { object: 7, .. }) {}
    /// assert!(sessions.get_existing(7).wait().is_err());
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `OutOfRange`, when it is opened, if it is shorter than [`LEAST_EXPIRY`](crate::expiry::LEAST_EXPIRY) or longer than
    /// [`MOST_EXPIRY`](crate::expiry::MOST_EXPIRY); `SettingsDiffer`.
    pub fn expire_after(mut self, time: Duration) -> SetBuilder<T> {
        self.expiry.after = Some(time);
        self
    }

    /// Objects leave that long after they were used last: read or put at the node that owns them. What may be read elsewhere is
    /// taken back after half of that, unless somebody holds it, and whoever fetches it again uses it; so a use anywhere counts,
    /// and an object that was read elsewhere stays up to half as long again. A grab that puts nothing is no use. Part of the set as
    /// [`expire_after`](SetBuilder::expire_after), whose granularity it has; with both an object leaves by the one that is over
    /// first.
    ///
    /// ```
    /// use std::time::Duration;
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let cache: kddm::Set<String> = nodes[0].set("cache").expire_idle(Duration::from_secs(600)).open().wait()?;
    /// assert_eq!(nodes[0].set_info("cache")?.expire_idle, Some(Duration::from_secs(600)));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`expire_after`](SetBuilder::expire_after).
    pub fn expire_idle(mut self, time: Duration) -> SetBuilder<T> {
        self.expiry.idle = Some(time);
        self
    }

    /// Objects may have times of their own: [`Set::expire`](crate::Set::expire). The others have those of the set, or stay if it has
    /// none. Part of the set; compared with an existing set only if given.
    ///
    /// ```
    /// use std::time::Duration;
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let notes: kddm::Set<String> = nodes[0].set("notes").expires().open().wait()?;
    /// notes.update(7, |text| Ok(text.push_str("for now"))).wait()?;
    /// assert!(notes.expire(7, kddm::Expire::After(Duration::from_millis(20))).wait()?);
    /// while notes.len().wait()? > 0 {}
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `SettingsDiffer`, when it is opened.
    pub fn expires(mut self) -> SetBuilder<T> {
        self.expiry.each = true;
        self
    }

    /// What becomes of an expired object behind the set. [`OnExpiry::Evict`] by default. Compared with an existing set only if
    /// given.
    ///
    /// # Errors
    /// `OutOfRange`, when it is opened, for a set whose objects do not leave by themselves.
    pub fn on_expiry(mut self, on_expiry: OnExpiry) -> SetBuilder<T> {
        self.expiry.on_expiry = Some(on_expiry);
        self
    }
}
