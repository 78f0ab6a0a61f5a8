//! What a run consists of, as data: all of it follows from a seed, and parts of it can be left out.

use std::collections::BTreeSet;
use std::fmt;

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::message::RequestKind;

use crate::agent::{GENERATION_SHIFT, Generation, Wish};
use crate::fault::{Fault, Rates};
use crate::views::Change;
use crate::world::{Plan, World};

mod draw;

use draw::Draft;

/// A microsecond and a millisecond in nanoseconds.
pub const MICRO: u64 = 1_000;
/// The same.
pub const MILLI: u64 = 1_000 * MICRO;

/// How a writer ends its hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It puts.
    Put,
    /// It puts nothing.
    Discard,
    /// If it is a first touch it fails.
    Fail,
}

/// One operation of a client, with its times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timed {
    /// Its number in the client's plan of the seed: leaving others out does not change it.
    pub number: u16,
    /// On what.
    pub object: ObjectId,
    /// What.
    pub wish: Wish,
    /// Pause before it.
    pub think_ns: u64,
    /// How long it holds.
    pub hold_ns: u64,
    /// It gives up after so long a wait.
    pub limit_ns: Option<u64>,
    /// How it ends its hold.
    pub ending: Ending,
}

/// A client: a program on a node that does one operation after the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// Its number in the seed.
    pub number: u16,
    /// Its node.
    pub node: NodeId,
    /// Its operations.
    pub operations: Vec<Timed>,
}

/// How fast messages are.
#[derive(Clone, PartialEq, Debug)]
pub struct Latencies {
    /// Of each ordered pair, sender first: the least time of a message.
    pub base_ns: Vec<u64>,
    /// Up to so much more.
    pub jitter_ns: Vec<u64>,
    /// A slow message takes so many times as long.
    pub tail_factor: u64,
    /// What reaches these nodes waits up to so long.
    pub slow: Vec<(NodeId, u64)>,
}

/// A set is destroyed; node after node hears of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destruction {
    /// Which.
    pub generation: Generation,
    /// When each node hears of it.
    pub at_ns: Vec<(NodeId, u64)>,
}

/// All that a run is made of.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// The seed: it still decides each single latency and fault.
    pub seed: u64,
    /// Nodes, numbered from 1.
    pub nodes: u16,
    /// Homes of objects, by the object's number.
    pub homes: Vec<NodeId>,
    /// The clients.
    pub programs: Vec<Program>,
    /// Joins and leaves, one after the other.
    pub changes: Vec<Change>,
    /// Up to so long until the next step of the membership is decided.
    pub decide_ns: u64,
    /// Up to so long until a node installs a view, or hands the next shard or object over.
    pub settle_ns: u64,
    /// Sets that end.
    pub destructions: Vec<Destruction>,
    /// Nodes that crash, and when.
    pub crashes: Vec<(NodeId, u64)>,
    /// Nodes that are expelled and come back, and when that begins.
    pub returns: Vec<(NodeId, u64)>,
    /// Failures are counted anew once all is whole.
    pub heals: bool,
    /// When somebody accepts what is lost of all sets.
    pub acceptances: Vec<u64>,
    /// The network.
    pub latencies: Latencies,
    /// What goes wrong in it.
    pub rates: Rates,
}

/// What is left of a seed's scenario.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cut {
    /// Only so many nodes; clients of others are left out.
    pub nodes: Option<u16>,
    /// Only these operations: numbers of client and operation.
    pub keep: Option<BTreeSet<(u16, u16)>>,
    /// Without these faults.
    pub without: BTreeSet<Fault>,
}

impl Cut {
    /// Nothing is left out.
    pub fn is_whole(&self) -> bool {
        *self == Cut::default()
    }
}

/// As arguments of the command line.
impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(nodes) = self.nodes {
            write!(f, " --nodes {nodes}")?;
        }
        if let Some(keep) = &self.keep {
            let words: Vec<String> = keep.iter().map(|(client, number)| format!("{client}.{number}")).collect();
            write!(f, " --keep {}", words.join(","))?;
        }
        if !self.without.is_empty() {
            let names: Vec<&str> = self.without.iter().map(|fault| fault.name()).collect();
            write!(f, " --without {}", names.join(","))?;
        }
        Ok(())
    }
}

/// The list behind `--keep`.
pub fn parse_keep(text: &str) -> Result<BTreeSet<(u16, u16)>, String> {
    let one = |word: &str| {
        let (client, number) = word.split_once('.')?;
        Some((client.parse().ok()?, number.parse().ok()?))
    };
    let parsed: Option<BTreeSet<(u16, u16)>> = text.split(',').map(one).collect();
    parsed.ok_or_else(|| format!("{text:?} is no list like 0.3,2.17 of numbers of clients and operations"))
}

/// The list behind `--without`.
pub fn parse_without(text: &str) -> Result<BTreeSet<Fault>, String> {
    let names = || Fault::ALL.map(|(_, name)| name).join(", ");
    let one = |word: &str| Fault::named(word).ok_or_else(|| format!("{word:?} is none of {}", names()));
    text.split(',').map(one).collect()
}

impl Scenario {
    /// The scenario of a seed, less what is cut.
    pub fn of(seed: u64, cut: &Cut) -> Scenario {
        let mut scenario = Draft::new(seed).draw();
        scenario.cut(cut);
        scenario
    }

    /// How many operations.
    pub fn operations(&self) -> usize {
        self.programs.iter().map(|program| program.operations.len()).sum()
    }

    /// Its world, at the beginning.
    pub fn world(&self) -> World {
        let mut world = World::new(&self.plan());
        let tells = |of: &Destruction| of.at_ns.iter().map(|(node, _)| (*node, of.generation)).collect::<Vec<_>>();
        world.untold = self.destructions.iter().flat_map(tells).collect();
        world
    }

    fn plan(&self) -> Plan {
        let client = |program: &Program| {
            (program.node, program.operations.iter().map(|timed| (timed.object, timed.wish)).collect())
        };
        Plan {
            nodes: self.nodes,
            homes: self.homes.clone(),
            clients: self.programs.iter().map(client).collect(),
            cancels: u32::MAX,
            discards: u32::MAX,
            failed_touches: u32::MAX,
            changes: self.changes.clone(),
            crashes: self.crashes.len() as u32,
            returns: self.returns.len() as u32,
            // The objects' own numbers say it.
            replicas: 0,
            // When is a matter of the clock.
            acceptances: 0,
            heals: self.heals,
        }
    }

    /// Which of the faults that the world is asked for are in it.
    pub fn asked(&self) -> BTreeSet<Fault> {
        let any = |of: fn(&Timed) -> bool| self.programs.iter().flat_map(|program| &program.operations).any(of);
        let is_join = |change: &Change| matches!(change, Change::Join(_));
        let asked = [
            (Fault::Loss, self.rates.loss_ppm > 0),
            (Fault::Duplicate, self.rates.duplicate_ppm > 0),
            (Fault::Cut, self.rates.cut_ppm > 0),
            (Fault::Tail, self.rates.tail_ppm > 0),
            (Fault::Slow, !self.latencies.slow.is_empty()),
            (Fault::Reorder, self.nodes > 2),
            (Fault::Cancel, any(|timed| timed.limit_ns.is_some())),
            (Fault::Discard, any(|timed| timed.ending == Ending::Discard)),
            (Fault::FailedTouch, any(|timed| timed.ending == Ending::Fail)),
            (Fault::Join, self.changes.iter().any(is_join)),
            (Fault::Leave, !self.changes.iter().all(is_join)),
            (Fault::Destroy, !self.destructions.is_empty()),
            (Fault::Crash, !self.crashes.is_empty()),
            (Fault::Return, !self.returns.is_empty()),
        ];
        asked.into_iter().filter(|(_, is_asked)| *is_asked).map(|(fault, _)| fault).collect()
    }

    fn cut(&mut self, cut: &Cut) {
        if let Some(nodes) = cut.nodes.map(|nodes| nodes.clamp(1, self.nodes)) {
            self.shrink_to(nodes);
        }
        if let Some(keep) = &cut.keep {
            for program in &mut self.programs {
                program.operations.retain(|timed| keep.contains(&(program.number, timed.number)));
            }
        }
        self.programs.retain(|program| !program.operations.is_empty());
        self.programs.iter_mut().for_each(|program| end_groups(&mut program.operations));
        for fault in &cut.without {
            self.leave_out(*fault);
        }
    }

    fn shrink_to(&mut self, nodes: u16) {
        let (before, latencies) = (self.nodes, self.latencies.clone());
        let pairs = |of: &[u64]| {
            let pair = |from, to| of[usize::from(from * before + to)];
            (0..nodes).flat_map(|from| (0..nodes).map(move |to| pair(from, to))).collect()
        };
        self.latencies.base_ns = pairs(&latencies.base_ns);
        self.latencies.jitter_ns = pairs(&latencies.jitter_ns);
        self.latencies.slow.retain(|(node, _)| node.0 <= nodes);
        self.nodes = nodes;
        self.programs.retain(|program| program.node.0 <= nodes);
        for home in &mut self.homes {
            home.0 = 1 + (home.0 - 1) % nodes;
        }
        self.changes.retain(|change| matches!(change, Change::Join(node) | Change::Leave(node) if node.0 <= nodes));
        // One node stays, and is there from the beginning.
        let changed = |node: u16| {
            self.changes.iter().any(|change| matches!(change, Change::Join(of) | Change::Leave(of) if of.0 == node))
        };
        if (1..=nodes).all(changed) {
            self.changes.retain(|change| !matches!(change, Change::Join(NodeId(1)) | Change::Leave(NodeId(1))));
        }
        self.crashes.retain(|(node, _)| node.0 <= nodes);
        self.returns.retain(|(node, _)| node.0 <= nodes);
        for destruction in &mut self.destructions {
            destruction.at_ns.retain(|(node, _)| node.0 <= nodes);
        }
    }

    fn leave_out(&mut self, fault: Fault) {
        let mut all = |change: fn(&mut Timed)| {
            self.programs.iter_mut().flat_map(|program| &mut program.operations).for_each(change);
        };
        match fault {
            Fault::Loss => self.rates.loss_ppm = 0,
            Fault::Duplicate => self.rates.duplicate_ppm = 0,
            Fault::Cut => self.rates.cut_ppm = 0,
            Fault::Tail => self.rates.tail_ppm = 0,
            Fault::Slow => self.latencies.slow.clear(),
            // All pairs equally fast, to the nanosecond: what is sent first arrives first.
            Fault::Reorder => {
                self.latencies.base_ns.fill(100 * MICRO);
                self.latencies.jitter_ns.fill(0);
            }
            Fault::Cancel => all(|timed| timed.limit_ns = None),
            Fault::Discard => all(|timed| {
                if timed.ending == Ending::Discard {
                    timed.ending = Ending::Put;
                }
            }),
            Fault::FailedTouch => all(|timed| {
                if timed.ending == Ending::Fail {
                    timed.ending = Ending::Put;
                }
            }),
            Fault::Join => {
                self.changes.retain(|change| matches!(change, Change::Leave(_)));
            }
            Fault::Leave => self.changes.retain(|change| matches!(change, Change::Join(_))),
            Fault::Destroy => self.destructions.clear(),
            Fault::Crash => self.crashes.clear(),
            Fault::Return => self.returns.clear(),
            Fault::Heal => self.heals = false,
            Fault::Accept => self.acceptances.clear(),
        }
    }
}

/// What is in it, for people who look at a small one.
impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} nodes, homes {:?}, {:?}", self.nodes, self.homes, self.rates)?;
        writeln!(
            f,
            "membership {:?}, destroyed sets {:?}, crashes {:?}, returns {:?}",
            self.changes, self.destructions, self.crashes, self.returns
        )?;
        for program in &self.programs {
            writeln!(f, "client {} at node {}:", program.number, program.node)?;
            for timed in &program.operations {
                let Timed { number, object, wish, think_ns, hold_ns, limit_ns, ending } = timed;
                let what = format!("{number} {} object {}, then {}", wish.name(), object.0, ending_name(*ending));
                writeln!(f, "  {what}: after {think_ns} ns, holds {hold_ns} ns, limit {limit_ns:?} ns")?;
            }
        }
        Ok(())
    }
}

fn ending_name(ending: Ending) -> &'static str {
    match ending {
        Ending::Put => "put",
        Ending::Discard => "put nothing",
        Ending::Fail => "fail a first touch",
    }
}

/// Several objects are held at once only in ascending order, and only up to a grab that ends all the
/// holds: where that was left out, the last one ends them itself.
fn end_groups(operations: &mut [Timed]) {
    let order = |timed: &Timed| (timed.object.0 >> GENERATION_SHIFT, timed.object);
    for at in 0..operations.len() {
        let goes_on = operations.get(at + 1).is_some_and(|next| {
            let is_same_set = order(next).0 == order(&operations[at]).0;
            matches!(next.wish, Wish::Also | GRAB) && is_same_set && next.object > operations[at].object
        });
        if operations[at].wish == Wish::Also && !goes_on {
            operations[at].wish = GRAB;
        }
    }
}

/// What ends several holds.
const GRAB: Wish = Wish::Request(RequestKind::Grab { existing: false });
