//! What somebody waits for comes first when members were lost.

use kddm_core::id::{Epoch, Incarnation, NodeId, ObjectId, PlacementPolicy, RequestId, SetId, ShardIndex, Tenure};
use kddm_core::io::{Input, Output, Outputs};
use kddm_core::message::{Message, Request, RequestKind};
use kddm_core::node::{HandedOver, Node};
use kddm_core::view::View;
use three::view;

mod three;

/// More than so few that nobody is asked to hurry.
const OBJECTS: u64 = 40;

fn set() -> SetId {
    SetId::new(PlacementPolicy::Fixed(NodeId(1)), 9).with_replicas(1)
}

fn shard(object: u64) -> ShardIndex {
    ObjectId(object).shard(PlacementPolicy::Fixed(NodeId(1)))
}

/// A node of three, and what it has said: node 1 is the home of all objects.
struct One {
    node: Node,
    said: Outputs,
}

impl One {
    fn new(me: u16) -> One {
        let mut one = One { node: Node::new(NodeId(me), Incarnation(1), 0), said: Outputs::new() };
        one.install(view(1, &[1, 2, 3]));
        while one.step() != HandedOver::Nothing {}
        one.said.drain().count();
        one
    }

    fn install(&mut self, view: View) {
        self.node.install_view(view).expect("the last one holds");
    }

    fn step(&mut self) -> HandedOver {
        self.node.hand_over(&mut self.said).expect("there is memory")
    }

    fn input(&mut self, object: u64, input: Input) {
        self.node.handle(set(), ObjectId(object), input, &mut self.said).expect("there is memory");
    }

    fn from(&mut self, node: u16, object: u64, message: Message) {
        self.input(object, Input::Message { from: NodeId(node), message });
    }

    /// What it has said since the last time, of the set's objects, and to whom.
    fn said(&mut self) -> Vec<(u16, u64, Message)> {
        let send = |output: Output| match output {
            Output::Send { to, object, message, .. } => Some((to.0, object.0, message)),
            _ => None,
        };
        self.said.drain().filter_map(send).collect()
    }
}

fn get_of(node: u16) -> Message {
    let id = RequestId { node: NodeId(node), incarnation: Incarnation(1), counter: 7 };
    let kind = RequestKind::Get { existing: false };
    let (tau, forwards) = (Tenure::NONE, 0);
    Message::Request(Request { id, kind, tau, forwards, inherited: false, first: false, to_home: true })
}

fn has_answered(said: &[(u16, u64, Message)], object: u64) -> bool {
    said.iter().any(|(to, of, message)| (*to, *of) == (2, object) && matches!(message, Message::Create { .. }))
}

#[test]
fn a_home_asks_for_the_shard_of_a_waiting_request_and_opens_it_before_all_others() {
    let mut home = One::new(1);
    for object in 0..OBJECTS {
        home.from(3, object, get_of(3));
    }
    home.said();
    home.install(view(2, &[1, 2]));
    home.from(2, 1000, get_of(2));
    let wanted = (2, 0, Message::Wanted { shard: shard(1000) });
    assert!(home.said().contains(&wanted));
    home.from(2, 1000, get_of(2));
    assert!(!home.said().contains(&wanted), "it is asked for once");

    home.from(2, 0, Message::Reported { shard: shard(1000), forgotten: Tenure::NONE });
    assert_eq!(home.step(), HandedOver::Shard(set()));
    let said = home.said();
    assert!(has_answered(&said, 1000), "{said:?}");
    assert!(!home.node.has_entered(), "all others come after it");
}

#[test]
fn a_member_reports_a_wanted_shard_before_all_others() {
    let mut member = One::new(2);
    for object in 0..OBJECTS {
        member.from(
            3,
            object,
            Message::Push {
                tenure: Tenure::NONE.next(Epoch(1)).expect("the first"),
                version: kddm_core::id::Version(1),
            },
        );
    }
    member.said();
    member.install(view(2, &[1, 2]));
    member.from(1, 0, Message::Wanted { shard: shard(5) });
    let said = member.said();
    let of_it = |kind: fn(&Message) -> bool| said.iter().position(|(to, _, message)| *to == 1 && kind(message));
    let replica = of_it(|message| matches!(message, Message::HaveReplica { .. })).expect("it keeps one there");
    let reported = of_it(|message| *message == Message::Reported { shard: shard(5), forgotten: Tenure::NONE });
    assert!(reported.is_some_and(|reported| reported > replica), "{said:?}");
    assert!(!member.node.has_entered(), "all others come after it");

    let untouched = (0..1024).map(ShardIndex).find(|at| (0..OBJECTS).all(|object| shard(object) != *at));
    let untouched = untouched.expect("there are more shards than objects");
    member.from(1, 0, Message::Wanted { shard: untouched });
    assert_eq!(member.said(), [(1, 0, Message::Reported { shard: untouched, forgotten: Tenure::NONE })]);

    member.input(0, Input::Message { from: NodeId(2), message: Message::Wanted { shard: shard(6) } });
    assert_eq!(member.said(), [], "who is not the home does not wait for it");
}

#[test]
fn what_a_local_thread_waits_for_is_entered_and_asked_for_first() {
    let mut home = One::new(1);
    for object in 0..OBJECTS {
        home.from(3, object, get_of(3));
    }
    home.input(1000, Input::Want { kind: RequestKind::Grab { existing: true } });
    home.said();
    home.install(view(2, &[1, 2]));
    home.node.enter_first(set(), ObjectId(1000), &mut home.said).expect("there is memory");
    let said = home.said();
    assert!(said.contains(&(2, 0, Message::Wanted { shard: shard(1000) })), "{said:?}");
}
