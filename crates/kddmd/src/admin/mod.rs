//! How a daemon is asked: one JSON object a line each way over the Unix socket `admin.sock` in its data
//! directory. Only its own user reaches it.

pub mod answer;
pub mod client;
pub mod coordination;
pub mod destroying;
pub mod detail;
pub mod events;
pub mod freezing;
pub mod linkers;
pub mod listing;
pub mod object;
pub mod protocol;
pub mod server;
pub mod sets;
pub mod sure;
