//! Demonstrations: real processes, real data, and a check that the result is right.

pub mod count;
pub mod dealt;
pub mod watched;
pub mod words;
pub mod worker;
pub mod workers;

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
    #[error("counting process {number} ended before its work was done: {reason}")]
    Worker {
        /// Which, from 1.
        number: usize,
        /// How it ended.
        reason: String,
    },
    /// All counting processes live, and none has counted anything for long.
    #[error("no counting process has said anything for {0} s; is one of them stopped?")]
    Silent(u64),
    /// There is nobody to tell of the end of a process.
    #[error("the guardian of the demonstration does not start: {0}")]
    Guardian(String),
    /// What the killed process had was not taken over.
    #[error("not all is whole {0} s after a process was killed")]
    NotWhole(u64),
    /// The result could not be printed.
    #[error("the result could not be written to standard output: {0}")]
    Output(std::io::Error),
    /// The cluster refused something.
    #[error(transparent)]
    Cluster(#[from] kddm::Error),
}
