//! What a process has of a class: what it uses, and how the cluster is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, MutexGuard};

use super::{BUCKETS, CLASS_LIMIT_BYTES, NameHold, NameTable, PREFIX, bucket_of, check_bytes, here};
use crate::coordination::CoordinationError;
use crate::coordination::ids::UniqueIds;
use crate::coordination::party::{Lives, LivesHere, Party};
use crate::coordination::shelf::again_if_lost;
use crate::error::{AccessError, Error, Fate, MembershipError, SetError};
use crate::guard::WriteGuard;
use crate::node::Node;
use crate::set::Set;
use crate::system::{DEFAULT_REPLICAS, check_name};

/// Names that one process may use of one class: what it keeps of each is some hundred bytes.
const USED_LIMIT: usize = 1 << 20;

/// Locks among which the names of a class are dealt, so that threads that want different ones seldom meet.
const STRIPES: usize = 64;

/// Ids that were taken, and not used because somebody else had just made one for the name. They are kept.
const SPARE_IDS: usize = 64;

/// Where the ids come from.
const IDS: &str = "kddm.names";

/// A change of which nobody can say whether it was made is made again, so often: twice is once.
const ATTEMPTS: u32 = 4;

/// That this process uses a name.
struct Use {
    id: u64,
    /// As whom: a program that was attached again is another party.
    party: Party,
    /// How often. Zero: it does not, and the cluster has not been told, or may not.
    count: u64,
}

type Uses = BTreeMap<Arc<str>, Use>;

/// Uses that have ended, of which the cluster is to be told.
#[derive(Default)]
struct Ending {
    queue: VecDeque<(Arc<str>, u64)>,
    has_thread: bool,
}

/// What a process has of a class.
pub(crate) struct Class {
    pub name: Arc<str>,
    pub node: Node,
    pub set: Set<NameTable>,
    lives: LivesHere,
    ids: UniqueIds,
    spare: Mutex<Vec<u64>>,
    /// A lock is held while the cluster is asked: so one thread asks for all that want a name.
    stripes: Vec<Mutex<Uses>>,
    ending: Mutex<Ending>,
}

/// Whether this process takes part no more, in that life: then others free what it used.
fn is_the_end(error: &Error) -> bool {
    matches!(
        error,
        Error::Access(AccessError::Fenced)
            | Error::Membership(MembershipError::Stopped | MembershipError::Detached)
            | Error::Set(SetError::Destroyed)
    )
}

/// Publishes a table, or removes its object if nothing is left. Blocks.
pub(super) fn put_back(table: WriteGuard<NameTable>) -> Result<(), Error> {
    if table.is_empty() { table.remove().wait() } else { table.put().wait() }
}

impl Class {
    /// Blocks.
    pub fn open(node: &Node, class: &str) -> Result<Arc<Class>, Error> {
        check_bytes(class, "class of names", CLASS_LIMIT_BYTES)?;
        let set = format!("{PREFIX}{class}");
        check_name(&set)?;
        let here = &node.runtime().coordination.names;
        if let Some(known) = here.find(class) {
            return Ok(known);
        }
        let made = Class {
            name: class.into(),
            node: node.clone(),
            set: node.set(&set).replicas(DEFAULT_REPLICAS).open().wait()?,
            lives: node.lives()?,
            ids: node.unique_ids(IDS).wait()?,
            spare: Mutex::default(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            ending: Mutex::default(),
        };
        Ok(here.keep(class, Arc::new(made)))
    }

    fn counts(&self) -> &here::Counters {
        &self.node.runtime().coordination.names.counts
    }

    fn stripe(&self, name: &str) -> &Mutex<Uses> {
        &self.stripes[bucket_of(name) as usize % STRIPES]
    }

    pub fn not_reserved(&self, name: &str) -> Error {
        CoordinationError::NotReserved { class: self.name.to_string(), name: name.into() }.into()
    }

    fn hold(self: &Arc<Self>, name: Arc<str>, id: u64) -> NameHold {
        NameHold { class: Arc::clone(self), name, id, is_over: false }
    }

    /// A use more of a name that this process uses, if that can be told here and now: the copy that is here says so, which
    /// it can only while nobody has changed it.
    pub fn reserve_again(self: &Arc<Self>, name: &str) -> Option<NameHold> {
        let mut uses = self.stripe(name).try_lock()?;
        let (kept, _) = uses.get_key_value(name)?;
        let kept = Arc::clone(kept);
        let party = Party::of(&self.node);
        let id = self.set.find(bucket_of(name))?.id_used_by(name, party)?;
        self.note(&mut uses, &kept, (id, party));
        Some(self.hold(kept, id))
    }

    /// A use of a name. Blocks.
    pub fn reserve(self: &Arc<Self>, name: &str) -> Result<NameHold, Error> {
        let name: Arc<str> = name.into();
        let mut uses = self.stripe(&name).lock();
        if self.counts().used.load(Ordering::Relaxed) >= USED_LIMIT as u64 && !uses.contains_key(&name) {
            return Err(CoordinationError::TooMany { what: "names that this process uses", limit: USED_LIMIT }.into());
        }
        let (id, party) = self.enter(&name, &mut uses)?;
        self.note(&mut uses, &name, (id, party));
        drop(uses);
        Ok(self.hold(name, id))
    }

    /// This process uses a name once more.
    fn note(&self, uses: &mut Uses, name: &Arc<str>, (id, party): (u64, Party)) {
        let counts = self.counts();
        match uses.get_mut(name) {
            Some(used) if (used.id, used.party, used.count > 0) == (id, party, true) => used.count += 1,
            Some(used) => {
                if used.count == 0 {
                    counts.untold.fetch_sub(1, Ordering::Relaxed);
                    counts.used.fetch_add(1, Ordering::Relaxed);
                }
                *used = Use { id, party, count: 1 };
            }
            None => {
                counts.used.fetch_add(1, Ordering::Relaxed);
                uses.insert(Arc::clone(name), Use { id, party, count: 1 });
            }
        }
    }

    /// Has the cluster know that this process uses a name. Blocks.
    fn enter(&self, name: &Arc<str>, uses: &mut Uses) -> Result<(u64, Party), Error> {
        let spare = self.spare.lock().pop();
        let fresh = spare.map_or_else(|| self.ids.next().wait(), Ok)?;
        let mut attempt = 1;
        let error = loop {
            match again_if_lost(&self.set, bucket_of(name), || self.enter_once(name, fresh)) {
                Ok((id, party)) => {
                    let mut spare = self.spare.lock();
                    // After an attempt that may have been made, it may have been somebody's for a moment.
                    if id != fresh && attempt == 1 && spare.len() < SPARE_IDS {
                        spare.push(fresh);
                    }
                    return Ok((id, party));
                }
                Err(error) if error.fate() == Fate::NothingHappened || attempt == ATTEMPTS => break error,
                Err(_) => attempt += 1,
            }
        };
        if attempt > 1 && !is_the_end(&error) {
            // It may have been made: that is taken back with the next change.
            let known = uses.insert(Arc::clone(name), Use { id: 0, party: Party::of(&self.node), count: 0 });
            self.counts().untold.fetch_add(1, Ordering::Relaxed);
            self.forget_counted(known);
        }
        Err(error)
    }

    fn forget_counted(&self, known: Option<Use>) {
        let counts = self.counts();
        match known {
            Some(Use { count: 0, .. }) => _ = counts.untold.fetch_sub(1, Ordering::Relaxed),
            Some(_) => _ = counts.used.fetch_sub(1, Ordering::Relaxed),
            None => {}
        }
    }

    fn enter_once(&self, name: &str, fresh: u64) -> Result<(u64, Party), Error> {
        let mut table = self.set.grab(bucket_of(name)).wait()?;
        // After the grab: what is put under it is put by this attachment, or not at all.
        let party = Party::of(&self.node);
        if let Some(id) = table.id_used_by(name, party) {
            return Ok((id, party));
        }
        self.settle(&mut table, &self.lives.lock());
        let id = table.reserve(name, party, fresh)?;
        table.put().wait()?;
        Ok((id, party))
    }

    /// Those who are gone use nothing any more. How many uses that were.
    fn settle(&self, table: &mut WriteGuard<NameTable>, lives: &Lives) -> usize {
        let ended = if table.has_gone(lives) { table.settle(lives) } else { 0 };
        self.counts().ended.fetch_add(ended as u64, Ordering::Relaxed);
        ended
    }

    /// Ends one use of several, if that can be told here and now.
    pub fn release_one_of_many(&self, name: &str, id: u64) -> bool {
        let Some(mut uses) = self.stripe(name).try_lock() else { return false };
        let used = uses.get_mut(name).filter(|used| used.id == id && used.count > 1);
        used.map(|used| used.count -= 1).is_some()
    }

    /// Ends a use, of that id if one is named. False if there is none. Blocks.
    pub fn release(&self, name: &str, id: Option<u64>) -> Result<bool, Error> {
        let mut uses = self.stripe(name).lock();
        let party = Party::of(&self.node);
        let Some(used) = uses.get_mut(name) else { return Ok(false) };
        if used.count == 0 || id.is_some_and(|id| id != used.id) {
            return Ok(false);
        }
        if used.party != party {
            // Others know that whoever used it is gone.
            let known = uses.remove(name);
            self.forget_counted(known);
            return Ok(false);
        }
        if used.count > 1 {
            used.count -= 1;
            return Ok(true);
        }
        used.count = 0;
        let counts = self.counts();
        counts.used.fetch_sub(1, Ordering::Relaxed);
        counts.untold.fetch_add(1, Ordering::Relaxed);
        self.tell(&mut uses, name, party)?;
        self.tell_the_rest(&mut uses);
        Ok(true)
    }

    /// Tells the cluster that this process uses a name no more. Blocks.
    fn tell(&self, uses: &mut MutexGuard<'_, Uses>, name: &str, party: Party) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            match self.leave_once(name, party) {
                Err(error) if error.fate() != Fate::NothingHappened && attempt < ATTEMPTS => attempt += 1,
                Err(error) if !is_the_end(&error) => return Err(error),
                Ok(()) | Err(_) => break,
            }
        }
        let known = uses.remove(name);
        self.forget_counted(known);
        Ok(())
    }

    fn leave_once(&self, name: &str, party: Party) -> Result<(), Error> {
        let mut table = match self.set.grab_existing(bucket_of(name)).wait() {
            Ok(table) => table,
            // What was lost is made anew by whoever reserves next.
            Err(Error::Access(AccessError::NotFound | AccessError::Lost { .. })) => return Ok(()),
            Err(error) => return Err(error),
        };
        let ended = self.settle(&mut table, &self.lives.lock());
        let was_used = table.id_used_by(name, party).is_some() && table.release(name, party);
        if ended > 0 || was_used { put_back(table) } else { Ok(()) }
    }

    /// What the cluster could not be told before. What it cannot be told now either waits for the next time. Blocks.
    fn tell_the_rest(&self, uses: &mut MutexGuard<'_, Uses>) {
        let untold = uses.iter().filter(|(_, used)| used.count == 0);
        let untold: Vec<(Arc<str>, Party)> = untold.map(|(name, used)| (Arc::clone(name), used.party)).collect();
        for (name, party) in untold {
            if let Err(error) = self.tell(uses, &name, party) {
                tracing::debug!(class = &*self.name, %name, %error, "a name is not given back yet");
                return;
            }
        }
    }

    /// Ends a use, on a thread that does so for all that wait.
    pub fn release_soon(self: &Arc<Self>, name: &Arc<str>, id: u64) {
        let mut ending = self.ending.lock();
        ending.queue.push_back((Arc::clone(name), id));
        if std::mem::replace(&mut ending.has_thread, true) {
            return;
        }
        drop(ending);
        let class = Arc::clone(self);
        if let Err(error) = std::thread::Builder::new().name("kddm-names".into()).spawn(move || class.end_all()) {
            tracing::warn!(%error, "no thread to give names back; the next one that is dropped tries again");
            self.ending.lock().has_thread = false;
        }
    }

    fn end_all(&self) {
        loop {
            let next = {
                let mut ending = self.ending.lock();
                let next = ending.queue.pop_front();
                ending.has_thread = next.is_some();
                next
            };
            let Some((name, id)) = next else { return };
            if let Err(error) = self.release(&name, Some(id)) {
                tracing::debug!(class = &*self.name, %name, %error, "a name is not given back yet");
            }
        }
    }

    /// Members are gone: frees what they used of what is here, without asking anybody for more, and tells what the cluster
    /// could not be told before. Blocks.
    pub fn sweep(&self) {
        for stripe in &self.stripes {
            self.tell_the_rest(&mut stripe.lock());
        }
        let lives = self.lives.lock().clone();
        for bucket in 0..BUCKETS {
            let is_meant = self.set.find(bucket).is_some_and(|table| table.has_gone(&lives));
            if !is_meant {
                continue;
            }
            if let Err(error) = self.sweep_bucket(bucket, &lives) {
                tracing::debug!(class = &*self.name, %error, "names of nodes that are gone are not free yet");
            }
        }
    }

    fn sweep_bucket(&self, bucket: u64, lives: &Lives) -> Result<(), Error> {
        let mut table = self.set.grab_existing(bucket).wait()?;
        if self.settle(&mut table, lives) > 0 { put_back(table) } else { Ok(()) }
    }
}
