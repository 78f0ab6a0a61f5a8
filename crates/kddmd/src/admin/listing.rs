//! Long lists of the cluster: the objects of a set and where they are, and names. Arguments, answers, and how they are
//! shown.

use clap::{Args, Subcommand};
use kddm::{Cursor, Node, ObjectInfo, ObjectState, SetError};
use serde_json::{Value as Json, json};

use super::linkers::show_linkers;
use super::protocol::{Command, Failure};
use crate::show::{list, parties, set};

/// Objects, or names, in one answer: some ten MiB.
pub const LIST_LIMIT: u32 = 100_000;

/// Lists of the whole cluster.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum Lists {
    /// The names that are in use in the cluster, what they mean, and who uses them.
    Names(ShowNames),
    /// What stands behind the sets of the cluster, at each node that has something: what it was asked for, what failed, what waits.
    Linkers,
}

impl Lists {
    /// Has it asked, and shown as it says.
    pub fn ask<R>(self, ask: impl FnOnce(Command, fn(&Json) -> String) -> R) -> R {
        match self {
            Lists::Names(names) => ask(names.question(), show_names),
            Lists::Linkers => ask(Command::Linkers, show_linkers),
        }
    }
}

/// Which set is shown, and how much of it.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct ShowSet {
    /// Its name.
    name: String,
    /// Its objects, and where each is, instead of what the daemon keeps of it.
    #[arg(long)]
    objects: bool,
    /// How many objects at most.
    #[arg(long, default_value_t = 100, requires = "objects", value_parser = clap::value_parser!(u32).range(1..=i64::from(LIST_LIMIT)))]
    limit: u32,
    /// Those behind that place, as the last answer has said.
    #[arg(long, requires = "objects", value_name = "PLACE")]
    after: Option<Cursor>,
}

impl ShowSet {
    /// What is asked.
    pub fn question(self) -> Command {
        let ShowSet { name, objects, limit, after } = self;
        if objects {
            Command::Objects { set: name, after: after.map(|after| after.to_string()), limit }
        } else {
            Command::Set { name }
        }
    }
}

/// Which names are shown.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct ShowNames {
    /// Of one class [default: of all].
    class: Option<String>,
    /// How many at most, in the order of their classes.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(LIST_LIMIT)))]
    limit: u32,
}

impl ShowNames {
    /// What is asked.
    pub fn question(self) -> Command {
        Command::Names { class: self.class, limit: self.limit }
    }
}

/// Objects of a set.
///
/// # Errors
/// What a scan can meet, and a place that is none.
pub fn objects(node: &Node, name: &str, after: Option<&str>, limit: u32) -> Result<Json, Failure> {
    let place = |text: &str| text.parse::<Cursor>().map_err(|error| Failure::new(error.to_string()));
    let mut next = Some(after.map_or(Ok(Cursor::default()), place)?);
    let (mut objects, mut in_doubt) = (Vec::new(), 0);
    let limit = limit.clamp(1, LIST_LIMIT) as usize;
    while let Some(cursor) = next.filter(|_| objects.len() < limit) {
        let page = node.objects_of(name, cursor, limit - objects.len())?;
        in_doubt += page.in_doubt;
        next = page.next;
        objects.extend(page.objects);
    }
    let total = match node.object_count(name) {
        Ok(count) => Some(count),
        Err(kddm::Error::Set(SetError::InDoubt { .. })) => None,
        Err(error) => return Err(error.into()),
    };
    let mut states = serde_json::Map::new();
    for object in &objects {
        let count = states.get(word(object.state)).and_then(Json::as_u64).unwrap_or_default();
        states.insert(word(object.state).into(), (count + 1).into());
    }
    Ok(json!({
        "answered_by": node.id(),
        "set": name,
        "total": total,
        "states": states,
        "shards_in_doubt": in_doubt,
        "next": next.map(|next| next.to_string()),
        "objects": objects.iter().map(object).collect::<Vec<_>>(),
    }))
}

fn word(state: ObjectState) -> &'static str {
    match state {
        ObjectState::New => "new",
        ObjectState::Owned => "owned",
        ObjectState::Ending => "ending",
        ObjectState::Lost => "lost",
        _ => "unknown",
    }
}

/// Where an object is.
pub(super) fn object(info: &ObjectInfo) -> Json {
    json!({
        "id": info.id,
        "home": info.home,
        "state": word(info.state),
        "owner": info.owner,
        "confirmed": info.is_confirmed,
        "epoch": info.tenure.0,
        "tenure": info.tenure.1,
        "version": info.version,
        "sharers": info.sharers,
        "replicas": info.replicas,
        "waiting": info.waiting,
    })
}

/// `set show`, with or without its objects.
pub fn show_set(answer: &Json) -> String {
    if answer["objects"].is_array() { show_objects(answer) } else { set(answer) }
}

/// `set show --objects`.
pub fn show_objects(answer: &Json) -> String {
    let columns = [
        ("OBJECT", "id"),
        ("STATE", "state"),
        ("HOME", "home"),
        ("OWNER", "owner"),
        ("TENURE", "tenure"),
        ("VERSION", "version"),
        ("COPIES", "sharers"),
        ("REPLICAS", "replicas"),
        ("WAITING", "waiting"),
    ];
    let nodes = |nodes: &Json| {
        let all = nodes.as_array().into_iter().flatten().map(Json::to_string);
        all.collect::<Vec<_>>().join(", ")
    };
    let mut shown = list(&answer["objects"], "no objects", &columns, |object| {
        if object["confirmed"] == json!(true) {
            object["tenure"] = format!("{}.{}", object["epoch"], object["tenure"]).into();
            for key in ["sharers", "replicas"] {
                object[key] = nodes(&object[key]).into();
            }
        } else {
            for key in ["tenure", "version", "sharers", "replicas", "waiting"] {
                object[key] = "".into();
            }
        }
    });
    let count = answer["objects"].as_array().map_or(0, Vec::len);
    let states = answer["states"].as_object().into_iter().flatten();
    let states: Vec<String> = states.map(|(state, count)| format!("{count} {state}")).collect();
    if let Some(total) = answer["total"].as_u64() {
        shown += &format!("\n\n{count} of {total} objects: {}", states.join(", "));
    }
    if answer["total"].is_null() {
        shown += &format!("\n\n{count} objects: {}; what others there were cannot be said", states.join(", "));
    }
    if let Some(next) = answer["next"].as_str() {
        shown += &format!("\nmore: --after {next}");
    }
    shown
}

/// Names of the cluster.
///
/// # Errors
/// What a get can meet.
pub fn names(node: &Node, class: Option<&str>, limit: u32) -> Result<Json, Failure> {
    let found = node.names_in_use(class, limit.clamp(1, LIST_LIMIT) as usize)?;
    let party =
        |party: &kddm::Party| json!({"node": party.node, "incarnation": party.incarnation, "program": party.program});
    let names: Vec<Json> = found
        .names
        .iter()
        .map(|info| {
            json!({
                "class": info.class,
                "name": info.name,
                "id": info.id,
                "users": info.users.iter().filter(|user| !info.gone.contains(user)).map(party).collect::<Vec<_>>(),
                "gone": info.gone.iter().map(party).collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok(json!({"answered_by": node.id(), "total": found.total, "names": names}))
}

/// `names`.
pub fn show_names(answer: &Json) -> String {
    let columns = [("CLASS", "class"), ("NAME", "name"), ("ID", "id"), ("USED BY", "users"), ("GONE", "gone")];
    let shown = list(&answer["names"], "no names", &columns, |name| {
        for key in ["users", "gone"] {
            name[key] = parties(&name[key]).into();
        }
    });
    let count = answer["names"].as_array().map_or(0, Vec::len) as u64;
    match answer["total"].as_u64() {
        Some(total) if total > count => format!("{shown}\n\nthe first {count} of {total} names: --limit shows more"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Vec<Node> {
        Node::local_cluster(2).expect("nodes")
    }

    #[test]
    fn objects_are_shown_in_parts() {
        let nodes = cluster();
        let set: kddm::Set<u64> = nodes[0].set("shown").open().wait().expect("a set");
        for id in 0..10 {
            set.update(id, |value| {
                *value += 1;
                Ok(())
            })
            .wait()
            .expect("put");
        }
        let (mut after, mut ids) = (None, Vec::new());
        loop {
            let answer = objects(&nodes[1], "shown", after.as_deref(), 4).expect("an answer");
            let some = answer["objects"].as_array().expect("a list").clone();
            assert!(some.len() <= 4 && answer["total"] == json!(10), "{answer}");
            assert!(
                some.iter().all(|object| object["owner"] == json!(1) && object["replicas"] == json!([2])),
                "{answer}"
            );
            assert!(some.iter().all(|object| object["version"] == json!(1)), "{answer}");
            ids.extend(some.iter().map(|object| object["id"].as_u64().expect("a number")));
            let shown = show_objects(&answer);
            assert!(shown.contains("VERSION") && shown.contains("of 10 objects"), "{shown}");
            let Some(next) = answer["next"].as_str() else { break };
            assert!(shown.contains(&format!("--after {next}")), "{shown}");
            after = Some(next.to_string());
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..10).collect::<Vec<_>>());
        assert!(objects(&nodes[0], "shown", Some("no place"), 4).is_err());
        assert!(objects(&nodes[0], "no such set", None, 4).is_err());
    }

    #[test]
    fn names_are_shown_with_who_uses_them() {
        let nodes = cluster();
        assert_eq!(show_names(&names(&nodes[0], None, 10).expect("an answer")), "no names");
        let class = nodes[1].names("rpc").wait().expect("it opens");
        let _held = [class.reserve("a").wait().expect("reserved"), class.reserve("b").wait().expect("reserved")];
        let answer = names(&nodes[0], Some("rpc"), 1).expect("an answer");
        assert_eq!((&answer["total"], &answer["names"][0]["users"][0]["node"]), (&json!(2), &json!(2)), "{answer}");
        let shown = show_names(&answer);
        assert!(shown.contains("USED BY") && shown.contains("the first 1 of 2"), "{shown}");
    }
}
