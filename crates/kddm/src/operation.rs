//! The operations on one object, each as it finishes: by the fast path, by a hold that the lane
//! handed over, or by asking again.

mod then;

pub(crate) use then::Then;

use std::sync::Arc;
use std::time::Duration;

use kddm_core::id::NodeId;
use kddm_core::io::Access;
use kddm_core::message::RequestKind;

use crate::cell::{Hold, Notes, ReadHold, Slow, WriteHold};
use crate::error::{AccessError, Error, WaitingFor};
use crate::guard::{ReadGuard, WriteGuard};
use crate::holder::Holder;
use crate::pending::{Operation, Pending};
use crate::runtime::local::Wish;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, Outcome};
use crate::set::Shared;
use crate::sync::{Slip, slips};
use crate::value::Value;

/// Makes the first value of an object.
pub(crate) type Make<T> = Arc<dyn Fn(u64) -> T + Send + Sync>;

/// A request on one object of a set, on its way. Loses interest when it is dropped.
pub(crate) struct Request {
    here: SetHere,
    pub object: u64,
    wish: Wish,
    pub op: Arc<Op>,
    pub limit: Duration,
}

impl Request {
    /// Sends the request on its way.
    pub fn new(here: SetHere, object: u64, wish: Wish, limit: Duration) -> Request {
        Request::by(here, object, wish, limit, || false)
    }

    /// As [`Self::new`], by somebody who may hold another object.
    fn by(here: SetHere, object: u64, wish: Wish, limit: Duration, holds: impl FnOnce() -> bool) -> Request {
        let op = here.ask(object, wish, false, holds);
        Request { here, object, wish, op, limit }
    }

    /// A request that is sent only when somebody really waits for it.
    fn unsent(here: SetHere, object: u64, wish: Wish, limit: Duration) -> Request {
        let op = here.unsent(object);
        Request { here, object, wish, op, limit }
    }

    /// A remove by whoever holds the object to write; `release` ends that hold.
    pub fn remove_held(here: SetHere, object: u64, limit: Duration, release: impl FnOnce()) -> Request {
        let op = here.remove_held(object, release);
        Request { here, object, wish: Wish::Request(RequestKind::Remove), op, limit }
    }

    /// One that is on its way already.
    pub fn under_way(here: SetHere, object: u64, wish: Wish, op: Arc<Op>, limit: Duration) -> Request {
        Request { here, object, wish, op, limit }
    }

    pub fn ask_again(&mut self) {
        let repeats = self.op.repeats().saturating_add(1);
        // Who was let in once is so still.
        let (is_newcomer, wish) = (self.op.is_newcomer(), self.wish);
        self.op = self.here.ask(self.object, wish, true, || !is_newcomer);
        self.op.repeat(repeats);
    }

    /// How it has ended; if it has not, whoever asked is let in where he holds something of a frozen set by now.
    fn take(&self, holds: impl FnOnce() -> bool) -> Option<Outcome> {
        let outcome = self.op.take();
        if outcome.is_none() {
            self.here.let_in(self.object, &self.op, holds);
        }
        outcome
    }

    /// Who has frozen the set, if just this waited for that, and was not begun.
    fn lose_interest(&mut self) -> Option<NodeId> {
        let frozen_by = if self.op.is_done() { None } else { self.here.cancel(self.object, &self.op) };
        let told = match self.op.take() {
            Some(Outcome::Read(hold) | Outcome::Write(hold)) => hold.release(),
            _ => false,
        };
        if told && !slips(Slip::GiveUpInSilence) {
            self.here.released(self.object);
        }
        frozen_by
    }

    pub fn timed_out(&mut self, limit: Duration) -> Error {
        let (waiting_for, away) = (self.here.waiting_for(self.object), self.here.is_away(self.object));
        let frozen_by = self.lose_interest();
        if let Some(error) = away {
            return error;
        }
        let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
        if let Some(node) = frozen_by {
            return AccessError::TimedOut { limit_ms, waiting_for: WaitingFor::Frozen(node.0) }.into();
        }
        Error::from(match (self.wish, waiting_for) {
            (Wish::Request(RequestKind::Remove), _) => AccessError::RemoveUnconfirmed { limit_ms, waiting_for },
            (_, WaitingFor::Unreachable(node)) => {
                let why = self.here.lane(self.object).lock().why_unreachable(NodeId(node));
                AccessError::Unreachable { node, limit_ms, why }
            }
            _ => AccessError::TimedOut { limit_ms, waiting_for },
        })
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if matches!(self.wish, Wish::Fetch | Wish::Acquire) {
            // It holds nothing and blocks nobody, and was asked for in advance: it goes on.
            return self.here.detach(self.object, &self.op);
        }
        _ = self.lose_interest();
    }
}

/// What an operation needs that ends with a hold.
pub(crate) struct Asked<T: Value> {
    pub request: Request,
    pub shared: Arc<Shared<T>>,
    pub make: Option<Make<T>>,
    /// Who will hold it, where that is not the thread that takes it.
    pub by: Option<Holder>,
    /// An object that does not exist is not created.
    pub is_existing: bool,
}

impl<T: Value> Asked<T> {
    /// Sends the request on its way, but not if this thread would wait for itself: it would take away
    /// what the thread holds, and is refused when the thread waits. A task that waits sends it then.
    pub fn new(
        shared: &Arc<Shared<T>>,
        object: u64,
        wish: Wish,
        make: Option<Make<T>>,
        by: Option<Holder>,
    ) -> Asked<T> {
        let holder = by.clone();
        let holds = || holder.is_some_and(|holder| shared.table.is_used_by(holder.notes()));
        Asked::new_by(shared, object, wish, make, by, holds)
    }

    /// As [`Self::new`], by somebody who may hold another object of the set: he is to get to an end before that is frozen.
    pub fn new_by(
        shared: &Arc<Shared<T>>,
        object: u64,
        wish: Wish,
        make: Option<Make<T>>,
        by: Option<Holder>,
        holds: impl FnOnce() -> bool,
    ) -> Asked<T> {
        let wants_write = wish.level() == Some(Access::Write);
        let is_own = by.is_none() && shared.conflict(object, wants_write, None).is_some();
        // Only what stands behind a set can say what exists.
        let sent = if shared.linked.is_some() { wish.creating() } else { wish };
        let (here, limit) = (shared.here.clone(), shared.wait_limit);
        let request = match is_own {
            true => Request::unsent(here, object, sent, limit),
            false => Request::by(here, object, sent, limit, holds),
        };
        Asked { request, shared: Arc::clone(shared), make, by, is_existing: wish.is_existing() }
    }

    /// To read what is an object of the cluster, whatever stands behind the set.
    pub fn made(shared: &Arc<Shared<T>>, object: u64) -> Asked<T> {
        let wish = Wish::Request(RequestKind::Get { existing: true });
        let request = Request::new(shared.here.clone(), object, wish, shared.wait_limit);
        Asked { request, shared: Arc::clone(shared), make: None, by: None, is_existing: true }
    }

    fn take(&self) -> Option<Outcome> {
        self.request.take(|| self.notes().is_some_and(|notes| self.shared.table.is_used_by(notes)))
    }

    /// A holder was asked before the request was sent: that is an error for tasks too.
    fn conflict(&self, wants_write: bool) -> Option<Error> {
        match self.by {
            None => self.shared.conflict(self.request.object, wants_write, None),
            Some(_) => None,
        }
    }

    fn notes(&self) -> Option<&Notes> {
        self.by.as_ref().map(Holder::notes)
    }

    fn try_read(&self) -> Result<ReadHold<T>, Slow> {
        self.shared.try_read_by(self.request.object, self.by.as_ref())
    }

    fn adopt_read(&self, hold: Hold) -> Result<ReadHold<T>, Error> {
        self.shared.table.adopt_read_by(hold, self.notes()).map_err(|error| self.undecodable(error))
    }

    /// The lease may have ended since the hold was handed over.
    fn read_guard(&self, hold: ReadHold<T>) -> Result<ReadGuard<T>, Error> {
        self.shared.read_guard(hold).map_err(|_| AccessError::Fenced.into())
    }

    /// `None`: it is read from behind the set now.
    fn write_guard(&mut self, hold: Hold) -> Option<Result<WriteGuard<T>, Error>> {
        match self.shared.table.adopt_write_by(hold, self.notes()) {
            Ok(hold) => self.guard(hold),
            Err(error) => Some(Err(self.undecodable(error))),
        }
    }

    fn guard(&mut self, hold: WriteHold<T>) -> Option<Result<WriteGuard<T>, Error>> {
        if self.shared.is_to_be_read(&hold) {
            self.request.op = self.shared.read(hold, self.is_existing, self.make.as_ref());
            return None;
        }
        Some(self.shared.guard(hold, self.request.object, self.request.wish, self.make.as_ref()))
    }

    /// The hold went back with the failed decoding; whoever waits behind it goes on.
    fn undecodable(&self, error: crate::value::DecodeError) -> Error {
        self.shared.undecodable(self.request.object);
        AccessError::Decode { type_name: T::type_name(), reason: error.to_string() }.into()
    }
}

/// `get`, `get_existing`.
pub(crate) struct Get<T: Value>(pub Asked<T>);

impl<T: Value> Operation<ReadGuard<T>> for Get<T> {
    fn finish(&mut self) -> Option<Result<ReadGuard<T>, Error>> {
        let object = self.0.request.object;
        match self.0.take()? {
            Outcome::Read(hold) => return Some(self.0.adopt_read(hold).and_then(|hold| self.0.read_guard(hold))),
            Outcome::Write(hold) => {
                // The first touch runs here; then the value is read like any other.
                if let Err(error) = self.0.write_guard(hold)? {
                    return Some(Err(error));
                }
            }
            Outcome::Available | Outcome::Done | Outcome::Again => {}
            Outcome::Failed(error) => return Some(Err(error)),
        }
        let mut read = self.0.try_read();
        // What has no value yet is taken as whoever grabs it takes it, without another turn of its lane.
        if matches!(read, Err(Slow::NoValue))
            && let Ok(hold) = self.0.shared.try_write_by(object, self.0.by.as_ref())
        {
            if let Err(error) = self.0.guard(hold)? {
                return Some(Err(error));
            }
            read = self.0.try_read();
        }
        match read {
            Ok(hold) => {
                self.0.shared.table.was_missed(object);
                Some(self.0.read_guard(hold))
            }
            Err(_) => {
                self.0.request.ask_again();
                self.finish()
            }
        }
    }

    fn op(&self) -> &Arc<Op> {
        &self.0.request.op
    }

    fn conflict(&self) -> Option<Error> {
        self.0.conflict(false)
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        self.0.request.timed_out(limit)
    }

    fn limit(&self) -> Duration {
        self.0.request.limit
    }
}

/// `grab`, `grab_existing`, `try_grab`, `grab_or_insert_with`.
pub(crate) struct Grab<T: Value>(pub Asked<T>);

impl<T: Value> Operation<WriteGuard<T>> for Grab<T> {
    fn finish(&mut self) -> Option<Result<WriteGuard<T>, Error>> {
        match self.0.take()? {
            Outcome::Write(hold) => return self.0.write_guard(hold),
            Outcome::Read(_) | Outcome::Available | Outcome::Done | Outcome::Again => {}
            Outcome::Failed(error) => return Some(Err(error)),
        }
        let Asked { request, shared, by, .. } = &self.0;
        match shared.try_write_by(request.object, by.as_ref()) {
            Ok(hold) => self.0.guard(hold),
            Err(_) => {
                self.0.request.ask_again();
                self.finish()
            }
        }
    }

    fn op(&self) -> &Arc<Op> {
        &self.0.request.op
    }

    fn conflict(&self) -> Option<Error> {
        self.0.conflict(true)
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        self.0.request.timed_out(limit)
    }

    fn limit(&self) -> Duration {
        self.0.request.limit
    }
}

/// `fetch`, `acquire`, `remove`, `flush`: they end without a hold.
pub(crate) struct Plain(pub Request);

impl Operation<()> for Plain {
    fn finish(&mut self) -> Option<Result<(), Error>> {
        match self.0.take(|| false)? {
            Outcome::Again => {
                self.0.ask_again();
                self.finish()
            }
            Outcome::Failed(error) => Some(Err(error)),
            _ => Some(Ok(())),
        }
    }

    fn op(&self) -> &Arc<Op> {
        &self.0.op
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        self.0.timed_out(limit)
    }

    fn limit(&self) -> Duration {
        self.0.limit
    }
}

/// A put of a program that is attached to a node, on its way there.
pub(crate) struct Put {
    pub op: Arc<Op>,
    pub limit: Duration,
}

impl Operation<()> for Put {
    fn finish(&mut self) -> Option<Result<(), Error>> {
        match self.op.take()? {
            Outcome::Failed(error) => Some(Err(error)),
            _ => Some(Ok(())),
        }
    }

    fn op(&self) -> &Arc<Op> {
        &self.op
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        AccessError::PutUnconfirmed { limit_ms: limit.as_millis().try_into().unwrap_or(u64::MAX) }.into()
    }

    fn limit(&self) -> Duration {
        self.limit
    }
}

/// A change that has been put, and what is still to be waited for, if this program is attached to a node
/// whose socket is full.
pub(crate) struct Published<R> {
    pub result: Option<R>,
    pub put: Option<Put>,
}

impl<R: Send + 'static> Published<R> {
    /// The answer of an update that found its object here.
    pub fn pending(published: Result<Published<R>, Error>) -> Pending<R> {
        match published {
            Ok(Published { result: Some(result), put: None }) => Pending::ready(Ok(result)),
            Ok(waits) => Pending::asked(waits),
            Err(error) => Pending::ready(Err(error)),
        }
    }
}

const WAITS: &str = "what waits for nothing has been answered";

impl<R: Send> Operation<R> for Published<R> {
    fn finish(&mut self) -> Option<Result<R, Error>> {
        let put = match &mut self.put {
            Some(put) => put.finish()?,
            None => Ok(()),
        };
        let result = self.result.take().expect("an operation finishes once");
        Some(put.map(|()| result))
    }

    fn op(&self) -> &Arc<Op> {
        &self.put.as_ref().expect(WAITS).op
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        self.put.as_mut().expect(WAITS).give_up(limit)
    }

    fn limit(&self) -> Duration {
        self.put.as_ref().expect(WAITS).limit
    }
}

/// `update`: a grab, a change, and a put, which may have to be waited for too.
pub(crate) struct Update<T: Value, F, R> {
    grab: Grab<T>,
    change: Option<F>,
    published: Option<Published<R>>,
}

impl<T: Value, F, R> Update<T, F, R> {
    pub fn new(grab: Grab<T>, change: F) -> Update<T, F, R> {
        Update { grab, change: Some(change), published: None }
    }
}

impl<T: Value, R: Send, F> Operation<R> for Update<T, F, R>
where
    F: FnOnce(WriteGuard<T>) -> Result<Published<R>, Error> + Send,
{
    fn finish(&mut self) -> Option<Result<R, Error>> {
        if self.published.is_none() {
            let grabbed = self.grab.finish()?;
            let change = self.change.take().expect("an operation finishes once");
            match grabbed.and_then(change) {
                Ok(published) => self.published = Some(published),
                Err(error) => return Some(Err(error)),
            }
        }
        self.published.as_mut()?.finish()
    }

    fn op(&self) -> &Arc<Op> {
        match &self.published {
            Some(published) => published.op(),
            None => self.grab.op(),
        }
    }

    fn conflict(&self) -> Option<Error> {
        if self.published.is_some() { None } else { self.grab.conflict() }
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        match &mut self.published {
            Some(published) => published.give_up(limit),
            None => self.grab.give_up(limit),
        }
    }

    fn limit(&self) -> Duration {
        self.grab.limit()
    }
}
