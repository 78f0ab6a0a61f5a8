//! A program without a node of its own: it attaches to the `kddmd` of this host, counts how often it has
//! been run, by whomever and on whichever host of the cluster, and keeps a word for the next one.
//!
//!     kddmd &
//!     cargo run -p kddm --example attached -- "hello"

use kddm::{Error, Node, Set};

fn main() -> Result<(), Error> {
    let word = std::env::args().nth(1).unwrap_or_else(|| "nothing".into());
    // The daemon that `kddmadm` would ask. Says what to do if there is none.
    let node = Node::attach_default().wait()?;
    let visits: Set<u64> = node.set("attached/visits").open().wait()?;
    let words: Set<String> = node.set("attached/words").open().wait()?;

    let count = visits
        .update(1, |count| {
            *count += 1;
            Ok(*count)
        })
        .wait()?;
    let mut last = words.grab(1).wait()?; // the only copy in the cluster is in this program now
    println!("visit {count}, attached to node {}; the one before said {:?}", node.id(), *last);
    *last = word;
    last.put().wait() // whatever becomes of this program, that is put
}
