//! `kddmadm cluster stop` without a node: all daemons end, and what is only in memory ends with them. Said before
//! it is done, and done only when that is meant.

use std::sync::Arc;
use std::time::Duration;

use kddm::rpc::Service;
use kddm::{Error, Node, NodeState, RpcError};
use serde_json::{Value as Json, json};

use crate::admin::client::{Client, ClientError};
use crate::admin::protocol::{Command, Failure};
use crate::admin::sure::is_meant;
use crate::doctor::{self, Case, Unsaid};

/// The service's name.
const SERVICE: &str = "kddm.ending";

/// How long a daemon may take to say that it ends: it hands over nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What ends a daemon.
pub type End = Arc<dyn Fn() + Send + Sync>;

/// Lets other daemons end this one, until the answer is dropped.
///
/// # Errors
/// As registering a service.
pub fn serve(node: &Node, end: End) -> Result<Service, Error> {
    node.rpc().register_blocking_typed(SERVICE, move |_, (): ()| {
        end();
        Ok(())
    })
}

/// What would end with all daemons.
fn survey(case: &Case) -> Json {
    let objects =
        |set: u64| case.facts.values().filter_map(|facts| facts.sets.get(&set)).map(|set| set.objects).sum::<u64>();
    let sets: Vec<(&str, u64)> = case.sets.iter().map(|(id, set)| (set.name.as_str(), objects(*id))).collect();
    let listed: Vec<Json> = sets.iter().map(|(name, objects)| json!({"name": name, "objects": objects})).collect();
    json!({
        "answered_by": case.asked,
        "nodes": case.facts.keys().collect::<Vec<_>>(),
        "objects": sets.iter().map(|(_, objects)| objects).sum::<u64>(),
        "sets": listed,
        "stopped": false,
    })
}

/// Members that would not end with the daemons, and why.
fn remaining(case: &Case) -> Option<String> {
    let (node, unsaid) = case.silent.first_key_value()?;
    Some(match unsaid {
        Unsaid::NotADaemon => format!("node {node} is a program with a node of its own: end it first"),
        Unsaid::Silent(reason) => format!("node {node} does not answer ({reason}): end its process first"),
    })
}

/// Says what ends with all daemons; if that is meant, has all others end. This one ends when it has said so: that is
/// up to whoever asks.
///
/// # Errors
/// A sentence that says what to do. If a daemon does not end, it says which, and that others have.
pub fn stop_all(node: &Node, is_meant: bool, begin: impl FnOnce()) -> Result<Json, Failure> {
    let case = doctor::look(node)?;
    let mut survey = survey(&case);
    if !is_meant {
        return Ok(survey);
    }
    if let Some(reason) = remaining(&case) {
        return Err(Failure::new(format!("{reason}; nothing was changed")));
    }
    begin();
    tell_what_ends(&survey);
    let others: Vec<u16> = case.facts.keys().copied().filter(|other| *other != node.id()).collect();
    let replies = match others.is_empty() {
        true => Vec::new(),
        false => node.rpc().call_all_typed::<_, ()>(&others, SERVICE, &(), ANSWER_LIMIT).wait()?,
    };
    // Its connection may end before its answer has come.
    let has_not = |(_, answer): &&(u16, Result<(), Error>)| {
        !matches!(answer, Ok(_) | Err(Error::Rpc(RpcError::Gone { .. } | RpcError::Unreachable { .. })))
    };
    if let Some((other, Err(error))) = replies.iter().find(has_not) {
        let text = format!("node {other} has not ended ({error}), others have; ask it for its end, or end its process");
        return Err(Failure { message: text, code: 0, fate: "unknown".into() });
    }
    survey["stopped"] = json!(true);
    Ok(survey)
}

fn tell_what_ends(survey: &Json) {
    for set in survey["sets"].as_array().into_iter().flatten() {
        tracing::warn!(set = set["name"].as_str(), objects = %set["objects"], "these objects end with the cluster");
    }
}

/// The last one that shares objects says what ends with it.
pub fn tell_if_last(node: &Node) {
    let shares = |member: &kddm::MemberInfo| member.state == NodeState::Possible;
    let members = node.members();
    let is_last = members.iter().all(|member| shares(member) == (member.id == node.id()));
    if !is_last {
        return;
    }
    let names = node.sets().unwrap_or_default();
    for (id, set) in node.health().sets.into_iter().filter(|(_, set)| set.objects > 0) {
        let name = names.iter().find(|info| info.id == id).map(|info| info.name.as_str());
        if let Some(set_name) = name {
            let objects = set.objects;
            tracing::warn!(set = set_name, objects, "no other node shares objects: these end with this one");
        }
    }
}

/// What would end, or has, as people read it.
fn show(survey: &Json) -> String {
    let sets = survey["sets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |set: &Json| format!("    {:>12} in set {}", set["objects"], set["name"]);
    let listed = sets.iter().filter(|set| set["objects"] != 0).map(line);
    let nodes: Vec<String> = survey["nodes"].as_array().into_iter().flatten().map(Json::to_string).collect();
    let head = format!("all daemons end (nodes {}), and with them, as they are only in memory:", nodes.join(", "));
    let total = format!("    {:>12} objects in all", survey["objects"].to_string());
    std::iter::once(head).chain(listed).chain([total]).collect::<Vec<_>>().join("\n")
}

/// What the tool does: the text that it prints, and its exit status.
pub fn run(client: &Client, yes: bool, json: bool) -> (Result<String, ClientError>, u8) {
    let survey = match client.ask(Command::End { is_meant: false }) {
        Ok(survey) => survey,
        Err(error) => return (Err(error), 1),
    };
    if !json {
        eprintln!("{}", show(&survey));
    }
    if !is_meant("stop all?", yes, json) {
        eprintln!("kddmadm: nothing was changed; `kddmadm cluster stop --yes` stops all of it");
        return (Ok(if json { survey.to_string() } else { "not stopped".into() }), 1);
    }
    match client.ask(Command::End { is_meant: true }) {
        Ok(survey) => (Ok(if json { survey.to_string() } else { "stopped".into() }), 0),
        Err(error) => (Err(error), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Facts, NamedSet, SetFacts};

    fn case() -> Case {
        let facts = |node, objects| {
            let sets = [(7, SetFacts { objects, ..SetFacts::default() })].into();
            (node, Facts { node, sets, ..Facts::default() })
        };
        let sets =
            [(7, NamedSet { name: "notes".into(), replicas: 1, forgives_loss: false }), (8, NamedSet::default())]
                .into();
        Case { asked: 1, facts: [facts(1, 2), facts(2, 40)].into(), sets, ..Case::default() }
    }

    #[test]
    fn what_ends_is_summed_over_all_homes() {
        let survey = survey(&case());
        assert_eq!((&survey["objects"], &survey["sets"][0]["objects"]), (&json!(42), &json!(42)));
        let said = show(&survey);
        assert!(
            said.contains("nodes 1, 2") && said.contains("42 in set \"notes\"") && said.lines().count() == 3,
            "{said}"
        );
    }

    #[test]
    fn who_would_go_on_is_named() {
        assert_eq!(remaining(&case()), None);
        let silent = [(3, Unsaid::NotADaemon)].into();
        assert!(remaining(&Case { silent, ..case() }).is_some_and(|why| why.contains("node 3 is a program")));
    }
}
