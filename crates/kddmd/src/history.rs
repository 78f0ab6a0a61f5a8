//! `kddmadm history check`: what is said of a file, and with which status.

use std::fmt;
use std::fs::File;
use std::path::Path;

use kddm_history::{BUDGET, ReadError, Report, Verdict};
use serde_json::{Value as Json, json};

/// What came of a check.
#[derive(Debug)]
pub enum Checked {
    /// The history was judged.
    Judged(Report),
    /// There is no history in that file.
    Unreadable(ReadError),
}

/// Reads and judges the history of a file; `-` is standard input.
pub fn check(file: &Path) -> Checked {
    let operations = if file == Path::new("-") {
        kddm_history::read(std::io::stdin().lock())
    } else {
        File::open(file).map_err(ReadError::from).and_then(kddm_history::read)
    };
    match operations {
        Ok(operations) => Checked::Judged(kddm_history::check(&operations, BUDGET)),
        Err(error) => Checked::Unreadable(error),
    }
}

impl Checked {
    /// 0: linearizable; 1: not; 2: nobody knows.
    pub fn status(&self) -> u8 {
        match self {
            Checked::Judged(Report { verdict: Verdict::Linearizable, .. }) => 0,
            Checked::Judged(Report { verdict: Verdict::NotLinearizable(_), .. }) => 1,
            Checked::Judged(_) | Checked::Unreadable(_) => 2,
        }
    }

    /// The same as JSON; `docs/testing.md` has the shape.
    pub fn json(&self) -> Json {
        match self {
            Checked::Judged(report) => report.to_json(),
            Checked::Unreadable(error) => json!({ "verdict": "unreadable", "error": error.to_string() }),
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checked::Judged(report) => report.fmt(f),
            Checked::Unreadable(error) => error.fmt(f),
        }
    }
}
