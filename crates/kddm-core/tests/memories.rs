//! What a node that was expelled may offer of what it had: what it owned, and nothing else.

use kddm_core::id::{
    Epoch, Incarnation, NodeId, ObjectId, Placement, PlacementPolicy, RequestId, SetId, Tenure, Version,
};
use kddm_core::io::{Input, Outputs};
use kddm_core::message::{Message, RequestKind};
use kddm_core::node::Node;
use kddm_core::node::memory::Memory;
use kddm_core::view::{Member, NodeState, View};

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

fn member_of_three() -> Node {
    let member = |id| Member { id: NodeId(id), state: NodeState::Possible, ..Member::default() };
    let (epoch, placement, homes) = (Epoch(4), Placement(9), vec![ME, OTHER, NodeId(3)]);
    let members = (1..=3).map(member).collect();
    let mut node = Node::new(ME, Incarnation(0), 0);
    let view = View { epoch, placement, members, homes, failures: 0, fewest_homes: 3 };
    assert_eq!(node.install_view(view), Ok(()));
    while node.is_handing_over() && node.hand_over(&mut Outputs::new()).is_ok() {}
    node
}

#[test]
fn read_copies_and_replicas_prove_nothing() {
    let set = SetId::new(PlacementPolicy::Fixed(OTHER), SetId::FIRST_COUNTER).with_replicas(1);
    let mut node = member_of_three();
    let (tenure, version) = (Tenure::new(Epoch(4), 7), Version(3));
    let mut say = |object, message| {
        let mut outputs = Outputs::new();
        let input = Input::Message { from: OTHER, message };
        assert_eq!(node.handle(set, ObjectId(object), input, &mut outputs), Ok(()));
    };
    say(1, Message::Create { tenure, id: RequestId::default() });
    say(2, Message::Push { tenure, version });
    let want = Input::Want { kind: RequestKind::Get { existing: false } };
    assert_eq!(node.handle(set, ObjectId(3), want, &mut Outputs::new()), Ok(()));
    let id = RequestId { node: ME, incarnation: Incarnation(0), counter: 1 };
    let data = Input::Message { from: OTHER, message: Message::Data { tenure, version, id } };
    assert_eq!(node.handle(set, ObjectId(3), data, &mut Outputs::new()), Ok(()));
    let (copy, replica) = (node.inspect(set, ObjectId(3)), node.inspect(set, ObjectId(2)));
    assert!(copy.is_some_and(|copy| copy.has_value) && replica.is_some_and(|of| of.replica.is_some()));

    let owned = Memory { set, object: ObjectId(1), tenure, version: Version(0), left: Epoch(5), is_kept: false };
    assert_eq!(node.memories().collect::<Vec<_>>(), [owned]);

    // In its next life it is offered; and offered again if that one ends before it was decided on.
    let mut next = member_of_three();
    assert_eq!(next.remember(&owned, &mut Outputs::new()), Ok(true));
    let offered = Memory { is_kept: true, ..owned };
    assert_eq!((next.memories().collect::<Vec<_>>(), next.offer_count()), (vec![offered], 1));
}
