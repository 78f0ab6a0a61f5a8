//! A set that was made after members were lost has lost nothing by that, also where nobody has heard of it.

use kddm_core::id::{Epoch, Incarnation, NodeId, ObjectId, Placement, PlacementPolicy, RequestId, SetId, Tenure};
use kddm_core::io::{Input, Output, Outputs};
use kddm_core::message::{Message, Request, RequestKind};
use kddm_core::node::{HandedOver, Node};
use kddm_core::view::View;
use three::view;

mod three;

/// Without replicas: each loss of a member may have taken something of it.
const SET: SetId = SetId::new(PlacementPolicy::Hash, 9);

/// Node 1 or 2 of three, after node 3 was lost and all have said what they have.
fn survivor(me: u16) -> Node {
    let mut node = Node::new(NodeId(me), Incarnation(1), 0);
    let mut said = Outputs::new();
    for view in [view(1, &[1, 2, 3]), view(2, &[1, 2])] {
        node.install_view(view).expect("the last one holds");
        while node.hand_over(&mut said).expect("there is memory") != HandedOver::Nothing {}
    }
    said.drain().count();
    let other = NodeId(3 - me);
    for message in [Message::AllReported, Message::Placed { placement: Placement(2) }] {
        hear(&mut node, other, 0, message);
    }
    while node.hand_over(&mut said).expect("there is memory") != HandedOver::Nothing {}
    node
}

fn hear(node: &mut Node, from: NodeId, object: u64, message: Message) -> Vec<Message> {
    let mut said = Outputs::new();
    let input = Input::Message { from, message };
    node.handle(SET, ObjectId(object), input, &mut said).expect("there is memory");
    messages(&mut said)
}

fn messages(said: &mut Outputs) -> Vec<Message> {
    let sent = |output: Output| match output {
        Output::Send { message, .. } => Some(message),
        _ => None,
    };
    said.drain().filter_map(sent).collect()
}

fn get(counter: u64) -> Message {
    let id = RequestId { node: NodeId(1), incarnation: Incarnation(1), counter };
    let kind = RequestKind::Get { existing: false };
    let (tau, forwards) = (Tenure::NONE, 0);
    Message::Request(Request { id, kind, tau, forwards, inherited: false, first: false, to_home: true })
}

/// An object that node 2 answers for since node 3 was lost.
fn moved() -> u64 {
    let (before, after) = (view(1, &[1, 2, 3]), view(2, &[1, 2]));
    let home = |view: &View, object: u64| view.home(SET, ObjectId(object).shard(PlacementPolicy::Hash));
    (0..10_000)
        .find(|object| home(&before, *object) == Some(NodeId(3)) && home(&after, *object) == Some(NodeId(2)))
        .expect("node 3 was the home of a third")
}

fn is_lost(said: &[Message]) -> bool {
    said.iter().any(|message| matches!(message, Message::Lost { .. }))
}

#[test]
fn who_opens_a_set_says_how_old_it_is() {
    let (mut opener, mut home) = (survivor(1), survivor(2));
    assert!(opener.may_have_lost(SET) && home.may_have_lost(SET), "nobody knows yet that it is younger");
    let mut outputs = Outputs::new();
    opener.set_is_born(SET, Epoch(2), &mut outputs).expect("there is memory");
    let told = messages(&mut outputs);
    assert_eq!(told, [Message::AcceptLoss { set_until: Some(Epoch(2)) }]);
    for message in told {
        hear(&mut home, NodeId(1), 0, message);
    }
    assert!(!opener.may_have_lost(SET) && !home.may_have_lost(SET));
    let said = hear(&mut home, NodeId(1), moved(), get(1));
    assert!(said.iter().any(|message| matches!(message, Message::Create { .. })), "{said:?}");
    // It is known, and said no more.
    opener.set_is_born(SET, Epoch(2), &mut outputs).expect("there is memory");
    assert_eq!(messages(&mut outputs), []);
}

#[test]
fn a_set_that_is_as_old_as_the_loss_may_have_lost_something() {
    let (mut opener, mut home) = (survivor(1), survivor(2));
    let mut outputs = Outputs::new();
    for born in [1, 3] {
        // Before the loss; and in an epoch that is yet to come, which nobody can know.
        opener.set_is_born(SET, Epoch(born), &mut outputs).expect("there is memory");
        assert_eq!(messages(&mut outputs), [], "born in epoch {born}");
    }
    assert!(opener.may_have_lost(SET));
    assert!(is_lost(&hear(&mut home, NodeId(1), moved(), get(1))), "its home was lost with all it knew");
}
