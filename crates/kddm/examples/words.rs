//! Counts the words of a folder on several nodes at once, in objects that all of them write.
//!
//!     cargo run --release -p kddm --example words -- crates/kddm/src 3
//!
//! Every word has an object in the set `words`. A node that meets a word grabs its object, adds to the
//! count, and puts it back: the object moves to whoever writes, and no addition is lost. In the end a
//! node that has written nothing reads all counts, and compares them with a plain count. The nodes are
//! in one process here; with `Node::join` they are on as many machines, and the rest stays as it is.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::thread;

use kddm::{Node, Set};

/// The words that share one object, nearly always one, each with its count.
type Counts = BTreeMap<String, u64>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".into());
    let writers: usize = arguments.next().map_or(Ok(3), |number| number.parse())?;
    let mut files = Vec::new();
    read_texts(Path::new(&folder), &mut files)?;

    let nodes = Node::local_cluster(writers + 1)?;
    let (reader, writers) = nodes.split_last().ok_or("a cluster has nodes")?;
    thread::scope(|scope| {
        let files = &files;
        let counting: Vec<_> = writers.iter().map(|node| scope.spawn(|| count_at(node, files))).collect();
        counting.into_iter().try_for_each(|writer| writer.join().expect("counting does not panic"))
    })?;

    let words: Set<Counts> = reader.set("words").open().wait()?;
    let plain = count(files.iter().map(String::as_str));
    let mut differences = 0;
    for (word, expected) in &plain {
        let counts = words.get(object_of(word)).wait()?;
        if counts.get(word) != Some(expected) {
            println!("{word:?}: {expected} by a plain count, {:?} in the cluster", counts.get(word));
            differences += 1;
        }
    }
    let all: u64 = plain.values().sum();
    println!("{all} words, {} different ones, in {} files, by {} nodes", plain.len(), files.len(), writers.len());
    if differences > 0 {
        return Err(format!("{differences} words differ from a plain count").into());
    }
    println!("read back by another node: equal to a plain count");
    Ok(())
}

/// One node's part: takes a file, adds its words, takes the next one, until none is left.
fn count_at(node: &Node, files: &[String]) -> Result<(), kddm::Error> {
    let words: Set<Counts> = node.set("words").open().wait()?;
    let next: Set<u64> = node.set("next file").open().wait()?; // object 0 says which file is next
    loop {
        let mut next = next.grab(0).wait()?;
        let mine = *next;
        *next += 1;
        next.put().wait()?;

        let Some(text) = files.get(mine as usize) else { return Ok(()) };
        for (word, times) in count([text.as_str()]) {
            let mut counts = words.grab(object_of(&word)).wait()?;
            *counts.entry(word).or_default() += times;
            counts.put().wait()?;
        }
    }
}

/// The plain count: runs of letters and digits, in lower case.
fn count<'a>(texts: impl IntoIterator<Item = &'a str>) -> Counts {
    let mut counts = Counts::new();
    for text in texts {
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    counts
}

/// The object that counts a word: any number will do, if all nodes find the same one (FNV-1a).
fn object_of(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// All files below a folder that are UTF-8, except hidden ones and what a build leaves behind.
fn read_texts(folder: &Path, texts: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            read_texts(&path, texts)?;
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            texts.push(text);
        }
    }
    Ok(())
}
