//! The programs as people run them: real processes on loopback, each with a limit to what it may take.

mod attached;
mod coordination;
mod daemons;
mod destroying;
mod doctor;
mod harness;
mod hostile;
mod leases;
mod playgrounds;
mod refusals;
mod rolling;
mod trio;
mod voting;
mod watching;
