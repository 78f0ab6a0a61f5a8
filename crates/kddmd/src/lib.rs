//! The tools around a KDDM cluster. Thin: all logic is the library's.

pub mod bench;
pub mod demo;
