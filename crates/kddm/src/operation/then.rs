//! Operations whose results are changed at the end.

use std::sync::Arc;
use std::time::Duration;

use super::{Get, Grab};
use crate::error::Error;
use crate::guard::{ReadGuard, WriteGuard};
use crate::pending::Operation;
use crate::runtime::wait::Op;
use crate::value::Value;

/// An operation whose result is changed by `then`: `snapshot`.
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
            fn op(&self) -> &Arc<Op> {
                self.operation.op()
            }
            fn conflict(&self) -> Option<Error> {
                self.operation.conflict()
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
