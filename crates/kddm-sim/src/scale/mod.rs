//! What a membership costs as it grows: clusters of up to a thousand nodes, each the real core, in views that the real
//! state decides. Nothing goes wrong here but what is asked for; the searches look for mistakes, this for costs.
//!
//! The time is modelled: a message takes [`LATENCY_NS`], whoever sends or takes one is busy for [`MESSAGE_NS`], and one
//! thing is done at a time. Each node owns as many objects as any, so that what grows with the nodes is the
//! membership's part.

mod host;
mod world;

use kddm_core::id::NodeId;
use serde::Serialize;

/// From a socket to the next in one network: 100 µs.
pub const LATENCY_NS: u64 = 100_000;

/// What a message costs whoever sends it, and whoever takes it: 5 µs, the half of a small call to the system and
/// what is done around it.
pub const MESSAGE_NS: u64 = 5_000;

/// What a step without a message costs: 1 µs.
pub const STEP_NS: u64 = 1_000;

/// The value of an object, in bytes.
pub const OBJECT_BYTES: u32 = 256;

/// What is around a change in a message of the log, and the word that it has come.
const LOG_BYTES: u32 = 120;

/// Nodes of one run, at most: one more joins, and there is room for that.
pub const MOST_NODES: u16 = 1_023;

/// What was found wrong.
pub type Wrong = String;

/// How large a cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Size {
    /// Nodes.
    pub nodes: u16,
    /// Objects that each of them owns.
    pub owned: u32,
    /// Copies of others' objects that each of them reads.
    pub copies: u32,
    /// Objects that each of them grabs from others, one after the other.
    pub misses: u32,
    /// Zones that the nodes are spread over; 0 if they name none.
    pub zones: u16,
}

impl Size {
    /// That many nodes with the objects that `kddm-sim scale` gives each.
    pub fn of(nodes: u16) -> Size {
        Size { nodes, owned: 64, copies: 16, misses: 8, zones: 0 }
    }
}

#[derive(Default)]
struct Part {
    messages: u64,
    bytes: u64,
    of_none: u64,
    longest_wait_ns: u64,
}

/// What a part of a run has cost, for each node on the average.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// Messages sent, those of the log among them.
    pub messages: f64,
    /// Those of no object: that shards are placed and all is reported, which each says to every other, and what is
    /// said of a shard as a whole.
    pub of_none: f64,
    /// Sent, in KiB.
    pub kib: f64,
    /// Until every member had all shards where they belong, and was told so by all others.
    pub holds_ms: f64,
    /// Until nothing was left to do.
    pub over_ms: f64,
    /// The longest that a message has waited at its receiver: a miss that comes then waits as long.
    pub longest_wait_ms: f64,
    /// What the core took of a processor, really, on the machine that has run this.
    pub core_ms: f64,
}

/// One run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// How large it was.
    pub size: Size,
    /// Until each node had its objects.
    pub fill: Cost,
    /// One grab of another's object while nothing else goes on.
    pub miss: Cost,
    /// One more member.
    pub join: Cost,
    /// One less, after it has handed over.
    pub leave: Cost,
    /// One less that is lost, from the decision on.
    pub loss: Cost,
    /// What the core keeps of objects and shards in each node, in KiB, before one joins.
    pub objects_kib: f64,
    /// What it keeps of one view, in KiB.
    pub view_kib: f64,
}

/// Runs a cluster of that size through all of it.
///
/// ```
/// use kddm_sim::scale::{Size, run};
///
/// let figures = run(Size { nodes: 3, owned: 4, copies: 2, misses: 1, zones: 0 })?;
/// assert!(figures.join.messages > 0.0 && figures.loss.holds_ms > 0.2);
/// # Ok::<(), String>(())
/// ```
///
/// # Errors
/// What a core refused or dropped, or who has lost something: then the figures would mean nothing.
pub fn run(size: Size) -> Result<Figures, Wrong> {
    if !(3..=MOST_NODES).contains(&size.nodes) {
        return Err(format!("{} nodes are refused: give 3 to {MOST_NODES}", size.nodes));
    }
    let mut world = world::World::new(size)?;
    let fill = world.fill()?;
    let miss = world.misses()?;
    world.check()?;
    let (objects_kib, view_kib) = world.memory();
    let join = world.join_one()?;
    world.check()?;
    let leave = world.leave_one(NodeId(2))?;
    world.check()?;
    let loss = world.lose_one(NodeId(3))?;
    Ok(Figures { size, fill, miss, join, leave, loss, objects_kib, view_kib })
}
