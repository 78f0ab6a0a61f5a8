//! When a node may say that all is whole as far as it is concerned, and what it does until then.

use kddm_core::id::{
    Epoch, Incarnation, NodeId, ObjectId, Placement, PlacementPolicy, RequestId, SetId, Tenure, Version, Zone,
};
use kddm_core::io::{Input, Output, Outputs};
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
