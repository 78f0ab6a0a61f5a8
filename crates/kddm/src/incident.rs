//! Being told what has become of objects: what nobody can make good by waiting, and when all is good again.

use std::sync::Arc;

use crate::error::{ConfigurationError, Error, MembershipError};
use crate::node::Node;

/// Watchers of one node: parts of an application, one or two in practice.
pub(crate) const WATCHERS: usize = 16;

/// What has become of the objects of a set after members were lost or have left, as one node sees it: each node tells
/// of those that it is the home of, or owns. One incident is about all objects of a set, however many they are.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Incident {
    /// More of the set is lost than before: it cannot be proven present, and answers
    /// [`Lost`](crate::AccessError::Lost). It stays so until a node comes back that has it, or somebody accepts it
    /// ([`Node::accept_losses`]).
    Lost {
        /// The set, `#` and its number where this node has never heard its name.
        set: String,
        /// Its objects that are lost, of those of which this node is the home.
        objects: usize,
        /// Shards in which nobody can say which names existed, of those that this node answers for.
        shards_in_doubt: usize,
    },
    /// Objects of the set have fewer replicas than they are to have: these are being made, or there are too few
    /// members. The next loss may take some along.
    FewReplicas {
        /// The set.
        set: String,
        /// How many, see [`SetHealth::short`](crate::SetHealth::short).
        objects: usize,
    },
    /// Lost objects of a set with [`OnLoss::FirstTouch`](crate::OnLoss::FirstTouch) were asked for here: from now on they
    /// have never existed.
    Accepted {
        /// The set.
        set: String,
        /// How many since it was told last.
        objects: usize,
    },
    /// Of lost objects of a set with [`OnLoss::Rollback`](crate::OnLoss::Rollback) older versions were left, or such of which nobody
    /// can tell, and are the objects from now on. What was put after them is gone.
    RolledBack {
        /// The set.
        set: String,
        /// How many since it was told last, of those of which this node is the home.
        objects: usize,
    },
    /// A hook of a linker ([`Linker::hears`](crate::linker::Linker::hears)) has failed or panicked: what it keeps for the object
    /// here may be of before. Told once a second at most.
    HookFailed {
        /// The set.
        set: String,
        /// The name of its linker.
        linker: String,
        /// The object of the last one that failed.
        object: u64,
        /// Which hook that was.
        hook: &'static str,
        /// What it says.
        reason: String,
        /// How many have failed since it was told last.
        failures: usize,
    },
    /// Every object that is not lost has its replicas again, or as many as there are members for: all members have
    /// said so.
    Whole,
}

/// What a watcher runs.
pub(crate) type Watcher = Arc<dyn Fn(&Incident) + Send + Sync>;

impl Node {
    /// Has `function` told of what becomes of objects, as long as the node runs: on the thread of the notifiers, one
    /// at a time, after those that hear of the same view. It must not wait for objects (`WouldBlock`). The same is
    /// logged as warnings.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let notes: kddm::Set<String> = nodes[0].set("notes").open().wait()?;
    /// notes.grab(1).wait()?.put().wait()?;
    /// let (sender, told) = std::sync::mpsc::channel();
    /// nodes[0].on_incident(move |incident| {
    ///     let _nobody_listens = sender.send(incident.clone());
    /// })?;
    /// nodes[1].stop(); // It was the one that kept replicas.
    /// let few = |incident: &kddm::Incident| matches!(incident, kddm::Incident::FewReplicas { set, .. } if set == "notes");
    /// assert!(told.iter().any(|incident| few(&incident)));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `OutOfRange` beyond 16 of them; `Attached` in a program that is attached: its node is told.
    pub fn on_incident(&self, function: impl Fn(&Incident) + Send + Sync + 'static) -> Result<(), Error> {
        if self.runtime().lender.is_some() {
            let (what, instead) = ("watching for incidents", "watch in a program that is a node, or `kddmadm doctor`");
            return Err(MembershipError::Attached { what, instead }.into());
        }
        if self.runtime().notify.watch(Arc::new(function)) {
            return Ok(());
        }
        const { assert!(WATCHERS == 16, "the rule below names it") };
        let rule = "a node has at most 16 watchers of incidents";
        Err(ConfigurationError::OutOfRange { setting: "on_incident", value: "one more".into(), rule }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_so_many_watchers_and_no_more() {
        let node = Node::local_cluster(1).expect("a node").remove(0);
        for _ in 0..WATCHERS {
            node.on_incident(|_| {}).expect("there is room");
        }
        let refused = node.on_incident(|_| {}).expect_err("one more");
        assert!(refused.to_string().contains("16 watchers"), "{refused}");
    }
}
