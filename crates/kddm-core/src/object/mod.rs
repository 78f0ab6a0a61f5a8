//! One object on one node, by the tables of `docs/protocol.md`: its state, and what each event does
//! to it. A [`Turn`](state::Turn) is an object unpacked for the time of one input.

pub(crate) mod decision;
mod enter;
mod gone;
pub(crate) mod local;
mod message;
mod replica;
pub(crate) mod request;
pub(crate) mod serve;
pub(crate) mod state;
pub(crate) mod try_grab;
