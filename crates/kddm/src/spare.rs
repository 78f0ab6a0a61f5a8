//! Memory for large values that is ready for the next one.
//!
//! An allocator gives large memory back to the system at once, which then has to find and clear a page at
//! a time of it for the next value: that takes longer than the value takes to arrive. So what large values
//! leave behind is kept here, up to a limit while such values come and go, and up to a lower one afterwards.

use std::collections::{TryReserveError, VecDeque};
use std::time::Instant;

use parking_lot::Mutex;

use crate::pages::want_large_pages;
use ahead::Ahead;

mod ahead;

/// The smallest buffer that is kept. An allocator keeps smaller ones itself; of these it gives back what lies at the
/// end of its memory, as soon as there are some.
const LEAST_BYTES: usize = 32 << 10;

/// The smallest one whose pages are found ahead.
const LEAST_AHEAD_BYTES: usize = 128 << 10;

/// What is kept at most, in bytes of a process, while such values come and go: so much that whoever fetches many anew
/// finds the memory of the old ones, of which all are gone before the first new one has come.
const MOST_BYTES: usize = 64 << 20;

/// What is still kept when no large value has come or gone for a while: some of them, and little beside what a node
/// that has such values holds.
const MOST_IDLE_BYTES: usize = 16 << 20;

/// A buffer without content.
pub struct Spare {
    /// Its length is zero.
    pub bytes: Vec<u8>,
    /// For so many bytes the pages are there.
    pub found: usize,
}

/// What is kept. The last one is used first: it is the likeliest to be in a cache.
struct Kept {
    spares: VecDeque<Vec<u8>>,
    kept_bytes: usize,
    ahead: Ahead,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept::new());

/// An empty buffer with room for so many bytes, and not much more.
///
/// # Errors
/// Memory was refused.
pub fn take(length: usize) -> Result<Spare, TryReserveError> {
    if length >= LEAST_BYTES {
        let mut kept = KEPT.lock();
        if let Some(bytes) = kept.take(length) {
            let found = bytes.capacity();
            return Ok(Spare { bytes, found });
        }
        let mut ahead = None;
        let mut begins = false;
        if length >= LEAST_AHEAD_BYTES {
            ahead = kept.ahead.take(length);
            begins = kept.ahead.begins();
        }
        drop(kept);
        if begins {
            ahead::begin();
        }
        if let Some(spare) = ahead {
            return Ok(spare);
        }
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length)?;
    want_large_pages(&mut bytes);
    Ok(Spare { bytes, found: 0 })
}

/// A copy of a value. As any clone, it aborts where there is no memory.
pub fn copy_of(value: &[u8]) -> Vec<u8> {
    let mut bytes = take(value.len()).map_or_else(|_refused| Vec::new(), |spare| spare.bytes);
    bytes.extend_from_slice(value);
    bytes
}

/// Keeps the memory of a value that is gone, if it is large.
pub fn give(bytes: Vec<u8>) {
    if (LEAST_BYTES..=MOST_BYTES).contains(&bytes.capacity()) {
        let mut kept = KEPT.lock();
        let too_much = kept.give(bytes);
        let begins = kept.kept_bytes > MOST_IDLE_BYTES && kept.ahead.needs_thread();
        drop(kept);
        if begins {
            ahead::begin();
        }
        // The system takes its time, and nobody has to wait for that.
        drop(too_much);
    }
}

/// Whether a buffer is for so many bytes: up to an eighth of it may lie idle.
fn fits(length: usize, buffer: &Vec<u8>) -> bool {
    (length..=length.saturating_add(length / 8)).contains(&buffer.capacity())
}

impl Kept {
    const fn new() -> Kept {
        Kept { spares: VecDeque::new(), kept_bytes: 0, ahead: Ahead::new() }
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        self.ahead.is_asked = true;
        let at = self.spares.iter().rposition(|spare| fits(length, spare))?;
        let spare = self.spares.remove(at)?;
        self.kept_bytes -= spare.capacity();
        Some(spare)
    }

    /// Keeps one more. What is too much is handed out: the oldest first.
    fn give(&mut self, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        self.ahead.is_asked = true;
        bytes.clear();
        self.kept_bytes += bytes.capacity();
        self.spares.push_back(bytes);
        // Where there is nobody who would give it back later, it is given back now.
        let lacks_thread = self.kept_bytes > MOST_IDLE_BYTES && self.ahead.is_refused(Instant::now());
        self.beyond(if lacks_thread { MOST_IDLE_BYTES } else { MOST_BYTES })
    }

    /// Takes out what is more than that: the oldest first.
    fn beyond(&mut self, most_bytes: usize) -> Vec<Vec<u8>> {
        let mut too_much = Vec::new();
        while self.kept_bytes > most_bytes
            && let Some(oldest) = self.spares.pop_front()
        {
            self.kept_bytes -= oldest.capacity();
            too_much.push(oldest);
        }
        too_much
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use kddm_core::io::Access;

    use super::*;
    use crate::cell::{Store, Table};
    use crate::value::{Raw, Value};

    const MIB: usize = 1 << 20;

    /// Between two looks at what another thread does.
    pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

    fn value(length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        bytes.resize(length, 7);
        bytes
    }

    #[test]
    fn the_memory_of_a_value_that_is_gone_is_used_for_the_next() {
        let mut kept = Kept::new();
        let gone = value(MIB);
        let address = gone.as_ptr();
        assert!(kept.give(gone).is_empty());
        assert_eq!(kept.take(MIB / 2), None, "half of it would lie idle");
        let next = kept.take(MIB - MIB / 16).expect("it was kept");
        assert!(next.is_empty() && next.as_ptr() == address);
        assert_eq!((kept.take(MIB), kept.kept_bytes), (None, 0));
    }

    #[test]
    fn no_more_is_kept_than_the_limit_and_the_oldest_goes_first() {
        let mut kept = Kept::new();
        let mut dropped = 0;
        for count in 1..=100 {
            dropped += kept.give(value(MIB)).len();
            assert_eq!(kept.spares.len() + dropped, count);
            assert!(kept.kept_bytes <= MOST_BYTES);
        }
        assert_eq!((kept.spares.len(), kept.kept_bytes), (64, 64 * MIB));
        assert_eq!(kept.give(value(3 * MIB)).len(), 3);
        assert_eq!((kept.beyond(MOST_IDLE_BYTES).len(), kept.kept_bytes), (48, 16 * MIB));
        assert_eq!((kept.beyond(0).len(), kept.kept_bytes), (14, 0));
    }

    #[test]
    fn what_is_kept_beyond_the_lower_limit_goes_when_nobody_comes() {
        // Other tests take none of these.
        const LENGTH: usize = 9 * MIB + 17;
        for _ in 0..3 {
            give(value(LENGTH));
        }
        assert!(take(LENGTH).is_ok_and(|spare| spare.found > 0), "it is kept while they come and go");
        let begin = Instant::now();
        loop {
            let kept = KEPT.lock();
            if kept.kept_bytes <= MOST_IDLE_BYTES {
                break;
            }
            drop(kept);
            assert!(begin.elapsed() < Duration::from_secs(120), "it never goes");
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    #[test]
    fn what_is_small_or_too_large_is_not_kept() {
        give(value(LEAST_BYTES - 1));
        assert!(take(LEAST_BYTES - 1).is_ok_and(|spare| spare.found == 0));
        give(value(MOST_BYTES + 1));
        assert!(take(MOST_BYTES + 1).is_ok_and(|spare| spare.found == 0 && spare.bytes.is_empty()));
        assert!(take(usize::MAX).is_err(), "more than there can be");
    }

    #[test]
    fn what_an_object_leaves_behind_is_kept() {
        // A length that no other test has, so that nobody else takes it.
        const LENGTH: usize = 5 * MIB + 11;
        let is_kept = |length| take(length).is_ok_and(|spare| spare.found > 0);
        let raw: Table<Raw> = Table::new();
        let cell = raw.find_or_insert(1);
        let install = |version| raw.install_bytes(cell, version, Some(Cow::Owned(value(LENGTH))));
        assert_eq!(install(1), Ok(()));
        assert!(!is_kept(LENGTH), "it is in use");
        assert!(raw.discard(cell) && is_kept(LENGTH), "nobody had looked at it");
        assert_eq!(install(2), Ok(()));
        raw.grant(cell, Access::Read);
        assert!(raw.take_read(cell).is_some_and(|hold| !hold.release()));
        raw.revoke(cell, Access::None);
        assert!(raw.discard(cell) && is_kept(LENGTH), "somebody had read it");
        let text: Table<String> = Table::new();
        let mut bytes = Vec::new();
        assert_eq!("x".repeat(2 * LENGTH).encode(&mut bytes), Ok(()));
        let length = bytes.len();
        let cell = text.find_or_insert(1);
        assert_eq!(text.install_bytes(cell, 1, Some(Cow::Owned(bytes))), Ok(()));
        text.grant(cell, Access::Read);
        assert!(text.take_read(cell).is_some_and(|hold| !hold.release()));
        assert!(is_kept(length), "what it was decoded from");
    }

    #[test]
    fn a_copy_is_what_it_is_a_copy_of() {
        for length in [0, 1, LEAST_BYTES, LEAST_BYTES + 1] {
            assert_eq!(copy_of(&value(length)), value(length));
        }
    }
}
