//! Real `kddmd` processes, each in a network namespace with an address of its own, clients that write
//! down what they did and saw, and faults: killed and stopped processes, pulled cables, lost packets, a
//! full disk, clocks that differ. Afterwards the histories are judged: is what was seen linearizable, is
//! a completed put lost, was anything stale read, and how long was an object away whose owner had trouble.

pub mod client;
pub mod cluster;
pub mod command;
pub mod fault;
pub mod judge;
pub mod network;
pub mod plan;
pub mod plot;
pub mod probe;
pub mod reads;
pub mod report;
pub mod residue;
pub mod run;
pub mod said;
pub mod world;
