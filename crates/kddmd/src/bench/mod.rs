//! The benchmark of a running cluster: Kerrighed's 13 cases in three temporary sets, timed beside a
//! bare round trip between the same two processes, and counted in messages against the budget of
//! `docs/protocol.md`.
//!
//! Every node that takes part [`serve`]s; one of them [`run`]s.
//!
//! ```
//! use kddmd::bench::{self, Options};
//!
//! let nodes = kddm::Node::local_cluster(2)?;
//! let _served = [bench::serve(&nodes[0])?, bench::serve(&nodes[1])?];
//! let options = Options { operations: 20, warm_up: 10, batch: 10, ..Options::default() };
//! let report = bench::run(&nodes[0], &options, &mut |_| {}).expect("two nodes are enough");
//! assert_eq!(report.off_budget().count(), 0);
//! # Ok::<(), kddm::Error>(())
//! ```

mod case;
pub mod local;
mod measure;
mod participant;
mod report;
mod round_trip;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kddm::rpc::Replies;
use kddm::{Node, NodeState, RpcError};

pub use case::{Before, CASES, Case, Operation, SETS, SetKind};
pub use participant::{Guard, serve};
pub use report::{CaseReport, Report, Skipped, Times};

use measure::Bench;
use participant::{Answer, BATCH_LIMIT, Order, SERVICE};

/// How long a participant may need for what it is told: for a batch of objects far more than enough.
const ORDER_LIMIT: Duration = Duration::from_secs(10);

/// What is measured how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Operations of each case.
    pub operations: usize,
    /// Operations of each case that are done first and not counted.
    pub warm_up: usize,
    /// A case ends after so long, with the preparation of its objects, however many operations
    /// there were; one batch is always done.
    pub case_limit: Duration,
    /// Objects that are prepared together, 1 to 10,000.
    pub batch: usize,
    /// The beginning of the names of the temporary sets. Default: one that no other run has.
    pub name: Option<String>,
    /// Set it, and the benchmark ends with [`Error::Cancelled`].
    pub cancel: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            operations: 10_000,
            warm_up: 500,
            case_limit: Duration::from_secs(10),
            batch: 250,
            name: None,
            cancel: Arc::default(),
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), Error> {
        let out = |setting, value: usize, rule| Err(Error::OutOfRange { setting, value, rule });
        if self.operations == 0 || self.operations > MOST_OPERATIONS {
            return out("operations", self.operations, "it must be from 1 to 10,000,000");
        }
        if self.batch == 0 || self.batch as u64 > BATCH_LIMIT {
            return out("batch", self.batch, "it must be from 1 to 10,000");
        }
        Ok(())
    }

    fn is_cancelled(&self) -> Result<(), Error> {
        if self.cancel.load(Ordering::Acquire) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Every time that is measured is kept: this many need 160 MB.
const MOST_OPERATIONS: usize = 10_000_000;

/// Where a benchmark is.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Progress {
    /// The set.
    pub set: &'static str,
    /// The case.
    pub case: &'static str,
    /// Which of all cases in all sets, from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// Operations of this case that are done.
    pub operations: usize,
    /// Operations that it will have, unless its limit ends it.
    pub of_operations: usize,
}

/// Why there is no report. The temporary sets are removed, unless it says that they are not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nobody to measure with.
    #[error(
        "a benchmark needs two nodes that serve it; besides this one there are {others}, and {without} of them have \
             no service {SERVICE:?}. Add a node, or start it with a program that serves the benchmark"
    )]
    TooFewNodes {
        /// Other nodes that share objects.
        others: usize,
        /// Those that do not serve.
        without: usize,
    },
    /// It was asked to stop.
    #[error("the benchmark was stopped; its sets are removed")]
    Cancelled,
    /// The cluster said no.
    #[error(transparent)]
    Cluster(#[from] kddm::Error),
    /// The bare round trip to a participant broke.
    #[error("the round trip to node {node} broke: {reason}")]
    RoundTrip {
        /// The participant.
        node: u16,
        /// What the system says.
        reason: String,
    },
    /// A participant answered what it was not asked.
    #[error("node {0} gave an answer to another question; do all nodes run one version of the program?")]
    Answer(u16),
    /// A temporary set is still there.
    #[error("the set {set:?} of the benchmark could not be removed: {reason}; remove it by hand")]
    LeftBehind {
        /// Its name.
        set: String,
        /// Why.
        reason: String,
    },
    /// An option is out of its range.
    #[error("{setting} is {value}; {rule}")]
    OutOfRange {
        /// The option.
        setting: &'static str,
        /// What was given.
        value: usize,
        /// What is allowed.
        rule: &'static str,
    },
}

/// Runs all cases that the cluster has enough nodes for, from this node. Blocks. The temporary sets
/// are removed in any case, also when `progress` panics.
///
/// # Errors
/// Each says what to do; see [`Error`].
pub fn run(node: &Node, options: &Options, progress: &mut dyn FnMut(&Progress)) -> Result<Report, Error> {
    options.check()?;
    let members = node.members();
    let shares = |state: NodeState| state == NodeState::Possible;
    let possible = members.iter().filter(|member| shares(member.state)).map(|member| member.id);
    let mut others: Vec<u16> = possible.filter(|id| *id != node.id()).collect();
    others.sort_unstable();
    let all = others.len();
    let not_asked = without_service(node, &mut others)?;
    if others.is_empty() {
        return Err(Error::TooFewNodes { others: all, without: not_asked.len() });
    }
    let bench = Bench::new(node, options, others)?;
    let measured = bench.measure(progress);
    let removed = bench.remove_sets();
    let mut report = measured?;
    removed?;
    report.nodes = all + 1;
    report.not_asked = not_asked;
    Ok(report)
}

/// Takes those out of `others` that do not serve. Anything else that is wrong with one is an error.
fn without_service(node: &Node, others: &mut Vec<u16>) -> Result<Vec<u16>, Error> {
    let replies: Replies<Answer> = node.rpc().call_all_typed(others, SERVICE, &Order::Count, ORDER_LIMIT).wait()?;
    let mut without = Vec::new();
    for (other, reply) in replies {
        match reply {
            Ok(_) => {}
            Err(kddm::Error::Rpc(RpcError::NoService { .. })) => without.push(other),
            Err(error) => return Err(error.into()),
        }
    }
    others.retain(|other| !without.contains(other));
    Ok(without)
}
