//! Answers of a daemon as people read them.

use std::io::{IsTerminal, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value as Json;

use crate::admin::client::{Client, ClientError};
use crate::admin::protocol::Command;

pub use crate::admin::destroying::DestroySet;
pub use crate::admin::detail::{history_text as history, show_text as detail};
pub use crate::admin::listing::{Lists, ShowNames, show_names as names};
pub use crate::admin::sets::AskSet;

/// A cell: strings without quotes, nothing for what is missing.
pub(crate) fn text(value: &Json) -> String {
    match value {
        // What others have named does nothing to the terminal.
        Json::String(text) if text.contains(char::is_control) => text.escape_debug().to_string(),
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        Json::Bool(true) => "yes".into(),
        Json::Bool(false) => "no".into(),
        other => other.to_string(),
    }
}

/// A table of the objects in a list, one column for each `(title, key)`.
fn table(rows: &Json, columns: &[(&str, &str)]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(title, _)| *title));
    for row in rows.as_array().into_iter().flatten() {
        table.add_row(columns.iter().map(|(_, key)| text(&row[key])));
    }
    table.to_string()
}

/// `cluster status`.
pub fn status(answer: &Json) -> String {
    let lanes = match answer["lanes"].as_u64() {
        None | Some(0 | 1) => String::new(),
        Some(many) => format!(", {many} lanes"),
    };
    let head = format!(
        "session {}, epoch {}, cluster {}{lanes}, seen by node {}",
        answer["session"],
        answer["epoch"],
        text(&answer["cluster"]),
        answer["answered_by"]
    );
    format!("{head}\n{}\n{}\n{}{}", deciding(answer), lease(answer), nodes(answer), programs(answer))
}

/// Who decides which nodes are members, and what that means for a loss.
fn deciding(answer: &Json) -> String {
    let voters: Vec<String> = answer["voters"].as_array().into_iter().flatten().map(text).collect();
    let led = match answer["leader"].as_u64() {
        _ if voters.len() == 1 => String::new(),
        Some(leader) => format!(", led by node {leader} (term {})", answer["term"]),
        None if voters.is_empty() => ", and nobody leads now".into(),
        None => ", who elect a leader".into(),
    };
    let failure = match answer["voting_failure"].as_str() {
        Some(failure) => format!("\nnode {} has no part in that any more: {failure}", answer["answered_by"]),
        None => String::new(),
    };
    let failing: String = failing(answer).iter().map(|node| format!("\nnode {node} {DISK_FAILED}")).collect();
    if let Some(place) = answer["kept_in"].as_str() {
        return format!(
            "decided in {place}{led}; any node may be lost, and of {place} what it can do without{failure}"
        );
    }
    let nodes = if voters.len() == 1 { "node" } else { "nodes" };
    format!("decided by {nodes} {}{led}{}{failure}{failing}", voters.join(", "), rule(answer))
}

/// What is said of a node that keeps no log.
const DISK_FAILED: &str = "has no part in that while it runs: its disk has failed; see to it, then start it again";

/// Other nodes that have said that their disks have failed: the leader hears it.
fn failing(answer: &Json) -> Vec<String> {
    let failed = |node: &&Json| node["disk_failed"] == true && node["id"] != answer["answered_by"];
    answer["nodes"].as_array().into_iter().flatten().filter(failed).map(|node| text(&node["id"])).collect()
}

/// Which rule that is, and what the loss of which node means.
fn rule(answer: &Json) -> String {
    let voters = answer["voters"].as_array().into_iter().flatten();
    let failed = failing(answer);
    let cannot = voters.clone().filter(|voter| failed.contains(&text(voter))).count();
    let may_be_lost = (voters.count().saturating_sub(1) / 2).saturating_sub(cannot);
    let lost = match may_be_lost {
        0 => "none of the others may be lost",
        1 => "any one of them may be lost at one time",
        _ => "any two of them may be lost at one time",
    };
    let more = "a third node, or a witness (kddmd --witness), makes three";
    let node = &answer["voters"][0];
    match answer["rule"].as_str().unwrap_or_default() {
        "preferred node" => format!(
            "; preferred node {node} decides alone: while it is gone the others stop sharing, and any of them may be \
             lost; {more}"
        ),
        "first node" => format!(
            "; node {node} decides alone: while it is gone the others stop sharing, and any of them may be lost; \
             --preferred says which of two decides, and {more}"
        ),
        "witness" => format!("; witness: it makes three voters of two nodes, {lost}"),
        rule @ ("three voters" | "five voters") => format!("; {rule}: {lost}"),
        _ => String::new(),
    }
}

/// For how long members may go on by themselves, and how many were lost.
fn lease(answer: &Json) -> String {
    let left = match answer["lease_left_ms"].as_u64() {
        None => "this node decides alone and needs none".into(),
        Some(0) => "this node's is over: it uses nothing any more".into(),
        Some(left) => format!("{left} ms left here"),
    };
    let failures = match answer["failures"].as_u64() {
        None | Some(0) => recovery(answer),
        Some(1) => format!("; 1 member was lost and not all is whole again{}", recovery(answer)),
        Some(many) => format!("; {many} members were lost and not all is whole again{}", recovery(answer)),
    };
    format!("lease {} ms, {left}{failures}", answer["lease_ms"])
}

/// What is still missing, as far as the daemon knows.
fn recovery(answer: &Json) -> String {
    let reports = if answer["recovering"] == true { ", it still hears what others have" } else { "" };
    let lost = match answer["lost_here"].as_u64() {
        None | Some(0) => String::new(),
        Some(1) => ", 1 object of which it is the home is lost (see `kddmadm sets`)".into(),
        Some(many) => format!(", {many} objects of which it is the home are lost (see `kddmadm sets`)"),
    };
    format!("{reports}{lost}")
}

/// The programs that are attached to the daemon, if there are any.
fn programs(answer: &Json) -> String {
    if answer["programs"].as_array().is_none_or(Vec::is_empty) {
        return String::new();
    }
    let columns = [
        ("PROGRAM", "name"),
        ("PID", "pid"),
        ("LENT", "lent"),
        ("TO WRITE", "lent_to_write"),
        ("ASKED BACK", "asked_back"),
        ("WAITING", "waiting"),
    ];
    format!("\nattached to node {}:\n{}", answer["answered_by"], table(&answer["programs"], &columns))
}

/// `nodes`.
pub fn nodes(answer: &Json) -> String {
    let columns = [
        ("NODE", "id"),
        ("STATE", "state"),
        ("INCARNATION", "incarnation"),
        ("ADDRESS", "address"),
        ("REACHABLE", "reachable"),
        ("DECIDES", "decides"),
        ("ZONE", "zone"),
    ];
    table(&answer["nodes"], &columns)
}

/// `sets`.
pub fn sets(answer: &Json) -> String {
    let columns = [
        ("NAME", "name"),
        ("CODEC", "codec"),
        ("TYPE", "type"),
        ("PLACEMENT", "placement"),
        ("REPLICAS", "replicas"),
        ("LINKER", "linker"),
        ("OBJECTS HERE", "objects_here"),
        ("LOST HERE", "lost_here"),
        ("ENDING", "ending"),
        ("FROZEN BY", "frozen_by"),
        ("EXPIRE AFTER", "expire_after_ms"),
        ("IDLE", "expire_idle_ms"),
        ("EXPIRED HERE", "expired_here"),
        ("TIMES UNREAD HERE", "expiry_unread_here"),
        ("BUDGET HERE", "budget_bytes_here"),
        ("COUNTED HERE", "counted_bytes_here"),
        ("HIT RATIO", "hit_ratio_here"),
    ];
    let some = answer["sets"].as_array();
    let has = |name: &str| some.is_some_and(|sets| sets.iter().any(|set| !set[name].is_null()));
    let (has_budget, has_expiry) = (has("budget_bytes_here"), has("on_expiry"));
    // In all but rare moments there is nothing to say of it.
    let has_unread = some.into_iter().flatten().any(|set| set["expiry_unread_here"].as_u64() > Some(0));
    let is_shown = |name: &str| match name {
        "expire_after_ms" | "expire_idle_ms" | "expired_here" => has_expiry,
        "expiry_unread_here" => has_unread,
        "budget_bytes_here" | "counted_bytes_here" | "hit_ratio_here" => has_budget,
        _ => true,
    };
    let columns: Vec<_> = columns.into_iter().filter(|(_, name)| is_shown(name)).collect();
    list(&answer["sets"], "no sets", &columns, |set| {
        for name in ["expire_after_ms", "expire_idle_ms"] {
            if let Some(milliseconds) = set[name].as_u64() {
                set[name] = format!("{:?}", std::time::Duration::from_millis(milliseconds)).into();
            }
        }
        let by = set["frozen_by"].as_array().into_iter().flatten().map(Json::to_string);
        set["frozen_by"] = by.collect::<Vec<_>>().join(", ").into();
    })
}

/// `holders`.
pub fn holders(answer: &Json) -> String {
    let more = if answer["complete"] == true { "" } else { "\nnot all objects were looked at, there are too many" };
    if answer["objects"].as_array().is_none_or(Vec::is_empty) {
        return format!("nobody holds anything on node {}{more}{}", answer["answered_by"], programs(answer));
    }
    let columns = [
        ("SET", "set"),
        ("OBJECT", "object"),
        ("HELD", "held"),
        ("WAITING HERE", "waiting_here"),
        ("WANTED ELSEWHERE", "wanted_elsewhere"),
        ("IN THE WAY (ms)", "in_the_way_ms"),
        ("BY", "held_by"),
    ];
    format!("{}{more}{}", table(&answer["objects"], &columns), programs(answer))
}

/// Nodes, and programs at them: `2, 3, program 7 at 3`.
pub(crate) fn parties(all: &Json) -> String {
    let party = |party: &Json| match &party["program"] {
        Json::Null => party["node"].to_string(),
        program => format!("program {program} at {}", party["node"]),
    };
    all.as_array().into_iter().flatten().map(party).collect::<Vec<_>>().join(", ")
}

/// A list with something of each of its objects written by `write`; a sentence if there is nothing.
pub(crate) fn list(rows: &Json, nothing: &str, columns: &[(&str, &str)], write: impl Fn(&mut Json)) -> String {
    let mut rows = rows.clone();
    match rows.as_array_mut() {
        Some(some) if !some.is_empty() => some.iter_mut().for_each(write),
        _ => return nothing.into(),
    }
    table(&rows, columns)
}

/// `barriers`.
pub fn barriers(answer: &Json) -> String {
    let columns = [
        ("NAME", "name"),
        ("PARTIES", "parties"),
        ("GENERATION", "generation"),
        ("WAITING", "waiting"),
        ("OPENED BY", "enrolled"),
        ("BROKEN", "broken"),
    ];
    list(&answer["barriers"], "no barriers", &columns, |barrier| {
        for key in ["waiting", "enrolled"] {
            barrier[key] = parties(&barrier[key]).into();
        }
    })
}

/// `latches`.
pub fn latches(answer: &Json) -> String {
    let columns = [
        ("NAME", "name"),
        ("COUNT", "count"),
        ("REMAINING", "remaining"),
        ("PROMISED BY", "owed"),
        ("BROKEN", "broken"),
    ];
    list(&answer["latches"], "no latches", &columns, |latch| {
        let by: Json = latch["owed"].as_array().into_iter().flatten().map(|owed| owed["by"].clone()).collect();
        latch["owed"] = parties(&by).into();
    })
}

/// `ids`.
pub fn ids(answer: &Json) -> String {
    let columns = [("NAME", "name"), ("EPOCH", "epoch"), ("BLOCKS", "blocks"), ("OF", "blocks_of_an_epoch")];
    list(&answer["ids"], "no sources of ids", &columns, |_| {})
}

/// `sets show`: the set, and where most of the work is.
pub fn set(answer: &Json) -> String {
    let mut plain = answer.clone();
    let shards = plain.as_object_mut().and_then(|set| set.remove("busiest_shards")).unwrap_or_default();
    let columns = [
        ("SHARD", "shard"),
        ("HOME", "home"),
        ("INPUTS", "inputs"),
        ("OBJECTS", "objects"),
        ("DIRECTORY ENTRIES", "directory_entries"),
    ];
    match shards.as_array() {
        Some(some) if !some.is_empty() => format!("{}\n\nbusiest shards\n{}", pairs(&plain), table(&shards, &columns)),
        _ => pairs(&plain),
    }
}

/// One value a line: `stats`, and what `sets show` says of a set itself. Messages are shown where there were any.
pub fn pairs(answer: &Json) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for (key, value) in answer.as_object().into_iter().flatten() {
        match value {
            Json::Object(inner) => {
                for (name, value) in inner.iter().filter(|(_, value)| has_something(value)) {
                    table.add_row([format!("{key} {name}"), compact(value)]);
                }
            }
            value => {
                table.add_row([key.clone(), text(value)]);
            }
        }
    }
    table.to_string()
}

fn has_something(value: &Json) -> bool {
    match value {
        Json::Object(inner) => inner.values().any(has_something),
        Json::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

fn compact(value: &Json) -> String {
    match value {
        Json::Object(inner) => inner.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", "),
        value => text(value),
    }
}

/// One screen of `top`: totals, and what a second brings.
pub fn top(answer: &Json, before: Option<&Json>) -> String {
    let number = |of: &Json, key: &str| of[key].as_f64().unwrap_or(0.0);
    let seconds = before.map_or(0.0, |before| number(answer, "uptime_seconds") - number(before, "uptime_seconds"));
    let rate = |key: &str| match before {
        Some(before) if seconds > 0.0 => format!("{:.1}", (number(answer, key) - number(before, key)) / seconds),
        _ => String::new(),
    };
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["", "TOTAL", "PER SECOND"]);
    let rows =
        ["messages_sent", "misses", "moves", "installs", "reconnects", "dropped", "malformed", "undecodable", "faults"];
    for key in rows {
        table.add_row([key.replace('_', " "), text(&answer[key]), rate(key)]);
    }
    for key in ["objects", "directory_entries", "replicas", "lost", "metadata_bytes"] {
        table.add_row([key.replace('_', " "), text(&answer[key]), String::new()]);
    }
    format!(
        "node {}, epoch {}, up {:.0} s, {} possible, {} online, {:.1} MiB\n{table}",
        answer["node"],
        answer["epoch"],
        number(answer, "uptime_seconds"),
        answer["members"]["possible"],
        answer["members"]["online"],
        number(answer, "resident_bytes") / f64::from(1 << 20),
    )
}

/// `top`: one screen after the other until nobody reads them, or as many as were asked for.
///
/// # Errors
/// As asking the daemon; the answer is whether all could be shown.
pub fn watch(
    client: &Client,
    interval_ms: u64,
    count: Option<u64>,
    json: bool,
) -> Result<std::io::Result<()>, ClientError> {
    // Home, and clear from there: the lines before stay in the terminal's memory.
    let clear = if std::io::stdout().is_terminal() && !json { "\x1b[H\x1b[2J" } else { "" };
    let mut before: Option<Json> = None;
    let mut printed = Ok(());
    client.watch(Command::Watch { interval_ms, count }, |answer| {
        let text = if json { answer.to_string() } else { top(&answer, before.as_ref()) };
        before = Some(answer);
        printed = writeln!(std::io::stdout(), "{clear}{text}");
        printed.is_ok()
    })?;
    Ok(printed)
}

/// `accept-loss`, of an object or of a set.
pub fn accepted(answer: &Json) -> String {
    let set = text(&answer["set"]);
    match &answer["id"] {
        Json::Null => format!(
            "all that was lost of set {set} is accepted: it has never existed, and can be made anew; what is there is \
             as it was"
        ),
        id => format!(
            "object {id} of set {set} has never existed: it was lost, and that is accepted; it can be made anew"
        ),
    }
}

/// `object`: the value alone, so that it can be used.
pub fn object(answer: &Json) -> String {
    match (&answer["value"], &answer["removed"]) {
        (Json::Null, Json::Bool(true)) => format!("object {} is removed", answer["id"]),
        (Json::Null, _) if answer.get("value").is_none() => format!("version {}", answer["version"]),
        (value, _) if answer["as"] == "json" => value.to_string(),
        (value, _) => text(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_shown_so_that_it_can_be_used() {
        assert_eq!(object(&json!({"id": 1, "version": 2, "as": "text", "value": "hi"})), "hi");
        assert_eq!(object(&json!({"id": 1, "version": 2, "as": "json", "value": "hi"})), "\"hi\"");
        assert_eq!(object(&json!({"id": 1, "version": 2, "as": "json", "value": null})), "null");
        assert_eq!(object(&json!({"id": 1, "version": 2, "value": 7})), "7");
        assert_eq!(object(&json!({"id": 1, "version": 2})), "version 2");
        assert_eq!(object(&json!({"id": 1, "removed": true})), "object 1 is removed");
    }

    #[test]
    fn a_name_does_nothing_to_the_terminal() {
        let rows = json!([{"name": "a\u{1b}[31mb\n"}, {"name": "Straße"}]);
        let shown = table(&rows, &[("NAME", "name")]);
        assert!(shown.contains(r"a\u{1b}[31mb\n") && shown.contains("Straße") && !shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn when_objects_leave_is_shown_where_some_do() {
        let stays = json!({"name": "notes", "frozen_by": []});
        let text = sets(&json!({"sets": [stays]}));
        assert!(text.contains("FROZEN BY") && !text.contains("EXPIRE") && !text.contains("BUDGET"), "{text}");
        let mut leaves = json!({
            "name": "sessions", "frozen_by": [], "expire_after_ms": 1500, "expire_idle_ms": null, "on_expiry": "evict",
            "expired_here": 7, "expiry_unread_here": 0,
        });
        let text = sets(&json!({"sets": [stays, leaves]}));
        assert!(text.contains("EXPIRED HERE") && text.contains("1.5s") && !text.contains("BUDGET"), "{text}");
        assert!(!text.contains("UNREAD"), "{text}");
        leaves["expiry_unread_here"] = 1023.into();
        let text = sets(&json!({"sets": [stays, leaves]}));
        assert!(text.contains("TIMES UNREAD HERE") && text.contains("1023"), "{text}");
    }

    #[test]
    fn what_was_accepted_is_said_in_a_sentence() {
        let object = accepted(&json!({"set": "notes", "id": 7, "accepted": true}));
        assert!(object.contains("object 7 of set notes"), "{object}");
        let set = accepted(&json!({"set": "notes", "id": null, "accepted": true}));
        assert!(set.contains("all that was lost of set notes"), "{set}");
    }

    #[test]
    fn the_rule_that_decides_is_said_with_what_a_loss_means() {
        let said = |voters: &[u16], rule: &str, failed: u16| {
            let node = |id: u16| json!({"id": id, "disk_failed": id == failed});
            let nodes: Vec<Json> = (1..=5).map(node).collect();
            let leader = voters[0];
            deciding(&json!({
                "voters": voters, "rule": rule, "leader": leader, "term": 7, "nodes": nodes, "answered_by": 1
            }))
        };
        assert_eq!(said(&[1], "alone", 0), "decided by node 1");
        let elsewhere =
            deciding(&json!({"kept_in": "etcd", "voters": [], "leader": 2, "term": 7, "rule": "elsewhere"}));
        assert!(elsewhere.starts_with("decided in etcd, led by node 2 (term 7); any node may be lost"), "{elsewhere}");
        let nobody =
            deciding(&json!({"kept_in": "etcd", "voters": [], "leader": null, "voting_failure": "it is gone"}));
        assert!(nobody.contains("etcd, and nobody leads now") && nobody.ends_with(": it is gone"), "{nobody}");
        let preferred = said(&[2], "preferred node", 0);
        assert!(preferred.contains("preferred node 2 decides alone: while it is gone the others stop"), "{preferred}");
        let first = said(&[1], "first node", 0);
        assert!(first.contains("; node 1 decides alone") && first.contains("--preferred"), "{first}");
        let witness = said(&[1, 2, 9], "witness", 0);
        assert!(witness.ends_with("it makes three voters of two nodes, any one of them may be lost at one time"));
        let three = "decided by nodes 1, 2, 3, led by node 1 (term 7); three voters: ";
        assert_eq!(said(&[1, 2, 3], "three voters", 0), format!("{three}any one of them may be lost at one time"));
        let failed = said(&[1, 2, 3], "three voters", 3);
        assert!(failed.starts_with(&format!("{three}none of the others may be lost")), "{failed}");
        assert!(failed.contains("node 3 has no part") && failed.contains("see to it, then start it again"), "{failed}");
        assert!(
            said(&[1, 2, 3, 4, 5], "five voters", 0).ends_with("five voters: any two of them may be lost at one time")
        );
    }

    #[test]
    fn parties_are_nodes_and_programs_at_them() {
        let waiting =
            json!([{"node": 2, "incarnation": 5, "program": null}, {"node": 3, "incarnation": 4, "program": 7}]);
        let barrier = json!({"name": "phase", "parties": 3, "generation": 9, "waiting": waiting, "enrolled": []});
        let shown = barriers(&json!({"barriers": [barrier]}));
        assert!(shown.contains("phase") && shown.contains("2, program 7 at 3"), "{shown}");
        assert_eq!(barriers(&json!({"barriers": []})), "no barriers");
    }

    #[test]
    fn rates_are_by_the_time_between_two_answers() {
        let before = json!({"uptime_seconds": 1.0, "misses": 10});
        let after = json!({"uptime_seconds": 3.0, "misses": 30, "members": {}});
        let line = |text: String| text.lines().find(|line| line.contains("misses")).map(str::to_string);
        assert!(line(top(&after, Some(&before))).expect("a line").contains("10.0"));
        assert!(!line(top(&after, None)).expect("a line").contains("10.0"));
    }
}
