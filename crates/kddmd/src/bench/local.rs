//! The benchmark on a cluster of its own: processes of this program, on loopback, gone afterwards.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kddm::{Address, Config, Node};

use serde_json::{Value as Json, json};

use super::{Error, Options, Report};

/// How long a process of the cluster may need to join.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// The other processes; none outlives the benchmark: their standard input ends with it.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
        }
        for child in &mut self.0 {
            let _ended = child.wait();
        }
    }
}

/// Why there was no benchmark.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A process of the cluster did not start.
    #[error("process {number} of the cluster did not start: {reason}")]
    Process {
        /// Which, from 2: the first is this one.
        number: u16,
        /// What the system, or the process, says.
        reason: String,
    },
    /// The benchmark itself.
    #[error(transparent)]
    Bench(#[from] Error),
}

/// Starts `nodes` processes with a node each, this one included, and runs the benchmark on them.
///
/// # Errors
/// Names the process that did not start; else as [`run`](super::run).
pub fn run(nodes: u16, options: &Options) -> Result<Report, LocalError> {
    let node = Node::join(Config::new().join_limit(JOIN_LIMIT)).wait().map_err(Error::from)?;
    let mut processes = Processes(Vec::new());
    for number in 2..=nodes {
        let failed = |reason: String| LocalError::Process { number, reason };
        let child = start(node.address()).map_err(|error| failed(error.to_string()))?;
        processes.0.push(child);
    }
    for (number, child) in (2..).zip(&mut processes.0) {
        let mut line = String::new();
        let output = child.stdout.take().map(BufReader::new);
        let read = output.map_or(Ok(0), |mut output| output.read_line(&mut line));
        if read.is_err() || line.trim() != READY {
            let reason = "it ended before it was ready; what it said stands above".into();
            return Err(LocalError::Process { number, reason });
        }
    }
    node.wait_for_members(usize::from(nodes), JOIN_LIMIT).map_err(Error::from)?;
    let bar = bar();
    let report = super::run(&node, options, &mut |progress| show(&bar, &json!(progress)));
    bar.finish_and_clear();
    Ok(report?)
}

fn start(contact: &Address) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["bench-node", "--contact", &contact.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

/// What a process says when it serves.
const READY: &str = "ready";

/// One of the other processes: serves until its standard input ends.
///
/// # Errors
/// What the cluster says.
pub fn serve(contact: &Address) -> Result<(), kddm::Error> {
    let node = Node::join(Config::new().contact(contact.clone()).join_limit(JOIN_LIMIT)).wait()?;
    let guard = super::serve(&node)?;
    println!("{READY}");
    let _parent_may_be_gone = std::io::stdout().flush();
    for _line in std::io::stdin().lock().lines().map_while(Result::ok) {}
    drop(guard);
    Ok(())
}

/// A bar on standard error, if that is a terminal.
pub fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// How far a benchmark is, as [`Progress`](super::Progress) says in JSON.
pub fn show(bar: &ProgressBar, progress: &Json) {
    let number = |name: &str| progress[name].as_u64().unwrap_or_default();
    let part = number("operations") as f64 / number("of_operations").max(1) as f64;
    bar.set_length(number("of"));
    bar.set_position(number("number").saturating_sub(1));
    let text = |name: &str| progress[name].as_str().unwrap_or_default();
    bar.set_message(format!("{} in {}: {:.0} %", text("case"), text("set"), 100.0 * part));
}
