//! Demonstrations: real processes, real data, and a check that the result is right.

pub mod count;
pub mod words;
pub mod worker;

/// Why a demonstration could not be given.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The folder cannot be read, or a file vanished.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// There is nothing to count.
    #[error("no text files below {0}; name a folder with some: kddmadm demo words DIR")]
    NoFiles(String),
    /// A counting process ended before its work was done.
    #[error("counting process {number} ended early: {reason}")]
    Worker {
        /// Which, from 1.
        number: usize,
        /// What it said.
        reason: String,
    },
    /// The cluster refused something.
    #[error(transparent)]
    Cluster(#[from] kddm::Error),
}
