//! The coherence protocol of KDDM, pure: no I/O, no clock, no thread, no randomness, no payload.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod id;
pub mod io;
pub mod message;
pub mod nodeset;
pub mod view;
