//! Which file is whose: so that each is counted once, also if its process is killed on the way.

use serde::{Deserialize, Serialize};

/// The one object of its set: how far the list has been dealt out, and what is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dealt {
    /// The first file that nobody has begun.
    next: u32,
    /// The file of each share, by the share's number.
    under_way: Vec<Option<u32>>,
}

impl Dealt {
    /// The next file of a share that has `finished` one, out of so many. Asked again, it answers the same: a
    /// process that does not know whether its question was heard asks again, and one that takes the place of
    /// another, and has finished nothing, gets what that had begun.
    pub fn deal(&mut self, share: u16, finished: Option<u32>, files: u32) -> Option<u32> {
        let share = usize::from(share);
        if self.under_way.len() <= share {
            self.under_way.resize(share + 1, None);
        }
        let Dealt { next, under_way } = self;
        let mine = &mut under_way[share];
        if *mine == finished {
            *mine = (*next < files).then_some(*next);
            *next += u32::from(mine.is_some());
        }
        *mine
    }
}

#[cfg(test)]
mod tests {
    use super::Dealt;

    #[test]
    fn each_file_is_dealt_once_and_again_to_whoever_follows() {
        let mut dealt = Dealt::default();
        assert_eq!((dealt.deal(0, None, 3), dealt.deal(1, None, 3)), (Some(0), Some(1)));
        assert_eq!(dealt.deal(0, Some(0), 3), Some(2));
        assert_eq!(dealt.deal(0, Some(0), 3), Some(2), "asked twice");
        // Share 1 is killed; who takes its place has finished nothing.
        assert_eq!(dealt.deal(1, None, 3), Some(1));
        assert_eq!((dealt.deal(1, Some(1), 3), dealt.deal(0, Some(2), 3)), (None, None));
        assert_eq!(dealt.deal(1, None, 3), None);
    }
}
