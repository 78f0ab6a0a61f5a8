//! What programs of a cluster wait for together: barriers and latches; numbers that none of them gives twice; and names
//! that mean the same to all of them.
//! Each is a plain value with plain methods, kept as an object of a set of its own: whoever uses it grabs it, calls,
//! puts; and waits for a change of it with [`Set::changed`](crate::Set::changed).

/// The page for users, whose example is tried.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/coordination.md")]
struct Page;

mod barrier;
mod error;
pub(crate) mod ids;
mod latch;
mod names;
pub(crate) mod party;
mod shelf;

use std::collections::BTreeSet;
use std::time::Duration;

pub use barrier::{Barrier, Parties, Passed};
pub use error::{CoordinationError, WhyBroken};
pub use ids::UniqueIds;
pub use latch::Latch;
pub use names::{NameCounts, NameHold, NameInfo, NameList, Names};
pub use party::Party;
pub(crate) use party::{Here, Lives, LivesHere};

use crate::error::{AccessError, ConfigurationError, Error, WaitingFor};
use crate::node::Node;
use crate::value::Value;
use barrier::BarrierState;
use ids::IdsState;
use latch::LatchState;
use shelf::{Kept, Shelf};

/// Parties of one barrier or latch: what is kept of it is sent around with each change.
pub(crate) const PARTIES: usize = 4096;

/// What can be said of a barrier.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BarrierInfo {
    /// Its name.
    pub name: String,
    /// Who has to come.
    pub parties: Parties,
    /// Which use of it this is, from 0.
    pub generation: u64,
    /// Who waits: a node or program as often as it has come.
    pub waiting: Vec<Party>,
    /// Who has opened it.
    pub enrolled: Vec<Party>,
    /// What has broken it, if it is.
    pub broken: Option<WhyBroken>,
}

/// What can be said of a latch.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LatchInfo {
    /// Its name.
    pub name: String,
    /// What it was made with.
    pub count: u64,
    /// What is still to be counted down.
    pub remaining: u64,
    /// Who has promised to count down, and by how much.
    pub owed: Vec<(Party, u64)>,
    /// What has broken it, if it is.
    pub broken: Option<WhyBroken>,
}

/// What can be said of a source of ids.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct IdsInfo {
    /// Its name.
    pub name: String,
    /// The epoch of the last block of ids: that in which the ownership began under which it was taken.
    pub epoch: u32,
    /// Blocks of 16,383 ids that were taken in it.
    pub blocks: u64,
    /// Blocks that an epoch has.
    pub blocks_of_an_epoch: u64,
}

impl Node {
    /// All barriers by name. Blocks.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// assert_eq!(nodes[0].barriers()?, []);
    /// let _open = nodes[0].barrier("phase", kddm::Parties::Members).wait()?;
    /// assert_eq!(nodes[0].barriers()?[0].name, "phase");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// What a get can meet.
    pub fn barriers(&self) -> Result<Vec<BarrierInfo>, Error> {
        infos(self, BarrierState::info)
    }

    /// All latches by name. Blocks.
    ///
    /// # Errors
    /// What a get can meet.
    pub fn latches(&self) -> Result<Vec<LatchInfo>, Error> {
        infos(self, LatchState::info)
    }

    /// All sources of ids by name. Blocks.
    ///
    /// # Errors
    /// What a get can meet.
    pub fn id_sources(&self) -> Result<Vec<IdsInfo>, Error> {
        infos(self, IdsState::info)
    }
}

fn infos<S: Kept, I>(node: &Node, info: impl Fn(&S, &str) -> I) -> Result<Vec<I>, Error> {
    let mut all = Vec::new();
    for named in shelf::all::<S>(node)? {
        all.extend(named.look_now(|state| info(state, &named.name))?);
    }
    Ok(all)
}

/// An error for a set that is kept for what is here: without it ids would be given again.
pub(crate) fn check_may_go(set: &str) -> Result<(), Error> {
    if ![BarrierState::SET, LatchState::SET, IdsState::SET].contains(&set) && !set.starts_with(names::PREFIX) {
        return Ok(());
    }
    let rule = "the sets of barriers, latches, ids and names cannot be destroyed; remove single ones of them";
    Err(ConfigurationError::OutOfRange { setting: "set", value: set.into(), rule }.into())
}

/// An error for whoever would keep something else in such a set: nobody could destroy it, nor have what it is for.
pub(crate) fn check_may_open(set: &str, type_name: &str) -> Result<(), Error> {
    crate::expiry::check_may_open(set, type_name)?;
    fn is_of<S: Kept>(set: &str, type_name: &str) -> bool {
        set == S::SET && type_name != <Shelf<S> as Value>::type_name()
    }
    let is_of_names = set.starts_with(names::PREFIX) && type_name != <names::NameTable as Value>::type_name();
    let is_free = !is_of::<BarrierState>(set, type_name)
        && !is_of::<LatchState>(set, type_name)
        && !is_of::<IdsState>(set, type_name)
        && !is_of_names;
    if is_free {
        return Ok(());
    }
    let rule = "sets of that name are for barriers, latches, ids and names; take another name";
    Err(ConfigurationError::OutOfRange { setting: "set", value: set.into(), rule }.into())
}

/// Programs that were attached to this node are not any more: those who wait for them hear of it. Blocks.
pub(crate) fn programs_have_ended(node: &Node, sessions: &BTreeSet<u32>) -> Result<(), Error> {
    let party = |session: &u32| Party { program: Some(*session), ..Party::of(node) };
    let ended: Vec<Party> = sessions.iter().map(party).collect();
    settle_all::<BarrierState>(node, &ended)?;
    settle_all::<LatchState>(node, &ended)?;
    names::programs_have_ended(node, &ended)
}

fn settle_all<S: Kept>(node: &Node, ended: &[Party]) -> Result<(), Error> {
    for named in shelf::all::<S>(node)? {
        let lives = named.lives.lock().without(ended.iter().copied());
        if named.look_now(|state| state.clone().settle(&lives))? == Some(true) {
            named.change_now(|state| (state.settle(&lives), ()))?;
        }
    }
    Ok(())
}

/// Whoever waits has less time than it takes to look for the name.
fn opens_late(limit: Duration) -> Error {
    AccessError::TimedOut { limit_ms: shelf::milliseconds(limit), waiting_for: WaitingFor::LocalHolders }.into()
}
