//! What a linker has heard of the copies that this node has of its objects, and what it is still to hear.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::io::Access;
use parking_lot::{Condvar, Mutex};

use crate::runtime::wait::deadline_in;

/// What a linker is told next.
pub(super) enum Step<T> {
    /// There is a copy, to be used up to that access.
    Came { version: u64, value: Arc<T>, to: Access },
    /// The copy is the same, and what may be done with it is not.
    Changed { from: Access, to: Access },
    /// There is none any more.
    Gone { from: Access },
}

/// Whether a linker has heard that this node has less of an object.
pub(crate) enum Lowered {
    Told,
    /// It is told now. Somebody is to look then whether that takes too long, unless somebody does already.
    Later(Option<Instant>),
}

/// Somebody waits for the linker to hear that there is less of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Awaited {
    pub since: Instant,
    /// Then he goes on.
    until: Instant,
}

/// The copy of one object.
struct Copy<T> {
    /// The most that the linker may believe: what it has heard, or hears just now.
    told: Access,
    is: Access,
    /// What has come, until the linker hears of it.
    came: Option<(u64, Arc<T>)>,
    /// It has its place in the order.
    is_queued: bool,
    awaited: Option<Awaited>,
    /// He has waited for too long.
    is_late: bool,
}

impl<T> Copy<T> {
    fn none() -> Copy<T> {
        let (told, is) = (Access::None, Access::None);
        Copy { told, is, came: None, is_queued: false, awaited: None, is_late: false }
    }

    /// What the linker is to hear next. It believes the more of both while it hears of it.
    fn next(&mut self) -> Option<Step<T>> {
        let from = self.told;
        if from != Access::None && (self.is == Access::None || self.came.is_some()) {
            return Some(Step::Gone { from });
        }
        if from == Access::None {
            let (version, value) = self.came.take()?;
            self.told = self.is;
            return Some(Step::Came { version, value, to: self.is });
        }
        self.told = from.max(self.is);
        (from != self.is).then_some(Step::Changed { from, to: self.is })
    }

    fn is_told(&self) -> bool {
        self.told <= self.is && (self.came.is_none() || self.told == Access::None)
    }

    /// Whether the thread that tells has something to do with it.
    fn has_news(&self) -> bool {
        self.told != self.is || self.came.is_some() || self.is == Access::None
    }
}

struct Inside<T> {
    of: HashMap<u64, Copy<T>>,
    /// Those of which there is something to tell.
    order: VecDeque<u64>,
    /// When somebody looks for those that have waited for too long.
    looks_at: Option<Instant>,
    has_thread: bool,
    is_closed: bool,
}

/// See the module.
pub(super) struct Copies<T> {
    inside: Mutex<Inside<T>>,
    news: Condvar,
}

impl<T> Copies<T> {
    pub fn new() -> Copies<T> {
        let (order, looks_at) = Default::default();
        let inside = Inside { of: HashMap::new(), order, looks_at, has_thread: false, is_closed: false };
        Copies { inside: Mutex::new(inside), news: Condvar::new() }
    }

    /// Somebody is about to tell. False: one does already, or nothing is told any more.
    pub fn begin(&self) -> bool {
        let mut inside = self.inside.lock();
        !inside.is_closed && !std::mem::replace(&mut inside.has_thread, true)
    }

    /// Nobody tells any more.
    pub fn has_ended(&self) {
        self.inside.lock().has_thread = false;
        self.news.notify_all();
    }

    /// A copy is here, to be used up to that access; `look` at it, unless it is one that is known. False: it cannot be seen.
    pub fn came(&self, object: u64, access: Access, look: impl FnOnce() -> Option<(u64, Arc<T>)>) -> bool {
        let mut inside = self.inside.lock();
        if inside.is_closed {
            return true;
        }
        let known = inside.of.get(&object).is_some_and(|copy| copy.is != Access::None);
        let came = if known { None } else { look() };
        if !known && came.is_none() {
            return false;
        }
        let copy = inside.of.entry(object).or_insert_with(Copy::none);
        if !known {
            (copy.came, copy.is_late) = (came, false);
        }
        copy.is = copy.is.max(access);
        self.queue(&mut inside, object);
        true
    }

    /// The copy may be used up to that access at most: whoever waits for that goes on when the linker has heard of it, or
    /// after the limit.
    pub fn lowers(&self, object: u64, to: Access, limit: Duration) -> Lowered {
        let mut inside = self.inside.lock();
        self.lower(&mut inside, object, to);
        let is_closed = inside.is_closed;
        let Some(copy) = inside.of.get_mut(&object) else { return Lowered::Told };
        if copy.is_told() || copy.is_late || is_closed {
            return Lowered::Told;
        }
        let begins = || Awaited { since: Instant::now(), until: deadline_in(limit) };
        let deadline = copy.awaited.get_or_insert_with(begins).until;
        let is_looked_for = inside.looks_at.is_some();
        inside.looks_at.get_or_insert(deadline);
        Lowered::Later((!is_looked_for).then_some(deadline))
    }

    /// How it is, where nobody waits for the linker to hear of it.
    pub fn is_less(&self, object: u64, access: Access) {
        self.lower(&mut self.inside.lock(), object, access);
    }

    fn lower(&self, inside: &mut Inside<T>, object: u64, to: Access) {
        let Some(copy) = inside.of.get_mut(&object) else { return };
        copy.is = copy.is.min(to);
        if copy.is == Access::None {
            copy.came = None;
        }
        self.queue(inside, object);
    }

    fn queue(&self, inside: &mut Inside<T>, object: u64) {
        let Some(copy) = inside.of.get_mut(&object).filter(|copy| copy.has_news()) else { return };
        if !std::mem::replace(&mut copy.is_queued, true) {
            inside.order.push_back(object);
            self.news.notify_all();
        }
    }

    /// Waits for something to tell. `None`: there is nothing any more.
    pub fn next(&self) -> Option<(u64, Step<T>)> {
        let mut inside = self.inside.lock();
        loop {
            while let Some(object) = inside.order.pop_front() {
                let Some(copy) = inside.of.get_mut(&object) else { continue };
                copy.is_queued = false;
                if let Some(step) = copy.next() {
                    return Some((object, step));
                }
                if (copy.told, copy.is) == (Access::None, Access::None) {
                    inside.of.remove(&object);
                }
            }
            if inside.is_closed {
                return None;
            }
            self.news.wait(&mut inside);
        }
    }

    /// The linker has heard that. Whether somebody has waited for it, who may go on.
    pub fn told(&self, object: u64, step: &Step<T>) -> bool {
        let mut inside = self.inside.lock();
        let Some(copy) = inside.of.get_mut(&object) else { return false };
        match step {
            Step::Came { .. } => {}
            Step::Changed { to, .. } => copy.told = *to,
            Step::Gone { .. } => copy.told = Access::None,
        }
        let goes_on = copy.is_told() && copy.awaited.take().is_some();
        // Who waits after that waits as the first did.
        copy.is_late &= !copy.is_told();
        self.queue(&mut inside, object);
        goes_on
    }

    /// Whether somebody waits for the linker to hear of an object, and what that believes that it may do with it.
    pub fn awaited(&self, object: u64) -> Option<(Awaited, Access)> {
        let inside = self.inside.lock();
        let copy = inside.of.get(&object)?;
        Some((copy.awaited?, copy.told))
    }

    /// Those for which somebody has waited for too long, and when to look again.
    pub fn late(&self, now: Instant) -> (Vec<u64>, Option<Instant>) {
        let mut inside = self.inside.lock();
        let mut late = Vec::new();
        for (object, copy) in &mut inside.of {
            if copy.awaited.is_some_and(|awaited| awaited.until <= now) {
                (copy.awaited, copy.is_late) = (None, true);
                late.push(*object);
            }
        }
        inside.looks_at = inside.of.values().filter_map(|copy| Some(copy.awaited?.until)).min();
        (late, inside.looks_at)
    }

    /// No copy is of any use here any more. The linker still hears of that, and of nothing after it.
    pub fn end(&self) {
        let mut inside = self.inside.lock();
        if std::mem::replace(&mut inside.is_closed, true) {
            return;
        }
        let objects: Vec<u64> = inside.of.keys().copied().collect();
        for object in objects {
            if let Some(copy) = inside.of.get_mut(&object) {
                (copy.is, copy.came, copy.awaited) = (Access::None, None, None);
            }
            self.queue(&mut inside, object);
        }
        drop(inside);
        self.news.notify_all();
    }

    /// Whether the linker has heard of the end of all.
    pub fn wait_for_end(&self, deadline: Instant) -> bool {
        let mut inside = self.inside.lock();
        while inside.has_thread {
            if self.news.wait_until(&mut inside, deadline).timed_out() {
                break;
            }
        }
        !inside.has_thread
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn came(copies: &Copies<u64>, object: u64, access: Access, version: u64) {
        assert!(copies.came(object, access, || Some((version, Arc::new(version)))));
    }

    fn untold(copies: &Copies<u64>) -> usize {
        copies.inside.lock().order.len()
    }

    /// All that is to be told now, as text.
    fn told(copies: &Copies<u64>) -> String {
        let mut all = Vec::new();
        while untold(copies) > 0 {
            copies.inside.lock().is_closed = true;
            let next = copies.next();
            copies.inside.lock().is_closed = false;
            let Some((object, step)) = next else { break };
            all.push(match &step {
                Step::Came { version, to, .. } => format!("{object} came {version} {to:?}"),
                Step::Changed { from, to } => format!("{object} {from:?} {to:?}"),
                Step::Gone { from } => format!("{object} gone {from:?}"),
            });
            copies.told(object, &step);
        }
        all.join(", ")
    }

    fn waits(lowered: &Lowered) -> bool {
        matches!(lowered, Lowered::Later(_))
    }

    #[test]
    fn each_object_is_told_in_order_and_less_is_awaited() {
        let copies = Copies::new();
        came(&copies, 7, Access::Read, 1);
        assert_eq!(told(&copies), "7 came 1 Read");
        came(&copies, 7, Access::Write, 9);
        came(&copies, 8, Access::Read, 2);
        assert_eq!(told(&copies), "7 Read Write, 8 came 2 Read");
        assert_eq!(copies.awaited(7), None);
        assert!(waits(&copies.lowers(7, Access::Read, LIMIT)));
        let awaited = |object| copies.awaited(object).map(|(_, believes)| believes);
        assert_eq!((awaited(7), awaited(8), awaited(9)), (Some(Access::Write), None, None));
        assert_eq!(told(&copies), "7 Write Read");
        assert_eq!(awaited(7), None);
        assert!(!waits(&copies.lowers(7, Access::Read, LIMIT)), "it has heard of it");
        assert!(waits(&copies.lowers(7, Access::None, LIMIT)) && waits(&copies.lowers(8, Access::None, LIMIT)));
        assert_eq!(told(&copies), "7 gone Read, 8 gone Read");
        assert!(!waits(&copies.lowers(7, Access::None, LIMIT)));
        assert!(copies.inside.lock().of.is_empty(), "nothing is left of them");
    }

    #[test]
    fn what_comes_and_goes_before_anybody_hears_of_it_is_not_told() {
        let copies = Copies::new();
        came(&copies, 7, Access::Write, 1);
        assert!(!waits(&copies.lowers(7, Access::None, LIMIT)), "there is nothing to take back");
        came(&copies, 7, Access::Read, 2);
        assert_eq!(told(&copies), "7 came 2 Read");
    }

    #[test]
    fn what_goes_while_it_is_told_that_it_came_is_awaited() {
        let copies = Copies::new();
        came(&copies, 7, Access::Read, 1);
        let (object, step) = copies.next().expect("it came");
        assert!(waits(&copies.lowers(7, Access::None, LIMIT)), "it may be in use by now");
        assert!(!copies.told(object, &step), "not yet");
        let (object, step) = copies.next().expect("it goes");
        assert!(matches!(step, Step::Gone { .. }));
        assert!(copies.told(object, &step), "now it is gone");
    }

    #[test]
    fn whoever_waits_for_too_long_goes_on_and_another_copy_comes_after_the_end_of_the_first() {
        let copies = Copies::new();
        came(&copies, 7, Access::Read, 1);
        assert_eq!(told(&copies), "7 came 1 Read");
        let Lowered::Later(Some(at)) = copies.lowers(7, Access::None, Duration::ZERO) else {
            panic!("it is to be told")
        };
        assert!(matches!(copies.lowers(7, Access::None, LIMIT), Lowered::Later(None)), "somebody looks already");
        assert!(copies.awaited(7).is_some_and(|(awaited, _)| awaited.since <= at));
        assert_eq!(copies.late(at), (vec![7], None));
        assert_eq!(copies.awaited(7), None, "he has gone on");
        assert!(!waits(&copies.lowers(7, Access::None, LIMIT)));
        came(&copies, 7, Access::Write, 2);
        assert_eq!(told(&copies), "7 gone Read, 7 came 2 Write");
        assert!(waits(&copies.lowers(7, Access::None, LIMIT)), "this one is awaited again");
    }

    #[test]
    fn at_the_end_all_are_gone_and_none_comes() {
        let copies = Copies::new();
        assert!(copies.begin() && !copies.begin(), "one thread tells");
        came(&copies, 7, Access::Write, 1);
        assert_eq!(told(&copies), "7 came 1 Write");
        copies.end();
        came(&copies, 8, Access::Write, 1);
        let (object, step) = copies.next().expect("it is gone");
        assert!(object == 7 && matches!(step, Step::Gone { from: Access::Write }));
        copies.told(object, &step);
        assert!(copies.next().is_none());
        assert!(!copies.wait_for_end(Instant::now()));
        copies.has_ended();
        assert!(copies.wait_for_end(Instant::now()) && !copies.begin());
    }

    #[test]
    fn what_cannot_be_seen_did_not_come() {
        let copies = Copies::<u64>::new();
        assert!(!copies.came(7, Access::Read, || None));
        assert_eq!((untold(&copies), waits(&copies.lowers(7, Access::None, LIMIT))), (0, false));
    }
}
