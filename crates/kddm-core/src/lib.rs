//! The coherence protocol of KDDM, pure: no I/O, no clock, no thread, no randomness, no payload.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod frame;
pub mod home;
pub mod id;
pub mod io;
mod losses;
pub mod membership;
pub mod message;
#[cfg(not(kddm_mutation))]
mod mutation;
#[cfg(kddm_mutation)]
pub mod mutation;
pub mod node;
pub mod nodeset;
mod object;
mod placement;
mod recovery;
pub mod replicas;
pub mod session;
pub mod shard;
mod table;
pub mod view;

pub use object::state::Main;
