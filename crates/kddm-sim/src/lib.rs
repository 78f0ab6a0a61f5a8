//! The world of KDDM, simulated: whole clusters in one thread, on the real core.
//!
//! [`model`] searches every interleaving of small cases; [`run`] drives large ones from a seed.
//! Both step the same [`world::World`], and the same checkers watch it ([`check`]).

pub mod agent;
pub mod check;
pub mod model;
#[cfg(kddm_mutation)]
pub mod mutations;
pub mod run;
pub mod search;
pub mod trace;
pub mod views;
pub mod world;
