//! What a running node asks of its log beside the steps of [`ViewLog`]: who leads, what only a leader may
//! write, and what its lease rests on.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use kddm_core::id::{NodeId, Time};

use crate::change::Change;
use crate::log::{LogError, ViewLog};
use crate::state::State;
use crate::voters::Voters;

/// Is called when a log may have something new to take. It neither waits nor calls the log.
pub type News = Arc<dyn Fn() + Send + Sync>;

/// The log of a running node.
///
/// There are two kinds. The *members* keep a log if some of them decide ([`Voters`]): they are its [groups](Self::groups),
/// speak to each other, and confirm who leads. Otherwise something else keeps it, as etcd does: then there are no voters, no
/// node says anything to another one about the log, and the log itself [confirms](Self::confirmed) who leads. What has no
/// meaning there need not be said: it is answered by default.
///
/// ```
/// use kddm_core::id::NodeId;
/// use kddm_view::{ClusterId, Identity, NodeLog, Nowhere, SessionId, State, Voters};
///
/// let identity = Identity { cluster: ClusterId(1), session: SessionId::DEFAULT };
/// let log = Voters::found(NodeId(1), 42, State::new(identity, NodeId(1)), Box::new(Nowhere))?;
/// let log: Box<dyn NodeLog> = Box::new(log);
/// assert!(log.is_leader() && log.groups() == [[NodeId(1)]] && log.confirmed(log.term()).is_none());
/// # Ok::<(), kddm_view::LogError>(())
/// ```
pub trait NodeLog: ViewLog {
    /// Whether this node leads, as far as it knows.
    fn is_leader(&self) -> bool;

    /// Who leads, as far as this node knows.
    fn leader(&self) -> Option<NodeId>;

    /// The number of the last leadership that is known here: at most one node leads in each.
    fn term(&self) -> u64;

    /// The state that the entries follow which are kept here.
    fn base(&self) -> &State;

    /// Writes what holds only as long as this node leads in `term`, in which it was judged. Whether it is going to be
    /// written; if it is, it is decided in that term or never.
    ///
    /// # Errors
    /// If the change cannot be meant, or the log cannot be kept.
    fn write_as_leader(&mut self, term: u64, change: Change) -> Result<bool, LogError>;

    /// Whether something was written of which it is not known here that it is decided.
    fn has_undecided(&self) -> bool;

    /// Whether a change of this node waits to be decided.
    fn has_proposals(&self) -> bool;

    /// Why this node has no part in the log any more.
    fn failure(&self) -> Option<LogError>;

    /// After a [failure](Self::failure): the log tells it no more. Whether this node can go on as one that only
    /// follows.
    fn retire(&mut self) -> bool;

    /// From now on this node does not want to lead. If it does, another one takes over, if there is one.
    fn stand_back(&mut self);

    /// This node may lead, from now on or again.
    fn stand(&mut self);

    /// That node is proven dead. If it led, another one is wanted now.
    fn is_dead(&mut self, node: NodeId);

    /// This node has stopped: it lets go of the log.
    fn close(&mut self);

    /// Whether members keep it, and some of them decide.
    fn has_voters(&self) -> bool {
        false
    }

    /// Each group of members that has a say: one at least, if [members](Self::has_voters) keep the log.
    fn groups(&self) -> Vec<Vec<NodeId>> {
        Vec::new()
    }

    /// From when the lease of this node counts, if it leads in `term` and no members confirm that: whoever leads in a later
    /// one was elected after that moment, and waits for one lease of the cluster.
    fn confirmed(&self, _term: u64) -> Option<Instant> {
        None
    }

    /// Has that called whenever there may be something new that no message has brought.
    fn on_news(&mut self, _tell: News) {}

    /// Whether this node counts as one of those who decide.
    fn votes(&self) -> bool {
        false
    }

    /// Whether this node leads and has lately heard that node's log.
    fn hears(&self, _node: NodeId) -> bool {
        false
    }

    /// Whether this node leads and that node has told it that it can keep no log.
    fn fails(&self, _node: NodeId) -> bool {
        false
    }

    /// The latest term that this node has promised anything in, if its word counts.
    fn promised(&self) -> Option<u64> {
        None
    }

    /// The leader tells a member that only follows who leads now.
    fn introduce(&mut self, _node: NodeId) {}

    /// When this log wants to see the time, if nothing comes before: None if it does not matter.
    fn due(&self) -> Option<Time> {
        None
    }

    /// One that only follows asks now what is decided and who leads.
    fn seek(&mut self) {}
}

/// Where nodes find a log that is not kept by themselves.
pub trait LogSource: Send + Sync + Debug {
    /// What people call it, for example `etcd`.
    fn name(&self) -> &str;

    /// The log of node `me`, read as far as it goes; it wants to lead only after [`NodeLog::stand`]. If there is none it
    /// begins with `beginning`, whose session says which log is meant: the cluster is that of the log that is there.
    /// `origin` is any number that no other life of a node has.
    ///
    /// # Errors
    /// If it cannot be read, or does not go with the lease of the cluster.
    fn open(&self, me: NodeId, origin: u64, beginning: &State) -> Result<Box<dyn NodeLog>, LogError>;
}

impl NodeLog for Voters {
    fn is_leader(&self) -> bool {
        Voters::is_leader(self)
    }

    fn leader(&self) -> Option<NodeId> {
        Voters::leader(self)
    }

    fn term(&self) -> u64 {
        Voters::term(self)
    }

    fn base(&self) -> &State {
        Voters::base(self)
    }

    fn write_as_leader(&mut self, term: u64, change: Change) -> Result<bool, LogError> {
        // Nobody has called it between the judgement and this.
        if Voters::term(self) == term { Voters::write_as_leader(self, change) } else { Ok(false) }
    }

    fn has_undecided(&self) -> bool {
        Voters::has_undecided(self)
    }

    fn has_proposals(&self) -> bool {
        Voters::has_proposals(self)
    }

    fn failure(&self) -> Option<LogError> {
        Voters::failure(self).cloned().map(LogError::Storage)
    }

    fn retire(&mut self) -> bool {
        Voters::retire(self);
        true
    }

    fn stand_back(&mut self) {
        Voters::stand_back(self);
    }

    fn stand(&mut self) {
        Voters::stand(self);
    }

    fn is_dead(&mut self, node: NodeId) {
        Voters::is_dead(self, node);
    }

    fn close(&mut self) {
        Voters::close(self);
    }

    fn has_voters(&self) -> bool {
        true
    }

    fn groups(&self) -> Vec<Vec<NodeId>> {
        Voters::groups(self)
    }

    fn votes(&self) -> bool {
        Voters::votes(self)
    }

    fn hears(&self, node: NodeId) -> bool {
        Voters::hears(self, node)
    }

    fn fails(&self, node: NodeId) -> bool {
        Voters::fails(self, node)
    }

    fn promised(&self) -> Option<u64> {
        Voters::promised(self)
    }

    fn introduce(&mut self, node: NodeId) {
        Voters::introduce(self, node);
    }

    fn due(&self) -> Option<Time> {
        Voters::due(self)
    }

    fn seek(&mut self) {
        Voters::seek(self);
    }
}
