//! Calls between nodes: answers, limits, cancelling, what goes away, what is full.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kddm::rpc::Service;
use kddm::{AccessError, Address, Config, Error, Fate, Node, RpcError, Set};

mod casts;
mod early;
mod ends;
mod forward;
mod multicast;
mod services;
mod streams;

/// No call takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// Longer than any test: nobody is taken for lost because the machine is busy.
const UNHURRIED: Duration = Duration::from_secs(60);

/// The configuration of a node in a cluster from which nobody is to be expelled.
fn unhurried() -> Config {
    Config::new().lease(UNHURRIED)
}

/// Long enough that what is already on its way arrives, short enough to be waited for in vain.
const SHORT: Duration = Duration::from_millis(50);

/// Handlers wait at it until it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<(usize, bool)>,
    news: Condvar,
}

impl Gate {
    /// Waits until it is open.
    fn pass(&self) {
        let mut state = self.state.lock().expect("no panic under this lock");
        state.0 += 1;
        self.news.notify_all();
        while !state.1 {
            state = self.news.wait(state).expect("no panic under this lock");
        }
    }

    fn open(&self) {
        self.state.lock().expect("no panic under this lock").1 = true;
        self.news.notify_all();
    }

    /// Waits until so many have come to it.
    fn until_here(&self, count: usize) {
        let mut state = self.state.lock().expect("no panic under this lock");
        while state.0 < count {
            let (next, late) = self.news.wait_timeout(state, LIMIT).expect("no panic under this lock");
            assert!(!late.timed_out(), "{} of {count} have come", next.0);
            state = next;
        }
    }
}

/// A blocking service whose handlers wait at a gate.
fn gate(node: &Node, name: &str) -> (Service, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let behind = Arc::clone(&gate);
    let service = node.rpc().register_blocking(name, move |request| {
        behind.pass();
        Ok(request.body().to_vec())
    });
    (service.expect("the name is free"), gate)
}

fn echo(node: &Node) -> Service {
    node.rpc().register("echo", |request| Ok(request.body().to_vec())).expect("the name is free")
}

#[track_caller]
fn rpc_error<A: std::fmt::Debug>(result: Result<A, Error>) -> RpcError {
    match result {
        Err(Error::Rpc(error)) => error,
        other => panic!("{other:?} is no error of a call"),
    }
}

/// Waits until that is so; the machine may be busy.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LIMIT, "not yet: {what}");
        std::thread::yield_now();
    }
}
