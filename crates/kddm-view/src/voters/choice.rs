//! Which members are to be the voters.

use std::collections::BTreeMap;

use kddm_core::id::NodeId;

use crate::state::{MemberEntry, State};

/// The voters that this state should have, by ascending id: one of one or two nodes, three of three or four,
/// five of five or more. Who votes already stays, if it can; others are added where no voter stands yet. Where there
/// is a choice, those are taken that `hears` is true of: a voter that is gone, and not expelled yet, would be one that
/// a smaller group can hardly do without.
///
/// Those count that share objects, unless they are about to leave, and the witnesses; but none that `fails` is true of,
/// because its disk has failed and it keeps no log. As long as nobody can vote the voters stay as they are.
///
/// Of two nodes the [preferred](crate::Site::preferred) one votes, if one is.
///
/// ```
/// use kddm_core::id::NodeId;
/// use kddm_view::{ClusterId, Identity, SessionId, State, choose_voters};
///
/// let identity = Identity { cluster: ClusterId(1), session: SessionId::DEFAULT };
/// assert_eq!(choose_voters(&State::new(identity, NodeId(7)), |_| true, |_| false), [NodeId(7)]);
/// ```
pub fn choose_voters(state: &State, hears: impl Fn(NodeId) -> bool, fails: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let can_vote = |entry: &MemberEntry| (entry.state.can_share() || entry.site.witness) && !entry.draining;
    let able = state.members().filter(|(node, entry)| can_vote(entry) && !fails(*node));
    let able: BTreeMap<NodeId, &MemberEntry> = able.collect();
    let count = match able.len() {
        0 => return state.voters().to_vec(),
        1 | 2 => 1,
        3 | 4 => 3,
        _ => 5,
    };
    let mut chosen: Vec<NodeId> = Vec::new();
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    while chosen.len() < count {
        // A node without a zone stands alone.
        let crowd = |id: &NodeId| able[id].site.zone.as_deref().map_or(0, |zone| zones.get(zone).copied().unwrap_or(0));
        let votes = |id: &NodeId| state.voters().contains(id);
        let leads = |id: &NodeId| *id == state.voter();
        // With more than one it makes no difference: a majority decides.
        let is_preferred = |id: &NodeId| count == 1 && able[id].site.preferred;
        let rank = |id: &NodeId| (!is_preferred(id), !leads(id), crowd(id), !votes(id), !hears(*id), *id);
        let Some(best) = able.keys().copied().filter(|id| !chosen.contains(id)).min_by_key(rank) else { break };
        if let Some(zone) = &able[&best].site.zone {
            *zones.entry(zone).or_default() += 1;
        }
        chosen.push(best);
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use kddm_core::view::NodeState;

    use super::*;
    use crate::change::{Cause, Change, Site};
    use crate::identity::{ClusterId, Identity, SessionId};
    use crate::log::Decided;

    fn decide(state: &mut State, change: Change) {
        state.apply(&Decided { index: state.applied() + 1, change }).unwrap();
    }

    fn add(state: &mut State, node: u16, zone: &str) {
        let zone = (!zone.is_empty()).then(|| zone.to_owned());
        let site = Site { zone, ..Site::default() };
        decide(
            state,
            Change::Join { node: Some(NodeId(node)), address: format!("{node}:1"), nonce: u64::from(node), site },
        );
        let incarnation = state.member(NodeId(node)).unwrap().incarnation;
        decide(state, Change::SetState { node: NodeId(node), incarnation, state: NodeState::Possible });
    }

    fn cluster(zones: &[&str]) -> State {
        let mut state = State::new(Identity { cluster: ClusterId(1), session: SessionId::DEFAULT }, NodeId(1));
        for (node, zone) in (1..).zip(zones) {
            add(&mut state, node, zone);
        }
        state
    }

    fn chosen(state: &State) -> Vec<u16> {
        choose_voters(state, |_| true, |_| false).iter().map(|node| node.0).collect()
    }

    #[test]
    fn one_of_two_three_of_three_and_five_of_five() {
        let expected = [vec![1], vec![1], vec![1, 2, 3], vec![1, 2, 3], vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 5]];
        for (nodes, voters) in (1..).zip(expected) {
            assert_eq!(chosen(&cluster(&vec![""; nodes])), voters, "{nodes} nodes");
        }
    }

    #[test]
    fn voters_are_spread_over_zones_and_stay_where_they_can() {
        assert_eq!(chosen(&cluster(&["a", "a", "a", "b"])), [1, 2, 4]);
        assert_eq!(chosen(&cluster(&["a", "a", "b", "c"])), [1, 3, 4]);
        let mut state = cluster(&["", "", "", ""]);
        decide(&mut state, Change::Voters { voters: vec![NodeId(1), NodeId(3), NodeId(4)] });
        assert_eq!(chosen(&state), [1, 3, 4]);
    }

    #[test]
    fn a_witness_makes_three_of_two_and_one_that_drains_is_replaced() {
        let mut state = cluster(&["", ""]);
        let site = Site { witness: true, ..Site::default() };
        decide(&mut state, Change::Join { node: Some(NodeId(9)), address: "w:1".into(), nonce: 9, site });
        assert_eq!(chosen(&state), [1, 2, 9]);
        let mut state = cluster(&["", "", "", ""]);
        decide(&mut state, Change::Voters { voters: vec![NodeId(1), NodeId(2), NodeId(3)] });
        let incarnation = state.member(NodeId(2)).unwrap().incarnation;
        decide(&mut state, Change::Drain { node: NodeId(2), incarnation });
        assert_eq!(chosen(&state), [1, 3, 4]);
    }

    #[test]
    fn fewer_voters_are_those_that_are_heard_and_silence_alone_replaces_nobody() {
        let mut state = cluster(&["", "", "", "", ""]);
        decide(&mut state, Change::Voters { voters: (1..=5).map(NodeId).collect() });
        let incarnation = state.member(NodeId(1)).unwrap().incarnation;
        decide(&mut state, Change::Lead { node: NodeId(5), term: 1 });
        decide(&mut state, Change::Expel { node: NodeId(1), incarnation, cause: Cause::Proof });
        // Node 2 was lost at the same time.
        let without = |silent: u16| move |node: NodeId| node.0 != silent;
        assert_eq!(choose_voters(&state, without(2), |_| false), [3, 4, 5].map(NodeId));
        assert_eq!(choose_voters(&state, without(4), |_| false), [2, 3, 5].map(NodeId));
        decide(&mut state, Change::Voters { voters: [2, 3, 5].map(NodeId).to_vec() });
        assert_eq!(choose_voters(&state, without(2), |_| false), [2, 3, 5].map(NodeId));
    }

    #[test]
    fn one_whose_disk_has_failed_is_replaced_and_left_out_while_it_is() {
        let failed = |node: NodeId| node.0 == 3;
        let mut state = cluster(&["", "", "", ""]);
        decide(&mut state, Change::Voters { voters: [1, 2, 3].map(NodeId).to_vec() });
        assert_eq!(choose_voters(&state, |_| true, failed), [1, 2, 4].map(NodeId));
        // Of three nodes two are left that can vote, of which one decides: any one of the others may be lost.
        let mut state = cluster(&["", "", ""]);
        decide(&mut state, Change::Voters { voters: [1, 2, 3].map(NodeId).to_vec() });
        assert_eq!(choose_voters(&state, |_| true, failed), [NodeId(1)]);
        assert_eq!(choose_voters(&state, |_| true, |_| true), [1, 2, 3].map(NodeId), "nobody can replace them");
    }

    #[test]
    fn of_two_nodes_the_preferred_one_decides_alone() {
        let mut state = cluster(&[""]);
        let site = Site { preferred: true, ..Site::default() };
        decide(&mut state, Change::Join { node: Some(NodeId(2)), address: "2:1".into(), nonce: 2, site });
        assert_eq!(chosen(&state), [1], "it shares nothing yet");
        let incarnation = state.member(NodeId(2)).unwrap().incarnation;
        decide(&mut state, Change::SetState { node: NodeId(2), incarnation, state: NodeState::Possible });
        assert_eq!(chosen(&state), [2]);
        assert_eq!(choose_voters(&state, |_| true, |node| node.0 == 2), [NodeId(1)], "it cannot");
        add(&mut state, 3, "");
        assert_eq!(chosen(&state), [1, 2, 3]);
    }
}
