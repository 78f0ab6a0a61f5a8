//! What stands behind the sets of the cluster, as each node has it.

use std::time::Duration;

use kddm::Node;
use kddm::linker::{LinkerInfo, WritePolicy};
use serde_json::{Value as Json, json};

use super::protocol::Failure;
use crate::show::list;

/// How long a member may take to say what its linkers have been asked for.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// The linkers of all members, also of those that are programs of their own.
///
/// # Errors
/// `WouldBlock`, which a daemon does not meet.
pub fn linkers(node: &Node) -> Result<Json, Failure> {
    let (mut linkers, mut silent) = (Vec::new(), Vec::new());
    for (id, said) in node.linkers_of_all(ASK_LIMIT).wait()? {
        match said {
            Ok(infos) => linkers.extend(infos.iter().map(|info| linker(id, info))),
            Err(error) => silent.push(json!({"node": id, "why": error.to_string()})),
        }
    }
    Ok(json!({"answered_by": node.id(), "linkers": linkers, "silent": silent}))
}

fn linker(node: u16, info: &LinkerInfo) -> Json {
    let counts = &info.counts;
    let (lag_ms, limit_bytes) = match info.write_policy {
        WritePolicy::Behind { lag, bytes } => {
            // Another member says so: it may be more than a number in JSON is.
            (json!(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)), json!(bytes))
        }
        _ => (Json::Null, Json::Null),
    };
    json!({
        "node": node,
        "set": info.set,
        "set_id": info.set_id,
        "linker": info.linker,
        "write_policy": info.write_policy.word(),
        "lag_ms": lag_ms,
        "limit_bytes": limit_bytes,
        "term": info.term,
        "quick": info.is_quick,
        "reads": counts.reads,
        "absent": counts.absent,
        "known_absent": counts.known_absent,
        "writes": counts.writes,
        "refused": counts.refused,
        "errors": counts.errors,
        "timed_out": counts.timed_out,
        "late": counts.late,
        "coalesced": counts.coalesced,
        "retries": counts.retries,
        "full": counts.full,
        "evicted": counts.evicted,
        "queued": counts.queued,
        "queued_bytes": counts.queued_bytes,
        "oldest_ms": counts.oldest_ms,
        "waiting": counts.waiting,
        "hooks": counts.hooks,
        "hooks_failed": counts.hooks_failed,
        "hooks_late": counts.hooks_late,
        "elsewhere": counts.elsewhere,
        "for_others": counts.for_others,
    })
}

/// `linkers`.
pub fn show_linkers(answer: &Json) -> String {
    let columns = [
        ("NODE", "node"),
        ("SET", "set"),
        ("LINKER", "linker"),
        ("POLICY", "write_policy"),
        ("READS", "reads"),
        ("ABSENT", "absent"),
        ("WRITES", "writes"),
        ("ERRORS", "errors"),
        ("REFUSED", "refused"),
        ("TIMED OUT", "timed_out"),
        ("TO WRITE", "queued"),
        ("BYTES", "queued_bytes"),
        ("OLDEST (ms)", "oldest_ms"),
        ("HOOKS", "hooks"),
    ];
    let mut shown = list(&answer["linkers"], "no node has a linker", &columns, |_| {});
    for silent in answer["silent"].as_array().into_iter().flatten() {
        let why = silent["why"].as_str().unwrap_or_default();
        shown += &format!("\nnode {} does not say what it has: {}", silent["node"], why.escape_debug());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linkers_of_all_nodes_are_shown() {
        let nodes = Node::local_cluster(3).expect("nodes");
        assert_eq!(show_linkers(&linkers(&nodes[0]).expect("an answer")), "no node has a linker");
        let store = kddm::linker::Memory::new();
        for node in &nodes[1..] {
            let builder = node.set("rows").linker("memory", store.clone()).write_policy(WritePolicy::behind());
            let rows: kddm::Set<u64> = builder.open().wait().expect("a set");
            rows.grab(node.id().into()).wait().expect("it is made").put().wait().expect("put");
            rows.sync().wait().expect("written");
        }
        let answer = linkers(&nodes[0]).expect("an answer");
        for (at, id) in [(0, 2), (1, 3)] {
            let one = &answer["linkers"][at];
            assert_eq!(
                (&one["node"], &one["reads"], &one["writes"], &one["queued"]),
                (&json!(id), &json!(1), &json!(1), &json!(0))
            );
            assert_eq!(
                (&one["linker"], &one["write_policy"], &one["lag_ms"]),
                (&json!("memory"), &json!("behind"), &json!(1000))
            );
        }
        let shown = show_linkers(&answer);
        assert!(shown.contains("POLICY") && shown.contains("behind") && shown.lines().count() == 3, "{shown}");
        let silent = json!({"linkers": [], "silent": [{"node": 4, "why": "it is \u{1b} gone"}]});
        assert_eq!(show_linkers(&silent), "no node has a linker\nnode 4 does not say what it has: it is \\u{1b} gone");
    }
}
