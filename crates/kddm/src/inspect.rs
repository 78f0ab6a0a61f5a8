//! What an operator may ask a node: which cluster it is in, which sets there are, what they take here,
//! and who is in whose way. Nothing here is on the path of an operation, and nothing changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::message::Message;

use crate::cell::HeldBy;
use crate::error::{Error, SetError};
use crate::expiry::OnExpiry;
use crate::linker::WritePolicy;
use crate::node::Node;
use crate::on_loss::OnLoss;
use crate::placed_by::PlacedBy;
use crate::runtime::statistics::Statistics;
use crate::system::{Description, described, find_described};

/// What the cluster remembers of a set.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SetInfo {
    /// Its name.
    pub name: String,
    /// Its number, the same on every node.
    pub id: u64,
    /// How values become bytes.
    pub codec: String,
    /// The name of the values' type.
    pub type_name: String,
    /// Where the objects have their home.
    pub placed_by: PlacedBy,
    /// How many other nodes keep a copy of each object.
    pub replicas: u8,
    /// What becomes of objects that are lost.
    pub on_loss: OnLoss,
    /// It is being destroyed.
    pub is_ending: bool,
    /// The name of what stands behind it, if anything does.
    pub linker: Option<String>,
    /// When what is put goes there.
    pub write_policy: Option<WritePolicy>,
    /// The nodes that have [frozen](crate::Freeze) it, in the order in which they did. Empty in a program that is attached.
    pub frozen_by: Vec<u16>,
    /// How long after its last put an object leaves by itself, if it does.
    pub expire_after: Option<Duration>,
    /// How long after its last use.
    pub expire_idle: Option<Duration>,
    /// Objects may have times of their own.
    pub expire_each: bool,
    /// What becomes of an expired object behind the set.
    pub on_expiry: Option<OnExpiry>,
}

impl SetInfo {
    fn frozen(mut self, by: &BTreeMap<u64, Vec<NodeId>>) -> SetInfo {
        self.frozen_by = by.get(&self.id).into_iter().flatten().map(|node| node.0).collect();
        self
    }
}

impl From<Description> for SetInfo {
    fn from(description: Description) -> Self {
        let Description { name, set: id, codec, type_name, placed_by, destroying: is_ending, linker, expiry } =
            description;
        let (linker, write_policy) = linker.map(|linker| (linker.name, linker.policy)).unzip();
        let (replicas, on_loss) = (SetId(id).replicas() as u8, OnLoss::of(SetId(id), write_policy));
        let (frozen_by, on_expiry) = (Vec::new(), expiry.map(|expiry| expiry.on_expiry));
        let (expire_after, expire_idle) = expiry.map_or((None, None), |expiry| (expiry.after, expiry.idle));
        let expire_each = expiry.is_some_and(|expiry| expiry.each);
        Self {
            name,
            id,
            codec,
            type_name,
            placed_by,
            replicas,
            on_loss,
            is_ending,
            linker,
            write_policy,
            frozen_by,
            expire_after,
            expire_idle,
            expire_each,
            on_expiry,
        }
    }
}

/// What this node keeps of one set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SetUsage {
    /// Objects of which this node knows something: as owner, reader or hint.
    pub objects: usize,
    /// Objects whose home this node is, and that exist or have existed.
    pub directory_entries: usize,
    /// Bytes of records, directory, cells and indexes, without the values.
    pub metadata_bytes: usize,
    /// What the protocol had to handle here: wishes of local threads and messages. Never a hit.
    pub inputs: u64,
    /// Objects of others of which this node keeps a replica.
    pub replicas: usize,
    /// Objects whose home this node is, and that could not be proven present after a loss.
    pub lost: usize,
}

/// How far the cluster has come after the loss of members, as this node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryInfo {
    /// Members lost uncleanly since all was whole last.
    pub failures: u32,
    /// This node still hears what others have, and answers for some objects only then.
    pub is_recovering: bool,
    /// Every object that is not lost has as many replicas as it is to have: all members have said so.
    pub is_whole: bool,
    /// Objects of others of which this node keeps a replica.
    pub replicas: usize,
    /// Objects whose home this node is, and that could not be proven present.
    pub lost: usize,
}

/// What one shard of a set has had to do on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ShardUsage {
    /// Which of the 1,024.
    pub shard: u16,
    /// The node that answers for it, as far as this one knows.
    pub home: u16,
    /// Wishes of local threads and messages that it has handled here.
    pub inputs: u64,
    /// Objects of which this node knows something.
    pub objects: usize,
    /// Objects that exist, where this node is the home.
    pub directory_entries: usize,
}

/// An object of this node that somebody holds or waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Holding {
    /// The number of its set.
    pub set: u64,
    /// The object.
    pub object: u64,
    /// Whether local threads hold it now.
    pub is_held: bool,
    /// Local threads that wait for it.
    pub waiting_here: usize,
    /// Another node wants it, and waits for the local holders.
    pub wanted_elsewhere: bool,
    /// How long its holders have been in the way of somebody, if they are.
    pub in_the_way_for: Option<Duration>,
    /// Who holds it: the thread that took the hold, by its number and name, or the
    /// [`Holder`](crate::Holder), or the program to which it is lent; a linker that is still to hear that its copy goes
    /// ([`Linker::hears`](crate::linker::Linker::hears)); or the node that has frozen the set, if only that is in the way. Empty
    /// while a hold is on its way to whoever waits for it.
    pub holders: Vec<HeldBy>,
}

/// A program that is attached to this node.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ProgramInfo {
    /// The number of its attachment.
    pub session: u32,
    /// Its process, as the system says.
    pub pid: u32,
    /// What it calls itself.
    pub name: String,
    /// Objects that it has, to read or to write.
    pub lent: usize,
    /// Those of them that it may write.
    pub lent_to_write: usize,
    /// Objects that it was asked to give back, and has not.
    pub asked_back: usize,
    /// Objects that it waits for.
    pub waiting: usize,
}

/// What [`Node::holdings`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Holdings {
    /// The objects, by set and id.
    pub objects: Vec<Holding>,
    /// Whether all objects were looked at; those that somebody waits for always are.
    pub is_complete: bool,
}

impl Statistics {
    /// The name of each kind of message, with how many were sent and received.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// assert!(nodes[0].statistics().by_kind().all(|(name, sent, received)| !name.is_empty() && sent == received));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, u64, u64)> + '_ {
        let counts = self.sent.iter().zip(self.received.iter());
        Message::NAMES.iter().zip(counts).map(|(name, (sent, received))| (*name, *sent, *received))
    }
}

impl Node {
    /// The session of this node's cluster.
    pub fn session(&self) -> u16 {
        self.runtime().config.session
    }

    /// The number that names this node's cluster for ever.
    pub fn cluster_id(&self) -> u64 {
        self.runtime().identity.cluster.cluster.0
    }

    /// Which life of this node this is.
    pub fn incarnation(&self) -> u32 {
        let runtime = self.runtime();
        runtime.lender.as_ref().map_or(runtime.identity.incarnation, |lender| lender.incarnation()).0
    }

    /// All sets of the cluster by name. Blocks; reads system objects as a program would.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// assert!(nodes[1].sets()?.is_empty());
    /// let _words: kddm::Set<String> = nodes[0].set("book/words").open().wait()?;
    /// assert_eq!(nodes[1].sets()?[0].name, "book/words");
    /// assert_eq!(nodes[1].set_info("book/words")?.codec, "postcard");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// What a get can meet.
    pub fn sets(&self) -> Result<Vec<SetInfo>, Error> {
        if let Some(lender) = &self.runtime().lender {
            return lender.sets();
        }
        // Looking for a name would fix the homes of all objects; before that there are no sets.
        if !self.runtime().has_sets()? {
            return Ok(Vec::new());
        }
        let frozen = self.runtime().frozen();
        let known = described(&self.system()?)?.into_iter().map(SetInfo::from);
        let mut sets: Vec<SetInfo> = known.map(|set| set.frozen(&frozen)).collect();
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(sets)
    }

    /// One set of the cluster. Blocks.
    ///
    /// # Errors
    /// `Unknown` if there is none of that name; `BadName`; what a get can meet.
    pub fn set_info(&self, name: &str) -> Result<SetInfo, Error> {
        if let Some(lender) = &self.runtime().lender {
            return lender.set_info(name);
        }
        if !self.runtime().has_sets()? {
            return Err(SetError::Unknown { name: name.into() }.into());
        }
        let frozen = self.runtime().frozen();
        find_described(&self.system()?, name).map(|found| SetInfo::from(found).frozen(&frozen))
    }

    /// The sets that are [frozen](crate::Freeze), by their numbers, each with the nodes that have frozen it, as far as this node
    /// has heard. None in a program that is attached.
    pub fn frozen_sets(&self) -> BTreeMap<u64, Vec<u16>> {
        let frozen = self.runtime().frozen().into_iter();
        frozen.map(|(set, by)| (set, by.into_iter().map(|node| node.0).collect())).collect()
    }

    /// What this node keeps of each set that it knows, by the set's number. Cheap: no object is
    /// looked at, but of sets that may have lost some.
    pub fn usage(&self) -> BTreeMap<u64, SetUsage> {
        let mut usage: BTreeMap<u64, SetUsage> = BTreeMap::new();
        let mut counted = BTreeSet::new();
        for lane in &self.runtime().lanes {
            let state = lane.lock();
            // Replicas are kept also of sets that were never used here.
            let known: BTreeSet<SetId> = state.core.sets().into_iter().chain(state.stores.keys().copied()).collect();
            for set in &known {
                let (objects, directory_entries) = state.core.counts(*set);
                let sum = usage.entry(set.0).or_default();
                sum.objects += objects;
                sum.inputs += state.core.touched(*set).map(|(_, _, shard)| shard.inputs()).sum::<u64>();
                sum.directory_entries += directory_entries;
                sum.replicas += state.core.touched(*set).map(|(_, _, shard)| shard.replica_count()).sum::<usize>();
                // To count them takes a look at each object of the directory.
                sum.lost += if state.core.may_have_lost(*set) { state.core.lost_count(*set) } else { 0 };
                sum.metadata_bytes += state.core.memory_bytes(*set);
                // All lanes share one table.
                let store = state.stores.get(set).filter(|_| counted.insert(*set));
                sum.metadata_bytes += store.map_or(0, |store| store.metadata_bytes());
            }
        }
        usage
    }

    /// How far the cluster has come after the loss of members. Nothing, in a program that is attached.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let safe: kddm::Set<u64> = nodes[0].set("safe").replicas(1).open().wait()?;
    /// safe.grab(1).wait()?.put().wait()?;
    /// let (here, there) = (nodes[0].recovery(), nodes[1].recovery());
    /// assert!(!here.is_recovering && here.lost == 0 && there.replicas > 0);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn recovery(&self) -> RecoveryInfo {
        let runtime = self.runtime();
        let (failures, is_whole) = {
            let membership = runtime.membership.lock();
            (membership.state.failures(), membership.state.is_healed())
        };
        let mut info = RecoveryInfo { failures, is_whole, ..RecoveryInfo::default() };
        for lane in &runtime.lanes {
            let state = lane.lock();
            info.is_recovering |= state.core.is_recovering();
            info.replicas += state.core.replica_count();
            let may_have_lost = |set: &SetId| state.core.may_have_lost(*set);
            let sets = state.core.sets().into_iter().filter(may_have_lost);
            info.lost += sets.map(|set| state.core.lost_count(set)).sum::<usize>();
        }
        info
    }

    /// The programs that are attached to this node, by the numbers of their attachments.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        let mut programs: BTreeMap<u32, ProgramInfo> = BTreeMap::new();
        for lane in &self.runtime().lanes {
            for info in lane.lock().programs() {
                match programs.get_mut(&info.session) {
                    None => _ = programs.insert(info.session, info),
                    Some(sum) => {
                        sum.lent += info.lent;
                        sum.lent_to_write += info.lent_to_write;
                        sum.asked_back += info.asked_back;
                        sum.waiting += info.waiting;
                    }
                }
            }
        }
        programs.into_values().collect()
    }

    /// The shards of a set that were touched on this node, those with the most inputs first. The number of
    /// a set is in its [`SetInfo`]. Nothing, in a program that is attached.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let words: kddm::Set<String> = nodes[0].set("words").open().wait()?;
    /// words.grab(7).wait()?.put().wait()?;
    /// let shards = nodes[0].shards(nodes[0].set_info("words")?.id);
    /// assert_eq!((shards.len(), shards[0].objects, shards[0].home), (1, 1, nodes[0].id()));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn shards(&self, set: u64) -> Vec<ShardUsage> {
        let mut all = Vec::new();
        for lane in &self.runtime().lanes {
            let state = lane.lock();
            all.extend(state.core.touched(SetId(set)).map(|(shard, home, counted)| ShardUsage {
                shard: shard.0,
                home: home.0,
                inputs: counted.inputs(),
                objects: counted.object_count(),
                directory_entries: counted.directory_count(),
            }));
        }
        all.sort_by_key(|usage| (std::cmp::Reverse(usage.inputs), usage.shard));
        all
    }

    /// Who holds, and who waits, on this node; what programs have only to read it again is not in it. Looks at up to `limit` objects of each set; those that
    /// somebody waits for are always found.
    pub fn holdings(&self, limit: usize) -> Holdings {
        let mut found: BTreeMap<(u64, u64), Holding> = BTreeMap::new();
        let mut is_complete = true;
        for lane in &self.runtime().lanes {
            let state = lane.lock();
            let stores: Vec<_> = state.stores.iter().map(|(set, store)| (*set, store.clone())).collect();
            for ((set, object), local) in &state.locals {
                let store = state.stores.get(set);
                let cell = store.and_then(|store| store.find(object.0));
                let is_held = store.zip(cell).is_some_and(|(store, cell)| store.is_held(cell));
                let holding = Holding {
                    set: set.0,
                    object: object.0,
                    is_held,
                    waiting_here: local.waiters.len(),
                    wanted_elsewhere: local.revoking.is_some(),
                    in_the_way_for: state.in_the_way_for(*set, *object),
                    holders: state.holders(*set, *object),
                };
                found.insert((set.0, object.0), holding);
            }
            for (set, object, by) in state.frozen.waiting() {
                let holding = found.entry((set.0, object.0)).or_insert(Holding {
                    set: set.0,
                    object: object.0,
                    is_held: false,
                    waiting_here: 0,
                    wanted_elsewhere: false,
                    in_the_way_for: None,
                    holders: vec![HeldBy {
                        who: format!("node {by}, which has frozen the set").into(),
                        is_write: false,
                    }],
                });
                holding.waiting_here += 1;
            }
            drop(state);
            for (set, store) in stores.into_iter().filter(|(set, _)| *set != SetId::SYSTEM) {
                let cells = store.cells();
                is_complete &= cells.len() <= limit;
                // The lane is let go between objects: this must not stand in anybody's way.
                let is_its = |object| Arc::ptr_eq(self.runtime().lane(set, ObjectId(object)), lane);
                for (object, cell) in cells.into_iter().take(limit).filter(|(object, _)| is_its(*object)) {
                    let driver = lane.lock();
                    // A loan that nobody waits for is in nobody's way.
                    let is_lent = driver.is_lent(set, ObjectId(object));
                    if !is_lent && store.find(object) == Some(cell) && store.is_held(cell) {
                        found.entry((set.0, object)).or_insert(Holding {
                            set: set.0,
                            object,
                            is_held: true,
                            waiting_here: 0,
                            wanted_elsewhere: false,
                            in_the_way_for: None,
                            holders: store.holders(cell),
                        });
                    }
                }
            }
        }
        Holdings { objects: found.into_values().collect(), is_complete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::Set;

    #[test]
    fn who_holds_is_seen_until_he_puts() {
        let nodes = Node::local_cluster(1).expect("a node");
        let set: Set<String> = nodes[0].set("held").open().wait().expect("a set");
        let guard = set.grab(7).wait().expect("granted");
        let held = nodes[0].holdings(10);
        assert!(held.is_complete);
        let [one] = &held.objects[..] else { panic!("one holding, not {held:?}") };
        assert_eq!((one.object, one.is_held, one.waiting_here), (7, true, 0));
        guard.put().wait().expect("put");
        assert_eq!(nodes[0].holdings(10).objects, []);
    }

    #[test]
    fn many_sets_are_listed_and_destroyed_ones_are_not() {
        let nodes = Node::local_cluster(2).expect("nodes");
        for number in 0..150 {
            let _set: Set<u64> = nodes[number % 2].set(&format!("many/{number:03}")).open().wait().expect("a set");
        }
        nodes[1].destroy_set("many/070", std::time::Duration::from_secs(10)).wait().expect("destroyed");
        let names: Vec<String> = nodes[0].sets().expect("listed").into_iter().map(|set| set.name).collect();
        let wanted: Vec<String> = (0..150).filter(|n| *n != 70).map(|n| format!("many/{n:03}")).collect();
        assert_eq!(names, wanted);
        assert!(nodes[0].set_info("many/070").is_err());
        assert!(nodes[0].usage().len() >= 75, "it has opened so many");
    }
}
