//! A hand that goes round while its set is being closed, a slice of the objects at a time.

use kddm_core::id::NodeId;

use super::*;

/// Objects of a slice: several slices of them are here.
const SLICE: u32 = 64;

/// A set that is to be frozen, at the node that keeps it to its budget.
struct Closing {
    kept: Kept,
    here: SetHere,
}

impl Closing {
    fn of(kept: Kept) -> Closing {
        let here = kept.budget.here().expect("the node is there");
        Closing { kept, here }
    }

    /// All lanes hear who has frozen the set.
    fn freeze(&self, by: &[NodeId]) {
        for lane in &self.here.runtime.lanes {
            let mut state = lane.lock();
            state.freeze(self.here.set, by.to_vec());
            lane.finish(state);
        }
    }

    /// Looks at a slice. Where the rest begins.
    fn close_some(&self, first: CellNumber) -> Option<CellNumber> {
        let of_lane = |lane: &Arc<crate::runtime::lane::Lane>| {
            let mut state = lane.lock();
            let next = state.close_cells(self.here.set, first, SLICE);
            lane.finish(state);
            next
        };
        self.here.runtime.lanes.iter().filter_map(of_lane).min()
    }

    fn closes(&self) -> bool {
        self.here.runtime.close_all_lanes(self.here.set).is_ok()
    }

    /// Also those that are spared, and those that go only when nothing else does.
    fn go_round(&self) {
        let mut sweep = self.kept.budget.sweep.lock();
        for _ in 0..8 * OBJECTS.div_ceil(64) {
            let _whatever_round = sweep.step(&self.kept.budget, &self.here, By::Keeper);
        }
    }

    /// How many slices there were, each of them looked at when the hand has gone round.
    fn close_in_slices(&self) -> usize {
        let (mut slices, mut first) = (1, 0);
        self.go_round();
        while let Some(next) = self.close_some(first) {
            self.go_round();
            (slices, first) = (slices + 1, next);
        }
        slices
    }

    fn is_too_much(&self) {
        self.kept.budget.account.set_limit_bytes(64 << 10);
    }

    fn count(&self) -> u64 {
        self.kept.set.local_count() as u64
    }

    /// It is closed in the end, and nothing goes from then on before it is thawed.
    fn is_closed_until_the_thaw(&self) {
        eventually(LIMIT, "nobody writes", || self.closes());
        let left = self.count();
        self.go_round();
        assert_eq!(self.count(), left, "it is closed");
        self.freeze(&[]);
        self.kept.slow.let_writes_end(true);
        eventually(LIMIT, "it keeps to its budget", || {
            self.go_round();
            self.count() < OBJECTS / 2
        });
    }
}

const NOBODY_WRITES: WritePolicy = WritePolicy::Behind { lag: Duration::from_secs(3600), bytes: 64 << 20 };

#[test]
fn nothing_is_evicted_from_the_entry_on_whichever_slices_are_closed() {
    for policy in [WritePolicy::Through, WritePolicy::Around, NOBODY_WRITES] {
        let closing = Closing::of(Kept::of(policy, 1 << 20));
        closing.kept.read_all();
        closing.freeze(&[NodeId(1)]);
        closing.is_too_much();
        assert!(closing.close_in_slices() > 2);
        assert_eq!(closing.count(), OBJECTS, "{policy:?}");
        assert!(closing.closes(), "{policy:?}: nobody is in the way");
        closing.is_closed_until_the_thaw();
    }
}

#[test]
fn what_is_written_to_go_is_in_the_way_until_it_has_gone() {
    let closing = Closing::of(Kept::of(NOBODY_WRITES, 1 << 20));
    for object in 0..OBJECTS {
        let mut guard = closing.kept.set.grab(object).wait_for(LIMIT).expect("it is made");
        guard.push('y');
        guard.put().wait_for(LIMIT).expect("it is put");
    }
    closing.is_too_much();
    closing.go_round();
    closing.freeze(&[NodeId(1)]);
    closing.close_in_slices();
    assert!(!closing.closes(), "some are held to be written");
    assert_eq!(closing.count(), OBJECTS);
    closing.kept.slow.let_writes_end(true);
    eventually(LIMIT, "they have gone", || closing.closes());
    assert!((OBJECTS / 2..OBJECTS).contains(&closing.count()), "{}, of those that were under way", closing.count());
    closing.is_closed_until_the_thaw();
}

/// What leaves in one step has left here when its home has yet to hear of it.
#[test]
fn a_removal_that_is_under_way_is_in_the_way_until_its_home_has_heard_of_it() {
    let closing = Closing::of(Kept::of_many(2, WritePolicy::Through, 1 << 20));
    closing.kept.read_all();
    closing.is_too_much();
    let home = closing.kept.nodes[1].runtime();
    let deaf: Vec<_> = home.lanes.iter().map(|lane| lane.lock()).collect();
    closing.go_round();
    let is_removing = || closing.here.runtime.lanes.iter().any(|lane| lane.lock().core.is_removing(closing.here.set));
    assert!(is_removing(), "the homes of half of them are there");
    closing.freeze(&[NodeId(1)]);
    closing.close_in_slices();
    assert!(!closing.closes(), "they are being removed");
    home.lanes.iter().zip(deaf).for_each(|(lane, state)| lane.finish(state));
    closing.is_closed_until_the_thaw();
}
