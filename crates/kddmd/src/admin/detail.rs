//! One object of a set of any type: where it is and who wants it, and what is remembered of it.

use std::time::Duration;

use kddm::{AccessError, Error, Node, ObjectDetail, ObjectEvent, ObjectFate, SetError};
use serde_json::{Value as Json, json};

use super::listing::object as where_it_is;
use super::protocol::Failure;
use crate::show::list;

/// A set or an object that is not there, with what to do.
fn failure(set: &str, id: u64, error: Error) -> Failure {
    let code = error.code();
    let message = match error {
        Error::Set(SetError::Unknown { .. }) => format!("there is no set {set:?}; `kddmadm sets` lists them"),
        Error::Access(AccessError::NotFound) => {
            format!(
                "there is no object {id} in set {set:?}; `kddmadm set show {set} --objects` lists those that there are"
            )
        }
        other => return other.into(),
    };
    Failure { code, ..Failure::new(message) }
}

/// `object show`.
///
/// # Errors
/// That there is no such object; what a scan can meet.
pub fn show(node: &Node, set: &str, id: u64) -> Result<Json, Failure> {
    let ObjectDetail { info, at_owner, .. } = node.object_of(set, id).map_err(|error| failure(set, id, error))?;
    let mut shown = where_it_is(&info);
    shown["answered_by"] = node.id().into();
    shown["set"] = set.into();
    if let Some(at) = at_owner {
        let holders = at.holders.iter().map(|held| json!({"who": &*held.who, "write": held.is_write}));
        shown["bytes"] = json!(at.bytes);
        shown["holders"] = holders.collect();
        shown["waiting_nodes"] = json!(at.waiting);
        shown["waiting_at_owner"] = json!(at.waiting_here);
        shown["in_the_way_ms"] = json!(at.in_the_way_for.map(milliseconds));
        shown["leaves_in_ms"] = json!(at.leaves_in.map(milliseconds));
    }
    Ok(shown)
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn word(what: ObjectFate) -> &'static str {
    match what {
        ObjectFate::Owned => "owned",
        ObjectFate::Put => "put",
        ObjectFate::Passed => "passed on",
        ObjectFate::Removed => "removed",
        _ => "unknown",
    }
}

/// `object history`.
///
/// # Errors
/// That there is no such set.
pub fn history(node: &Node, set: &str, id: u64) -> Result<Json, Failure> {
    let history = node.history_of(set, id).map_err(|error| failure(set, id, error))?;
    let event = |event: &ObjectEvent| {
        json!({
            "node": event.node,
            "event": word(event.what),
            "ago_ms": milliseconds(event.ago),
            "epoch": event.tenure.0,
            "tenure": event.tenure.1,
            "version": event.version,
        })
    };
    let covers = |(node, since): &(u16, Option<Duration>)| json!({"node": node, "for_ms": since.map(milliseconds)});
    Ok(json!({
        "answered_by": node.id(),
        "set": set,
        "id": id,
        "events": history.events.iter().map(event).collect::<Vec<_>>(),
        "covers": history.covers.iter().map(covers).collect::<Vec<_>>(),
        "silent": history.silent,
    }))
}

/// What was said of some nodes.
fn nodes(nodes: &Json) -> String {
    let all: Vec<String> = nodes.as_array().into_iter().flatten().map(Json::to_string).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

/// `object show`, for people.
pub fn show_text(answer: &Json) -> String {
    let plain = |key: &str| answer[key].as_str().map_or_else(|| answer[key].to_string(), str::to_string);
    let mut lines = vec![
        format!("object {} of set {}: {}", answer["id"], plain("set"), plain("state")),
        format!("home      node {}", answer["home"]),
    ];
    match (answer["owner"].as_u64(), answer["confirmed"] == true) {
        (None, _) => lines.push("owner     none that its home has heard of".into()),
        (Some(owner), false) => {
            lines.push(format!("owner     node {owner}, which has not confirmed it: nothing more is known"))
        }
        (Some(owner), true) => {
            lines.push(format!("owner     node {owner}, tenure {}.{}", answer["epoch"], answer["tenure"]));
            lines.push(format!("version   {}", answer["version"]));
            match answer["bytes"].as_u64() {
                Some(bytes) => lines.push(format!("size      {bytes} bytes")),
                None => lines.push("size      not known: somebody changes it, or it has no value".into()),
            }
            lines.push(format!("copies    {}", nodes(&answer["sharers"])));
            lines.push(format!("replicas  {}", nodes(&answer["replicas"])));
            let holders = answer["holders"].as_array().into_iter().flatten();
            lines.extend(holders.map(|held| {
                let way = if held["write"] == true { "to write" } else { "to read" };
                format!(
                    "held      by {} at node {owner}, {way}",
                    held["who"].as_str().unwrap_or_default().escape_debug()
                )
            }));
            if let Some(ms) = answer["in_the_way_ms"].as_u64() {
                lines.push(format!("          in somebody's way for {ms} ms"));
            }
            lines.push(format!(
                "waiting   nodes: {}; at node {owner}: {}",
                nodes(&answer["waiting_nodes"]),
                answer["waiting_at_owner"]
            ));
        }
    }
    lines.join("\n")
}

/// `object history`, for people.
pub fn history_text(answer: &Json) -> String {
    let seconds = |ms: &Json| format!("{:.1} s", ms.as_u64().unwrap_or_default() as f64 / 1000.0);
    let columns = [("AGO", "ago"), ("NODE", "node"), ("EVENT", "event"), ("TENURE", "tenure"), ("VERSION", "version")];
    let mut shown = list(&answer["events"], "nothing is remembered of it", &columns, |event| {
        event["ago"] = seconds(&event["ago_ms"]).into();
        event["tenure"] = format!("{}.{}", event["epoch"], event["tenure"]).into();
    });
    for member in answer["covers"].as_array().into_iter().flatten() {
        let (node, since) = (&member["node"], &member["for_ms"]);
        shown += &match since {
            Json::Null => {
                format!("\nnode {node} remembers nothing: nobody watches the set; `kddmadm watch` switches it on")
            }
            since => format!("\nnode {node} remembers what was since {} ago", seconds(since)),
        };
    }
    for node in answer["silent"].as_array().into_iter().flatten() {
        shown += &format!("\nnode {node} has not answered");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_shown_with_who_has_it_and_who_waits() {
        let nodes = Node::local_cluster(2).expect("nodes");
        let open = |at: usize| -> kddm::Set<String> { nodes[at].set("shown").open().wait().expect("a set") };
        let (here, there) = (open(0), open(1));
        let seven = |text: &mut String| {
            text.push_str("seven");
            Ok(())
        };
        here.update(7, seven).wait().expect("put");
        let guard = here.grab(7).wait().expect("granted");
        let waits = there.grab(7);
        let answer = loop {
            let answer = show(&nodes[1], "shown", 7).expect("an answer");
            if answer["waiting_nodes"] == json!([2]) || answer["in_the_way_ms"].is_number() {
                break answer;
            }
            std::thread::yield_now();
        };
        assert_eq!((&answer["owner"], &answer["version"]), (&json!(1), &json!(1)), "{answer}");
        assert_eq!(answer["holders"][0]["write"], json!(true), "{answer}");
        let text = show_text(&answer);
        assert!(text.contains("owner     node 1") && text.contains("to write"), "{text}");
        drop(guard);
        drop(waits.wait().expect("granted"));
        let answer = show(&nodes[0], "shown", 7).expect("an answer");
        assert_eq!(answer["bytes"], json!(6), "the length, and five letters: {answer}");
        let missing = show(&nodes[0], "shown", 8).expect_err("there is none");
        assert!(missing.message.contains("--objects"), "{}", missing.message);
        let missing = show(&nodes[0], "nothing", 8).expect_err("there is none");
        assert!(missing.message.contains("no set"), "{}", missing.message);
    }

    #[test]
    fn a_history_says_what_it_covers() {
        let nodes = Node::local_cluster(2).expect("nodes");
        let open = |at: usize| -> kddm::Set<u64> { nodes[at].set("past").open().wait().expect("a set") };
        let (here, there) = (open(0), open(1));
        let add = |set: &kddm::Set<u64>| {
            let add = |count: &mut u64| {
                *count += 1;
                Ok(())
            };
            set.update(7, add).wait().expect("put");
        };
        add(&here);
        let before = history(&nodes[0], "past", 7).expect("an answer");
        assert_eq!(before["events"], json!([]), "{before}");
        assert!(history_text(&before).contains("nobody watches"), "{}", history_text(&before));
        let _watch = nodes[1].watch_set("past", None, None).expect("it is there").wait().expect("it begins");
        add(&there);
        add(&here);
        here.remove(7).wait().expect("removed");
        let after = history(&nodes[1], "past", 7).expect("an answer");
        let events: Vec<(u64, &str)> = after["events"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|event| (event["node"].as_u64().expect("a node"), event["event"].as_str().expect("a word")))
            .collect();
        for expected in [(1, "passed on"), (2, "owned"), (2, "put"), (2, "passed on"), (1, "put"), (1, "removed")] {
            assert!(events.contains(&expected), "{expected:?} of {events:?}");
        }
        assert!(history_text(&after).contains("remembers what was since"), "{}", history_text(&after));
    }
}
