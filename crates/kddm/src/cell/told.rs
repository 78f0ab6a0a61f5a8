//! Holds of which the driver is told, whichever way they end.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use super::hold::{ReadHold, WriteHold};
use crate::value::Value;

/// A hold of a value of some type.
pub trait Release {
    /// The number of its table, and the object.
    fn names(&self) -> (u64, u64);
    /// Ends the hold. True: tell the driver.
    fn end(self) -> bool;
}

impl<T: Value> Release for ReadHold<T> {
    #[inline(always)]
    fn names(&self) -> (u64, u64) {
        (self.table(), self.id())
    }
    #[inline(always)]
    fn end(self) -> bool {
        self.release()
    }
}

impl<T: Value> Release for WriteHold<T> {
    #[inline(always)]
    fn names(&self) -> (u64, u64) {
        (self.table(), self.id())
    }
    #[inline(always)]
    fn end(self) -> bool {
        self.release()
    }
}

/// Who tells the driver of an object, by the number of its table, that a hold has ended.
pub trait Teller {
    /// The driver waits for this.
    fn tell(table: u64, object: u64);
}

/// A hold of which the driver is told at its end, whichever way it ends.
pub struct Told<H: Release, B: Teller> {
    hold: ManuallyDrop<H>,
    by: PhantomData<fn(B)>,
}

impl<H: Release, B: Teller> Told<H, B> {
    /// The hold as it is.
    #[inline(always)]
    pub fn new(hold: H) -> Told<H, B> {
        Told { hold: ManuallyDrop::new(hold), by: PhantomData }
    }
}

impl<H: Release, B: Teller> Told<H, B> {
    /// Ends the hold where the driver is at work already. True: it waits for this, unless it looks after that by itself.
    pub fn end_untold(self) -> bool {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither looked at nor dropped after this.
        let hold = unsafe { ManuallyDrop::take(&mut this.hold) };
        hold.end()
    }
}

impl<T: Value, B: Teller> Told<WriteHold<T>, B> {
    /// Publishes what was changed, or the value as it is, and keeps the hold: nobody sees it before that
    /// ends. The version.
    pub fn publish_and_hold(&mut self) -> u64 {
        self.hold.publish_change();
        self.hold.version()
    }

    /// Publishes what was changed, or the value as it is, and ends the hold.
    #[inline(always)]
    pub fn publish(self) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither looked at nor dropped after this.
        let mut hold = unsafe { ManuallyDrop::take(&mut this.hold) };
        hold.publish_change();
        let (table, object) = hold.names();
        if hold.release_unchanged() {
            B::tell(table, object);
        }
    }
}

impl<H: Release, B: Teller> Deref for Told<H, B> {
    type Target = H;
    #[inline(always)]
    fn deref(&self) -> &H {
        &self.hold
    }
}

impl<H: Release, B: Teller> DerefMut for Told<H, B> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut H {
        &mut self.hold
    }
}

impl<H: Release, B: Teller> Drop for Told<H, B> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: nobody looks at it after this: the whole is being dropped.
        let hold = unsafe { ManuallyDrop::take(&mut self.hold) };
        let (table, object) = hold.names();
        if hold.end() {
            B::tell(table, object);
        }
    }
}
