//! What is put or removed is written behind the set first, while the object is held: nobody sees it before it is kept.

use std::sync::Arc;
use std::time::Duration;

use super::behind::Waiting;
use super::error::LinkerError;
use super::held::{Held, Hold, What};
use super::here::count;
use super::linked::Linked;
use super::policy::WritePolicy;
use super::store::{Stamp, Written};
use crate::cell::Ended;
use crate::error::{Error, MembershipError};
use crate::guard::encode;
use crate::operation::Put;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, Outcome};
use crate::value::Value;

impl<T: Value> Linked<T> {
    /// Publishes what was changed, in the order that the set has chosen. What is still to be waited for.
    pub fn put(self: &Arc<Self>, here: &SetHere, hold: Hold<T>, limit: Duration) -> Result<Option<Put>, Error> {
        if let Some(value) = hold.changed() {
            Linked::is_here(here, hold.id(), hold.version() + 1, value);
        }
        match self.of.policy {
            WritePolicy::Behind { .. } => self.put_behind(here, hold, limit),
            _ => Ok(Some(Put { op: self.put_through(here, hold), limit })),
        }
    }

    /// Writes it later.
    fn put_behind(self: &Arc<Self>, here: &SetHere, mut hold: Hold<T>, limit: Duration) -> Result<Option<Put>, Error> {
        let object = hold.id();
        let value = Arc::new(hold.value().expect("a granted object has a value").clone());
        let mut encoded = Vec::new();
        encode(&*value, &mut encoded)?;
        let bytes = encoded.len();
        self.is_still_kept()?;
        self.may_ever_fit(object, bytes)?;
        self.behind.reserve(object, bytes, self.limit).map_err(|why| self.is_full(why))?;
        let stamp = self.stamp(here, &hold);
        let waits = if here.has_replicas() {
            let publish = || {
                let version = hold.publish_and_hold();
                (version, Box::new(move || _ = hold.end_untold()) as Box<dyn FnOnce() + Send>)
            };
            let put = here.put_replicated(object, encoded, publish);
            let op = put.inspect_err(|_not_published| self.behind.give_back(bytes))?;
            Some(Put { op, limit })
        } else {
            hold.publish();
            None
        };
        let replaces = self.behind.add(object, stamp, value, bytes);
        count(&self.counts.coalesced, replaces.into());
        self.begin_to_write();
        Ok(waits)
    }

    /// An error once what is put would be written nowhere any more.
    pub(super) fn is_still_kept(&self) -> Result<(), Error> {
        match self.behind.refused() {
            Some((object, by)) => Err(LinkerError::Refused { linker: self.name(), object, by }.into()),
            None => Ok(()),
        }
    }

    /// An error for a value for which there is never room.
    fn may_ever_fit(&self, object: u64, bytes: usize) -> Result<(), LinkerError> {
        match self.of.policy {
            WritePolicy::Behind { bytes: limit, .. } if bytes > limit => {
                let (bytes, limit_bytes) = (bytes as u64, limit as u64);
                Err(LinkerError::TooLarge { linker: self.name(), object, bytes, limit_bytes })
            }
            _ => Ok(()),
        }
    }

    fn is_full(&self, (waiting, oldest): (Waiting, Duration)) -> Error {
        count(&self.counts.full, 1);
        let WritePolicy::Behind { bytes: limit_bytes, .. } = self.of.policy else {
            return MembershipError::Stopped.into();
        };
        LinkerError::Behind {
            linker: self.name(),
            waiting: waiting.objects as u64,
            waiting_bytes: waiting.bytes as u64,
            limit_bytes: limit_bytes as u64,
            oldest_ms: oldest.as_millis().try_into().unwrap_or(u64::MAX),
        }
        .into()
    }

    /// Writes what was changed, then publishes it.
    fn put_through(self: &Arc<Self>, here: &SetHere, hold: Hold<T>) -> Arc<Op> {
        let (stamp, object) = (self.stamp(here, &hold), hold.id());
        let value = hold.value().expect("a granted object has a value").clone();
        Held::begin((self, here), hold, What::Write, move |held| {
            let written = held.linked.written(object, |linker| linker.write_back(object, stamp, &value));
            match written {
                Ok(()) => publish(held, &value),
                Err(error) => held.fail(error),
            }
        })
    }

    /// Removes what is kept of the object, then the object.
    pub fn remove(self: &Arc<Self>, here: &SetHere, hold: Hold<T>) -> Arc<Op> {
        let (stamp, object) = (self.stamp(here, &hold), hold.id());
        Held::begin((self, here), hold, What::Write, move |held| {
            if let Err(error) = held.linked.written(object, |linker| linker.remove(object, stamp)) {
                return held.fail(error);
            }
            held.linked.remove_here(held, stamp);
        })
    }

    /// Removes the object alone, once what stands behind it has its value.
    pub fn evict(self: &Arc<Self>, here: &SetHere, hold: Hold<T>) -> Arc<Op> {
        let object = hold.id();
        self.count_evicted();
        let unwritten = match self.of.policy {
            // Whoever has put it may be another node, which has not written it yet. What nobody has put came from there.
            WritePolicy::Behind { .. } if hold.version() > 0 => hold.value().cloned(),
            _ => None,
        };
        let Some(value) = unwritten else { return here.remove_held(object, || _ = hold.end_untold()) };
        let stamp = self.stamp(here, &hold);
        Held::begin((self, here), hold, What::Write, move |held| {
            if let Err(error) = held.linked.written(object, |linker| linker.write_back(object, stamp, &value)) {
                return held.fail(error);
            }
            held.linked.remove_here(held, stamp);
        })
    }

    /// Whether what is evicted is never written first.
    pub fn leaves_unwritten(&self) -> bool {
        !matches!(self.of.policy, WritePolicy::Behind { .. })
    }

    /// An object has been evicted, or is about to.
    pub fn count_evicted(&self) {
        count(&self.counts.evicted, 1);
    }

    /// What stands behind the object is as it is to be: it goes here.
    fn remove_here(&self, held: &Arc<Held<T>>, stamp: Stamp) {
        self.behind.forget(held.object, stamp);
        let Some(hold) = held.take() else { return };
        held.forget_alarm();
        // Behind the set it is done: an error here has not left all as it was.
        let unseen = |error: Error| {
            let (linker, object, reason) = (self.name(), held.object, error.to_string());
            LinkerError::Unconfirmed { linker, object, reason }.into()
        };
        held.here.remove_held_as(Arc::clone(&held.op), held.object, || _ = hold.end_untold(), &unseen);
    }

    fn written(
        &self,
        object: u64,
        write: impl FnOnce(&dyn super::Linker<T>) -> Result<Written, LinkerError>,
    ) -> Result<(), LinkerError> {
        count(&self.counts.writes, 1);
        match self.call(object, true, write) {
            Ok(Written::Kept) => Ok(()),
            Ok(Written::Refused { by }) => Err(self.refused(object, by)),
            Err(panicked @ LinkerError::Panicked { .. }) => Err(panicked),
            Err(error) => Err(LinkerError::NotWritten { linker: self.name(), object, reason: error.to_string() }),
        }
    }

    fn refused(&self, object: u64, by: Stamp) -> LinkerError {
        count(&self.counts.refused, 1);
        tracing::warn!(linker = self.of.name, object, ?by, "a newer write is there: this one is refused");
        LinkerError::Refused { linker: self.name(), object, by }
    }
}

/// It is kept: others may see it.
fn publish<T: Value>(held: &Arc<Held<T>>, value: &T) {
    let Some(mut hold) = held.take() else { return };
    let unseen = |reason: String| -> Error {
        LinkerError::Unconfirmed { linker: held.linked.name(), object: held.object, reason }.into()
    };
    let has_ended = match hold.ended() {
        Some(Ended::Destroyed) => Some("the set was destroyed while it was written"),
        Some(_) => Some("the node ended while it was written"),
        None if !hold.lease_is_valid() => Some("the lease of this node ended while it was written"),
        None => None,
    };
    if let Some(why) = has_ended {
        drop(hold);
        return held.end(Outcome::Failed(unseen(why.into())));
    }
    if !held.here.has_replicas() {
        hold.publish();
        return held.end(Outcome::Done);
    }
    let mut bytes = Vec::new();
    if let Err(error) = encode(value, &mut bytes) {
        drop(hold);
        return held.end(Outcome::Failed(unseen(error.to_string())));
    }
    held.forget_alarm();
    let publish = || {
        let version = hold.publish_and_hold();
        (version, Box::new(move || _ = hold.end_untold()) as Box<dyn FnOnce() + Send>)
    };
    if let Err(error) = held.here.put_replicated_as(&held.op, held.object, bytes, publish) {
        held.end(Outcome::Failed(unseen(error.to_string())));
    }
}
