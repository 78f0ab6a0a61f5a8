//! Whether an object is being removed is known to whoever has a part in it, until it is over.

use kddm_core::id::{Incarnation, NodeId, ObjectId, PlacementPolicy, RequestId, SetId, Tenure, Version};
use kddm_core::io::{Answer, Input, Output, Outputs};
use kddm_core::message::{Message, Request, RequestKind};
use kddm_core::node::Node;
use three::view;

mod three;

const SET: SetId = SetId::new(PlacementPolicy::Fixed(NodeId(1)), SetId::FIRST_COUNTER);
const OTHER: SetId = SetId::new(PlacementPolicy::Fixed(NodeId(1)), SetId::FIRST_COUNTER + 1);
const OBJECT: ObjectId = ObjectId(7);

fn one(me: u16) -> Node {
    let mut node = Node::new(NodeId(me), Incarnation(1), 0);
    assert_eq!(node.install_view(view(1, &[1, 2, 3])), Ok(()));
    let mut said = Outputs::new();
    while node.is_handing_over() && node.hand_over(&mut said).is_ok() {}
    node
}

/// What follows from an input; a local thread gives back at once what is asked back.
fn input(node: &mut Node, input: Input) -> Vec<Output> {
    let (mut said, mut all, mut todo) = (Outputs::new(), Vec::new(), vec![input]);
    while let Some(input) = todo.pop() {
        node.handle(SET, OBJECT, input, &mut said).expect("there is memory");
        for output in said.drain() {
            match output {
                Output::Revoke { .. } => todo.push(Input::Revoked { version: Version(1), has_value: true }),
                other => all.push(other),
            }
        }
    }
    all
}

fn hears(node: &mut Node, from: u16, message: Message) -> Vec<Output> {
    input(node, Input::Message { from: NodeId(from), message })
}

fn request(of: u16, counter: u64, kind: RequestKind) -> Message {
    let id = RequestId { node: NodeId(of), incarnation: Incarnation(1), counter };
    let (tau, forwards, inherited, first, to_home) = (Tenure::NONE, 0, false, false, true);
    Message::Request(Request { id, kind, tau, forwards, inherited, first, to_home })
}

fn sent(outputs: &[Output], to: u16) -> Message {
    let found = outputs.iter().find_map(|output| match output {
        Output::Send { to: whom, message, .. } if *whom == NodeId(to) => Some(message.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("nothing for node {to} in {outputs:?}"))
}

#[test]
fn a_removal_is_seen_at_the_owner_and_at_whoever_asked_until_it_is_over() {
    let (mut owner, mut reader, mut asker) = (one(1), one(3), one(2));
    input(&mut owner, Input::Want { kind: RequestKind::Grab { existing: false } });
    input(&mut reader, Input::Want { kind: RequestKind::Get { existing: false } });
    let given = hears(&mut owner, 3, request(3, 1, RequestKind::Get { existing: false }));
    hears(&mut reader, 1, sent(&given, 3));
    assert!([&owner, &reader, &asker].iter().all(|node| !node.is_removing(SET)));

    let asked = input(&mut asker, Input::Want { kind: RequestKind::Remove });
    assert!(asker.is_removing(SET) && !asker.is_removing(OTHER) && !owner.is_removing(SET));
    let struck = hears(&mut owner, 2, sent(&asked, 1));
    assert!(owner.is_removing(SET) && !owner.is_removing(OTHER), "its copies are out");
    let acked = hears(&mut reader, 1, sent(&struck, 3));
    let over = hears(&mut owner, 3, sent(&acked, 1));
    assert!(!owner.is_removing(SET), "all copies are gone");
    assert!(asker.is_removing(SET), "it has no answer yet");
    let answered = hears(&mut asker, 1, sent(&over, 2));
    assert!(answered.iter().any(|output| matches!(output, Output::Answer { answer: Answer::Removed, .. })));
    assert!(!asker.is_removing(SET));
}
