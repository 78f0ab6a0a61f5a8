//! `kddmadm doctor`: a daemon asks all the others what they know of themselves, and says what is wrong with the
//! cluster, why, and what to do.

mod facts;
mod findings;
#[cfg(test)]
mod tests;

use kddm::{Node, NodeState};
use serde_json::{Value as Json, json};

use crate::admin::client::{Client, ClientError};
use crate::admin::protocol::{Command, Failure};

pub use facts::{Facts, Said, SetFacts, Unsaid, serve};
pub use findings::{Case, Finding, Level, Member, NamedSet, findings};

/// Exit status of the tool: nothing is wrong.
const HEALTHY: u8 = 0;
/// Something is.
const NOT_HEALTHY: u8 = 1;
/// Nobody could be asked.
const NOT_ASKED: u8 = 2;

/// What is known of the cluster, as this node and those that answer it see it.
///
/// # Errors
/// As a call.
pub fn look(node: &Node) -> Result<Case, kddm::Error> {
    let voting = node.voting();
    let members = node.members();
    let id = node.id();
    let others: Vec<u16> = members.iter().map(|member| member.id).filter(|member| *member != id).collect();
    let own = Facts::of(node);
    let mut case = Case { asked: id, ..Case::default() };
    let answers = match facts::ask(node, &others) {
        Ok(answers) => answers,
        // A fenced node calls nobody, and is what there is to say.
        Err(_) if own.is_fenced => Vec::new(),
        Err(error) => return Err(error),
    };
    case.facts.insert(id, own);
    for (from, answer) in answers {
        match answer {
            Ok(facts) => _ = case.facts.insert(from, facts),
            Err(reason) => _ = case.silent.insert(from, reason),
        }
    }
    case.members = members
        .into_iter()
        .map(|member| {
            let known = Member {
                shares: member.state == NodeState::Possible,
                zone: voting.zones.get(&member.id).cloned(),
                is_witness: voting.witnesses.contains(&member.id),
            };
            (member.id, known)
        })
        .collect();
    match node.sets() {
        Ok(sets) => {
            let named = |info: kddm::SetInfo| {
                let forgives_loss = matches!(info.on_loss, kddm::OnLoss::FirstTouch | kddm::OnLoss::Linker);
                (info.id, NamedSet { name: info.name, replicas: info.replicas, forgives_loss })
            };
            case.sets = sets.into_iter().map(named).collect();
        }
        Err(error) => case.no_sets = Some(error.to_string()),
    }
    Ok(case)
}

/// The daemon's answer.
///
/// # Errors
/// A sentence that says what to do.
pub fn examine(node: &Node) -> Result<Json, Failure> {
    let case = look(node)?;
    let findings = findings(&case);
    let is_healthy = findings.iter().all(|finding| finding.level == Level::Note);
    let shares = case.members.values().filter(|member| member.shares).count();
    let nodes: Vec<&Facts> = case.facts.values().collect();
    Ok(json!({"answered_by": case.asked, "healthy": is_healthy, "members": case.members.len(), "sharing": shares,
              "sets": case.sets.len(), "findings": findings, "nodes": nodes}))
}

/// The answer as people read it: one line where all is well, else three for each finding.
pub fn show(answer: &Json) -> String {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_string();
    let findings = answer["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |finding: &Json| {
        let (what, why, to_do) = (text(&finding["what"]), text(&finding["why"]), text(&finding["to_do"]));
        format!("{}: {what}\n    why: {why}\n    do:  {to_do}", text(&finding["level"]))
    };
    let list = findings.iter().map(one);
    let head = match answer["healthy"] == true {
        true => format!(
            "healthy: {} members, {} of them share objects, {} sets",
            answer["members"], answer["sharing"], answer["sets"]
        ),
        false => format!("not healthy, as node {} sees it", answer["answered_by"]),
    };
    std::iter::once(head).chain(list).collect::<Vec<_>>().join("\n")
}

/// What the tool does: the text that it prints, and its exit status; on standard error where nobody could be asked.
pub fn run(client: &Client, json: bool) -> (Result<String, ClientError>, u8) {
    match client.ask(Command::Doctor) {
        Ok(answer) => {
            let status = if answer["healthy"] == true { HEALTHY } else { NOT_HEALTHY };
            (Ok(if json { answer.to_string() } else { show(&answer) }), status)
        }
        Err(error) => (Err(error), NOT_ASKED),
    }
}
