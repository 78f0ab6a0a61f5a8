//! When a node may say that all is whole as far as it is concerned, and what it does until then.

use kddm_core::id::{
    Epoch, Incarnation, NodeId, ObjectId, Placement, PlacementPolicy, RequestId, SetId, Tenure, Version, Zone,
};
use kddm_core::io::{Answer, Input, Output, Outputs};
use kddm_core::message::{Message, Request, RequestKind};
use kddm_core::node::{HandedOver, Node};
use kddm_core::view::{Member, NodeState, View};

const OBJECT: ObjectId = ObjectId(5);

fn view(placement: u32, nodes: u16) -> View {
    let member = |node: u16| Member {
        id: NodeId(node),
        incarnation: Incarnation(node.into()),
        state: NodeState::Possible,
        zone: Zone::NONE,
    };
    View {
        epoch: Epoch(1),
        placement: Placement(placement),
        members: (1..=nodes).map(member).collect(),
        homes: (1..=nodes).map(NodeId).collect(),
        failures: 0,
        fewest_homes: nodes,
    }
}

/// Node 1, which is the home of all objects, and what it has said.
struct One {
    node: Node,
    said: Outputs,
}

impl One {
    fn input(&mut self, input: Input) -> Vec<Output> {
        let set = SetId::new(PlacementPolicy::Fixed(NodeId(1)), 9).with_replicas(2);
        self.node.handle(set, OBJECT, input, &mut self.said).expect("there is memory");
        self.said.drain().collect()
    }

    fn from(&mut self, node: u16, message: Message) -> Vec<Output> {
        self.input(Input::Message { from: NodeId(node), message })
    }

    fn install(&mut self, view: View) {
        self.node.install_view(view).expect("the last one holds");
    }

    /// All that it does by itself.
    fn go_on(&mut self) -> Vec<Output> {
        while self.node.hand_over(&mut self.said).expect("there is memory") != HandedOver::Nothing {}
        self.said.drain().collect()
    }
}

fn pushed_to(outputs: &[Output]) -> Vec<u16> {
    let push = |output: &Output| match output {
        Output::Send { to, message: Message::Push { .. }, .. } => Some(to.0),
        _ => None,
    };
    outputs.iter().filter_map(push).collect()
}

fn transfers(outputs: &[Output]) -> Vec<Vec<NodeId>> {
    let transfer = |output: &Output| match output {
        Output::Send { message: Message::Transfer { replicas, .. }, .. } => Some(replicas.iter().collect()),
        _ => None,
    };
    outputs.iter().filter_map(transfer).collect()
}

#[test]
fn an_object_with_too_few_replicas_gets_them_before_it_moves() {
    let mut one = One { node: Node::new(NodeId(1), Incarnation(1), 0), said: Outputs::new() };
    one.install(view(1, 2));
    one.go_on();
    one.input(Input::Want { kind: RequestKind::Grab { existing: false } });
    let (tenure, version) = (Tenure::NONE.next(Epoch(1)).expect("the first"), Version(1));
    assert_eq!(pushed_to(&one.input(Input::Put { version })), [2], "there is one other home");
    assert!(one.node.is_whole(), "its put is on its way, and there is nothing older that could be lost");
    one.from(2, Message::PushAck { tenure, version });
    assert!(one.node.is_whole());

    one.install(view(2, 3));
    assert!(!one.node.is_whole(), "a third home is to have a replica");
    let id = RequestId { node: NodeId(2), incarnation: Incarnation(2), counter: 1 };
    let kind = RequestKind::Grab { existing: false };
    let request = Request { id, kind, tau: Tenure::NONE, forwards: 0, inherited: false, first: false, to_home: true };
    one.from(2, Message::Request(request));
    let asked = one.input(Input::Revoked { version, has_value: true });
    assert_eq!((pushed_to(&asked), transfers(&asked).len()), (vec![3], 0), "{asked:?}");
    one.go_on();
    for node in [2, 3] {
        one.from(node, Message::Placed { placement: Placement(2) });
    }
    one.go_on();
    assert!(one.node.is_settled() && !one.node.is_whole(), "the new replica has nothing of it yet");
    let moved = one.from(3, Message::PushAck { tenure, version });
    assert_eq!(transfers(&moved), [[NodeId(1), NodeId(3)]], "the replica owns it, and this node has taken its place");
    one.go_on();
    assert!(one.node.is_whole());
}

#[test]
fn whoever_has_left_is_not_awaited_for_what_is_gone() {
    let mut one = One { node: Node::new(NodeId(1), Incarnation(1), 0), said: Outputs::new() };
    one.install(view(1, 4));
    one.go_on();
    let created = Tenure::NONE.next(Epoch(1)).expect("the first");
    let removed = created.next(Epoch(1)).expect("the second");
    one.from(2, Message::OwnerIs { owner: NodeId(2), tenure: created });
    one.from(2, Message::Removing { tenure: removed, forwarded: false });
    let without = |epoch, placement, lost: &[u16]| {
        let all = view(placement, 4);
        let stays = |node: &NodeId| !lost.contains(&node.0);
        let members = all.members.iter().copied().filter(|member| stays(&member.id)).collect();
        let homes = all.homes.iter().copied().filter(stays).collect();
        View { epoch: Epoch(epoch), members, homes, failures: 1, ..all }
    };
    one.install(without(2, 2, &[2]));
    one.go_on();
    one.from(3, Message::HaveReplica { tenure: created, version: Version(1) });
    one.from(3, Message::AllReported);
    one.from(4, Message::AllReported);
    let told = one.go_on();
    let is_told = |output: &Output| matches!(output, Output::Send { to: NodeId(3), message: Message::DropReplica { tenure }, .. } if *tenure == removed);
    assert!(told.iter().any(is_told), "{told:?}");
    assert!(one.node.is_settled() && !one.node.is_whole(), "node 3 has not answered");
    let id = RequestId { node: NodeId(4), incarnation: Incarnation(4), counter: 1 };
    let kind = RequestKind::Get { existing: true };
    let request = Request { id, kind, tau: Tenure::NONE, forwards: 0, inherited: false, first: false, to_home: true };
    assert_eq!(one.from(4, Message::Request(request)), [], "it waits");

    one.install(without(2, 3, &[2, 3]));
    let answered = one.go_on();
    let is_answer = |output: &Output| matches!(output, Output::Send { to: NodeId(4), message: Message::NotFound { id: of }, .. } if *of == id);
    assert!(answered.iter().any(is_answer), "{answered:?}");
    one.from(4, Message::Placed { placement: Placement(3) });
    one.go_on();
    assert!(one.node.is_whole(), "{:?}", one.node.what_is_missing());
}

#[test]
fn whoever_leaves_before_it_hears_of_a_loss_is_not_awaited() {
    let mut one = One { node: Node::new(NodeId(1), Incarnation(1), 0), said: Outputs::new() };
    one.install(view(1, 4));
    one.go_on();
    let without = |epoch, placement, lost: &[u16]| {
        let all = view(placement, 4);
        let stays = |node: &NodeId| !lost.contains(&node.0);
        let members = all.members.iter().copied().filter(|member| stays(&member.id)).collect();
        let homes = all.homes.iter().copied().filter(|home| home.0 < 3 && stays(home)).collect();
        View { epoch: Epoch(epoch), members, homes, failures: 1, ..all }
    };
    // Node 4 has given everything away, and is about to leave.
    one.install(without(2, 2, &[2]));
    one.go_on();
    one.from(3, Message::AllReported);
    one.go_on();
    assert!(!one.node.is_settled(), "node 4 has not reported");
    assert!(!one.node.await_no_leaver(&without(3, 3, &[2, 4])), "it would be lost there, and may report yet");
    let gone = without(2, 3, &[2, 4]);
    assert_eq!(one.node.awaited_leaver(&gone), Some(NodeId(4)));
    let mut again = gone.clone();
    again.members.push(Member { incarnation: Incarnation(9), ..view(3, 4).members[3] });
    assert_eq!(one.node.awaited_leaver(&again), Some(NodeId(4)), "it is back as another life");
    assert!(one.node.await_no_leaver(&gone) && !one.node.await_no_leaver(&gone));
    one.go_on();
    assert!(one.node.is_settled());
}

#[test]
fn a_view_without_homes_is_entered_and_what_was_lost_with_the_last_one_is_in_doubt() {
    let mut one = One { node: Node::new(NodeId(1), Incarnation(1), 0), said: Outputs::new() };
    let member =
        |node: u16, state| Member { id: NodeId(node), incarnation: Incarnation(node.into()), state, zone: Zone::NONE };
    let (first, second) = (NodeState::Online, member(2, NodeState::Possible));
    let homes =
        |placement, homes: &[u16]| View { homes: homes.iter().copied().map(NodeId).collect(), ..view(placement, 2) };
    one.install(View { members: vec![member(1, first), second], fewest_homes: 1, ..homes(1, &[2]) });
    one.go_on();
    // It knows something of a shard of the other's.
    one.from(2, Message::Invalidate { tenure: Tenure(5), version: Version(1), owner: NodeId(2), remove: false });
    let lost = View { epoch: Epoch(2), members: vec![member(1, first)], failures: 1, fewest_homes: 1, ..homes(2, &[]) };
    one.install(lost);
    for _ in 0..20 {
        one.node.hand_over(&mut one.said).expect("nothing is refused");
    }
    assert!(one.node.is_settled() && !one.node.is_handing_over(), "it has nobody to tell");
    let again = View {
        epoch: Epoch(2),
        members: vec![member(1, NodeState::Possible)],
        failures: 1,
        fewest_homes: 0,
        ..homes(3, &[1])
    };
    one.install(again);
    one.go_on();
    let answered = one.input(Input::Want { kind: RequestKind::Get { existing: true } });
    let is_lost = |output: &Output| matches!(output, Output::Answer { answer: Answer::Lost, .. });
    assert!(answered.iter().any(is_lost), "{answered:?}");
}
