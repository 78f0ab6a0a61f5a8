//! Programs without a node of their own. A node lends them access to objects over a Unix socket; they
//! cache it, and give it back when others want it.
//!
//! | file | side | concept |
//! |---|---|---|
//! | `frame.rs pipe.rs failure.rs` | both | what is said, its bytes, errors on their way |
//! | `door.rs` | node | the socket: who is let in, and questions about sets and members |
//! | `session.rs` | node | one program: its frames, its limits, its end |
//! | `deaf.rs` | node | programs that take nothing of what they are told |
//! | `desk.rs` | node | what is lent to whom, and how it comes back |
//! | `uses.rs` | node | which programs are in the middle of something with a set, or wait for its thaw |
//! | `link.rs` | program | the lane's other end: the node in the place of the core |
//! | `putting.rs` | program | when its puts are complete |
//! | `clock.rs` | both | the node's deadlines on a clock that began at another time |
//! | `attach.rs` | program | how a program finds its node, and becomes a `Runtime` |
//! | `parted.rs` | node | the end of a program, in all lanes and for who waits for it at a barrier |
//! | `views.rs` | both | who comes and goes, for notifiers of programs |
//! | `watches.rs` | both | what changes in sets that programs watch |
//! | `away.rs` | program | who asks while the node is gone, or about to go |
//! | `reattach.rs` | program | how it goes on when its node was gone and is back |
//!
//! The program's lane is the same code as a node's: waiters, cells, revocation, leader and followers. In
//! the place of the core stands the link: what the core would be told goes to the node as frames, and what
//! the node says is done as if the core had said it. The node treats a loan as a hold by a local thread.

pub(crate) mod attach;
mod away;
mod clock;
mod deaf;
pub(crate) mod desk;
pub(crate) mod door;
pub(crate) mod failure;
mod frame;
pub(crate) mod link;
mod parted;
mod pipe;
mod putting;
mod reattach;
pub(crate) mod session;
mod uses;
mod views;
pub(crate) mod watches;

use kddm_core::id::{ObjectId, SetId};

pub(crate) use putting::{EndOfHold, UnsafePut};

pub(crate) use deaf::TAKES_NOTHING;
pub(crate) use desk::Desk;
pub(crate) use link::{LENDER, Link};
pub(crate) use parted::Parted;
pub(crate) use session::program_of;
pub(crate) use uses::{Aside, Uses};

/// An object of a set.
type Place = (SetId, ObjectId);

/// Version of what is said on the socket, greeting included.
pub(crate) const VERSION: u16 = 6;

#[cfg(test)]
mod tests;
