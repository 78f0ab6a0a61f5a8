//! What the daemons say of their cluster: whether one may be lost now, and who leads those who decide.
//!
//! Any of them may be the next to be lost, and one that is behind does not know of the last loss yet: so all are
//! asked, and all have to say the same.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::cluster::{Host, Programs};

/// Fewest of those who decide of whom one may be lost.
const FEWEST_VOTERS: usize = 3;

/// How long they may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

/// The pause between looks whether they have.
const LOOK: Duration = Duration::from_millis(2);

/// What all of them say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// Who leads those who decide.
    pub leader: u16,
    term: u64,
    epoch: u64,
    members: Vec<u64>,
}

/// What all daemons of these hosts say, if they agree, nothing is missing after the members that were lost so far,
/// and one more may be lost of those who decide.
pub fn whole(hosts: &[Host], programs: &Programs) -> Option<Said> {
    let asked: Vec<Option<Child>> = hosts.iter().map(|host| ask(host, programs)).collect();
    let until = Instant::now() + LIMIT;
    // All of them are waited for, also when one has no answer.
    let answers = asked.into_iter().map(|asked| said_by(&answer_of(asked?, until)?));
    agreed(&answers.collect::<Vec<_>>())
}

fn ask(host: &Host, programs: &Programs) -> Option<Child> {
    let mut ask = Command::new(programs.folder.join("kddmadm"));
    ask.arg("--data-dir").arg(host.data_dir()).args(["--json", "cluster", "status"]);
    ask.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()
}

/// Its answer fits into the pipe, whoever reads it when.
fn answer_of(mut asked: Child, until: Instant) -> Option<Json> {
    while matches!(asked.try_wait(), Ok(None)) {
        if Instant::now() >= until {
            let _already_dead = asked.kill();
        }
        std::thread::sleep(LOOK);
    }
    serde_json::from_slice(&asked.wait_with_output().ok()?.stdout).ok()
}

fn agreed(answers: &[Option<Said>]) -> Option<Said> {
    let first = answers.first()?.clone()?;
    answers.iter().all(|said| said.as_ref() == Some(&first)).then_some(first)
}

/// None if something is missing there.
fn said_by(status: &Json) -> Option<Said> {
    let is_whole = status["failures"] == 0 && status["whole"] == true && status["recovering"] == false;
    let voters = status["voters"].as_array()?.len();
    let members = status["nodes"].as_array()?.iter().filter(|node| node["state"] == "possible");
    let said = Said {
        leader: status["leader"].as_u64()?.try_into().ok()?,
        term: status["term"].as_u64()?,
        epoch: status["epoch"].as_u64()?,
        members: members.filter_map(|node| node["id"].as_u64()).collect(),
    };
    (is_whole && voters >= FEWEST_VOTERS).then_some(said)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Json {
        let nodes = [1, 2, 3].map(|id| json!({"id": id, "state": "possible"}));
        json!({"failures": 0, "whole": true, "recovering": false, "voters": [1, 2, 3], "leader": 2, "term": 7,
               "epoch": 5, "nodes": nodes})
    }

    fn with(name: &str, value: Json) -> Option<Said> {
        let mut status = status();
        status[name] = value;
        said_by(&status)
    }

    #[test]
    fn one_may_be_lost_only_when_nothing_is_missing_and_a_majority_stays() {
        assert_eq!(with("failures", json!(0)).map(|said| said.leader), Some(2));
        let missing = [
            ("failures", json!(1)),
            ("whole", json!(false)),
            ("recovering", json!(true)),
            ("voters", json!([2])),
            ("leader", Json::Null),
        ];
        for (name, value) in missing {
            assert_eq!(with(name, value.clone()), None, "{name} {value}");
        }
    }

    #[test]
    fn all_have_to_say_the_same() {
        let said = with("failures", json!(0));
        assert_eq!(agreed(&[said.clone(), said.clone()]), said);
        for other in [None, with("epoch", json!(4)), with("leader", json!(1)), with("nodes", json!([]))] {
            assert_eq!(agreed(&[said.clone(), other.clone()]), None, "{other:?}");
        }
        assert_eq!(agreed(&[]), None);
    }
}
