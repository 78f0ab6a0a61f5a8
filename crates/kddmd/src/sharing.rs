//! Begin and end sharing objects, for one node or all: what `cluster start` and `cluster stop` do. The
//! daemon that is asked tells the daemons of the other nodes by a call.

use std::sync::mpsc::channel;
use std::time::Duration;

use kddm::rpc::Service;
use kddm::{Error, Node, NodeState};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::admin::protocol::Failure;
use crate::config::DEFAULT_DRAIN;

/// The name of the service by which daemons tell each other.
const SERVICE: &str = "kddm.sharing";

/// How long a node may take to share objects: the default limit of a join.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What a call may take beyond the limit of what is asked for.
const CALL_MARGIN: Duration = Duration::from_secs(5);

/// How often it is told how much is left.
const PROGRESS: Duration = Duration::from_millis(500);

/// What a node is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Order {
    Start,
    Stop,
}

/// Takes orders of other daemons, as long as the answer lives.
///
/// # Errors
/// `AlreadyRegistered`, `Stopped`.
pub fn serve(node: &Node) -> Result<Service, Error> {
    node.rpc().register_blocking_typed(SERVICE, |request, order: Order| Ok(obey(request.node(), order)?))
}

fn obey(node: &Node, order: Order) -> Result<(), Error> {
    match order {
        Order::Start => node.start_sharing(START_LIMIT),
        Order::Stop => node.stop_sharing(DEFAULT_DRAIN),
    }
}

/// Has one node, or all that are online, share objects.
///
/// # Errors
/// Names the node that does not, and why. Those before it do.
pub fn start(node: &Node, which: Option<u16>, told: &mut dyn FnMut(Json) -> bool) -> Result<(), Failure> {
    let targets = targets(node, which, NodeState::Online)?;
    targets.into_iter().try_for_each(|target| order(node, target, Order::Start, told))
}

/// Has one node, or all that share, hand over what they have and step back to online. Of all, the last
/// one refuses: what it has would be lost.
///
/// # Errors
/// Names the node that still shares, and why. Those before it do not.
pub fn stop(node: &Node, which: Option<u16>, told: &mut dyn FnMut(Json) -> bool) -> Result<(), Failure> {
    let mut targets = targets(node, which, NodeState::Possible)?;
    // The node that is asked comes last, so that it can tell of all others.
    targets.sort_by_key(|target| *target == node.id());
    targets.into_iter().try_for_each(|target| order(node, target, Order::Stop, told))
}

fn targets(node: &Node, which: Option<u16>, state: NodeState) -> Result<Vec<u16>, Failure> {
    let members = node.members();
    match which {
        Some(wanted) if members.iter().any(|member| member.id == wanted) => Ok(vec![wanted]),
        Some(wanted) => Err(Failure::new(format!("node {wanted} is no member; `kddmadm nodes` shows who is"))),
        None => Ok(members.iter().filter(|member| member.state == state).map(|member| member.id).collect()),
    }
}

fn order(node: &Node, target: u16, order: Order, told: &mut dyn FnMut(Json) -> bool) -> Result<(), Failure> {
    let result = if target == node.id() {
        here(node, order, told)
    } else {
        let _listens = told(json!({"progress": {"text": format!("node {target} is told"), "node": target}}));
        node.rpc().call_typed(target, SERVICE, &order, DEFAULT_DRAIN + CALL_MARGIN).wait()
    };
    result.map_err(|error| {
        let failure = Failure::from(error);
        Failure { message: format!("node {target}: {}", failure.message), ..failure }
    })
}

/// On this node, with what is left told meanwhile.
fn here(node: &Node, order: Order, told: &mut dyn FnMut(Json) -> bool) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let (sender, done) = channel();
        scope.spawn(move || {
            let _always_received = sender.send(obey(node, order));
        });
        loop {
            match done.recv_timeout(PROGRESS) {
                Ok(result) => return result,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    let (id, left) = (node.id(), node.left_to_hand_over());
                    let text = format!("node {id}: {left} objects left");
                    // Whoever asked may have gone; what was begun goes on.
                    let _listens = told(json!({"progress": {"text": text, "node": id, "objects_left": left}}));
                }
            }
        }
    })
}
