//! Byte streams between nodes: TCP, Unix sockets, and pairs inside one process. All three are stream
//! sockets, so everything above is one code.

pub mod address;
mod failures;
pub mod greeting;
mod handshake;
pub mod poll;
pub mod stream;
mod unix;

pub use address::{Address, AddressError};
pub use poll::{Event, Poller};
pub use stream::{DialError, Listener, Stream};
