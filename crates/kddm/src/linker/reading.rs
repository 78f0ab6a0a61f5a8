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

impl<T: Value> Linked<T> {
    /// Has an object read that is held and has no value. It has one when the answer is `Available`, and nobody holds it
    /// then. `make` makes one where nothing stands behind it, if there is any.
    pub fn read(self: &Arc<Self>, here: &SetHere, hold: Hold<T>, make: Option<Make<T>>) -> Arc<Op> {
        let (object, tenure) = (hold.id(), here.tenure(hold.id()));
        if make.is_none() && self.absent.lock().knows(object, tenure, Instant::now()) {
            count(&self.counts.known_absent, 1);
            drop(hold);
            return here.ended(object, Outcome::Failed(AccessError::NotFound.into()));
        }
        Held::begin((self, here), hold, What::Read, move |held| {
            match held.linked.first_value(object, tenure, make.as_ref()) {
                Err(error) => held.fail(error),
                Ok(value) => {
                    let Some(mut hold) = held.take() else { return };
                    match check_size(&value, hold.limit_bytes()) {
                        Ok(()) => {
                            let told = held.linked.to_tell(&value);
                            hold.initialize(value);
                            held.linked.made(object, hold.version(), told);
                            drop(hold);
                            held.end(Outcome::Available);
                        }
                        Err(error) => {
                            drop(hold);
                            held.end(Outcome::Failed(error));
                        }
                    }
                }
            }
        })
    }

    fn first_value(&self, object: u64, tenure: u64, make: Option<&Make<T>>) -> Result<T, Error> {
        // What this node has put and not written yet may be newer than what is there, or older: the store knows.
        if let Some((stamp, value)) = self.behind.waiting_of(object) {
            let _older_ones_are_refused =
                self.call(object, false, |linker| linker.write_back(object, stamp, &value))?;
            self.behind.forget(object, stamp);
        }
        count(&self.counts.reads, 1);
        if let Some(value) = self.call(object, false, |linker| linker.first_touch(object))? {
            return Ok(value);
        }
        count(&self.counts.absent, 1);
        let Some(make) = make else {
            self.absent.lock().note(object, tenure, Instant::now());
            return Err(AccessError::NotFound.into());
        };
        catch_unwind(AssertUnwindSafe(|| make(object))).map_err(|_panic| {
            tracing::error!(linker = self.of.name, object, "what makes a first value panicked");
            LinkerError::Panicked { linker: self.name(), object, was_writing: false }.into()
        })
    }
}
