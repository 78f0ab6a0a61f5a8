//! Several objects at once, of one set or of several, all or nothing.
//!
//! All are asked for at the same time, and nothing is held while that is under way. They are *taken* in
//! one order, the same for everybody: by cluster, set and object. Whoever waits for one holds only such
//! as come before it, so that two of these never wait for each other. What has come out of order and
//! was taken away again is asked for once more when its turn comes: that is the price of holding nothing.

mod shapes;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use kddm_core::message::RequestKind;

use crate::error::{AccessError, Error};
use crate::guard::{ReadGuard, WriteGuard};
use crate::holder::{By, Holder};
use crate::operation::{Asked, Get, Grab};
use crate::pending::{Operation, Pending};
use crate::runtime::local::Wish;
use crate::runtime::wait::Op;
use crate::set::{GRAB, Set, Shared};
use crate::value::Value;

const GET: Wish = Wish::Request(RequestKind::Get { existing: false });

/// Asks for several objects of any sets: all or nothing, and no two of these wait for each other.
/// Takes a tuple, an array or a vector of what [`Set::to_get`] and [`Set::to_grab`] make, or a tuple of
/// such arrays and vectors, and answers with the guards in the same shape.
///
/// The limit is over the whole, and is the shortest of the limits of the sets. A thread that holds a
/// guard already may still wait for another that does the same: only the limit ends that.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(2)?;
/// let accounts: kddm::Set<i64> = nodes[0].set("accounts").open().wait()?;
/// let fees: kddm::Set<u8> = nodes[0].set("fees").open().wait()?;
/// let wanted = (accounts.to_grab(1), accounts.to_grab(2), fees.to_get(0));
/// let (mut from, mut to, fee) = kddm::together(wanted).wait()?;
/// *from -= 100 + i64::from(*fee);
/// *to += 100;
/// from.put().wait()?;
/// to.put().wait()?;
/// # Ok::<(), kddm::Error>(())
/// ```
///
/// # Errors
/// `NamedTwice` if one object is named twice; else the first error of a get or grab. Then nothing is
/// held.
pub fn together<W: Wishes + 'static>(wishes: W) -> Pending<W::Guards> {
    match Together::ask(wishes) {
        Ok(together) => Pending::asked(together),
        Err(error) => Pending::ready(Err(error)),
    }
}

impl<T: Value> Set<T> {
    /// A part of [`together`]: the object, to read.
    pub fn to_get(&self, object: u64) -> Wanted<ReadGuard<T>> {
        wanted(&self.0, object, None)
    }

    /// A part of [`together`]: the object, to change.
    pub fn to_grab(&self, object: u64) -> Wanted<WriteGuard<T>> {
        wanted(&self.0, object, None)
    }

    /// Several read copies, all or nothing, in the order in which they are named. Missing ones are
    /// asked for all at once. See [`together`] for objects of several sets.
    ///
    /// # Errors
    /// `NamedTwice`, or the first error of a get; then nothing is held.
    pub fn get_many(&self, objects: &[u64]) -> Pending<Vec<ReadGuard<T>>> {
        together(objects.iter().map(|object| self.to_get(*object)).collect::<Vec<_>>())
    }

    /// Several objects to change, all or nothing, in the order in which they are named. They are taken
    /// in one order by everybody, so that two of these cannot wait for each other.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(1)?;
    /// # let set: kddm::Set<u64> = nodes[0].set("many").open().wait()?;
    /// for mut guard in set.grab_many(&[3, 1, 2]).wait()? {
    ///     *guard += 1;
    ///     guard.put().wait()?;
    /// }
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NamedTwice`, or the first error of a grab; then nothing is held.
    pub fn grab_many(&self, objects: &[u64]) -> Pending<Vec<WriteGuard<T>>> {
        together(objects.iter().map(|object| self.to_grab(*object)).collect::<Vec<_>>())
    }
}

impl<T: Value> By<T> {
    /// As [`Set::to_get`].
    pub fn to_get(&self, object: u64) -> Wanted<ReadGuard<T>> {
        let (shared, holder) = self.parts();
        wanted(shared, object, Some(holder.clone()))
    }

    /// As [`Set::to_grab`].
    pub fn to_grab(&self, object: u64) -> Wanted<WriteGuard<T>> {
        let (shared, holder) = self.parts();
        wanted(shared, object, Some(holder.clone()))
    }

    /// As [`Set::get_many`].
    pub fn get_many(&self, objects: &[u64]) -> Pending<Vec<ReadGuard<T>>> {
        together(objects.iter().map(|object| self.to_get(*object)).collect::<Vec<_>>())
    }

    /// As [`Set::grab_many`].
    pub fn grab_many(&self, objects: &[u64]) -> Pending<Vec<WriteGuard<T>>> {
        together(objects.iter().map(|object| self.to_grab(*object)).collect::<Vec<_>>())
    }
}

/// One object that is wanted together with others, see [`together`].
#[must_use = "it is asked for by `kddm::together`"]
pub struct Wanted<G>(Box<dyn One<G>>);

fn wanted<G: Guard>(shared: &Arc<Shared<G::Value>>, object: u64, by: Option<Holder>) -> Wanted<G> {
    Wanted(Box::new(Place { shared: Arc::clone(shared), object, by, stage: Stage::<G>::Wanted }))
}

/// What can be wanted together. Implemented for what is listed at [`together`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list of wanted objects",
    note = "give a tuple of at most eight, an array or a vector of what `set.to_get(id)` and `set.to_grab(id)` make"
)]
pub trait Wishes: sealed::Parts {}

impl<W: sealed::Parts> Wishes for W {}

mod sealed {
    /// Several wanted objects, by their numbers.
    pub trait Parts: Send + Sized {
        type Guards;
        fn count(&self) -> usize;
        fn seat(&self, at: usize) -> Seat<'_>;
        fn seat_mut(&mut self, at: usize) -> SeatMut<'_>;
        /// All of them are held.
        fn guards(self) -> Self::Guards;
    }

    /// One of them, whatever its type.
    pub struct Seat<'a>(pub(in crate::together) &'a dyn super::Drive);

    /// As [`Seat`], to drive it.
    pub struct SeatMut<'a>(pub(in crate::together) &'a mut dyn super::Drive);
}

use sealed::Parts;

/// One wanted object, whatever its type.
trait Drive: Send {
    /// Its place in the order in which all are taken.
    fn place(&self) -> (u64, u64, u64);
    fn limit(&self) -> Duration;
    /// What its holder, or else this thread, holds of it already.
    fn conflict(&self, asker: Asker) -> Option<Error>;
    /// Whether it could be had at once.
    fn is_near(&self) -> bool;
    /// Sends the request on its way if the object is not here.
    fn ask(&mut self);
    /// Takes it, if it is there. Asks (again) where that is needed. `holds`: others are held.
    fn take(&mut self, holds: bool) -> Option<Result<(), Error>>;
    /// What to wait on while `take` has no answer.
    fn op(&self) -> Option<&Arc<Op>>;
    /// Why the wait ended.
    fn give_up(&mut self, limit: Duration) -> Option<Error>;
}

/// Whose own holds are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    Holder,
    Thread,
}

/// One wanted object that ends with a guard.
trait One<G>: Drive {
    fn guard(self: Box<Self>) -> G;
}

/// What asks for a guard.
trait Guard: Send + Sized + 'static {
    type Value: Value;
    type Operation: Operation<Self>;
    const NEEDS_WRITE: bool;
    fn may_be_taken(shared: &Shared<Self::Value>, object: u64) -> bool;
    fn try_take(shared: &Shared<Self::Value>, object: u64, by: Option<&Holder>) -> Option<Result<Self, Error>>;
    /// `holds`: others of these were got before.
    fn ask(shared: &Arc<Shared<Self::Value>>, object: u64, by: Option<Holder>, holds: bool) -> Self::Operation;
}

struct Place<G: Guard> {
    shared: Arc<Shared<G::Value>>,
    object: u64,
    by: Option<Holder>,
    stage: Stage<G>,
}

/// How far it has come.
enum Stage<G: Guard> {
    Wanted,
    Asked(G::Operation),
    Held(G),
}

impl<T: Value> Guard for ReadGuard<T> {
    type Value = T;
    type Operation = Get<T>;
    const NEEDS_WRITE: bool = false;

    fn may_be_taken(shared: &Shared<T>, object: u64) -> bool {
        shared.table.may_read(object)
    }

    fn try_take(shared: &Shared<T>, object: u64, by: Option<&Holder>) -> Option<Result<Self, Error>> {
        let hold = shared.try_read_by(object, by).ok()?;
        Some(shared.read_guard(hold).map_err(|_| AccessError::Fenced.into()))
    }

    fn ask(shared: &Arc<Shared<T>>, object: u64, by: Option<Holder>, holds: bool) -> Get<T> {
        Get(Asked::new_by(shared, object, GET, None, by, || holds))
    }
}

impl<T: Value> Guard for WriteGuard<T> {
    type Value = T;
    type Operation = Grab<T>;
    const NEEDS_WRITE: bool = true;

    fn may_be_taken(shared: &Shared<T>, object: u64) -> bool {
        shared.table.may_write(object)
    }

    fn try_take(shared: &Shared<T>, object: u64, by: Option<&Holder>) -> Option<Result<Self, Error>> {
        let hold = shared.try_write_by(object, by).ok()?;
        if shared.is_to_be_read(&hold) {
            // It goes back, and is asked for: whoever waits for that has it read.
            drop(WriteGuard::new(hold));
            return None;
        }
        Some(shared.guard(hold, object, GRAB, None))
    }

    fn ask(shared: &Arc<Shared<T>>, object: u64, by: Option<Holder>, holds: bool) -> Grab<T> {
        Grab(Asked::new_by(shared, object, GRAB, None, by, || holds))
    }
}

impl<G: Guard> Drive for Place<G> {
    fn place(&self) -> (u64, u64, u64) {
        let here = &self.shared.here;
        (here.runtime.identity.cluster.cluster.0, here.set.0, self.object)
    }

    fn limit(&self) -> Duration {
        self.shared.wait_limit
    }

    fn conflict(&self, asker: Asker) -> Option<Error> {
        let is_meant = self.by.is_some() == (asker == Asker::Holder);
        let conflict = || self.shared.conflict(self.object, G::NEEDS_WRITE, self.by.as_ref());
        is_meant.then(conflict).flatten()
    }

    fn is_near(&self) -> bool {
        match &self.stage {
            Stage::Wanted => G::may_be_taken(&self.shared, self.object),
            Stage::Asked(operation) => operation.is_ready(),
            Stage::Held(_) => true,
        }
    }

    fn ask(&mut self) {
        if !self.is_near() {
            self.stage = Stage::Asked(G::ask(&self.shared, self.object, self.by.clone(), false));
        }
    }

    fn take(&mut self, holds: bool) -> Option<Result<(), Error>> {
        if matches!(self.stage, Stage::Wanted)
            && let Some(taken) = G::try_take(&self.shared, self.object, self.by.as_ref())
        {
            return Some(taken.map(|guard| self.stage = Stage::Held(guard)));
        }
        if matches!(self.stage, Stage::Wanted) {
            self.stage = Stage::Asked(G::ask(&self.shared, self.object, self.by.clone(), holds));
        }
        let Stage::Asked(operation) = &mut self.stage else { return Some(Ok(())) };
        operation.claim();
        let finished = operation.finish();
        operation.claim();
        if holds && finished.is_none() {
            self.shared.here.let_in(self.object, operation.op(), || true);
        }
        Some(finished?.map(|guard| self.stage = Stage::Held(guard)))
    }

    fn op(&self) -> Option<&Arc<Op>> {
        let Stage::Asked(operation) = &self.stage else { return None };
        Some(operation.op())
    }

    fn give_up(&mut self, limit: Duration) -> Option<Error> {
        let Stage::Asked(operation) = &mut self.stage else { return None };
        Some(operation.give_up(limit))
    }
}

impl<G: Guard> One<G> for Place<G> {
    fn guard(self: Box<Self>) -> G {
        match self.stage {
            Stage::Held(guard) => guard,
            _ => unreachable!("all are held"),
        }
    }
}

/// All of them, on their way.
struct Together<W> {
    /// `None` once it is over.
    wishes: Option<W>,
    /// The order in which they are taken.
    order: Vec<usize>,
    /// So many of them are held.
    held: usize,
    limit: Duration,
}

impl<W: Parts> Together<W> {
    /// Sends all requests on their way.
    fn ask(mut wishes: W) -> Result<Together<W>, Error> {
        let mut order: Vec<usize> = (0..wishes.count()).collect();
        order.sort_unstable_by_key(|at| wishes.seat(*at).0.place());
        let same = |pair: &&[usize]| wishes.seat(pair[0]).0.place() == wishes.seat(pair[1]).0.place();
        if let Some(pair) = order.windows(2).find(same) {
            let (_, _, object) = wishes.seat(pair[0]).0.place();
            return Err(AccessError::NamedTwice { object }.into());
        }
        // What a holder holds itself is an error at once, for tasks too.
        if let Some(error) = order.iter().find_map(|at| wishes.seat(*at).0.conflict(Asker::Holder)) {
            return Err(error);
        }
        let limit = order.iter().map(|at| wishes.seat(*at).0.limit()).min().unwrap_or_default();
        for at in &order {
            wishes.seat_mut(*at).0.ask();
        }
        Ok(Together { wishes: Some(wishes), order, held: 0, limit })
    }

    fn waits_for(&self) -> Option<usize> {
        self.order.get(self.held).copied()
    }
}

impl<W: Parts> Operation<W::Guards> for Together<W> {
    fn finish(&mut self) -> Option<Result<W::Guards, Error>> {
        while let Some(at) = self.waits_for() {
            let taken = self.wishes.as_mut().expect("it is not over").seat_mut(at).0.take(self.held > 0)?;
            if let Err(error) = taken {
                // With it all that is held goes back.
                self.wishes = None;
                return Some(Err(error));
            }
            self.held += 1;
        }
        let wishes = mem::take(&mut self.wishes).expect("it is over once");
        Some(Ok(wishes.guards()))
    }

    /// `finish` claims the one whose turn it is. The others may be taken away meanwhile.
    fn claim(&self) {}

    fn is_ready(&self) -> bool {
        let Some(wishes) = &self.wishes else { return true };
        self.order[self.held..].iter().all(|at| wishes.seat(*at).0.is_near())
    }

    fn conflict(&self) -> Option<Error> {
        let wishes = self.wishes.as_ref()?;
        self.order[self.held..].iter().find_map(|at| wishes.seat(*at).0.conflict(Asker::Thread))
    }

    fn op(&self) -> &Arc<Op> {
        let of = |at: usize| self.wishes.as_ref()?.seat(at).0.op();
        self.waits_for().and_then(of).expect("what `finish` waits for has been asked for")
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        let waited_for = self.waits_for();
        let wishes = mem::take(&mut self.wishes);
        let error = waited_for.zip(wishes).and_then(|(at, mut wishes)| wishes.seat_mut(at).0.give_up(limit));
        error.expect("what is waited for has been asked for")
    }

    fn limit(&self) -> Duration {
        self.limit
    }
}
