//! Read copies of a former life, many at once: what is asked, what is believed, and what is left.

use kddm_core::id::{Incarnation, NodeId, ObjectId, PlacementPolicy, RequestId, SetId, Tenure, Version};
use kddm_core::io::{Access, Input, Output, Outputs};
use kddm_core::message::{Message, ReadCopy, RequestKind};
use kddm_core::node::Node;
use kddm_core::shard::Main;
use three::view;

mod three;

const SET: SetId = SetId::new(PlacementPolicy::Fixed(NodeId(1)), SetId::FIRST_COUNTER);
const OBJECTS: u64 = 50;

/// A member of three.
struct One {
    node: Node,
    said: Outputs,
}

impl One {
    fn new(me: u16) -> One {
        let mut one = One { node: Node::new(NodeId(me), Incarnation(1), 0), said: Outputs::new() };
        assert_eq!(one.node.install_view(view(1, &[1, 2, 3])), Ok(()));
        while one.node.is_handing_over() && one.node.hand_over(&mut one.said).is_ok() {}
        one.said.drain().count();
        one
    }

    /// What follows from an input.
    fn input(&mut self, object: u64, input: Input) -> Vec<Output> {
        self.node.handle(SET, ObjectId(object), input, &mut self.said).expect("there is memory");
        self.said.drain().collect()
    }

    fn hears(&mut self, from: u16, message: Message) -> Vec<Output> {
        self.input(0, Input::Message { from: NodeId(from), message })
    }

    fn asks(&mut self, to: u16, copies: &[ReadCopy]) -> Option<u64> {
        let asked = self.node.revalidate(SET, NodeId(to), copies, &mut self.said).expect("there is memory");
        self.said.drain().count();
        asked
    }

    fn is_sharer(&self, object: u64) -> bool {
        let seen = self.node.inspect(SET, ObjectId(object));
        seen.is_some_and(|seen| matches!(seen.main, Main::Sharer { .. }))
    }
}

/// Node 1 owns all objects, and has given each of them to node 3, which has them to read.
fn shared() -> (One, One) {
    let (mut owner, mut reader) = (One::new(1), One::new(3));
    for object in 1..=OBJECTS {
        owner.input(object, Input::Want { kind: RequestKind::Grab { existing: false } });
        reader.input(object, Input::Want { kind: RequestKind::Get { existing: false } });
        let id = RequestId { node: NodeId(3), incarnation: Incarnation(1), counter: object };
        let kind = RequestKind::Get { existing: false };
        let (tau, forwards, inherited, first, to_home) = (Tenure::NONE, 0, false, false, true);
        let request = kddm_core::message::Request { id, kind, tau, forwards, inherited, first, to_home };
        let asked = owner.input(object, Input::Message { from: NodeId(3), message: Message::Request(request) });
        assert!(matches!(asked[..], [Output::Revoke { to: Access::Read, .. }]));
        let back = owner.input(object, Input::Revoked { version: Version(object), has_value: true });
        let [Output::Send { message, .. }] = &back[..] else { panic!("{back:?}") };
        reader.input(object, Input::Message { from: NodeId(1), message: message.clone() });
    }
    (owner, reader)
}

fn candidates(of: &One) -> Vec<ReadCopy> {
    let mut copies: Vec<ReadCopy> = Vec::new();
    for (set, owner, copy) in of.node.read_copies() {
        assert_eq!((set, owner), (SET, NodeId(1)), "whoever gave it can tell");
        copies.push(copy);
    }
    copies.sort_unstable();
    copies
}

#[test]
fn one_question_finds_out_about_many_copies() {
    let (mut owner, reader) = shared();
    let copies = candidates(&reader);
    assert_eq!(copies.len(), OBJECTS as usize);
    // Of two of them a former life had something else.
    let stale = [ReadCopy { version: Version(0), ..copies[6] }, ReadCopy { tenure: Tenure(5), ..copies[9] }];
    let mut asked = copies.clone();
    (asked[6], asked[9]) = (stale[0], stale[1]);
    let mut back = One::new(3);
    let question = back.asks(1, &asked).expect("it is asked");
    let id = RequestId { node: NodeId(3), incarnation: Incarnation(1), counter: question };
    let said = owner.hears(3, Message::Revalidate { id, copies: asked });
    let [Output::Send { to: NodeId(3), message: answer @ Message::Revalidated { valid, .. }, .. }] = &said[..] else {
        panic!("{said:?}");
    };
    let expected: Vec<ObjectId> = (1..=OBJECTS).filter(|object| ![7, 10].contains(object)).map(ObjectId).collect();
    assert_eq!(valid, &expected);
    let used = back.hears(1, answer.clone());
    let version = |object: &ObjectId| Version(object.0);
    let uses: Vec<Output> =
        expected.iter().map(|object| Output::UseCopy { object: *object, version: version(object), question }).collect();
    assert_eq!(used, uses);
    assert!((1..=OBJECTS).all(|object| back.is_sharer(object) != [7, 10].contains(&object)));
    assert!(back.node.is_at_rest() && !back.node.asks(question));
    let sharers = owner.node.inspect(SET, ObjectId(8)).expect("it is there").sharers;
    assert_eq!(sharers, [NodeId(3)]);
}

#[test]
fn of_what_was_not_asked_nothing_is_believed() {
    let (_, reader) = shared();
    let copies = candidates(&reader);
    let mut back = One::new(3);
    let asked: Vec<ReadCopy> = copies.iter().copied().filter(|copy| copy.object.0 % 2 == 0).collect();
    let question = back.asks(1, &asked).expect("it is asked");
    let id = RequestId { node: NodeId(3), incarnation: Incarnation(1), counter: question };
    let lie = Message::Revalidated { id, valid: [2, 4, 5, 6].map(ObjectId).to_vec() };
    assert_eq!(back.hears(1, lie).len(), 2, "what comes before the lie is as good as an answer alone");
    assert!(!back.is_sharer(5) && !back.is_sharer(6));
}

#[test]
fn so_many_questions_are_under_way_and_no_more() {
    let (_, reader) = shared();
    let copies = candidates(&reader);
    let mut back = One::new(3);
    let mut asked = copies.chunks(10).map(|some| back.asks(1, some));
    let under_way: Vec<u64> = asked.by_ref().take(4).flatten().collect();
    assert_eq!((under_way.len(), asked.next()), (4, Some(None)));
    assert!(!back.node.is_at_rest(), "I9");
    // A loss of members ends all of them.
    assert_eq!(back.node.install_view(view(2, &[1, 3])), Ok(()));
    assert!(under_way.iter().all(|question| !back.node.asks(*question)));
    assert!(back.asks(1, &copies).is_some() && back.asks(2, &copies).is_none(), "node 2 is no member");
    back.node.destroy(SET);
    assert!(back.node.revalidate(SET, NodeId(1), &copies, &mut Outputs::new()).is_err());
}

/// Nobody who asks makes this node remember sets or objects.
#[test]
fn a_question_of_what_is_not_here_makes_nothing() {
    let mut node = One::new(1);
    let id = RequestId { node: NodeId(3), incarnation: Incarnation(1), counter: 1 };
    let copy = |object| ReadCopy { object: ObjectId(object), tenure: Tenure(7), version: Version(1) };
    let said = node.hears(3, Message::Revalidate { id, copies: (0..1_000).map(copy).collect() });
    assert!(
        matches!(&said[..], [Output::Send { message: Message::Revalidated { valid, .. }, .. }] if valid.is_empty())
    );
    assert!(node.node.sets().is_empty());
    node.node.destroy(SET);
    let said = node.hears(3, Message::Revalidate { id, copies: vec![copy(1)] });
    assert_eq!(said.len(), 1, "who asks for a set that is gone is told, too");
}
