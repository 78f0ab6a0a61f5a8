//! What only the node that leads the voters does: it lets others in, chooses who votes, and expels those
//! whose processes are proven to have ended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kddm_core::id::NodeId;
use kddm_view::{Cause, Change, ENTRIES_PER_MESSAGE, choose_voters};

use crate::runtime::Runtime;
use crate::runtime::membership::{Guard, Membership};
use crate::runtime::peer::Peer;

/// How long a new node may leave a gap between its admission and its first connection before it is
/// taken for dead when another process asks for its number: the default limit of a join.
const FIRST_CONNECTION: Duration = Duration::from_secs(10);

/// How long whoever asks to be let in is kept waiting for the decision: shorter than it waits for the answer.
const ADMISSION_LIMIT: Duration = Duration::from_secs(1);

/// Who decides which nodes are members, as one node knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct VotingInfo {
    /// Those of whom a majority decides, by ascending number: 1, 3 or 5. None where something else decides.
    pub voters: Vec<u16>,
    /// What else than members keeps the log of views, and so decides, as its [source](kddm_view::LogSource) is called.
    pub kept_in: Option<String>,
    /// Who leads them, as far as is known: none while they elect somebody.
    pub leader: Option<u16>,
    /// The number of the leadership: each later leader has a greater one.
    pub term: u64,
    /// Whether this node's vote counts.
    pub votes: bool,
    /// Why this node has no part in deciding any more, if its disk has failed.
    pub failure: Option<String>,
    /// Members that have said so of themselves, by ascending number: they decide nothing until their disks are seen
    /// to and they are started again. Only the leader hears it.
    pub failing: Vec<u16>,
    /// Of two nodes these decide alone, by ascending number.
    pub preferred: Vec<u16>,
    /// What fails together with a member, of those that have said so: voters are spread over zones.
    pub zones: BTreeMap<u16, String>,
    /// Members that vote and share nothing, by ascending number.
    pub witnesses: Vec<u16>,
}

/// Why a process is not let in.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum NotAdmitted {
    /// It may ask again: what stands in its way passes.
    Yet(String),
    /// It is not going to be.
    Ever(String),
}

impl Membership {
    /// Whether this node leads the voters, and has applied all that may have been decided before.
    pub fn leads(&self, me: NodeId) -> bool {
        self.state.voter() == me && self.log.is_leader() && self.state.term() == self.log.term()
    }
}

impl Runtime {
    /// Whether this node decides.
    pub fn leads(&self, membership: &Membership) -> bool {
        membership.leads(self.identity.id)
    }

    /// Who decides, as this node knows it.
    pub fn voting_info(&self) -> VotingInfo {
        let membership = self.membership.lock();
        let (log, is_elsewhere) = (&membership.log, membership.is_kept_elsewhere());
        let sites = || membership.state.members().map(|(node, entry)| (node.0, &entry.site));
        VotingInfo {
            zones: sites().filter_map(|(node, site)| Some((node, site.zone.clone()?))).collect(),
            preferred: sites().filter(|(_, site)| site.preferred).map(|(node, _)| node).collect(),
            failing: sites().map(|(node, _)| node).filter(|node| log.fails(NodeId(*node))).collect(),
            witnesses: sites().filter(|(_, site)| site.witness).map(|(node, _)| node).collect(),
            voters: if is_elsewhere {
                Vec::new()
            } else {
                membership.state.voters().iter().map(|voter| voter.0).collect()
            },
            kept_in: self.config.view_log_in.as_ref().filter(|_| is_elsewhere).map(|source| source.name().to_owned()),
            leader: log.leader().map(|leader| leader.0),
            term: log.term(),
            votes: log.votes(),
            failure: log.failure().map(|failure| failure.to_string()),
        }
    }

    /// Has decided what follows from the state, if this node leads. True if something was written.
    pub fn decide_what_is_due(&self, membership: &mut Guard<'_>) -> bool {
        if !self.leads(membership) {
            return false;
        }
        let dead = membership.state.members().find(|(node, entry)| {
            self.silence.is_dead(*node, entry.incarnation) && !membership.leasing.is_condemned(*node, entry.incarnation)
        });
        if let Some((node, incarnation)) = dead.map(|(node, entry)| (node, entry.incarnation)) {
            return self.expel(membership, node, incarnation, Cause::Proof);
        }
        if membership.is_kept_elsewhere() {
            self.choose_who_leads(membership)
        } else {
            self.choose_who_votes(membership)
        }
    }

    /// Names other voters if the members ask for that. Who is new among them has to have the log first.
    fn choose_who_votes(&self, membership: &mut Guard<'_>) -> bool {
        let state = &membership.state;
        let log = &membership.log;
        let mut chosen = choose_voters(state, |node| log.hears(node), |node| log.fails(node));
        if self.config.decides_alone {
            let first = chosen.iter().copied().find(|voter| *voter == state.voter()).or(chosen.first().copied());
            chosen = first.into_iter().collect();
        }
        let has_log = |voter: &NodeId| {
            let known = membership.log.known_by(*voter);
            let is_behind = known == 0 || known.saturating_add(ENTRIES_PER_MESSAGE as u64) <= state.applied();
            state.voters().contains(voter) || (!is_behind && membership.log.hears(*voter))
        };
        if chosen == state.voters() || membership.log.groups().len() > 1 || !chosen.iter().all(has_log) {
            return false;
        }
        let voters: Vec<u16> = chosen.iter().map(|voter| voter.0).collect();
        let term = membership.state.term();
        match membership.log.write_as_leader(term, Change::Voters { voters: chosen }) {
            Ok(true) => {
                tracing::info!(?voters, "other nodes decide who is a member from now on");
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::error!(%error, "other voters could not be named");
                false
            }
        }
    }

    /// Lets a process in. One that asks for the number of a member whose connection is gone takes its place.
    pub fn let_in(&self, membership: &mut Guard<'_>, join: &Change, nonce: u64) -> Result<NodeId, NotAdmitted> {
        let deadline = Instant::now() + ADMISSION_LIMIT;
        let yet = |reason: String| NotAdmitted::Yet(reason);
        if let Change::Join { node: Some(node), .. } = join
            && let Some(old) = membership.state.member(*node)
            && old.nonce != nonce
            && self.is_gone(*node)
        {
            let old = old.incarnation;
            let leave = Change::Leave { node: *node, incarnation: old };
            // It is expelled when its lease has run out.
            let refused = |reason| yet(format!("node id {node} was that of a process that is gone; {reason}"));
            membership.state.check(&leave).map_err(refused)?;
            self.propose_in(membership, leave).map_err(|error| yet(error.to_string()))?;
            while membership.state.member(*node).is_some_and(|member| member.incarnation == old) {
                self.wait_for_decision(membership, deadline)?;
            }
        }
        let refused = |reason: kddm_view::Refused| NotAdmitted::Ever(reason.to_string());
        membership.state.check(join).map_err(refused)?;
        self.propose_in(membership, join.clone()).map_err(|error| yet(error.to_string()))?;
        loop {
            if let Some(node) = membership.state.member_by_nonce(nonce) {
                return Ok(node);
            }
            membership.state.check(join).map_err(refused)?;
            self.wait_for_decision(membership, deadline)?;
        }
    }

    fn wait_for_decision(&self, membership: &mut Guard<'_>, deadline: Instant) -> Result<(), NotAdmitted> {
        if !self.is_stopping() && self.wait_for_change(membership, deadline) {
            return Ok(());
        }
        Err(NotAdmitted::Yet(
            "the admission was not decided in time: too few of those who decide can be reached".into(),
        ))
    }

    /// Whether a member had a connection with this node and has none any more.
    fn is_gone(&self, node: NodeId) -> bool {
        let is_gone = |peer: &Peer| peer.is_gone(FIRST_CONNECTION);
        node != self.identity.id && self.lanes.iter().all(|lane| lane.lock().peers.get(&node).is_none_or(is_gone))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::eventually::eventually;
    use crate::{Config, Node};

    const LIMIT: Duration = Duration::from_secs(60);

    /// Leases that a busy host does not let run out.
    fn config() -> Config {
        Config::new().lease(Duration::from_secs(10)).join_limit(LIMIT)
    }

    fn cluster(others: impl IntoIterator<Item = Config>) -> Vec<Node> {
        let mut nodes = vec![Node::join(config()).wait_for(LIMIT).expect("it begins a cluster")];
        for other in others {
            let other = other.contact(nodes[0].address().clone());
            nodes.push(Node::join(other).wait_for(LIMIT).expect("it is let in"));
        }
        nodes
    }

    #[test]
    fn a_voter_whose_disk_has_failed_is_replaced() {
        let nodes = cluster([config(), config(), config()]);
        eventually(LIMIT, "three decide", || nodes.iter().all(|node| node.voting().voters == [1, 2, 3]));
        {
            let runtime = nodes[2].runtime();
            let mut membership = runtime.membership.lock();
            membership.log.close();
            runtime.advance(&mut membership);
        }
        assert!(nodes[2].voting().failure.is_some() && !nodes[2].voting().votes);
        eventually(LIMIT, "another one votes", || nodes.iter().all(|node| node.voting().voters == [1, 2, 4]));
        assert_eq!(nodes[0].voting().failing, [3]);
        assert!(nodes[2].members().len() == 4 && nodes[2].lease().remaining != Some(Duration::ZERO), "a member still");
        // The next one to fail leaves two that can vote: one of them decides.
        {
            let runtime = nodes[1].runtime();
            let mut membership = runtime.membership.lock();
            membership.log.close();
            runtime.advance(&mut membership);
        }
        eventually(LIMIT, "one decides", || nodes.iter().all(|node| node.voting().voters == [1]));
        let named = || nodes[0].runtime().membership.lock().log.decided_since(0).map(|entries| entries.len());
        let before = named().expect("all entries are kept");
        let granted = nodes[0].lease().counts.granted;
        eventually(LIMIT, "time goes by", || nodes[0].lease().counts.granted > granted + 6);
        assert_eq!(named().ok(), Some(before), "nobody is named again and again");
    }

    #[test]
    fn the_preferred_one_of_two_decides_also_when_it_comes_second() {
        let nodes = cluster([config().preferred()]);
        eventually(LIMIT, "it decides", || nodes.iter().all(|node| node.voting().voters == [2]));
        assert_eq!(nodes[0].voting().preferred, [2]);
        let third = Node::join(config().contact(nodes[0].address().clone())).wait_for(LIMIT).expect("it is let in");
        eventually(LIMIT, "three decide", || nodes.iter().all(|node| node.voting().voters == [1, 2, 3]));
        third.stop();
        eventually(LIMIT, "it decides again", || nodes.iter().all(|node| node.voting().voters == [2]));
        let both = Node::join(config().witness().preferred()).wait_for(LIMIT).err().expect("it shares nothing");
        assert!(both.to_string().contains("it is for nodes that share objects"), "{both}");
    }
}
