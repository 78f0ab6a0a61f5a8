//! The world of KDDM, simulated: whole clusters in one thread, on the real core.
//!
//! [`model`] searches every interleaving of small cases; [`run`] drives large ones from a seed, which
//! decides the whole [`scenario`]: clients, latencies, and what goes wrong ([`fault`]) on the links
//! ([`network`]). Both step the same [`world::World`], and the same checkers watch it ([`check`]).

pub mod agent;
pub mod check;
pub mod fault;
pub mod lease_model;
pub mod model;
#[cfg(kddm_mutation)]
pub mod mutations;
pub mod network;
pub mod recorder;
pub mod run;
pub mod scale;
pub mod scenario;
pub mod search;
pub mod shrink;
pub mod stack;
pub mod trace;
pub mod views;
pub mod voters;
pub mod world;
