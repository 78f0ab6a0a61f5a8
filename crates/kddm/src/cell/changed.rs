//! A value that is being changed, apart from the one that others may see.
//!
//! It is one word to whoever holds it, because write guards go through several hands. Plain old data
//! lies in a buffer of which each thread keeps one; other values in what will be the cell's `Arc`.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::arena::is_in_cell;
use super::content;
use super::slots::{keep_spare, take_spare};
use crate::value::{IN_CELL_ALIGN, IN_CELL_LIMIT_BYTES, Value};

/// Room for any value that may lie in a cell.
#[repr(C, align(32))]
pub(super) struct Scratch([u8; IN_CELL_LIMIT_BYTES]);

const _: () = assert!(align_of::<Scratch>() == IN_CELL_ALIGN);

/// A buffer nobody else has.
#[inline(always)]
fn scratch() -> NonNull<Scratch> {
    take_spare().unwrap_or_else(new_scratch)
}

#[cold]
fn new_scratch() -> NonNull<Scratch> {
    let layout = Layout::new::<Scratch>();
    // SAFETY: the layout has a size.
    let place = unsafe { alloc(layout) };
    NonNull::new(place.cast()).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Frees a buffer.
///
/// # Safety
/// It is one of [`scratch`], and nobody uses it afterwards.
#[cold]
unsafe fn free(scratch: NonNull<Scratch>) {
    // SAFETY: `new_scratch` allocated it with this layout.
    unsafe { dealloc(scratch.as_ptr().cast(), Layout::new::<Scratch>()) };
}

/// See the module. Points to the only value in a [`Scratch`], or to that of an `Arc` which has this one
/// count.
pub(super) struct Changed<T: Value> {
    value: NonNull<T>,
    of: PhantomData<T>,
}

// SAFETY: it owns the value; buffers belong to no thread.
unsafe impl<T: Value> Send for Changed<T> {}
// SAFETY: as above.
unsafe impl<T: Value> Sync for Changed<T> {}

impl<T: Value> Changed<T> {
    /// A copy of a value, to be changed.
    #[inline(always)]
    pub fn clone_of(value: &T) -> Changed<T> {
        if !is_in_cell::<T>() {
            return Changed::new(value.clone());
        }
        let place = scratch().cast::<T>();
        // SAFETY: a buffer is large enough and aligned for what may lie in a cell, and ours; `InCell`
        // proves that a copy of the bytes is a value.
        unsafe { place.copy_from_nonoverlapping(NonNull::from(value), 1) };
        Changed { value: place, of: PhantomData }
    }

    /// A new value.
    pub fn new(value: T) -> Changed<T> {
        if is_in_cell::<T>() {
            return Changed::clone_of(&value);
        }
        let pointer = Arc::into_raw(Arc::new(value)).cast_mut();
        let value = NonNull::new(pointer).expect("the value of an `Arc` has an address");
        Changed { value, of: PhantomData }
    }

    /// What a cell keeps; for values that do not lie in their cell.
    pub fn into_content(self) -> *mut () {
        assert!(!is_in_cell::<T>(), "a buffer is not for a cell to keep");
        std::mem::ManuallyDrop::new(self).value.as_ptr().cast()
    }
}

impl<T: Value> Deref for Changed<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: it is a value, and ours.
        unsafe { self.value.as_ref() }
    }
}

impl<T: Value> DerefMut for Changed<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: it is a value, and ours; of an `Arc` there is no other count.
        unsafe { self.value.as_mut() }
    }
}

impl<T: Value> Drop for Changed<T> {
    #[inline(always)]
    fn drop(&mut self) {
        if !is_in_cell::<T>() {
            // SAFETY: it came from `Arc::into_raw`, and this is its one count.
            unsafe { content::drop_value::<T>(self.value.as_ptr().cast()) };
            return;
        }
        // Plain old data has nothing to drop.
        let scratch = self.value.cast::<Scratch>();
        if !keep_spare(scratch) {
            // SAFETY: nobody else has it, and it is forgotten here.
            unsafe { free(scratch) };
        }
    }
}
