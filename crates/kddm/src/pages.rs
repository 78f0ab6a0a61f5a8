//! Pages for what is about to arrive, and pages of what nobody needs any more.

use std::sync::atomic::AtomicU32;

use rustix::mm::{Advice, madvise};

/// The smallest page there is.
const PAGE_BYTES: usize = 4 << 10;

/// Lets the system find pages for the next bytes that go into the spare room of a vector, at once: that
/// takes less time than one fault for each page, and passes while the sender is still writing.
pub fn find_pages(bytes: &mut Vec<u8>, most: usize) {
    let spare = bytes.spare_capacity_mut();
    find_pages_at(spare.as_mut_ptr().addr(), spare.len().min(most));
}

/// As [`find_pages`], for a range of addresses, whoever uses them: if that was memory which is gone, nothing
/// comes of it, or other memory gets its pages now and not later.
pub fn find_pages_at(address: usize, length: usize) {
    let start = address.next_multiple_of(PAGE_BYTES);
    let length = length.saturating_sub(start - address) / PAGE_BYTES * PAGE_BYTES;
    if length == 0 || cfg!(miri) {
        return;
    }
    let start = std::ptr::without_provenance_mut(start);
    // SAFETY: the advice changes neither what is mapped there nor what it contains, and is refused where
    // nothing is mapped. A system that does not know it does nothing.
    let _only_slower_without = unsafe { madvise(start, length, Advice::LinuxPopulateWrite) };
}

/// From this size on a buffer has a large page in it wherever it begins: twice the size of one.
pub const LARGE_PAGES_FROM: usize = 4 << 20;

/// The system may find large pages for a vector that has no content yet, a fourth of the work.
pub fn want_large_pages(bytes: &mut Vec<u8>) {
    let spare = bytes.spare_capacity_mut();
    if spare.len() < LARGE_PAGES_FROM {
        return;
    }
    let start = spare.as_mut_ptr();
    let whole = start.align_offset(PAGE_BYTES);
    let inside = spare.len().saturating_sub(whole) / PAGE_BYTES * PAGE_BYTES;
    if inside == 0 || cfg!(miri) {
        return;
    }
    // SAFETY: the range is inside of the vector's own memory. The advice changes neither what is mapped
    // there nor what it contains. A system that does not know it, or has no large pages, does nothing.
    let _only_slower_without = unsafe { madvise(start.wrapping_add(whole).cast(), inside, Advice::LinuxHugepage) };
}

/// Gives the pages inside of these places back to the system. Whoever still looks there finds zeros, and
/// finding them costs no memory. Says how many bytes keep their memory: the ends, or all of them.
pub fn give_back_pages(places: &[AtomicU32]) -> usize {
    let length = size_of_val(places);
    let start = places.as_ptr().cast::<u8>();
    let whole = start.align_offset(PAGE_BYTES).min(length);
    let inside = (length - whole) / PAGE_BYTES * PAGE_BYTES;
    if inside == 0 || cfg!(miri) {
        return length;
    }
    // SAFETY: the range is inside of the slice, whose values are atomics: that they all become zero is
    // what a store to each of them would do. Private memory stays mapped, and reads as zero.
    let advised = unsafe { madvise(start.wrapping_add(whole).cast_mut().cast(), inside, Advice::LinuxDontNeed) };
    if advised.is_ok() { length - inside } else { length }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn pages_that_were_given_back_read_as_zeros_and_their_ends_stay() {
        for count in [0, 1, 1000, 1 << 16] {
            let places: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(7)).collect();
            let kept_bytes = give_back_pages(&places);
            let kept = places.iter().filter(|place| place.load(Ordering::Relaxed) == 7).count();
            assert_eq!(kept * size_of::<AtomicU32>(), kept_bytes);
            assert!(kept_bytes < 2 * PAGE_BYTES || cfg!(miri));
        }
    }

    #[test]
    fn what_is_there_stays_and_the_room_can_be_filled() {
        for (size, most) in [(0, 1), (100, 100), (1 << 20, 1 << 20), (1 << 20, 5000), (5 << 20, usize::MAX)] {
            let mut bytes = Vec::with_capacity(size + 3);
            bytes.extend_from_slice(&[1, 2, 3]);
            want_large_pages(&mut bytes);
            find_pages(&mut bytes, most);
            assert_eq!(bytes, [1, 2, 3]);
            bytes.resize(size + 3, 7);
            assert!(bytes[3..].iter().all(|byte| *byte == 7));
        }
    }
}
