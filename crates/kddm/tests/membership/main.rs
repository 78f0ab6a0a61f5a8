//! Who is let in, who is told of it in which order, and what a refusal says.

use std::time::Duration;

use kddm::{Config, Error, Node, NodeState};

mod joins;
mod leaves;
mod lives;
mod notifiers;
mod rejoin;

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// Nobody is taken for lost because the machine is busy; and shorter than [`LIMIT`], because who stops just when those
/// change who decide may be gone before its leave is decided, and is expelled then.
const UNHURRIED: Duration = Duration::from_secs(5);

/// The configuration of a node in a cluster from which nobody is to be expelled.
fn unhurried() -> Config {
    Config::new().lease(UNHURRIED)
}

const ONLINE: NodeState = NodeState::Online;
const POSSIBLE: NodeState = NodeState::Possible;
const OFFLINE: NodeState = NodeState::Offline;

fn states(node: &Node) -> Vec<(u16, NodeState)> {
    node.members().iter().map(|member| (member.id, member.state)).collect()
}

fn refusal(config: Config) -> Error {
    match Node::join(config).wait() {
        Ok(node) => panic!("node {} was admitted", node.id()),
        Err(error) => error,
    }
}

/// What one notifier has heard: its name, the node, the state that it entered.
type Heard = (&'static str, u16, NodeState);
