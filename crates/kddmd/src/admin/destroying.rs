//! A set that an operator has destroyed, in the whole cluster: what would end with it is said first, and it is done only
//! when that is meant. Arguments, the daemon's part, and what is shown.

use std::time::Duration;

use clap::Args;
use kddm::Node;
use serde_json::{Value as Json, json};

use super::client::{Client, ClientError};
use super::protocol::{Command, Failure};
use super::sure::is_meant;
use crate::show::text;

/// Longest time for those who hold an object, an hour: longer than any operation, and a daemon is not asked for ever.
const MOST_LIMIT_MS: u64 = 3_600_000;

/// Destroys a set in the whole cluster, with all its objects, whoever has it open. Says how many they are, and asks.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct DestroySet {
    /// Its name.
    name: String,
    /// How long whoever holds one of its objects has, at each node, to put it.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=MOST_LIMIT_MS))]
    limit_ms: u64,
    /// Destroy it without asking.
    #[arg(long)]
    yes: bool,
}

impl DestroySet {
    /// What the tool does: the text that it prints, and its exit status.
    pub fn run(self, client: &Client, json: bool) -> (Result<String, ClientError>, u8) {
        let DestroySet { name, limit_ms, yes } = self;
        let ask = |meant| client.ask(Command::Destroy { set: name.clone(), limit_ms, meant });
        let survey = match ask(None) {
            Ok(survey) => survey,
            Err(error) => return (Err(error), 1),
        };
        if !json {
            eprintln!("{}", show_survey(&survey));
        }
        if !is_meant("destroy it?", yes, json) {
            let set = text(&survey["set"]);
            eprintln!("kddmadm: nothing was changed; `kddmadm set destroy {set} --yes` destroys it");
            return (Ok(if json { survey.to_string() } else { "not destroyed".into() }), 1);
        }
        match ask(survey["id"].as_u64()) {
            Ok(answer) => (Ok(if json { answer.to_string() } else { show_destroyed(&answer) }), 0),
            Err(error) => (Err(error), 1),
        }
    }
}

/// Says what ends with a set; if the one of that number is `meant`, destroys it. Those who hold something of it have so long to put
/// it.
///
/// # Errors
/// What [`Node::check_may_destroy`] and [`Node::destroy_found`] can meet; the set of that name is another one now.
pub fn destroy(node: &Node, name: &str, limit: Duration, meant: Option<u64>) -> Result<Json, Failure> {
    let info = node.check_may_destroy(name)?;
    if meant.is_some_and(|id| id != info.id) {
        let what = "has been destroyed meanwhile, and there is another one of that name now: look at it first";
        return Err(Failure::new(format!("the set {name:?} {what}")));
    }
    // Of one that is ending already nobody counts them any more. A count that fails keeps nobody from ending it.
    let objects = if info.is_ending { None } else { node.object_count(name).ok() };
    if meant.is_some() {
        tracing::warn!(set = name, objects, "this set is destroyed, as an operator wants it");
        node.destroy_found(&info, limit.min(Duration::from_millis(MOST_LIMIT_MS))).wait()?;
    }
    Ok(json!({
        "answered_by": node.id(),
        "set": name,
        "id": info.id,
        "objects": objects,
        "ending": info.is_ending,
        "linker": info.linker,
        "destroyed": meant.is_some(),
    }))
}

fn show_survey(survey: &Json) -> String {
    let set = text(&survey["set"]);
    let objects = match (survey["objects"].as_u64(), survey["ending"] == true) {
        (_, true) => "what is left of its objects: a destroy has begun already".into(),
        (Some(objects), _) => format!("{objects} objects"),
        (None, _) => "all its objects, whose number nobody can say now".into(),
    };
    let linker = match &survey["linker"] {
        Json::String(_) => format!("; what linker {} keeps behind it stays there", text(&survey["linker"])),
        _ => String::new(),
    };
    format!(
        "set {set} ends in the whole cluster, whoever has it open, and with it {objects}{linker}; it cannot be undone"
    )
}

fn show_destroyed(answer: &Json) -> String {
    let objects = answer["objects"].as_u64().map(|objects| format!(", with {objects} objects")).unwrap_or_default();
    format!("set {} is destroyed{objects}: its name is free", text(&answer["set"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_is_said_as_far_as_it_is_known() {
        let survey = |objects: Option<u64>, is_ending: bool, linker: Option<&str>| {
            show_survey(&json!({"set": "rows", "objects": objects, "ending": is_ending, "linker": linker}))
        };
        let counted = survey(Some(7), false, None);
        assert!(counted.contains("set rows ends") && counted.contains("7 objects; it cannot be undone"), "{counted}");
        assert!(survey(None, false, None).contains("whose number nobody can say"));
        assert!(survey(None, true, None).contains("a destroy has begun already"));
        assert!(survey(Some(7), false, Some("redb")).contains("what linker redb keeps behind it stays there"));
        let unknown = show_destroyed(&json!({"set": "rows", "objects": null}));
        assert_eq!(unknown, "set rows is destroyed: its name is free");
    }
}
