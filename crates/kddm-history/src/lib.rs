//! Histories of operations on shared objects: how they are written down, and whether they are
//! linearizable (`I2`). The simulator judges its runs with it, and `kddmadm history check` those of
//! real processes.
//!
//! ```
//! use kddm_history::{BUDGET, Verdict, check, read};
//!
//! let text = r#"{"format":"kddm-history","version":1}
//! {"client":1,"object":7,"invoke_ns":0,"return_ns":10,"operation":"write","value":"a","outcome":"ok"}
//! {"client":2,"object":7,"invoke_ns":20,"return_ns":30,"operation":"read","result":null,"outcome":"ok"}
//! "#;
//! let operations = read(text.as_bytes())?;
//! let Verdict::NotLinearizable(offence) = check(&operations, BUDGET).verdict else {
//!     panic!("the read came after the write, and did not see it");
//! };
//! assert_eq!(offence.operations[0].client, 2);
//! # Ok::<(), kddm_history::ReadError>(())
//! ```

mod check;
mod format;
mod linearizable;
mod operation;

pub use check::{BUDGET, Offence, Report, Verdict, check};
pub use format::{MOST_LINE_BYTES, MOST_OPERATIONS, ReadError, read, write};
pub use operation::{Kind, Operation, Outcome, Seen, Word};
