//! A new epoch: members were lost. Every node says what it has, shard by shard, and the home of a shard
//! answers for it again once all have. `docs/protocol.md` has the rules ("A member is lost").

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use hashbrown::HashMap;

use crate::id::{Epoch, Mixer, NodeId, ObjectId, SetId, ShardIndex, Tenure, Version};
use crate::io::NoMemory;
use crate::losses::Doubt;
use crate::message::Have;
use crate::node::Directory;
use crate::node::knew::Told;
use crate::nodeset::NodeSet;

/// What a member has said of an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Report {
    pub from: NodeId,
    pub have: Have,
    pub replica: Option<(Tenure, Version)>,
    /// What it owned in a former life, which was expelled in that epoch or later.
    pub offer: Option<(Tenure, Version, Epoch)>,
}

/// Words of nodes that count instead of what they reported: the newest owner, the end of the object.
const AMENDMENTS: usize = 2;

/// How far a shard is in the installed epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Recovery {
    /// The epoch that all its objects are in.
    pub entered: Epoch,
    /// The epoch that they are being taken to, and those that are left.
    pub entering: Epoch,
    pub to_enter: Vec<ObjectId>,
    /// This node is the home, and has not decided yet about the objects `to_decide`, or about any.
    pub is_recovering: bool,
    pub to_decide: Option<Vec<ObjectId>>,
    /// Whether what the directory does not name may exist: it was lost with another home.
    pub doubt: Doubt,
    /// What has been decided of its objects since the beginning of that epoch stands in the directory of this home.
    pub unbroken: Epoch,
    /// What former lives of this node knew as its home, the first one first, and the epoch in which that was told last.
    pub former: Vec<Directory>,
    pub told: Epoch,
    /// What others say of theirs in this epoch.
    pub told_by_others: Vec<Told>,
    /// The former life that the offers here are of was a member until that epoch at least.
    pub left: Epoch,
    /// Who has said all of this shard, and the greatest tenure that each has forgotten.
    pub reported: Vec<(NodeId, Tenure)>,
    pub reports: HashMap<ObjectId, Vec<Report>, Mixer>,
    to_free: HashMap<ObjectId, Vec<Report>, Mixer>,
}

impl Recovery {
    /// What the directory does not name may exist.
    pub fn in_doubt(&self) -> bool {
        self.doubt != Doubt::None
    }

    /// All is in the epoch, and the home has decided.
    pub fn is_done(&self) -> bool {
        !self.is_recovering && self.to_enter.is_empty()
    }

    /// A copy has become an object that is not safe yet, so the home may have to decide anew; or it waits until copies
    /// are gone that nobody is to have.
    pub fn may_decide_anew(&self) -> bool {
        !self.is_recovering && !self.to_free.is_empty()
    }

    /// Nobody is waited for.
    pub fn is_at_rest(&self) -> bool {
        self.is_done() && self.to_free.is_empty()
    }

    /// Whether the home still waits to hear of that object.
    pub fn awaits(&self, object: ObjectId) -> bool {
        let undecided = |ids: &Vec<ObjectId>| ids.binary_search_by(|id| object.cmp(id)).is_ok();
        self.is_recovering && self.to_decide.as_ref().is_none_or(undecided)
    }

    /// Begins anew: this node is the home of the shard, or is not.
    pub fn begin(&mut self, is_home: bool) {
        self.is_recovering = is_home;
        self.to_decide = None;
        self.reported.clear();
        self.told_by_others.clear();
        self.reports = HashMap::default();
        self.to_free = HashMap::default();
    }

    /// A member has said all it has of this shard.
    pub fn heard(&mut self, from: NodeId, forgotten: Tenure) -> Result<(), NoMemory> {
        if self.is_recovering && !self.has_heard(from) {
            self.reported.try_reserve(1).map_err(|_| NoMemory)?;
            self.reported.push((from, forgotten));
        }
        Ok(())
    }

    pub fn has_heard(&self, from: NodeId) -> bool {
        self.reported.iter().any(|(node, _)| *node == from)
    }

    /// The greatest tenure that a member has forgotten in this shard.
    pub fn forgotten_by(&self, node: NodeId) -> Tenure {
        self.reported.iter().find(|(from, _)| *from == node).map_or(Tenure::NONE, |(_, forgotten)| *forgotten)
    }

    /// Notes what a member has of an object.
    pub fn note(&mut self, object: ObjectId, from: NodeId, note: impl FnOnce(&mut Report)) -> Result<(), NoMemory> {
        self.reports.try_reserve(1).map_err(|_| NoMemory)?;
        let known = self.reports.get_mut(&object);
        let reports = match known {
            Some(reports) => {
                reports.try_reserve(1).map_err(|_| NoMemory)?;
                reports
            }
            None => {
                let mut reports = Vec::new();
                reports.try_reserve(1).map_err(|_| NoMemory)?;
                self.reports.entry(object).or_insert(reports)
            }
        };
        if !reports.iter().any(|report| report.from == from) {
            reports.push(Report { from, ..Report::default() });
        }
        if let Some(report) = reports.iter_mut().find(|report| report.from == from) {
            note(report);
        }
        Ok(())
    }

    /// The objects of which anything has been said, some twice.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.reports.keys().chain(self.to_free.keys()).copied()
    }

    /// The objects for which somebody is awaited that is not among these.
    pub fn awaiting_others(&self, is_there: impl Fn(NodeId) -> bool) -> impl Iterator<Item = ObjectId> {
        let is_gone = move |report: &Report| report.from.is_somebody() && !is_there(report.from);
        let found = self.to_free.iter().filter(move |(_, reports)| reports.iter().any(&is_gone));
        found.map(|(object, _)| *object)
    }

    /// How many these are.
    pub fn len(&self) -> usize {
        self.reports.len() + self.to_free.len()
    }

    /// Makes room for what a step about that object may keep; says how much has been said of it so far. What
    /// may be said between its reports and the decision is lent by `spare` if nothing has been yet. The step may
    /// decide, and so many nodes may be told by it that the object is gone.
    pub fn reserve(
        &mut self,
        object: ObjectId,
        (decides, told): (bool, usize),
        spare: &mut Vec<Report>,
    ) -> Result<usize, NoMemory> {
        if !decides && told == 0 && !self.is_recovering && self.to_free.is_empty() {
            return Ok(0);
        }
        self.to_free.try_reserve(1).map_err(|_| NoMemory)?;
        let kept = self.to_free.get_mut(&object).unwrap_or(spare);
        kept.try_reserve(AMENDMENTS + told).map_err(|_| NoMemory)?;
        let kept = kept.len();
        let most = kept + AMENDMENTS + told;
        let Some(reports) = self.reports.get_mut(&object).filter(|_| decides) else { return Ok(most) };
        reports.try_reserve(kept).map_err(|_| NoMemory)?;
        Ok(reports.len() + most)
    }

    pub fn take_reports(&mut self, object: ObjectId) -> Vec<Report> {
        self.reports.remove(&object).unwrap_or_default()
    }

    pub fn take_to_free(&mut self, object: ObjectId, spare: &mut Vec<Report>) -> Vec<Report> {
        let kept = if self.to_free.is_empty() { None } else { self.to_free.remove(&object) };
        kept.unwrap_or_else(|| core::mem::take(spare))
    }

    pub fn keep_to_free(&mut self, object: ObjectId, reports: Vec<Report>, spare: &mut Vec<Report>) {
        if reports.is_empty() {
            *spare = reports;
        } else {
            self.to_free.insert(object, reports);
        }
    }
}

impl Hash for Recovery {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.entered, self.entering, &self.to_enter, self.is_recovering, &self.to_decide).hash(state);
        (self.doubt, self.unbroken, self.told, self.left).hash(state);
        (&self.former, &self.told_by_others).hash(state);
        (self.reports.len(), self.to_free.len()).hash(state);
        let mut ids: Vec<ObjectId> = self.objects().collect();
        ids.sort_unstable();
        for id in ids {
            (id, self.reports.get(&id), self.to_free.get(&id)).hash(state);
        }
        self.reported.hash(state);
    }
}

/// What a node still waits for in the installed epoch.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Recovering {
    /// Members that have not said yet that they have reported all.
    pub awaited: NodeSet,
    /// This node has said so.
    pub has_reported: bool,
    /// It has said what its former life did nothing in.
    pub has_told: bool,
    /// Nothing can be done before somebody says something.
    pub is_idle: bool,
    /// Shards of which this node is the home, and somebody waits for an object.
    pub wanted: Vec<(SetId, ShardIndex)>,
}
