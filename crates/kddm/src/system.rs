//! Names and descriptions of sets, kept in a set themselves: creation is a grab.

use std::sync::Arc;
use std::time::Duration;

use kddm_core::id::{Epoch, SetId, mix};
use kddm_core::replicas::MOST_REPLICAS;
use serde::{Deserialize, Serialize};

use crate::cell::Store;
use crate::chain::chain;
use crate::error::{AccessError, ConfigurationError, Error, MembershipError, SetError};
use crate::expiry::{Expiry, WantedExpiry};
use crate::linker::{Given, LinkerOf, Opener, WritePolicy};
use crate::node::Node;
use crate::on_loss::OnLoss;
use crate::operation::Make;
use crate::pending::Pending;
use crate::placed_by::PlacedBy;
use crate::promise::promise;
use crate::runtime::Runtime;
use crate::runtime::told::SetHere;
use crate::set::Set;
use crate::value::Value;

mod ending;

/// Longest name of a set, in bytes.
pub const NAME_LIMIT_BYTES: usize = 64;

/// Replicas of a set that is made without a word about them: the loss of one node loses nothing.
pub const DEFAULT_REPLICAS: u8 = 1;

/// What the system set is called where its losses are said and accepted; no other set is called so.
pub(crate) const SYSTEM_NAME: &str = "kddm.sets";

/// The object of the system set that counts set ids. Names hash to other objects.
pub(crate) const COUNTER: u64 = 0;

/// Sets described on one page of the list of all sets: a page stays below 16 KiB.
const PAGE: u64 = 64;

/// The object that lists the set of that count. Even, and never zero: names hash to odd objects.
fn page(counter: u64) -> u64 {
    2 + 2 * (counter / PAGE)
}

/// What the cluster remembers of a set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub name: String,
    pub set: u64,
    pub codec: String,
    pub type_name: String,
    pub placed_by: PlacedBy,
    pub destroying: bool,
    pub linker: Option<LinkerOf>,
    pub expiry: Option<Expiry>,
}

/// An object of the system set: the sets whose names hash to it, or the counter.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SystemObject {
    /// In the one that counts: the last number. Where names are: the epoch in which the oldest of their sets was
    /// made, or an earlier one.
    pub counter: u64,
    pub sets: Vec<Description>,
}

impl SystemObject {
    fn find(&self, name: &str) -> Option<(Description, Epoch)> {
        let description = self.sets.iter().find(|description| description.name == name)?;
        Some((description.clone(), Epoch(self.counter.try_into().unwrap_or_default())))
    }
}

pub(crate) fn bucket(name: &str) -> u64 {
    name.bytes().fold(0x6b64_646d, |hash, byte| mix(hash ^ u64::from(byte))) | 1
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let fits = name != SYSTEM_NAME
        && !name.is_empty()
        && name.len() <= NAME_LIMIT_BYTES
        && name.split('/').all(|part| !part.is_empty());
    if fits { Ok(()) } else { Err(SetError::BadName { name: name.into() }.into()) }
}

/// What becomes of an open whose set does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Unknown,
}

/// Opens a set, and creates it if it does not exist. Made by [`Node::set`].
///
/// ```
/// # let nodes = kddm::Node::local_cluster(1)?;
/// let words: kddm::Set<String> = nodes[0].set("book/words").open().wait()?;
/// let differs = nodes[0].set::<u64>("book/words").open().wait();
/// assert!(differs.unwrap_err().to_string().contains("type"));
/// # Ok::<(), kddm::Error>(())
/// ```
#[must_use = "the set is opened by `open()`"]
pub struct SetBuilder<T: Value> {
    pub(crate) node: Node,
    name: String,
    first_touch: Option<Make<T>>,
    placed_by: Option<PlacedBy>,
    replicas: Option<u8>,
    pub(crate) on_loss: Option<OnLoss>,
    wait_limit: Option<Duration>,
    hold_limit: Option<Duration>,
    pub(crate) linker: Option<Given<T>>,
    pub(crate) write_policy: Option<WritePolicy>,
    pub(crate) linker_limit: Option<Duration>,
    pub(crate) is_linker_quick: bool,
    pub(crate) memory_budget: Option<usize>,
    pub(crate) expiry: WantedExpiry,
}

impl<T: Value> SetBuilder<T> {
    pub(crate) fn new(node: Node, name: &str) -> SetBuilder<T> {
        SetBuilder {
            node,
            name: name.into(),
            first_touch: None,
            placed_by: None,
            replicas: None,
            on_loss: None,
            wait_limit: None,
            hold_limit: None,
            linker: None,
            write_policy: None,
            linker_limit: None,
            is_linker_quick: false,
            memory_budget: None,
            expiry: WantedExpiry::default(),
        }
    }

    /// How an object gets its first value, where `T::default()` is not it.
    pub fn first_touch(mut self, make: impl Fn(u64) -> T + Send + Sync + 'static) -> SetBuilder<T> {
        self.first_touch = Some(Arc::new(make));
        self
    }

    /// Where the objects have their home. Compared with an existing set only if given.
    pub fn placement(mut self, placed_by: PlacedBy) -> SetBuilder<T> {
        self.placed_by = Some(placed_by);
        self
    }

    /// How many other nodes keep a copy of each object, so that it survives its owner: up to seven, and no
    /// more than there are. A put is done when they have it: a round trip more than without. Default:
    /// [`DEFAULT_REPLICAS`]. Compared with an existing set only if given.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(3)?;
    /// let safe: kddm::Set<u64> = nodes[0].set("safe").open().wait()?;
    /// let mut count = safe.grab(1).wait()?;
    /// *count = 7;
    /// count.put().wait()?; // Two nodes have it.
    /// // What can be made anew need not survive anybody.
    /// let quick: kddm::Set<u64> = nodes[0].set("quick").replicas(0).open().wait()?;
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn replicas(mut self, replicas: u8) -> SetBuilder<T> {
        self.replicas = Some(replicas.min(MOST_REPLICAS as u8));
        self
    }

    /// The limit of every wait on this handle that has none of its own.
    pub fn wait_limit(mut self, limit: Duration) -> SetBuilder<T> {
        self.wait_limit = Some(limit);
        self
    }

    /// How long a hold may be in somebody's way, here, before it is warned about, counted
    /// ([`Statistics::overdue_holds`](crate::Statistics::overdue_holds)) and marked among the holders
    /// ([`Node::holdings`]). The hold goes on: a stop or a destroy ends it, nothing else. 1 s by default;
    /// the last handle that names one decides for this node.
    pub fn hold_limit(mut self, limit: Duration) -> SetBuilder<T> {
        self.hold_limit = Some(limit);
        self
    }

    /// Opens the set with that name, or creates it: cluster-wide and atomic. `.await` the answer, or
    /// `.wait()` for it.
    ///
    /// # Errors
    /// `SettingsDiffer` names what differs; `BadName`; and what an access can meet.
    pub fn open(self) -> Pending<Set<T>>
    where
        T: Default,
    {
        let first_touch = self.first_touch.clone().unwrap_or_else(|| Arc::new(|_| T::default()));
        self.open_as(first_touch, Missing::Create)
    }

    /// As [`open`](SetBuilder::open), for a type without a default value.
    ///
    /// # Errors
    /// As `open`, and `OutOfRange` if no [`first_touch`](SetBuilder::first_touch) was given.
    pub fn open_without_default(self) -> Pending<Set<T>> {
        let Some(first_touch) = self.first_touch.clone() else {
            let rule = "a type without a default needs `.first_touch(..)`";
            let error = ConfigurationError::OutOfRange { setting: "first_touch", value: "none".into(), rule };
            return Pending::ready(Err(error.into()));
        };
        self.open_as(first_touch, Missing::Create)
    }

    /// Opens the set only if it exists.
    ///
    /// # Errors
    /// `Unknown` if it does not; else as [`open`](SetBuilder::open).
    pub fn open_existing(self) -> Pending<Set<T>>
    where
        T: Default,
    {
        let first_touch = self.first_touch.clone().unwrap_or_else(|| Arc::new(|_| T::default()));
        self.open_as(first_touch, Missing::Unknown)
    }

    fn open_as(self, first_touch: Make<T>, missing: Missing) -> Pending<Set<T>> {
        let (codec, type_name) = (T::CODEC.into(), T::type_name().into());
        let create = missing == Missing::Create;
        let wanted = Wanted {
            name: self.name.clone(),
            codec,
            type_name,
            placed_by: self.placed_by,
            replicas: self.replicas,
            on_loss: self.on_loss,
            create,
            linker: self.linker.as_ref().map(|given| given.name.clone()),
            write_policy: self.write_policy,
            expiry: self.expiry,
        };
        let node = self.node.clone();
        let found = match node.runtime().lender {
            None => wanted.find_or_create(&node, Opener::Node(self.linker.as_ref().map(Given::claim))),
            Some(_) if self.linker.is_some() => return Pending::ready(Err(crate::linker::not_attached())),
            Some(_) => wanted.ask_lender(&node),
        };
        let late = late(node.runtime(), bucket(&self.name));
        let steps = async move {
            self.check_budget()?;
            let description = found.await?;
            let limit = self.wait_limit.unwrap_or(self.node.runtime().config.wait_limit);
            let linked = self.linked(&description, &first_touch)?;
            let stands_behind = (first_touch, linked);
            let set = self.node.open_here(SetId(description.set), self.name, stands_behind, limit)?;
            self.memory_budget.inspect(|bytes| set.keep_to(*bytes));
            if let Some(limit) = self.hold_limit {
                self.node.runtime().set_hold_limit(SetId(description.set), limit);
            }
            Ok(set)
        };
        chain(steps, late)
    }
}

/// Why there is no answer yet to whoever asks for that object of the system set.
pub(crate) fn late(runtime: &Arc<Runtime>, names: u64) -> impl Fn(Duration) -> Error + Send + 'static {
    let here = SetHere { runtime: Arc::clone(runtime), set: SetId::SYSTEM };
    move |limit: Duration| {
        let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
        AccessError::TimedOut { limit_ms, waiting_for: here.waiting_for(names) }.into()
    }
}

/// A set, as whoever opens it wants it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub name: String,
    pub codec: String,
    pub type_name: String,
    pub placed_by: Option<PlacedBy>,
    pub replicas: Option<u8>,
    pub on_loss: Option<OnLoss>,
    /// If it does not exist.
    pub create: bool,
    /// The name of the linker that it is opened with.
    pub linker: Option<String>,
    pub write_policy: Option<WritePolicy>,
    pub expiry: WantedExpiry,
}

impl Wanted {
    /// As [`Self::find_or_create`], by the node to which this program is attached.
    fn ask_lender(self, node: &Node) -> Pending<Description> {
        let (late, node) = (late(node.runtime(), bucket(&self.name)), node.clone());
        let ask = move || match &node.runtime().lender {
            Some(lender) => lender.open(&self).inspect(|found| node.runtime().note_opened(SetId(found.set), &self)),
            None => Err(MembershipError::Stopped.into()),
        };
        promise("kddm-open", ask, late)
    }

    /// The set of that name, if it is as wanted.
    pub fn find_or_create(self, node: &Node, opener: Opener) -> Pending<Description> {
        let is_for_it = || crate::coordination::check_may_open(&self.name, &self.type_name);
        let checked = check_name(&self.name).and_then(|()| is_for_it()).and_then(|()| self.check_linker(&opener));
        let checked = checked.and_then(|()| self.check_on_loss()).and_then(|()| self.expiry.check(self.create));
        if let Err(error) = checked {
            return Pending::ready(Err(error));
        }
        let (names, runtime, node) = (bucket(&self.name), Arc::clone(node.runtime()), node.clone());
        let sealed = runtime.seal_soon();
        // Where sets exist already, the question is on its way when this returns.
        let is_sealed = runtime.membership.lock().state.is_sealed();
        let asked = is_sealed.then(|| Ok::<_, Error>(node.system()?.get(names)));
        let late = late(&runtime, names);
        let steps = async move {
            let asked = match asked {
                Some(asked) => asked?,
                None => {
                    sealed.await?;
                    node.system()?.get(names)
                }
            };
            let found = asked.await?.find(&self.name);
            let (description, born) = match found {
                Some(found) => found,
                None if !self.create => return Err(unknown(&self.name)),
                None => self.make(&node, &opener).await?,
            };
            self.compare(&description)?;
            self.compare_linker(&description, node.runtime(), &opener)?;
            self.expiry.compare(&self.name, description.expiry)?;
            node.runtime().numbers.note(SetId(description.set).counter());
            node.runtime().set_is_born(SetId(description.set), born);
            node.runtime().signals.expiries.know(&description);
            Ok(description)
        };
        chain(steps, late)
    }

    async fn make(&self, node: &Node, opener: &Opener) -> Result<(Description, Epoch), Error> {
        let system = node.system()?;
        // Before the number is given out: what is lost from here on may be of the set.
        let born = node.runtime().epoch_of_all_lanes();
        let mut names = system.grab(bucket(&self.name)).await?;
        if let Some(found) = names.find(&self.name) {
            return Ok(found);
        }
        // By the one who makes the set alone: what was claimed before could not be written any more.
        let linker = self.claimed(node, opener).await?;
        let placed_by = self.placed_by.unwrap_or_default();
        let mut count = system.grab(COUNTER).await?;
        if count.counter == 0 && born > Epoch(1) {
            // Nothing was counted yet, or the count was lost and given up: no number is given out twice.
            let runtime = Arc::clone(node.runtime());
            let late = late(&runtime, COUNTER);
            count.counter = promise("kddm-count", move || runtime.greatest_set_of_all(), late).await?;
        }
        count.counter = count.counter.max(SetId::FIRST_COUNTER - 1) + 1;
        let counter = count.counter;
        node.runtime().numbers.note(counter);
        count.put().await?;
        let set = SetId::new(placed_by.policy(), counter).with_replicas(self.replicas.unwrap_or(DEFAULT_REPLICAS));
        let set = self.expiry.apply(self.on_loss.unwrap_or_default().apply(set));
        let description = Description {
            name: self.name.clone(),
            set: set.0,
            codec: self.codec.clone(),
            type_name: self.type_name.clone(),
            placed_by,
            destroying: false,
            linker,
            expiry: self.expiry.made(),
        };
        // Listed before it exists, so that no set is missing from the list.
        let listed = description.clone();
        let list = move |page: &mut SystemObject| {
            page.sets.push(listed);
            Ok(())
        };
        system.update(page(counter), list).await?;
        if self.expiry.each {
            // Before anybody can open the set, and when it can be found: whoever is cut short leaves what can be destroyed.
            crate::expiry::make_beside(node, set).await?;
        }
        if names.sets.is_empty() {
            names.counter = born.0.into();
        }
        names.sets.push(description.clone());
        names.put().await?;
        Ok((description, born))
    }

    /// Only what was given explicitly is compared; the type always is.
    fn compare(&self, description: &Description) -> Result<(), Error> {
        let differs = |setting, has: String, wanted: String| {
            Err(SetError::SettingsDiffer { name: self.name.clone(), setting, has, wanted }.into())
        };
        if description.destroying {
            return Err(SetError::Destroyed.into());
        }
        if description.codec != self.codec {
            return differs("codec", description.codec.clone(), self.codec.clone());
        }
        if description.type_name != self.type_name {
            return differs("type", description.type_name.clone(), self.type_name.clone());
        }
        let has = SetId(description.set).replicas();
        if let Some(wanted) = self.replicas.filter(|wanted| usize::from(*wanted) != has) {
            return differs("replicas", has.to_string(), wanted.to_string());
        }
        let policy = description.linker.as_ref().map(|linker| linker.policy);
        let has = OnLoss::of(SetId(description.set), policy);
        if let Some(wanted) = self.on_loss.filter(|wanted| wanted.with(policy) != has) {
            return differs("on_loss", has.word().into(), wanted.word().into());
        }
        match self.placed_by {
            Some(wanted) if wanted != description.placed_by => {
                differs("placement", format!("{:?}", description.placed_by), format!("{wanted:?}"))
            }
            _ => Ok(()),
        }
    }
}

impl Node {
    /// The system set of this node's cluster. Even to look for a name makes objects of it, so that
    /// homes must not move from here on.
    pub(crate) fn system(&self) -> Result<Set<SystemObject>, Error> {
        self.system_within(self.runtime().config.wait_limit)
    }

    /// The same, for whoever waits so long at most for each of its objects.
    pub(crate) fn system_within(&self, limit: std::time::Duration) -> Result<Set<SystemObject>, Error> {
        self.runtime().seal()?;
        let first_touch: Make<SystemObject> = Arc::new(|_| SystemObject::default());
        self.open_here(SetId::SYSTEM, SYSTEM_NAME.into(), (first_touch, None), limit)
    }
}

/// All sets that exist.
pub(crate) fn described(system: &Set<SystemObject>) -> Result<Vec<Description>, Error> {
    let last = system.get(COUNTER).wait()?.counter;
    let mut all = Vec::new();
    for number in 0..=last / PAGE {
        let listed = system.get(page(number * PAGE)).wait()?.sets.clone();
        for description in listed {
            // One whose creation was cut short is listed and does not exist.
            match find_described(system, &description.name) {
                Ok(found) if found.set == description.set => all.push(found),
                Ok(_) | Err(Error::Set(SetError::Unknown { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(all)
}

/// One set, if it exists. Creates nothing.
pub(crate) fn find_described(system: &Set<SystemObject>, name: &str) -> Result<Description, Error> {
    check_name(name)?;
    match system.get_existing(bucket(name)).wait() {
        Ok(names) => names.sets.iter().find(|d| d.name == name).cloned().ok_or_else(|| unknown(name)),
        Err(Error::Access(AccessError::NotFound)) => Err(unknown(name)),
        Err(error) => Err(error),
    }
}

fn unknown(name: &str) -> Error {
    SetError::Unknown { name: name.into() }.into()
}

/// What a lane does when a set is opened with a type for the first time here: the raw bytes that
/// were kept so far become values of that type.
pub(crate) fn typed_store<T: Value>(old: Option<&Arc<dyn Store>>) -> Result<Arc<crate::cell::Table<T>>, Error> {
    use crate::cell::Table;
    let Some(old) = old else { return Ok(Arc::new(Table::new())) };
    if let Some(same) = Table::<T>::from_store(old) {
        return Ok(same);
    }
    Table::<T>::adopt(&**old).map(Arc::new).ok_or_else(|| {
        let (has, wanted) = (old.type_name().to_string(), T::type_name().to_string());
        SetError::SettingsDiffer { name: "of this node".into(), setting: "type", has, wanted }.into()
    })
}
