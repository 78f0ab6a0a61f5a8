//! Pages for the next large values, found before these arrive.
//!
//! The system takes longer to find new memory than a large value takes to arrive. While values of one size
//! arrive that stay, one after the other, a thread has it find the memory of the next ones, on a processor
//! that has nothing better to do: it steps back after each piece. It ends when no more come, and gives back then what
//! is kept beyond the lower limit.

use std::time::{Duration, Instant};

use parking_lot::Condvar;

use super::{KEPT, Kept, LEAST_AHEAD_BYTES, MOST_IDLE_BYTES, Spare, fits};
use crate::pages::{LARGE_PAGES_FROM, find_pages_at};

/// What is ready at most, in bytes of a process: as much as the largest buffer for which it is done. From
/// there on there are large pages, which are found in a fourth of the time.
const MOST_AHEAD_BYTES: usize = LARGE_PAGES_FROM;

/// For so much pages are found at once: some 20 µs, the longest that anybody has to wait for it.
const PIECE_BYTES: usize = 64 << 10;

/// When no large value has come or gone for so long, what is ready goes.
const IDLE: Duration = Duration::from_secs(1);

/// Where no thread could be started, the next one is tried after so long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What is ready, and what is to be.
pub(super) struct Ahead {
    /// All of their pages are there.
    ready: Vec<Vec<u8>>,
    ready_bytes: usize,
    /// The pages of this one are being found.
    next: Option<Spare>,
    /// The size that was asked for last, and whether the one before it was the same.
    asked: usize,
    repeats: bool,
    /// A large value has come or gone since the thread looked last.
    pub is_asked: bool,
    has_thread: bool,
    /// When the system refused one last.
    refused_at: Option<Instant>,
}

static ASKED: Condvar = Condvar::new();

impl Ahead {
    pub const fn new() -> Ahead {
        Ahead {
            ready: Vec::new(),
            ready_bytes: 0,
            next: None,
            asked: 0,
            repeats: false,
            is_asked: false,
            has_thread: false,
            refused_at: None,
        }
    }

    /// A buffer for so many bytes, perhaps with some of its pages only. Another one will be ready, if the same
    /// is asked for again and again.
    pub fn take(&mut self, length: usize) -> Option<Spare> {
        self.repeats = self.asked == length;
        self.asked = length;
        if let Some(at) = self.ready.iter().rposition(|bytes| fits(length, bytes)) {
            let bytes = self.ready.remove(at);
            self.ready_bytes -= bytes.capacity();
            let found = bytes.capacity();
            return Some(Spare { bytes, found });
        }
        self.next.take_if(|next| fits(length, &next.bytes))
    }

    /// Whether there is something to do for a thread, and none that does it: the caller is to begin one.
    pub fn begins(&mut self) -> bool {
        if !self.repeats || !(LEAST_AHEAD_BYTES..MOST_AHEAD_BYTES).contains(&self.asked) {
            return false;
        }
        if self.has_thread {
            ASKED.notify_one();
        }
        self.needs_thread()
    }

    /// Whether there is no thread: the caller is to begin one. Not for a while where the system has refused one.
    pub fn needs_thread(&mut self) -> bool {
        if self.is_refused(Instant::now()) {
            return false;
        }
        !std::mem::replace(&mut self.has_thread, true)
    }

    /// Whether the system has refused a thread a moment ago, so that it is not asked again.
    pub fn is_refused(&self, now: Instant) -> bool {
        self.refused_at.is_some_and(|at| now.duration_since(at) < TRY_AGAIN)
    }

    /// What is ready for a size that nobody asks for any more.
    fn take_unfit(&mut self) -> Vec<Vec<u8>> {
        let asked = self.asked;
        if !self.repeats || self.ready.first().is_none_or(|bytes| fits(asked, bytes)) {
            return Vec::new();
        }
        self.ready_bytes = 0;
        std::mem::take(&mut self.ready)
    }

    /// The range whose pages are to be found next. None: enough is ready, or there is no memory.
    fn piece(&mut self) -> Option<(usize, usize)> {
        if self.next.is_none() {
            if !self.repeats || self.ready_bytes + self.asked > MOST_AHEAD_BYTES {
                return None;
            }
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(self.asked).ok()?;
            self.next = Some(Spare { bytes, found: 0 });
        }
        let next = self.next.as_mut()?;
        let length = PIECE_BYTES.min(next.bytes.capacity() - next.found);
        Some((next.bytes.as_ptr().addr() + next.found, length))
    }

    /// The pages of that piece are there.
    fn found(&mut self, (address, length): (usize, usize)) {
        let is_same = |next: &mut Spare| next.bytes.as_ptr().addr() + next.found == address;
        let Some(mut next) = self.next.take_if(is_same) else { return };
        next.found += length;
        if next.found < next.bytes.capacity() {
            self.next = Some(next);
        } else {
            self.ready_bytes += next.bytes.capacity();
            self.ready.push(next.bytes);
        }
    }
}

/// Begins the thread that finds pages ahead, and gives back what is kept beyond the lower limit. Without one pages are
/// found later, and that is given back at once.
pub(super) fn begin() {
    if std::thread::Builder::new().name("kddm-memory".into()).spawn(run).is_ok() {
        return;
    }
    let mut kept = KEPT.lock();
    let too_much = kept.goes_without_thread(Instant::now());
    drop(kept);
    drop(too_much);
}

impl Kept {
    /// No thread could be started. What nobody would give back later is handed out.
    pub(super) fn goes_without_thread(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.ahead.has_thread = false;
        self.ahead.refused_at = Some(now);
        self.beyond(MOST_IDLE_BYTES)
    }
}

fn run() {
    loop {
        let mut kept = KEPT.lock();
        let unfit = kept.ahead.take_unfit();
        if let Some((address, length)) = kept.ahead.piece() {
            drop(kept);
            drop(unfit);
            find_pages_at(address, length);
            KEPT.lock().ahead.found((address, length));
            std::thread::yield_now();
            continue;
        }
        kept.ahead.is_asked = false;
        let nobody_came = ASKED.wait_for(&mut kept, IDLE).timed_out() && !kept.ahead.is_asked;
        if nobody_came {
            let ready = std::mem::replace(&mut kept.ahead, Ahead::new());
            let beyond = kept.beyond(MOST_IDLE_BYTES);
            drop(kept);
            return drop((ready, beyond));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spare::take;
    use crate::spare::tests::LOOK_AGAIN;

    const MIB: usize = 1 << 20;

    /// Finds all pages that are to be found. How many buffers are ready.
    fn find_all(ahead: &mut Ahead) -> usize {
        while let Some(piece) = ahead.piece() {
            ahead.found(piece);
        }
        ahead.ready.len()
    }

    #[test]
    fn memory_is_found_ahead_once_a_size_has_come_twice_and_not_beyond_the_limit() {
        let mut ahead = Ahead::new();
        assert!(ahead.take(MIB).is_none() && !ahead.begins() && ahead.piece().is_none());
        assert!(ahead.take(2 * MIB).is_none() && !ahead.begins() && ahead.piece().is_none());
        assert!(ahead.take(2 * MIB).is_none() && ahead.begins());
        assert!(!ahead.begins(), "one thread");
        assert_eq!(find_all(&mut ahead), MOST_AHEAD_BYTES / (2 * MIB));
        let spare = ahead.take(2 * MIB).expect("it is ready");
        assert_eq!((spare.found, spare.bytes.len()), (2 * MIB, 0));
        assert_eq!(find_all(&mut ahead), MOST_AHEAD_BYTES / (2 * MIB), "in its place");
        for length in [LEAST_AHEAD_BYTES - 1, MOST_AHEAD_BYTES] {
            assert!(ahead.take(length).is_none() && ahead.take(length).is_none() && !ahead.begins());
        }
    }

    #[test]
    fn a_buffer_is_handed_out_with_those_pages_that_were_found() {
        let mut ahead = Ahead::new();
        assert!(ahead.take(MIB).is_none() && ahead.take(MIB).is_none());
        let first = ahead.piece().expect("something is to be found");
        ahead.found(first);
        let late = ahead.piece().expect("more is to be found");
        assert_eq!(late.0, first.0 + PIECE_BYTES);
        let spare = ahead.take(MIB).expect("it was begun");
        assert_eq!(spare.found, PIECE_BYTES);
        ahead.found(late);
        assert!(ahead.next.is_none() && ahead.ready.is_empty(), "it is not here any more");
    }

    #[test]
    fn what_is_ready_for_another_size_goes() {
        let mut ahead = Ahead::new();
        assert!(ahead.take(MIB).is_none() && ahead.take(MIB).is_none());
        assert_eq!(find_all(&mut ahead), 4);
        assert!(ahead.take(3 * MIB).is_none() && ahead.take_unfit().is_empty(), "that was once");
        assert!(ahead.take(3 * MIB).is_none());
        assert_eq!(ahead.take_unfit().len(), 4);
        assert_eq!((find_all(&mut ahead), ahead.ready_bytes), (1, 3 * MIB));
    }

    #[test]
    fn without_a_thread_no_more_is_kept_than_the_lower_limit_and_the_next_one_waits() {
        let mut kept = Kept::new();
        let value = || Vec::with_capacity(MIB);
        assert!((0..20).all(|_| kept.give(value()).is_empty()) && kept.ahead.needs_thread());
        let now = Instant::now();
        assert_eq!(kept.goes_without_thread(now).len(), 4);
        assert!(kept.ahead.is_refused(now) && !kept.ahead.is_refused(now + TRY_AGAIN));
        assert!(!kept.ahead.needs_thread(), "it is not tried at once");
        assert_eq!((kept.give(value()).len(), kept.kept_bytes), (1, MOST_IDLE_BYTES), "nobody would give it back");
    }

    #[test]
    fn a_thread_finds_them_and_ends() {
        // A length that no other test has.
        const LENGTH: usize = 3 * MIB + 13;
        let begin = Instant::now();
        let mut is_found = false;
        while !is_found {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing is ever ready");
            is_found = take(LENGTH).is_ok_and(|spare| spare.found >= LENGTH);
            std::thread::sleep(LOOK_AGAIN);
        }
        while KEPT.lock().ahead.has_thread {
            assert!(begin.elapsed() < Duration::from_secs(120), "it never ends");
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
