//! A store in memory that can be stopped, slowed and broken.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use kddm::linker::{Stamp, Store, Stored, Written};
use kddm::{LinkerError, Value};

use crate::LIMIT;

/// What goes wrong at the next calls.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum Trouble {
    #[default]
    None,
    Fails,
    Panics,
}

#[derive(Default)]
struct Inside {
    kept: BTreeMap<u64, Stored>,
    term: u64,
    reads: Trouble,
    writes: Trouble,
}

#[derive(Default)]
pub struct Memory {
    inside: Mutex<Inside>,
    reads_stop_at: Mutex<Option<Arc<Gate>>>,
    writes_stop_at: Mutex<Option<Arc<Gate>>>,
}

/// Whoever comes to it stops there until it is open.
#[derive(Default)]
pub struct Gate {
    /// How many have come, and whether it is open.
    state: Mutex<(usize, bool)>,
    news: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().expect("no panic");
        state.0 += 1;
        self.news.notify_all();
        while !state.1 {
            state = self.news.wait(state).expect("no panic");
        }
    }

    pub fn wait_until_stopped(&self) {
        let state = self.state.lock().expect("no panic");
        let (state, _) = self.news.wait_timeout_while(state, LIMIT, |state| state.0 == 0).expect("no panic");
        assert!(state.0 > 0, "nobody has come");
    }

    pub fn open(&self) {
        self.state.lock().expect("no panic").1 = true;
        self.news.notify_all();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for gate in [&self.reads_stop_at, &self.writes_stop_at] {
            gate.lock().expect("no panic").iter().for_each(|gate| gate.open());
        }
    }
}

impl Memory {
    /// As another program would.
    pub fn insert(&self, object: u64, text: &str) {
        let mut bytes = Vec::new();
        text.to_string().encode(&mut bytes).expect("a text encodes");
        let stored = Stored { stamp: Stamp::default(), bytes: Some(bytes) };
        self.inside.lock().expect("no panic").kept.insert(object, stored);
    }

    pub fn insert_bytes(&self, object: u64, bytes: &[u8]) {
        let stored = Stored { stamp: Stamp::default(), bytes: Some(bytes.to_vec()) };
        self.inside.lock().expect("no panic").kept.insert(object, stored);
    }

    pub fn text(&self, object: u64) -> Option<String> {
        let inside = self.inside.lock().expect("no panic");
        let bytes = inside.kept.get(&object)?.bytes.clone()?;
        Some(String::decode(&bytes).expect("a text was written"))
    }

    pub fn stamp(&self, object: u64) -> Option<Stamp> {
        self.inside.lock().expect("no panic").kept.get(&object).map(|stored| stored.stamp)
    }

    pub fn write_by_hand(&self, object: u64, stamp: Stamp) -> Written {
        self.write_now(object, stamp, Some(b"by hand"))
    }

    pub fn trouble(&self, reads: Trouble, writes: Trouble) {
        let mut inside = self.inside.lock().expect("no panic");
        (inside.reads, inside.writes) = (reads, writes);
    }

    /// From now on writes wait at a gate; that of an earlier call is forgotten, and those at it still wait there.
    pub fn stop_writes(&self) -> Arc<Gate> {
        let gate = Arc::<Gate>::default();
        *self.writes_stop_at.lock().expect("no panic") = Some(Arc::clone(&gate));
        gate
    }

    pub fn stop_reads(&self) -> Arc<Gate> {
        let gate = Arc::<Gate>::default();
        *self.reads_stop_at.lock().expect("no panic") = Some(Arc::clone(&gate));
        gate
    }

    /// Who comes from now on stops nowhere.
    pub fn stop_nobody(&self) {
        *self.reads_stop_at.lock().expect("no panic") = None;
        *self.writes_stop_at.lock().expect("no panic") = None;
    }

    fn write_now(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Written {
        let mut inside = self.inside.lock().expect("no panic");
        let by = inside.kept.get(&object).map_or(Stamp::default(), |stored| stored.stamp);
        let is_older = by > stamp || stamp.term < inside.term;
        if is_older {
            return Written::Refused { by };
        }
        inside.kept.insert(object, Stored { stamp, bytes: bytes.map(<[u8]>::to_vec) });
        Written::Kept
    }
}

fn happens(trouble: Trouble) -> Result<(), LinkerError> {
    match trouble {
        Trouble::None => Ok(()),
        Trouble::Fails => Err(LinkerError::Store { kind: "memory", reason: "the test has broken it".into() }),
        Trouble::Panics => panic!("the test has it panic"),
    }
}

impl Store for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        let trouble = self.inside.lock().expect("no panic").writes;
        happens(trouble)?;
        let mut inside = self.inside.lock().expect("no panic");
        inside.term += 1;
        Ok(inside.term)
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        let gate = self.reads_stop_at.lock().expect("no panic").clone();
        gate.iter().for_each(|gate| gate.pass());
        let (trouble, found) = {
            let inside = self.inside.lock().expect("no panic");
            (inside.reads, inside.kept.get(&object).cloned())
        };
        happens(trouble).map(|()| found)
    }

    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
        let gate = self.writes_stop_at.lock().expect("no panic").clone();
        gate.iter().for_each(|gate| gate.pass());
        let trouble = self.inside.lock().expect("no panic").writes;
        happens(trouble).map(|()| self.write_now(object, stamp, bytes))
    }

    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> {
        let inside = self.inside.lock().expect("no panic");
        let is_after = |object: &u64| after.is_none_or(|after| *object > after);
        let there = inside.kept.iter().filter(|(object, stored)| is_after(object) && stored.bytes.is_some());
        Ok(there.take(limit).map(|(object, stored)| (*object, stored.stamp)).collect())
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls a task on this thread.
pub fn block_on<F: Future>(task: F) -> F::Output {
    let mut task = pin!(task);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(output) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park_timeout(LIMIT);
    }
}
