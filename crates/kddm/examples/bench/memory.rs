//! What a million objects cost besides their values, or as many millions as one asks for.

use std::time::{Duration, Instant};

use kddm::{Node, Pod, Set};

use crate::Failure;
use crate::remote::Peer;
use crate::report::Row;

/// An object of 64 bytes.
pub type Fields = Pod<[u64; 8]>;

const MILLION: u64 = 1_000_000;
const WINDOW: usize = 1024;

/// Bytes are counted, and it takes minutes: a machine that stands still meanwhile is not to end the run.
const LEASE: Duration = Duration::from_secs(60);

/// So many millions of them.
pub fn run(millions: u64) -> Result<Vec<Row>, Failure> {
    let objects = millions * MILLION;
    let node = Node::join(crate::settings().lease(LEASE)).wait()?;
    let mut reader = Peer::start(&node, None)?;
    let mut third = Peer::start(&node, None)?;
    let set: Set<Fields> = node.set("bench/fields").replicas(0).open().wait()?;
    let start = Instant::now();
    let ids: Vec<u64> = (0..objects).collect();
    for window in ids.chunks(WINDOW) {
        for pending in window.iter().map(|id| set.acquire(*id)).collect::<Vec<_>>() {
            pending.wait()?;
        }
        for id in window {
            let mut guard = set.grab(*id).wait()?;
            guard.0 = [*id; 8];
            guard.put().wait()?;
        }
    }
    let fill_seconds = start.elapsed().as_secs_f64();
    let directories = reader.number("metadata")? + third.number("metadata")?;
    let alone = set.metadata_bytes() as f64;
    let owned = (alone + directories) / objects as f64;
    let start = Instant::now();
    let copies = reader.number(&format!("fetch {objects}"))?;
    let read_seconds = start.elapsed().as_secs_f64();
    // The owner has to know who has a copy.
    let shared = owned + (set.metadata_bytes() as f64 - alone) / objects as f64;
    let plain = |name: &str, value: f64, unit: &str| Row {
        name: name.into(),
        value,
        unit: unit.into(),
        floor: None,
        ratio: None,
        p99_ratio: None,
    };
    Ok(vec![
        plain("bytes_per_owned", owned, "B"),
        plain("bytes_per_owned_shared", shared, "B"),
        plain("bytes_per_copy", copies / objects as f64, "B"),
        plain(&format!("fill_{millions}m"), objects as f64 / fill_seconds / 1e3, "k/s"),
        plain(&format!("read_back_{millions}m"), objects as f64 / read_seconds / 1e3, "k/s"),
    ])
}
