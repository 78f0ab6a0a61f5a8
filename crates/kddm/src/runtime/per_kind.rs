//! Counts of messages by kind.

use std::ops::{Deref, DerefMut};

use kddm_core::message::MESSAGE_KINDS;

/// A count for each kind of message, in the order of their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerKind([u64; MESSAGE_KINDS]);

impl Default for PerKind {
    fn default() -> PerKind {
        PerKind([0; MESSAGE_KINDS])
    }
}

impl Deref for PerKind {
    type Target = [u64; MESSAGE_KINDS];

    fn deref(&self) -> &[u64; MESSAGE_KINDS] {
        &self.0
    }
}

impl DerefMut for PerKind {
    fn deref_mut(&mut self) -> &mut [u64; MESSAGE_KINDS] {
        &mut self.0
    }
}
