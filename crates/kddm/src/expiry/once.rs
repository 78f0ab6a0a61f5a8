//! What many may want done with the times of a set at one moment, and is dear: threads of the node do each such thing once, and all
//! who want it meanwhile wait for what comes of that.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::chain::Pause;
use crate::error::{AccessError, ConfigurationError, Error, MembershipError};
use crate::node::Owner;
use crate::runtime::pool::{NotTaken, Pool};
use crate::runtime::told::SetHere;
use crate::runtime::turn::wake;
use crate::runtime::wait::deadline_in;
use crate::set::{Set, Shared};
use crate::value::Value;

/// Such threads of a node: each waits for others most of its time.
pub(super) const THREADS: usize = 16;

/// What is done: of which set beside another one, and with which of its objects.
type Which = (u64, u64);

/// What came of it, for all who wait.
pub(super) type Outcome = Result<usize, Error>;

/// See the module.
#[derive(Clone)]
pub(super) struct Works(Arc<Inside>);

struct Inside {
    under_way: Mutex<BTreeMap<Which, Arc<Work>>>,
    pool: Arc<Pool>,
}

impl Default for Works {
    fn default() -> Works {
        // What waits for a thread is bounded by what there is to be done: each of it waits once, whoever wants it.
        let pool = Arc::new(Pool::new(THREADS, usize::MAX));
        Works(Arc::new(Inside { under_way: Mutex::default(), pool }))
    }
}

#[derive(Default)]
struct Work(Mutex<State>);

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    /// Of those who wait, by the number of each.
    waiting: BTreeMap<u64, Option<Waker>>,
    numbered: u64,
}

impl Works {
    /// What comes of `does`, or of what somebody else has begun for the same object. Whoever asks waits as long as the set says,
    /// and what was begun goes on without him.
    pub async fn once(
        &self,
        at: &SetHere,
        number: u64,
        limit: Duration,
        does: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Outcome {
        let work = self.find_or_begin((at.set.0, number), does)?;
        let (waiter, deadline) = (Waiter::of(work), deadline_in(limit));
        let mut pause = Pause::until(&at.runtime.lanes[0], deadline);
        poll_fn(|context| {
            if let Poll::Ready(outcome) = waiter.poll(context) {
                return Poll::Ready(outcome);
            }
            Pin::new(&mut pause).poll(context).map(|()| Err(not_yet(at, number, limit, deadline)))
        })
        .await
    }

    fn find_or_begin(&self, which: Which, does: impl FnOnce() -> Outcome + Send + 'static) -> Result<Arc<Work>, Error> {
        let mut under_way = self.0.under_way.lock();
        if let Some(work) = under_way.get(&which) {
            return Ok(Arc::clone(work));
        }
        let work = Arc::<Work>::default();
        under_way.insert(which, Arc::clone(&work));
        drop(under_way);
        let ends = Ends { inside: Arc::clone(&self.0), which, work: Arc::clone(&work) };
        let taken = self.0.pool.take(start, move || ends.end(does()));
        // What was not taken has ended with that, for whoever waits for it already.
        taken.map(|()| work).map_err(|error| match error {
            NotTaken::NoThread(reason) => ConfigurationError::System { what: "a thread", reason }.into(),
            NotTaken::Closed | NotTaken::Full(_) => MembershipError::Stopped.into(),
        })
    }

    /// The node is no more. Whether all threads have ended by then.
    pub fn close(&self, deadline: Instant) -> bool {
        self.0.pool.close(deadline)
    }

    /// Who waits for that.
    #[cfg(test)]
    pub fn waiting(&self, set: u64, number: u64) -> usize {
        self.0.under_way.lock().get(&(set, number)).map_or(0, |work| work.0.lock().waiting.len())
    }

    #[cfg(test)]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.0.pool
    }
}

fn start(work: crate::runtime::pool::Work) -> std::io::Result<()> {
    std::thread::Builder::new().name("kddm-times".into()).spawn(work).map(drop)
}

/// Why there is no outcome yet.
pub(super) fn not_yet(at: &SetHere, number: u64, limit: Duration, deadline: Instant) -> Error {
    if Instant::now() < deadline {
        return MembershipError::Stopped.into();
    }
    let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
    AccessError::TimedOut { limit_ms, waiting_for: at.waiting_for(number) }.into()
}

/// Has those who wait hear, also if what is done panics.
struct Ends {
    inside: Arc<Inside>,
    which: Which,
    work: Arc<Work>,
}

impl Ends {
    fn end(&self, outcome: Outcome) {
        // First: whoever wants it from here on wants it done anew.
        self.inside.under_way.lock().remove(&self.which);
        let mut state = self.work.0.lock();
        if state.outcome.is_none() {
            state.outcome = Some(outcome);
        }
        let wakers: Vec<Waker> = state.waiting.values_mut().filter_map(Option::take).collect();
        drop(state);
        wakers.into_iter().for_each(wake);
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if self.work.0.lock().outcome.is_none() {
            let (what, reason) =
                ("a look at the times of objects", "it panicked, or there was no thread for it".into());
            self.end(Err(ConfigurationError::System { what, reason }.into()));
        }
    }
}

/// One who waits.
struct Waiter {
    work: Arc<Work>,
    number: u64,
}

impl Waiter {
    fn of(work: Arc<Work>) -> Waiter {
        let mut state = work.0.lock();
        state.numbered += 1;
        let number = state.numbered;
        state.waiting.insert(number, None);
        drop(state);
        Waiter { work, number }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Outcome> {
        // Neither copied nor dropped under the lock: that is code of whoever waits.
        let waker = context.waker().clone();
        let mut state = self.work.0.lock();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        let before = state.waiting.insert(self.number, Some(waker));
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let waker = self.work.0.lock().waiting.remove(&self.number);
        drop(waker);
    }
}

/// The set for work of the node itself, which does not keep the node, and waits as long as that does.
pub(super) fn for_node<T: Value>(set: &Set<T>) -> Set<T> {
    let Shared { here, name, table, first_touch, linked, lease, .. } = &*set.0;
    Set(Arc::new(Shared {
        here: here.clone(),
        _node: Owner::guest(Arc::clone(&here.runtime)),
        name: name.clone(),
        table: Arc::clone(table),
        first_touch: Arc::clone(first_touch),
        wait_limit: here.runtime.config.wait_limit,
        linked: linked.clone(),
        lease: Arc::clone(lease),
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::Node;
    use crate::chain::chain;
    use crate::pending::Pending;

    const LIMIT: Duration = Duration::from_secs(60);

    fn here(node: &Node) -> SetHere {
        SetHere { runtime: Arc::clone(node.runtime()), set: kddm_core::id::SetId(7) }
    }

    /// Somebody wants that done, and is about to wait for it.
    fn wants(
        works: &Works,
        at: &SetHere,
        number: u64,
        limit: Duration,
        does: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Pending<usize> {
        let (works, at) = (works.clone(), at.clone());
        let steps = async move { works.once(&at, number, limit, does).await };
        let pending = chain(steps, |_| AccessError::NotFound.into());
        assert_eq!(pending.is_ready(), limit.is_zero(), "it has begun, or waits for the one that has");
        pending
    }

    /// Says that it runs, and ends when it hears how.
    fn work(runs: &Sender<u64>, number: u64) -> (Sender<usize>, impl FnOnce() -> Outcome + Send + 'static) {
        let ((end, ends), runs): ((_, Receiver<usize>), _) = (channel(), runs.clone());
        let does = move || {
            runs.send(number).expect("the test listens");
            Ok(ends.recv().expect("the test has it end"))
        };
        (end, does)
    }

    #[test]
    fn what_many_want_is_done_once_and_all_hear_of_it() {
        let node = Node::local_cluster(1).expect("a node").remove(0);
        let (works, at) = (Works::default(), here(&node));
        let (runs, ran) = channel();
        let (end, does) = work(&runs, 1);
        let first = wants(&works, &at, 1, LIMIT, does);
        assert_eq!(ran.recv_timeout(LIMIT), Ok(1));
        let others: Vec<_> = (0..9).map(|_| wants(&works, &at, 1, LIMIT, || panic!("it is done already"))).collect();
        let hurried = wants(&works, &at, 1, Duration::ZERO, || panic!("it is done already"));
        let late = hurried.wait_for(LIMIT).expect_err("it takes longer");
        assert!(matches!(late, Error::Access(AccessError::TimedOut { limit_ms: 0, .. })), "{late}");
        let (end_of_another, does) = work(&runs, 2);
        let another = wants(&works, &at, 2, LIMIT, does);
        assert_eq!(ran.recv_timeout(LIMIT), Ok(2), "another object waits for nobody");
        assert_eq!((works.waiting(7, 1), works.waiting(7, 2)), (10, 1));
        drop(first);
        end.send(5).expect("it waits for that");
        for other in others {
            assert_eq!(other.wait_for(LIMIT).expect("it is done, though nobody waits who has begun it"), 5);
        }
        let (end, does) = work(&runs, 3);
        let anew = wants(&works, &at, 1, LIMIT, does);
        assert_eq!(ran.recv_timeout(LIMIT), Ok(3), "what is wanted then is done anew");
        [end, end_of_another].iter().for_each(|end| end.send(0).expect("it waits for that"));
        assert_eq!((anew.wait_for(LIMIT).ok(), another.wait_for(LIMIT).ok()), (Some(0), Some(0)));
        assert!(works.close(Instant::now() + LIMIT));
    }

    #[test]
    fn whoever_waits_for_what_panics_or_is_not_begun_hears_of_it() {
        let node = Node::local_cluster(1).expect("a node").remove(0);
        let (works, at) = (Works::default(), here(&node));
        let (runs, ran) = channel();
        let (end, does) = work(&runs, 1);
        let panics = wants(&works, &at, 1, LIMIT, move || does().map(|_| panic!("the test has it panic")));
        assert_eq!(ran.recv_timeout(LIMIT), Ok(1));
        let waits = wants(&works, &at, 1, LIMIT, || Ok(0));
        end.send(0).expect("it waits for that");
        for waits in [panics, waits] {
            let error = waits.wait_for(LIMIT).expect_err("it has panicked").to_string();
            assert!(error.contains("panicked"), "{error}");
        }
        assert!(works.close(Instant::now() + LIMIT));
        let begins = works.find_or_begin((7, 1), || Ok(0));
        assert!(matches!(begins, Err(Error::Membership(MembershipError::Stopped))));
        assert!(works.0.under_way.lock().is_empty());
    }
}
