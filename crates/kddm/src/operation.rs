//! The operations on one object, each as it finishes: by the fast path, by a hold that the lane
//! handed over, or by asking again.

use std::sync::Arc;
use std::time::Duration;

use kddm_core::message::RequestKind;

use crate::cell::{Hold, ReadHold, WriteHold};
use crate::error::{AccessError, Error, WaitingFor};
use crate::guard::{ReadGuard, WriteGuard};
use crate::pending::Operation;
use crate::runtime::local::Wish;
use crate::runtime::wait::{Op, Outcome};
use crate::set::Shared;
use crate::value::Value;

/// Makes the first value of an object.
pub(crate) type Make<T> = Arc<dyn Fn(u64) -> T + Send + Sync>;

/// What an operation on one object of a set needs.
pub(crate) struct Asked<T: Value> {
    pub shared: Arc<Shared<T>>,
    pub object: u64,
    pub wish: Wish,
    pub op: Arc<Op>,
    pub make: Option<Make<T>>,
    pub limit: Duration,
}

impl<T: Value> Asked<T> {
    /// Sends the request on its way.
    pub fn new(shared: &Arc<Shared<T>>, object: u64, wish: Wish, make: Option<Make<T>>) -> Asked<T> {
        let op = shared.ask(object, wish, false);
        Asked { shared: Arc::clone(shared), object, wish, op, make, limit: shared.wait_limit }
    }

    fn ask_again(&mut self) {
        self.op = self.shared.ask(self.object, self.wish, true);
    }

    fn lose_interest(&mut self) {
        let lane = self.shared.lane(self.object);
        let mut state = lane.lock();
        state.cancel(self.shared.set, kddm_core::id::ObjectId(self.object), &self.op);
        lane.finish(state);
        let told = match self.op.take() {
            Some(Outcome::Read(hold)) => self.shared.table.adopt_read(hold).is_ok_and(ReadHold::release),
            Some(Outcome::Write(hold)) => self.shared.table.adopt_write(hold).is_ok_and(WriteHold::release),
            _ => false,
        };
        if told {
            self.shared.released(self.object);
        }
    }

    fn timed_out(&mut self, limit: Duration) -> Error {
        let waiting_for = self.shared.waiting_for(self.object);
        self.lose_interest();
        let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
        let error = match (self.wish, waiting_for) {
            (Wish::Request(RequestKind::Remove), _) => AccessError::RemoveUnconfirmed { limit_ms, waiting_for },
            (_, WaitingFor::Unreachable(node)) => AccessError::Unreachable { node, limit_ms },
            _ => AccessError::TimedOut { limit_ms, waiting_for },
        };
        error.into()
    }

    fn adopt_read(&self, hold: Hold) -> Result<ReadHold<T>, Error> {
        self.shared.table.adopt_read(hold).map_err(|error| self.undecodable(error))
    }

    fn adopt_write(&self, hold: Hold) -> Result<WriteHold<T>, Error> {
        self.shared.table.adopt_write(hold).map_err(|error| self.undecodable(error))
    }

    /// The hold went back with the failed decoding; whoever waits behind it goes on.
    fn undecodable(&self, error: crate::value::DecodeError) -> Error {
        self.shared.undecodable(self.object);
        AccessError::Decode { type_name: T::type_name(), reason: error.to_string() }.into()
    }
}

impl<T: Value> Drop for Asked<T> {
    fn drop(&mut self) {
        self.lose_interest();
    }
}

/// `get`, `get_existing`.
pub(crate) struct Get<T: Value>(pub Asked<T>);

impl<T: Value> Get<T> {
    fn guard(&self, hold: ReadHold<T>) -> ReadGuard<T> {
        ReadGuard { hold: Some(hold), object: self.0.object }
    }
}

impl<T: Value> Operation<ReadGuard<T>> for Get<T> {
    fn finish(&mut self) -> Option<Result<ReadGuard<T>, Error>> {
        match self.0.op.take()? {
            Outcome::Read(hold) => return Some(self.0.adopt_read(hold).map(|hold| self.guard(hold))),
            Outcome::Write(hold) => {
                // The first touch runs here; then the value is read like any other.
                let Asked { shared, object, wish, make, .. } = &self.0;
                let filled =
                    self.0.adopt_write(hold).and_then(|hold| shared.guard(hold, *object, *wish, make.as_ref()));
                if let Err(error) = filled {
                    return Some(Err(error));
                }
            }
            Outcome::Available | Outcome::Done => {}
            Outcome::Failed(error) => return Some(Err(error)),
        }
        match self.0.shared.try_read(self.0.object) {
            Ok(hold) => Some(Ok(self.guard(hold))),
            Err(_) => {
                self.0.ask_again();
                self.finish()
            }
        }
    }

    fn op(&self) -> &Op {
        &self.0.op
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        self.0.timed_out(limit)
    }

    fn limit(&self) -> Duration {
        self.0.limit
    }
}

/// `grab`, `grab_existing`, `try_grab`, `grab_or_insert_with`.
pub(crate) struct Grab<T: Value>(pub Asked<T>);

impl<T: Value> Grab<T> {
    fn guard(&self, hold: WriteHold<T>) -> Result<WriteGuard<T>, Error> {
        self.0.shared.guard(hold, self.0.object, self.0.wish, self.0.make.as_ref())
    }
}

impl<T: Value> Operation<WriteGuard<T>> for Grab<T> {
    fn finish(&mut self) -> Option<Result<WriteGuard<T>, Error>> {
        match self.0.op.take()? {
            Outcome::Write(hold) => {
                return Some(self.0.adopt_write(hold).and_then(|hold| self.guard(hold)));
            }
            Outcome::Read(_) | Outcome::Available | Outcome::Done => {}
            Outcome::Failed(error) => return Some(Err(error)),
        }
        match self.0.shared.try_write(self.0.object) {
            Ok(hold) => Some(self.guard(hold)),
            Err(_) => {
                self.0.ask_again();
                self.finish()
            }
        }
    }

    fn op(&self) -> &Op {
        &self.0.op
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        self.0.timed_out(limit)
    }

    fn limit(&self) -> Duration {
        self.0.limit
    }
}

/// `fetch`, `acquire`, `remove`, `flush`: they end without a hold.
pub(crate) struct Plain<T: Value>(pub Asked<T>);

impl<T: Value> Operation<()> for Plain<T> {
    fn finish(&mut self) -> Option<Result<(), Error>> {
        match self.0.op.take()? {
            Outcome::Failed(error) => Some(Err(error)),
            _ => Some(Ok(())),
        }
    }

    fn op(&self) -> &Op {
        &self.0.op
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        self.0.timed_out(limit)
    }

    fn limit(&self) -> Duration {
        self.0.limit
    }
}

/// An operation whose result is changed by `then`: `update`, `snapshot`.
pub(crate) struct Then<P, F> {
    pub operation: P,
    pub then: Option<F>,
}

impl<P, F> Then<P, F> {
    pub fn map<A, B>(&mut self, result: Option<Result<A, Error>>) -> Option<Result<B, Error>>
    where
        F: FnOnce(A) -> Result<B, Error>,
    {
        let then = self.then.take();
        match result {
            None => {
                self.then = then;
                None
            }
            Some(result) => {
                let then = then.expect("an operation finishes once");
                Some(result.and_then(then))
            }
        }
    }
}

macro_rules! then_for {
    ($operation:ident, $output:ident) => {
        impl<T: Value, B, F> Operation<B> for Then<$operation<T>, F>
        where
            F: FnOnce($output<T>) -> Result<B, Error> + Send,
        {
            fn finish(&mut self) -> Option<Result<B, Error>> {
                let result = self.operation.finish();
                self.map(result)
            }
            fn op(&self) -> &Op {
                self.operation.op()
            }
            fn give_up(&mut self, limit: Duration) -> Error {
                self.operation.give_up(limit)
            }
            fn limit(&self) -> Duration {
                self.operation.limit()
            }
        }
    };
}

then_for!(Get, ReadGuard);
then_for!(Grab, WriteGuard);
