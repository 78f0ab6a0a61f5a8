//! Sets that a daemon freezes for an operator, for so many minutes at most. Arguments, what is kept, answers, and how they
//! are shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Subcommand;
use kddm::{Freeze, FreezeError, Node};
use parking_lot::{Condvar, Mutex};
use serde_json::{Value as Json, json};

use super::protocol::{Command, Failure};
use crate::show::text;

/// Longest freeze, a day: longer than any backup, and one that is forgotten ends.
pub const MOST_MINUTES: u32 = 24 * 60;

/// How long the writers of a set may take to come to an end.
const WRITERS_LIMIT: Duration = Duration::from_secs(10);

/// What is to be frozen, or thawed.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum FreezeSet {
    /// Freezes a set: nobody in the cluster writes it until it is thawed, or so many minutes are over. Reads go on.
    Freeze {
        /// Its name.
        name: String,
        /// It is thawed then, whatever happens.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_MINUTES)))]
        minutes: u32,
    },
    /// Thaws a set that was frozen by this daemon.
    Thaw {
        /// Its name.
        name: String,
    },
}

impl FreezeSet {
    /// What is asked.
    pub fn question(self) -> Command {
        match self {
            FreezeSet::Freeze { name, minutes } => Command::Freeze { set: name, minutes },
            FreezeSet::Thaw { name } => Command::Thaw { set: name },
        }
    }
}

struct Held {
    freeze: Freeze,
    until: Instant,
}

#[derive(Default)]
struct Shared {
    held: Mutex<BTreeMap<String, Held>>,
    /// One of them has gone.
    gone: Condvar,
}

/// The freezes that a daemon holds for its operators: one of each set.
#[derive(Clone, Default)]
pub struct Freezes(Arc<Shared>);

impl Freezes {
    /// Freezes a set, or gives its freeze so many minutes from now on.
    ///
    /// # Errors
    /// What [`Node::freeze_set`] can meet.
    pub fn freeze(&self, node: &Node, name: &str, minutes: u32) -> Result<Json, Failure> {
        let lasts = Duration::from_secs(60 * u64::from(minutes.clamp(1, MOST_MINUTES)));
        if !self.prolong(name, lasts) {
            let freeze = node.freeze_set(name, WRITERS_LIMIT).wait()?;
            let until = Instant::now() + lasts;
            // What was there is over, or is that of another request at this moment: one is enough.
            let before = self.0.held.lock().insert(name.into(), Held { freeze, until });
            drop(before);
            self.end_in_time(name)?;
        }
        let by = node.set_info(name)?.frozen_by;
        Ok(json!({"answered_by": node.id(), "set": name, "frozen_by": by, "seconds_left": lasts.as_secs()}))
    }

    /// False: it is not frozen by this.
    fn prolong(&self, name: &str, lasts: Duration) -> bool {
        let mut held = self.0.held.lock();
        let Some(one) = held.get_mut(name).filter(|one| one.freeze.is_held()) else { return false };
        one.until = Instant::now() + lasts;
        // It may be over sooner than it was to be.
        self.0.gone.notify_all();
        true
    }

    /// A thread of its own waits for the end. One that was there for a former freeze of the set sees to this one, too.
    fn end_in_time(&self, name: &str) -> Result<(), Failure> {
        let (shared, set) = (Arc::clone(&self.0), name.to_string());
        let wait = move || {
            let mut held = shared.held.lock();
            while let Some(until) = held.get(&set).map(|one| one.until) {
                if Instant::now() >= until {
                    let over = held.remove(&set);
                    drop(held);
                    tracing::warn!(set, "a set is thawed because its time is over");
                    return drop(over);
                }
                shared.gone.wait_until(&mut held, until);
            }
        };
        std::thread::Builder::new().name("kddmd-thaw".into()).spawn(wait).map(drop).map_err(|error| {
            // Nothing is frozen that nobody would thaw.
            let not_held = self.0.held.lock().remove(name);
            drop(not_held);
            Failure::new(format!("the set is not frozen, since no thread could be started to thaw it: {error}"))
        })
    }

    /// Thaws a set.
    ///
    /// # Errors
    /// This daemon has not frozen it.
    pub fn thaw(&self, node: &Node, name: &str) -> Result<Json, Failure> {
        let held = self.0.held.lock().remove(name);
        self.0.gone.notify_all();
        match held {
            Some(held) => held.freeze.thaw().wait()?,
            None => {
                let by = node.set_info(name)?.frozen_by;
                return Err(match by.first() {
                    Some(node) => {
                        let frozen = FreezeError::Frozen { set: name.into(), node: *node };
                        let what = format!("{frozen}; if its daemon has done so, ask that one: `kddmadm --data-dir …`");
                        Failure::new(what)
                    }
                    None => Failure::new(format!("nobody has frozen set {name:?}")),
                });
            }
        }
        let by = node.set_info(name)?.frozen_by;
        Ok(json!({"answered_by": node.id(), "set": name, "frozen_by": by, "seconds_left": 0}))
    }

    /// Nothing is frozen any more by this: the daemon ends, or goes on with another node.
    pub fn end(&self) {
        let all = std::mem::take(&mut *self.0.held.lock());
        self.0.gone.notify_all();
        drop(all);
    }
}

/// `set freeze`, `set thaw`.
pub fn show_frozen(answer: &Json) -> String {
    let (set, seconds) = (text(&answer["set"]), answer["seconds_left"].as_u64().unwrap_or_default());
    let by: Vec<String> = answer["frozen_by"].as_array().into_iter().flatten().map(Json::to_string).collect();
    match (seconds, by.as_slice()) {
        (0, []) => format!("set {set} is thawed: whoever waits to write it goes on"),
        (0, by) => format!("set {set} stays frozen by nodes {}: this daemon has thawed it", by.join(", ")),
        (seconds, _) => format!(
            "set {set} is frozen for {} minutes: nobody writes it, all read it; `kddmadm set thaw {set}` ends that",
            seconds.div_ceil(60)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_holds_one_freeze_of_a_set_and_ends_it() {
        let node = Node::local_cluster(1).expect("a node").remove(0);
        let set: kddm::Set<u64> = node.set("kept").open().wait().expect("it opens");
        let freezes = Freezes::default();
        for minutes in [1, 5, 1] {
            let answer = freezes.freeze(&node, "kept", minutes).expect("it is frozen");
            assert_eq!(answer["frozen_by"], json!([node.id()]));
            assert_eq!(answer["seconds_left"], 60 * minutes);
            assert!(show_frozen(&answer).contains(&format!("for {minutes} minutes")), "{answer}");
        }
        assert!(set.grab(1).wait_for(Duration::from_millis(50)).is_err());
        let answer = freezes.thaw(&node, "kept").expect("it is thawed");
        assert!(show_frozen(&answer).contains("is thawed"), "{answer}");
        set.grab(1).wait().expect("nobody has frozen it").put().wait().expect("it is put");
        let again = freezes.thaw(&node, "kept").expect_err("it is thawed already");
        assert!(format!("{again:?}").contains("nobody has frozen"), "{again:?}");
        // One whose time is over.
        freezes.freeze(&node, "kept", 5).expect("it is frozen");
        assert!(freezes.prolong("kept", Duration::ZERO));
        set.grab(1).wait().expect("it is thawed by itself").put().wait().expect("it is put");
        let other = node.freeze_set("kept", WRITERS_LIMIT).wait().expect("a program does so");
        let refused = freezes.thaw(&node, "kept").expect_err("it is not the daemon's");
        assert!(format!("{refused:?}").contains("has frozen set"), "{refused:?}");
        drop(other);
        freezes.freeze(&node, "kept", 1).expect("it is frozen");
        freezes.end();
        set.grab(1).wait().expect("the daemon has ended").put().wait().expect("it is put");
    }
}
