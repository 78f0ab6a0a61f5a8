//! Writes of several threads at one time are one commit: whoever comes while another one waits for the disk waits for it too,
//! and all who have come meanwhile are written together by one of them.

use std::collections::VecDeque;
use std::sync::Arc;

use kddm::linker::{LinkerError, Stamp, Written};
use parking_lot::{Condvar, Mutex};

/// Most writes of one commit that came one by one: it stays short, and whoever comes next waits for few.
const MOST_TOGETHER: usize = 64;

/// A write, and its answers: one for each of several.
pub(crate) type Write<'a> = (u64, Stamp, Option<&'a [u8]>);
type Answers = Result<Vec<Written>, LinkerError>;
type Answer = Result<Written, LinkerError>;

/// Who writes at present, and who waits for that.
pub(crate) struct Group {
    /// What kind of store it belongs to.
    kind: &'static str,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_writing: bool,
    waiting: VecDeque<Arc<Waiter>>,
}

/// A thread that waits, and what it has to write.
struct Waiter {
    object: u64,
    stamp: Stamp,
    bytes: Option<Vec<u8>>,
    said: Mutex<Option<Said>>,
    hears: Condvar,
}

/// What a waiting thread hears.
enum Said {
    /// It is written.
    Answer(Answer),
    /// It writes next, its own and that of others.
    YourTurn,
}

impl Waiter {
    fn say(&self, said: Said) {
        *self.said.lock() = Some(said);
        self.hears.notify_one();
    }

    fn write(&self) -> Write<'_> {
        (self.object, self.stamp, self.bytes.as_deref())
    }
}

/// The turn of a thread to write. However it ends, the next one has its turn, and nobody waits for ever.
struct Turn<'a> {
    group: &'a Group,
    others: Vec<Arc<Waiter>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        for other in self.others.drain(..) {
            let reason = "the thread that wrote it with its own has panicked".to_owned();
            other.say(Said::Answer(Err(LinkerError::Store { kind: self.group.kind, reason })));
        }
        let mut state = self.group.state.lock();
        match state.waiting.pop_front() {
            Some(next) => next.say(Said::YourTurn),
            None => state.is_writing = false,
        }
    }
}

impl Group {
    pub(crate) fn new(kind: &'static str) -> Group {
        Group { kind, state: Mutex::default() }
    }

    /// Has that written, alone or with what others want written. What is given commits: it is called by one thread at a time.
    pub(crate) fn write(&self, write: Write<'_>, commit: impl Fn(&[Write<'_>]) -> Answers) -> Answer {
        let mut state = self.state.lock();
        if state.is_writing {
            let (object, stamp, bytes) = write;
            let mut copy = Vec::new();
            let length = bytes.map_or(0, <[u8]>::len);
            if copy.try_reserve_exact(length).is_err() {
                let reason = format!("no memory for {length} bytes that wait for others");
                return Err(LinkerError::Store { kind: self.kind, reason });
            }
            copy.extend_from_slice(bytes.unwrap_or_default());
            let (said, hears) = (Mutex::default(), Condvar::new());
            let waiter = Arc::new(Waiter { object, stamp, bytes: bytes.map(|_| copy), said, hears });
            state.waiting.push_back(Arc::clone(&waiter));
            drop(state);
            let mut said = waiter.said.lock();
            loop {
                match said.take() {
                    Some(Said::Answer(answer)) => return answer,
                    Some(Said::YourTurn) => break,
                    None => waiter.hears.wait(&mut said),
                }
            }
            state = self.state.lock();
        }
        state.is_writing = true;
        let count = state.waiting.len().min(MOST_TOGETHER - 1);
        let mut turn = Turn { group: self, others: state.waiting.drain(..count).collect() };
        drop(state);
        turn.take(write, commit)
    }
}

impl Turn<'_> {
    fn take(&mut self, own: Write<'_>, commit: impl Fn(&[Write<'_>]) -> Answers) -> Answer {
        let mut writes = vec![own];
        writes.extend(self.others.iter().map(|other| other.write()));
        let kind = self.group.kind;
        let alone = |write: Write<'_>| commit(&[write]).and_then(|answers| answer(kind, answers.first()));
        let together = commit(&writes);
        // The damage of one object is no error of the others.
        let is_of_one = matches!(together, Err(LinkerError::Damaged { .. }));
        let mut answers: Vec<Answer> = match &together {
            Ok(answers) => (0..writes.len()).map(|index| answer(kind, answers.get(index))).collect(),
            Err(_) if is_of_one && writes.len() > 1 => writes.iter().map(|write| alone(*write)).collect(),
            Err(error) => writes.iter().map(|_| Err(error.clone())).collect(),
        };
        drop(writes);
        for (other, answer) in self.others.drain(..).rev().zip(answers.drain(1..).rev()) {
            other.say(Said::Answer(answer));
        }
        answers.pop().unwrap_or_else(|| answer(kind, None))
    }
}

fn answer(kind: &'static str, written: Option<&Written>) -> Answer {
    let missing = || LinkerError::Store { kind, reason: "a write was not answered".to_owned() };
    written.copied().ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    const STAMP: Stamp = Stamp { term: 1, tenure: 1, version: 1 };
    /// No test takes as long; one that does has failed.
    const LIMIT: Duration = Duration::from_secs(60);

    fn until_waiting(group: &Group, count: usize) {
        let begin = Instant::now();
        while group.state.lock().waiting.len() < count {
            assert!(begin.elapsed() < LIMIT, "they never came");
            std::thread::yield_now();
        }
    }

    /// The object's number is in its answer, so that nobody has that of another.
    fn answers(writes: &[Write<'_>]) -> Answers {
        let by = |object: u64| Stamp { version: object, ..STAMP };
        Ok(writes.iter().map(|(object, ..)| Written::Refused { by: by(*object) }).collect())
    }

    #[test]
    fn whoever_comes_while_another_writes_is_written_with_all_who_came() {
        let (group, commits, most) = (Group::new("x"), AtomicUsize::new(0), AtomicUsize::new(0));
        const WRITERS: usize = MOST_TOGETHER + 10;
        let commit = |writes: &[Write<'_>]| {
            // The first one writes until all the others wait.
            if commits.fetch_add(1, Ordering::Relaxed) == 0 {
                until_waiting(&group, WRITERS);
            }
            most.fetch_max(writes.len(), Ordering::Relaxed);
            assert!(writes.iter().all(|(object, _, bytes)| *bytes == Some(&object.to_le_bytes()[..])));
            answers(writes)
        };
        std::thread::scope(|scope| {
            for object in 0..=WRITERS as u64 {
                let (group, commit) = (&group, &commit);
                scope.spawn(move || {
                    let by = Stamp { version: object, ..STAMP };
                    let written = group.write((object, STAMP, Some(&object.to_le_bytes())), commit);
                    assert_eq!(written, Ok(Written::Refused { by }));
                });
            }
        });
        assert_eq!((commits.into_inner(), most.into_inner()), (3, MOST_TOGETHER));
        assert!(!group.state.lock().is_writing);
    }

    #[test]
    fn the_damage_of_one_is_no_error_of_the_others_and_an_error_of_the_store_is_one_of_all() {
        let damaged = LinkerError::Damaged { kind: "x", object: 3, reason: String::new() };
        let failed = LinkerError::Store { kind: "x", reason: "no room".into() };
        for error in [damaged.clone(), failed.clone()] {
            let (group, commits) = (Group::new("x"), AtomicUsize::new(0));
            let commit = |writes: &[Write<'_>]| {
                if commits.fetch_add(1, Ordering::Relaxed) == 0 {
                    until_waiting(&group, 5);
                    return answers(writes);
                }
                if writes.iter().any(|(object, ..)| *object == 3) { Err(error.clone()) } else { answers(writes) }
            };
            std::thread::scope(|scope| {
                let (group, commit) = (&group, &commit);
                let first = scope.spawn(move || group.write((0, STAMP, None), commit));
                let begin = Instant::now();
                while !group.state.lock().is_writing {
                    assert!(begin.elapsed() < LIMIT);
                    std::thread::yield_now();
                }
                let others =
                    (1..=5).map(|object| (object, scope.spawn(move || group.write((object, STAMP, None), commit))));
                for (object, other) in others.collect::<Vec<_>>() {
                    let is_error = object == 3 || error == failed;
                    let meant =
                        if is_error { Err(error.clone()) } else { answers(&[(object, STAMP, None)]).map(|all| all[0]) };
                    assert_eq!(other.join().unwrap(), meant, "object {object}, {error}");
                }
                assert!(first.join().unwrap().is_ok());
            });
        }
    }

    #[test]
    fn a_thread_that_panics_leaves_nobody_waiting() {
        let (group, commits) = (Group::new("x"), AtomicUsize::new(0));
        let commit = |writes: &[Write<'_>]| {
            match commits.fetch_add(1, Ordering::Relaxed) {
                0 => until_waiting(&group, 2),
                1 => panic!("as it is meant to"),
                _ => {}
            }
            answers(writes)
        };
        let ended: Vec<_> = std::thread::scope(|scope| {
            let (group, commit) = (&group, &commit);
            let all: Vec<_> =
                (0..3).map(|object| scope.spawn(move || group.write((object, STAMP, None), commit))).collect();
            all.into_iter().map(|thread| thread.join()).collect()
        });
        let panicked = ended.iter().filter(|ended| ended.is_err()).count();
        let told = ended.iter().flatten().filter(|answer| answer.is_err()).count();
        assert_eq!((panicked, told), (1, 1), "{ended:?}");
        assert!(group.write((9, STAMP, None), commit).is_ok());
    }
}
