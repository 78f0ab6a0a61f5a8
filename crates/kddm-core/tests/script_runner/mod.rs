//! Replays scripts on the real shard. `crates/kddm-core/tests/script/README.md` tells how they are
//! written.

pub mod words;

use std::collections::BTreeSet;

use kddm_core::id::{Epoch, Incarnation, NodeId, ObjectId, Placement, PlacementPolicy, SetId};
use kddm_core::io::{Input, Output, Outputs};
use kddm_core::node::memory::Memory;
use kddm_core::node::{HandedOver, Node as Lane, Scanned};
use kddm_core::shard::{Inspection, Place, Room, Shard};
use kddm_core::view::{Member, NodeState, View};

use words::Words;

pub const OBJECT: ObjectId = ObjectId(1);

/// What came of one file.
#[derive(Default, Debug)]
pub struct Replay {
    /// The file as it ought to be.
    pub text: String,
    /// Rows of the rules that its stories name.
    pub rows: BTreeSet<String>,
    /// Where the file is otherwise, or cannot be read.
    pub findings: Vec<String>,
}

struct Node {
    core: Core,
    me: NodeId,
    /// Who answers for the shard, and its home in the view.
    homes: (NodeId, NodeId),
    view: View,
    set: SetId,
    counter: u64,
}

/// What a story is told of.
enum Core {
    /// One shard, in whatever situation.
    Shard(Box<Shard>),
    /// A whole node, with the views that it has installed.
    Lane(Box<Lane>),
}

/// Replays a file; an error names its line.
pub fn replay(name: &str, text: &str) -> Replay {
    let mut replay = Replay::default();
    let mut node = None;
    let mut lines = text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        replay.text.push_str(line);
        replay.text.push('\n');
        let mut expected = String::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with("  ")) {
            expected.push_str(line);
            expected.push('\n');
        }
        if line.is_empty() {
            node = None; // The end of a story.
            continue;
        }
        match step(line, &mut node, &mut replay.rows) {
            Err(why) => {
                replay.findings.push(format!("{name}:{}: {line}\n    {why}", at + 1));
                replay.text.push_str(&expected);
            }
            Ok(found) => {
                if found != expected {
                    replay.findings.push(format!("{name}:{}: {line}\n{}", at + 1, difference(&expected, &found)));
                }
                replay.text.push_str(&found);
            }
        }
    }
    replay
}

/// Does what one line says; gives what follows from it.
fn step(line: &str, node: &mut Option<Node>, rows: &mut BTreeSet<String>) -> Result<String, String> {
    if let Some(comment) = line.strip_prefix('#') {
        rows.extend(named_rows(comment));
        return Ok(String::new());
    }
    let mut words = Words::new(line);
    if line.starts_with("node ") {
        if node.is_some() {
            return Err("an empty line is missing before the next story".into());
        }
        *node = Some(begin(&mut words)?);
        return Ok(String::new());
    }
    let node = node.as_mut().ok_or("a story begins with a line like `node 1 home 2`")?;
    let given = line.strip_prefix("given ");
    let mut words = given.map_or(words, Words::new);
    if let Some(left) = line.strip_prefix("now without ") {
        node.view = view_without(Words::new(left).node()?);
        return Ok(String::new());
    }
    if given.is_none() && words.takes("scan") {
        words.end()?;
        return node.scan();
    }
    let outputs = if words.takes("lost") {
        node.lose(&mut words)?
    } else if words.takes("back") {
        node.take_in(&mut words)?
    } else if words.takes("frozen") {
        node.frozen(&mut words)?
    } else if words.takes("remember") {
        node.remember(&mut words)?
    } else if words.takes("ask") {
        node.ask(&mut words)?
    } else {
        node.handle(words.input()?)?
    };
    if given.is_none() {
        return Ok(printed(node, &outputs));
    }
    let bad = outputs.iter().find(|output| matches!(output, Output::Dropped { .. } | Output::Fault { .. }));
    bad.map_or(Ok(String::new()), |bad| Err(format!("what is given must go well: {}", words::output(bad))))
}

/// The rows before the colon of a comment: `# Q3 S5: …`.
fn named_rows(comment: &str) -> impl Iterator<Item = String> {
    let rows = comment.split_once(':').map_or("", |(rows, _)| rows);
    let rows = if rows.split_whitespace().all(is_row) { rows } else { "" };
    rows.split_whitespace().map(str::to_owned)
}

/// A letter and a number.
pub fn is_row(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|letter| letter.is_ascii_uppercase())
        && word.len() > 1
        && letters.all(|letter| letter.is_ascii_digit())
}

/// `node 1 home 2`, `node 1 home 2 moving to 3`, `node 1 home 2 without 4`, `node 1 home 2 of 4 replicas 1`,
/// `… rolls_back`.
fn begin(words: &mut Words<'_>) -> Result<Node, String> {
    words.expect("node")?;
    let me = words.node()?;
    words.expect("home")?;
    let home = words.node()?;
    let to = if words.takes("moving") { words.expect("to").and_then(|()| words.node())? } else { home };
    let left = if words.takes("without") { words.node()? } else { NodeId::NOBODY };
    let members = if words.takes("of") { Some(words.number()?) } else { None };
    let replicas = if words.takes("replicas") { words.number()? } else { 0 };
    let kind = SetId(0).with_replicas(replicas);
    let kind = if words.takes("rolls_back") { kind.rolling_back() } else { kind };
    words.end()?;
    let (core, view, set) = match members {
        None => {
            let set = SetId(SetId::new(PlacementPolicy::Fixed(home), SetId::FIRST_COUNTER).0 | kind.0);
            (Core::Shard(Box::default()), view_without(left), set)
        }
        Some(members) => {
            let view = view_of(members);
            let set = set_in_order(home, kind, &view)?;
            let mut lane = Lane::new(me, Incarnation(0), 0);
            let installed = view.try_clone().map_err(|_| ()).and_then(|view| lane.install_view(view).map_err(|_| ()));
            installed.map_err(|()| "the first view cannot be installed")?;
            (Core::Lane(Box::new(lane)), view, set)
        }
    };
    let mut node = Node { core, me, homes: (home, to), view, set, counter: 0 };
    node.hand_over(&mut Vec::new())?;
    Ok(node)
}

/// So many nodes, from 1 on, share objects and answer for shards.
fn view_of(members: u16) -> View {
    let member = |id| Member { id, state: NodeState::Possible, ..Member::default() };
    let homes: Vec<NodeId> = (1..=members).map(NodeId).collect();
    View {
        epoch: Epoch(1),
        placement: Placement(1),
        members: homes.iter().copied().map(member).collect(),
        fewest_homes: members,
        homes,
        failures: 0,
    }
}

/// Of more nodes no set has all in order.
const MOST_IN_ORDER: usize = 7;

/// A set with that home of which, for the object of the story, the lowest node is the first choice for a
/// replica, and for who answers when the home is lost: so that one can read who is who.
fn set_in_order(home: NodeId, kind: SetId, view: &View) -> Result<SetId, String> {
    let policy = PlacementPolicy::Fixed(home);
    if view.homes.len() > MOST_IN_ORDER {
        return Ok(SetId(SetId::new(policy, SetId::FIRST_COUNTER).0 | kind.0));
    }
    let in_order = |set: &SetId| {
        let mut left = view.homes.clone();
        while let Some(lowest) = left.first().copied() {
            if view.next_replica(*set, OBJECT.shard(policy), |node| !left.contains(&node)) != Some(lowest) {
                return false;
            }
            left.remove(0);
        }
        true
    };
    (SetId::FIRST_COUNTER..100_000)
        .map(|counter| SetId(SetId::new(policy, counter).0 | kind.0))
        .find(in_order)
        .ok_or_else(|| "there are too many nodes to have them in order".into())
}

/// Nodes 1 to 9 share objects, but this one, which is online.
fn view_without(left: NodeId) -> View {
    let state = |node| if node == left { NodeState::Online } else { NodeState::Possible };
    let member = |id| Member { id, state: state(id), ..Member::default() };
    let members: Vec<Member> = (1..=9).map(NodeId).map(member).collect();
    let homes = members.iter().map(|member| member.id).filter(|node| *node != left).collect();
    View { epoch: Epoch(1), placement: Placement(1), members, homes, failures: 0, fewest_homes: 9 }
}

impl Node {
    fn handle(&mut self, input: Input) -> Result<Vec<Output>, String> {
        let mut outputs = Outputs::new();
        match &mut self.core {
            Core::Lane(lane) => {
                lane.handle(self.set, OBJECT, input, &mut outputs).map_err(|refused| format!("refused: {refused:?}"))?
            }
            Core::Shard(shard) => {
                let (home, view_home) = self.homes;
                let place = Place {
                    me: self.me,
                    incarnation: Incarnation(0),
                    home,
                    view_home,
                    view: &self.view,
                    set: self.set,
                    at: OBJECT.shard(PlacementPolicy::Fixed(home)),
                    is_recovering: false,
                    in_doubt: false,
                    is_accepted: false,
                    newcomers: &[],
                };
                shard
                    .handle(&place, &mut self.counter, &mut Room::default(), OBJECT, input, &mut outputs)
                    .map_err(|_| "memory was refused")?;
            }
        }
        let mut outputs: Vec<Output> = outputs.drain().collect();
        self.hand_over(&mut outputs)?;
        Ok(outputs)
    }

    /// `lost 3,4`: these members are lost, and the view without them is installed.
    fn lose(&mut self, words: &mut Words<'_>) -> Result<Vec<Output>, String> {
        let lost: Vec<NodeId> = words.nodes()?;
        words.end()?;
        let Core::Lane(lane) = &mut self.core else {
            return Err("only of a node `of` so many can members be lost".into());
        };
        let view = &mut self.view;
        view.epoch = Epoch(view.epoch.0 + 1);
        view.placement = Placement(view.placement.0 + 1);
        view.members.retain(|member| !lost.contains(&member.id));
        view.homes.retain(|home| !lost.contains(home));
        view.failures += lost.len() as u32;
        view.fewest_homes = view.homes.len() as u16;
        lane.install_view(view.clone()).map_err(|refused| format!("refused: {refused:?}"))?;
        let mut outputs = Vec::new();
        self.hand_over(&mut outputs)?;
        Ok(outputs)
    }

    /// `back 3`: that node is a member again, and what it had is to be decided on in a new epoch. `back` alone: a
    /// member has been there before.
    fn take_in(&mut self, words: &mut Words<'_>) -> Result<Vec<Output>, String> {
        let back: Vec<NodeId> = words.nodes().unwrap_or_default();
        words.end()?;
        let Core::Lane(lane) = &mut self.core else { return Err("only a node `of` so many knows views".into()) };
        let view = &mut self.view;
        view.epoch = Epoch(view.epoch.0 + 1);
        view.placement = Placement(view.placement.0 + 1);
        for id in back {
            let incarnation = Incarnation(view.epoch.0);
            view.members.push(Member { id, state: NodeState::Possible, incarnation, ..Member::default() });
            view.homes.push(id);
        }
        view.members.sort_by_key(|member| member.id);
        view.homes.sort_unstable();
        lane.install_view(view.clone()).map_err(|refused| format!("refused: {refused:?}"))?;
        let mut outputs = Vec::new();
        self.hand_over(&mut outputs)?;
        Ok(outputs)
    }

    /// `remember 1.3 v2 left 2`: what a former life of this node owned. `remember leaving 2`: and where it ended.
    fn remember(&mut self, words: &mut Words<'_>) -> Result<Vec<Output>, String> {
        if words.takes("leaving") {
            let left = Epoch(words.number()?);
            words.end()?;
            let Core::Lane(lane) = &mut self.core else { return Err("only a node `of` so many knows views".into()) };
            lane.remember_leaving(left);
            return Ok(Vec::new());
        }
        let (tenure, version, left) = words.offer()?;
        words.end()?;
        let Core::Lane(lane) = &mut self.core else { return Err("only a node `of` so many knows views".into()) };
        let memory = Memory { set: self.set, object: OBJECT, tenure, version, left, is_kept: false };
        let mut outputs = Outputs::new();
        lane.remember(&memory, &mut outputs).map_err(|refused| format!("refused: {refused:?}"))?;
        Ok(outputs.drain().collect())
    }

    /// `frozen`: this life is over, and its process goes on as a new one. It remembers what it knew as a home.
    fn frozen(&mut self, words: &mut Words<'_>) -> Result<Vec<Output>, String> {
        words.end()?;
        let Core::Lane(lane) = &mut self.core else { return Err("only a node `of` so many knows views".into()) };
        let (known, left) = (lane.directories(), lane.leaves());
        **lane = Lane::new(lane.id(), Incarnation(lane.incarnation().0 + 1), 0);
        lane.install_view(self.view.clone()).map_err(|refused| format!("refused: {refused:?}"))?;
        lane.remember_leaving(left);
        let mut outputs = Outputs::new();
        for directory in known {
            lane.remember_directory(directory, &mut outputs).map_err(|refused| format!("refused: {refused:?}"))?;
        }
        Ok(outputs.drain().collect())
    }

    /// `ask 2 of 1.3 v2`: a former life of this node had that read copy of that node.
    fn ask(&mut self, words: &mut Words<'_>) -> Result<Vec<Output>, String> {
        let to = words.node()?;
        words.expect("of")?;
        let copy = words.read_copy()?;
        words.end()?;
        let Core::Lane(lane) = &mut self.core else { return Err("only a node `of` so many knows views".into()) };
        let mut outputs = Outputs::new();
        lane.revalidate(self.set, to, &[copy], &mut outputs).map_err(|refused| format!("refused: {refused:?}"))?;
        Ok(outputs.drain().collect())
    }

    /// `scan`: which objects of the shard there are, as far as this node says so.
    fn scan(&self) -> Result<String, String> {
        let Core::Lane(lane) = &self.core else { return Err("only a node `of` so many is asked for objects".into()) };
        let at = OBJECT.shard(self.set.policy().unwrap_or_default());
        let (mut found, before) = (Vec::new(), lane.clone());
        let scanned = lane.scan(self.set, at, None, 8, &mut found).map_err(|_| "memory was refused")?;
        let counted = lane.census(self.set, at);
        if **lane != *before {
            return Err("whoever scans changes nothing".into());
        }
        let lost = found.iter().filter(|entry| entry.lost).count();
        let said = match (scanned, counted) {
            (Scanned::Elsewhere(node), Scanned::Elsewhere(same)) if node == same => format!("node {node} answers"),
            (Scanned::NotYet, Scanned::NotYet) => "not yet".into(),
            (Scanned::Here { what: false, in_doubt }, Scanned::Here { what, in_doubt: same })
                if what == (found.len(), lost) && in_doubt == same =>
            {
                let names: Vec<String> = found.iter().map(words::entry).collect();
                let names = if names.is_empty() { "nothing".into() } else { names.join(", ") };
                format!("{names}{}", if in_doubt { " | in doubt" } else { "" })
            }
            (scan, census) => return Err(format!("a scan says {scan:?} {found:?}, and a census {census:?}")),
        };
        Ok(format!("  says {said}\n"))
    }

    /// All that a node does by itself after a change of views.
    fn hand_over(&mut self, into: &mut Vec<Output>) -> Result<(), String> {
        let Core::Lane(lane) = &mut self.core else { return Ok(()) };
        let mut outputs = Outputs::new();
        while lane.is_handing_over() {
            let done = lane.hand_over(&mut outputs).map_err(|_| "memory was refused")?;
            into.extend(outputs.drain());
            if done == HandedOver::Nothing {
                break;
            }
        }
        Ok(())
    }

    fn inspect(&self) -> Inspection {
        match &self.core {
            Core::Shard(shard) => shard.inspect(self.me, OBJECT),
            Core::Lane(lane) => lane.inspect(self.set, OBJECT).unwrap_or_default(),
        }
    }
}

fn printed(node: &Node, outputs: &[Output]) -> String {
    let state = words::state(node.me, &node.inspect());
    let outputs = outputs.iter().map(words::output);
    outputs.chain([format!("= {state}")]).map(|line| format!("  {line}\n")).collect()
}

/// Both texts, with a sign before the lines that only one of them has.
fn difference(expected: &str, found: &str) -> String {
    let (mut old, mut new): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let same = |(a, b): &(&&str, &&str)| a == b;
    let before = old.iter().zip(&new).take_while(same).count();
    let behind = old[before..].iter().rev().zip(new[before..].iter().rev()).take_while(same).count();
    let common = new[..before].join("\n");
    let tail = new[new.len() - behind..].join("\n");
    let (old, new) = (old.drain(before..old.len() - behind), new.drain(before..new.len() - behind));
    let mut lines = vec![common];
    lines.extend(old.map(|line| format!("-{line}")));
    lines.extend(new.map(|line| format!("+{line}")));
    lines.push(tail);
    lines.retain(|line| !line.is_empty());
    lines.join("\n")
}
