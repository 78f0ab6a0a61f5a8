//! What a lease costs on the way of a hit: run it under callgrind with two numbers of rounds, and divide the
//! difference of the instructions by that of the rounds.
//!
//! `cargo build --release -p kddm --example lease_cost`, then for example
//! `valgrind --tool=callgrind target/release/examples/lease_cost follower get 20000`

use kddm::{Node, Pod, Set};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, whose, what, rounds] = &arguments[..] else {
        return Err("give decider or follower, then get, read or grab, then the number of rounds".into());
    };
    let (nodes, rounds) = (Node::local_cluster(2)?, rounds.parse()?);
    // The first node decides, and needs no lease.
    let node = if whose == "decider" { &nodes[0] } else { &nodes[1] };
    assert_eq!(node.lease().remaining.is_none(), whose == "decider");
    let set: Set<Pod<[u64; 8]>> = node.set("cost").replicas(0).open().wait()?;
    set.grab(1).wait()?.put().wait()?;
    let object = set.object(1);
    let mut sum = 0;
    for _ in 0..rounds {
        match what.as_str() {
            "get" => sum += set.get(1).wait()?.0[0],
            "read" => sum += object.read().wait()?[0],
            _ => {
                let mut guard = set.grab(1).wait()?;
                guard.0[0] += 1;
                guard.put().wait()?;
            }
        }
    }
    println!("{sum}");
    // What a stop costs is none of this.
    std::process::exit(0);
}
