//! A first touch that is answered by what stands behind the set.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::error::LinkerError;
use super::held::{Held, Hold, What};
use super::here::count;
use super::linked::Linked;
use crate::error::{AccessError, Error};
use crate::guard::check_size;
use crate::operation::Make;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, Outcome};
use crate::value::Value;

/// What becomes of an object behind which nothing stands.
pub(crate) enum Made<T> {
    /// It does not exist.
    Not,
    /// It is made as any of its set.
    AsUsual(Make<T>),
    /// Whoever asks for it has said how.
    By(Make<T>),
}

impl<T> Made<T> {
    fn by(&self) -> Option<&Make<T>> {
        match self {
            Made::Not => None,
            Made::AsUsual(make) | Made::By(make) => Some(make),
        }
    }

    /// Under which tenure it is to be remembered that nothing is there. What is made then is not asked for again, and its
    /// lane is not taken for that.
    fn tenure(&self, here: &SetHere, object: u64) -> Option<u64> {
        self.by().is_none().then(|| here.tenure(object))
    }
}

impl<T: Value> Linked<T> {
    /// Has an object read that is held and has no value. It has one when the answer is `Available`, and nobody holds it
    /// then.
    pub fn read(self: &Arc<Self>, here: &SetHere, hold: Hold<T>, made: Made<T>) -> Arc<Op> {
        let object = hold.id();
        let tenure = made.tenure(here, object);
        if tenure.is_some_and(|tenure| self.absent.lock().knows(object, tenure, Instant::now())) {
            count(&self.counts.known_absent, 1);
            drop(hold);
            return here.ended(object, Outcome::Failed(AccessError::NotFound.into()));
        }
        Held::begin((self, here), hold, What::Read, move |held| {
            let linked = &held.linked;
            let place = linked.write_what_waits(object).and_then(|()| linked.first_owner(&held.here, object));
            match place {
                Ok(None) => held.initialize(linked.first_value(object, tenure, &made, false)),
                Ok(Some(owner)) => linked.touch_at(held, owner, made),
                Err(error) => held.fail(error),
            }
        })
    }

    /// As [`Self::read`], here in any case; nothing stands behind it if that is so.
    pub(super) fn read_here(
        self: &Arc<Self>,
        here: &SetHere,
        hold: Hold<T>,
        made: Made<T>,
        is_absent: bool,
    ) -> Arc<Op> {
        let object = hold.id();
        let tenure = made.tenure(here, object);
        Held::begin((self, here), hold, What::Read, move |held| {
            let written = if is_absent { Ok(()) } else { held.linked.write_what_waits(object) };
            let value = written.map_err(Error::from);
            held.initialize(value.and_then(|()| held.linked.first_value(object, tenure, &made, is_absent)));
        })
    }

    /// What this node has put and not written yet may be newer than what is there, or older: the store knows.
    fn write_what_waits(&self, object: u64) -> Result<(), LinkerError> {
        if let Some((stamp, value)) = self.behind.waiting_of(object) {
            let _older_ones_are_refused =
                self.call(object, false, |linker| linker.write_back(object, stamp, &value))?;
            self.behind.forget(object, stamp);
        }
        Ok(())
    }

    fn first_value(&self, object: u64, tenure: Option<u64>, made: &Made<T>, is_absent: bool) -> Result<T, Error> {
        if !is_absent {
            count(&self.counts.reads, 1);
            if let Some(value) = self.call(object, false, |linker| linker.first_touch(object))? {
                return Ok(value);
            }
            count(&self.counts.absent, 1);
        }
        let Some(make) = made.by() else {
            if let Some(tenure) = tenure {
                self.absent.lock().note(object, tenure, Instant::now());
            }
            return Err(AccessError::NotFound.into());
        };
        catch_unwind(AssertUnwindSafe(|| make(object))).map_err(|_panic| {
            tracing::error!(linker = self.of.name, object, "what makes a first value panicked");
            LinkerError::Panicked { linker: self.name(), object, was_writing: false }.into()
        })
    }
}

impl<T: Value> Held<T> {
    /// The object has its first value, or the operation ends with why not.
    fn initialize(&self, value: Result<T, Error>) {
        let value = match value {
            Ok(value) => value,
            Err(error) => return self.fail(error),
        };
        let Some(mut hold) = self.take() else { return };
        if let Err(error) = check_size(&value, hold.limit_bytes()) {
            drop(hold);
            return self.end(Outcome::Failed(error));
        }
        let told = self.linked.to_tell(&value);
        Linked::is_here(&self.here, self.object, hold.version(), &value);
        hold.initialize(value);
        self.linked.made(self.object, hold.version(), told);
        drop(hold);
        self.end(Outcome::Available);
    }
}
