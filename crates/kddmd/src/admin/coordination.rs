//! Barriers, latches and sources of ids, as answers.

use kddm::{BarrierInfo, IdsInfo, LatchInfo, Node, Parties, Party};
use serde_json::{Value as Json, json};

use super::protocol::Failure;

/// All barriers of the cluster.
///
/// # Errors
/// What a get can meet.
pub fn barriers(node: &Node) -> Result<Json, Failure> {
    let barriers: Vec<Json> = node.barriers()?.iter().map(barrier).collect();
    Ok(json!({"answered_by": node.id(), "barriers": barriers}))
}

/// All latches of the cluster.
///
/// # Errors
/// What a get can meet.
pub fn latches(node: &Node) -> Result<Json, Failure> {
    let latches: Vec<Json> = node.latches()?.iter().map(latch).collect();
    Ok(json!({"answered_by": node.id(), "latches": latches}))
}

/// All sources of ids of the cluster.
///
/// # Errors
/// What a get can meet.
pub fn ids(node: &Node) -> Result<Json, Failure> {
    let ids: Vec<Json> = node.id_sources()?.iter().map(source).collect();
    Ok(json!({"answered_by": node.id(), "ids": ids}))
}

fn barrier(info: &BarrierInfo) -> Json {
    let parties = match info.parties {
        Parties::Count(count) => json!(count),
        Parties::Members => json!("members"),
    };
    json!({
        "name": info.name,
        "parties": parties,
        "generation": info.generation,
        "waiting": info.waiting.iter().map(party).collect::<Vec<_>>(),
        "enrolled": info.enrolled.iter().map(party).collect::<Vec<_>>(),
        "broken": info.broken.map(|why| why.to_string()),
    })
}

fn latch(info: &LatchInfo) -> Json {
    let owed = info.owed.iter().map(|(by, count)| json!({"by": party(by), "count": count}));
    json!({
        "name": info.name,
        "count": info.count,
        "remaining": info.remaining,
        "owed": owed.collect::<Vec<_>>(),
        "broken": info.broken.map(|why| why.to_string()),
    })
}

fn source(info: &IdsInfo) -> Json {
    json!({
        "name": info.name,
        "epoch": info.epoch,
        "blocks": info.blocks,
        "blocks_of_an_epoch": info.blocks_of_an_epoch,
    })
}

fn party(party: &Party) -> Json {
    json!({"node": party.node, "incarnation": party.incarnation, "program": party.program})
}
