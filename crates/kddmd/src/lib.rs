//! The programs around a KDDM cluster: the daemon `kddmd` and its tool `kddmadm`. Thin: all logic is the
//! library's.
// The answer to `stats` is one large object.
#![recursion_limit = "256"]

pub mod admin;
pub mod bench;
pub mod config;
pub mod daemon;
pub mod data_dir;
pub mod demo;
pub mod doctor;
pub mod ending;
pub mod guardian;
pub mod history;
pub mod http;
pub mod joining;
mod life;
pub mod metrics;
pub mod notify;
pub mod playground;
pub mod sharing;
pub mod show;
