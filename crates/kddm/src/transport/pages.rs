//! Pages for what is about to arrive.

use rustix::mm::{Advice, madvise};

/// The smallest page there is.
const PAGE_BYTES: usize = 4 << 10;

/// Lets the system find pages for the next bytes that go into the spare room of a vector, at once: that
/// takes half the time of one fault for each page, and passes while the sender is still writing.
pub fn find_pages(bytes: &mut Vec<u8>, most: usize) {
    let spare = bytes.spare_capacity_mut();
    let length = spare.len().min(most);
    let start = spare.as_mut_ptr();
    let whole = start.align_offset(PAGE_BYTES);
    let length = length.saturating_sub(whole) / PAGE_BYTES * PAGE_BYTES;
    if length == 0 {
        return;
    }
    // SAFETY: the range is inside of the vector's own memory. The advice changes neither what is
    // mapped there nor what it contains. A system that does not know it does nothing.
    let _only_slower_without = unsafe { madvise(start.wrapping_add(whole).cast(), length, Advice::LinuxPopulateWrite) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_and_the_room_can_be_filled() {
        for (size, most) in [(0, 1), (100, 100), (1 << 20, 1 << 20), (1 << 20, 5000), (1 << 20, usize::MAX)] {
            let mut bytes = Vec::with_capacity(size + 3);
            bytes.extend_from_slice(&[1, 2, 3]);
            find_pages(&mut bytes, most);
            assert_eq!(bytes, [1, 2, 3]);
            bytes.resize(size + 3, 7);
            assert!(bytes[3..].iter().all(|byte| *byte == 7));
        }
    }
}
