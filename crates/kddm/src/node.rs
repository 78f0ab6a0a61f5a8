//! A node: this process's part in a cluster.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kddm_core::id::SetId;

use crate::error::{Error, MembershipError};
use crate::linker::Linked;
use crate::notifier::{Chain, MemberEvent, Notifier, Priority, Wanted, refused};
use crate::operation::Make;
use crate::options::Config;
use crate::pending::Pending;
use crate::promise::promise;
use crate::runtime::Runtime;
use crate::runtime::deciding::VotingInfo;
use crate::runtime::leasing::LeaseInfo;
use crate::runtime::statistics::Statistics;
use crate::runtime::told::{SetHere, register};
use crate::set::{Set, Shared};
use crate::system::SetBuilder;
use crate::transport::Address;
use crate::value::Value;

/// The state of a node, in ascending order: **possible is the highest here**.
pub use kddm_core::view::NodeState;

/// What a node knows of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its number.
    pub id: u16,
    /// Its life.
    pub incarnation: u32,
    /// Its state in the agreed view.
    pub state: NodeState,
    /// Where it listens.
    pub address: String,
    /// Whether this node has a connection to it now, on which it has not owed an answer for seconds;
    /// always true for the node itself.
    pub reachable: bool,
}

/// A member of a cluster, in this process. Clones are the same node; it stops with
/// [`stop`](Node::stop) or when the last clone and all sets are dropped.
///
/// ```
/// let nodes = kddm::Node::local_cluster(2)?; // two nodes in this process, no ports
/// let notes: kddm::Set<String> = nodes[0].set("notes").open().wait()?;
/// let mut note = notes.grab(7).wait()?; // this node now holds the only copy in the cluster
/// note.push_str("hello"); // an ordinary &mut String
/// note.put().wait()?; // others may have it now
///
/// let elsewhere: kddm::Set<String> = nodes[1].set("notes").open().wait()?;
/// assert_eq!(*elsewhere.get(7).wait()?, "hello");
/// # Ok::<(), kddm::Error>(())
/// ```
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Owner>);

/// Stops the node when the last handle is gone.
pub(crate) struct Owner(pub(crate) Arc<Runtime>, AtEnd);

/// What the end of an [`Owner`] means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    Stops,
    GoesOn,
}

impl Owner {
    pub(crate) fn new(runtime: Arc<Runtime>) -> Arc<Owner> {
        Arc::new(Owner(runtime, AtEnd::Stops))
    }

    /// For work of the node itself, which does not keep it: whoever has the node stops it, and need not wait for this.
    pub(crate) fn guest(runtime: Arc<Runtime>) -> Arc<Owner> {
        Arc::new(Owner(runtime, AtEnd::GoesOn))
    }
}

/// The lease of nodes in one process.
const LEASE_IN_PROCESS: Duration = Duration::from_secs(60);

impl Drop for Owner {
    fn drop(&mut self) {
        if self.1 == AtEnd::Stops {
            self.0.stop();
        }
    }
}

impl Node {
    /// Joins the cluster of the first contact that answers, or begins one if none is given. The answer
    /// comes when this node is a full member. If it is dropped before that, the node leaves again.
    ///
    /// ```
    /// let first = kddm::Node::join(kddm::Config::new()).wait()?; // it begins a cluster
    /// let contact = kddm::Config::new().contact(first.address().clone());
    /// let second = kddm::Node::join(contact).wait()?; // or `.await`, on any executor
    /// assert_eq!(second.members().len(), 2);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NoContact`, `Refused` with the cluster's reason, `JoinTimedOut`, `Listen`.
    pub fn join(config: Config) -> Pending<Node> {
        let join = || crate::runtime::join::join(config).map(|runtime| Node(Owner::new(runtime)));
        promise("kddm-join", join, |limit| still("the join was still under way", limit))
    }

    /// Attaches this program to the node that accepts programs at that Unix socket: mostly the `kddmd` of
    /// this host, with `attach.sock` in its data directory. What is done with the answer is the same as
    /// with a node of its own, but that node is the member, and lends to this program what it uses: a copy
    /// that is here is read in nanoseconds, until the node asks for it back because others want to write.
    ///
    /// A [`put`](crate::WriteGuard::put) is complete once its bytes are in the socket. The node reads all
    /// that is in it before it sees the end of the connection: so a completed put survives this program,
    /// whatever ends it, and what was not put is discarded.
    ///
    /// When the node goes, puts and removes under way end with `Detached`, and guards keep what they show and can
    /// put nothing. This program attaches again by itself, for three minutes: who waits for an object, or asks for
    /// one meanwhile, waits for that, and hears `Reattaching` at the limit of the wait; all else that is asked for is
    /// `Reattaching` at once. Nothing has happened then. Once the same node of the same cluster is back, this handle
    /// and the sets that still exist work again, and those that do not are `Destroyed`. If it does not come
    /// back, everything ends with `Detached`, and with `Fenced` if it had fenced itself.
    ///
    /// # Errors
    /// `NotAttached` says what to do.
    pub fn attach(socket: impl AsRef<std::path::Path>) -> Pending<Node> {
        let socket = socket.as_ref().to_path_buf();
        let attach = move || {
            let runtime = crate::runtime::lending::attach::attach(&socket)?;
            Ok(Node(Owner::new(runtime)))
        };
        promise("kddm-attach", attach, |limit| still("the attachment was still under way", limit))
    }

    /// As [`attach`](Node::attach), to the daemon that is meant: by `KDDM_ATTACH` (its socket), by
    /// `KDDM_ADMIN` (the admin socket beside it), by `KDDM_DATA_DIR`, or the one in the default directory.
    ///
    /// # Errors
    /// `NotAttached` says what to do.
    pub fn attach_default() -> Pending<Node> {
        match crate::place::meant_socket() {
            Some(socket) => Node::attach(socket),
            None => {
                let reason = "which one? neither HOME nor XDG_STATE_HOME is set; name its socket in KDDM_ATTACH".into();
                Pending::ready(Err(MembershipError::NotAttached { socket: "an unknown place".into(), reason }.into()))
            }
        }
    }

    /// `count` nodes in this process, connected without ports: for documents and tests.
    ///
    /// # Errors
    /// As [`join`](Node::join).
    pub fn local_cluster(count: usize) -> Result<Vec<Node>, Error> {
        Node::local_cluster_with(count, |config| config)
    }

    /// The same, of nodes that are made otherwise.
    pub(crate) fn local_cluster_with(count: usize, with: impl Fn(Config) -> Config) -> Result<Vec<Node>, Error> {
        static CLUSTERS: AtomicU64 = AtomicU64::new(0);
        let cluster = CLUSTERS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut nodes: Vec<Node> = Vec::new();
        for number in 0..count {
            let listen = Address::local(&format!("cluster-{}-{cluster}-{number}", std::process::id()));
            // They live and stop together: that one of them is held up says nothing about it.
            let mut config = Config::new().listen(listen).lease(LEASE_IN_PROCESS);
            config.decides_alone = true;
            if let Some(first) = nodes.first() {
                config = config.contact(first.address().clone());
            }
            nodes.push(Node::join(with(config)).wait()?);
        }
        Ok(nodes)
    }

    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.0.0
    }

    /// This node's number; in an attached program that of the node that lends to it.
    pub fn id(&self) -> u16 {
        self.runtime().identity.id.0
    }

    /// How many [lanes](Config::lanes) this node has, or the one that lends to this program.
    ///
    /// ```
    /// let node = kddm::Node::join(kddm::Config::new().lanes(2)).wait()?;
    /// assert_eq!(node.lanes(), 2);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn lanes(&self) -> usize {
        self.runtime().lanes.len()
    }

    /// How long a lease of this cluster is and what is left of this node's, how many members were lost,
    /// and what has become of leases since this node runs. In an attached program only what is left says
    /// anything.
    ///
    /// ```
    /// let node = kddm::Node::local_cluster(1)?.remove(0);
    /// assert_eq!(node.lease().remaining, None, "the node that decides needs none");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn lease(&self) -> LeaseInfo {
        self.runtime().lease_info()
    }

    /// Waits until this node has fenced itself, because its lease has ended or its own state is broken, if
    /// another one decides who is a member: true. It may then [`rejoin`](Node::rejoin). False if it stops first.
    pub fn wait_until_fenced(&self) -> bool {
        self.runtime().wait_until_fenced()
    }

    /// A node that has fenced itself comes back as a new life: this one ends, and the process joins the same
    /// cluster again, with the same configuration, number and address, within the limit. The others let it
    /// in when they have expelled the life that has ended, for which they wait a lease and two hundredths.
    ///
    /// The answer is the new node. Handles, sets and guards from before answer `Fenced` for ever, so open sets again
    /// by their names. What the last life owned is offered to the cluster, which has decided about it when this
    /// returns (or goes on to, if the limit is over): it is there again, unless it has another owner by now or somebody
    /// has accepted its loss. What was held to write meanwhile and not put, here or in an attached program, is
    /// not. What it had to read it finds out about while it goes on: a copy that is the newest still is not fetched
    /// again. Notifiers of the [`Config`] are registered again; what was registered with the node itself (notifiers, services, the socket
    /// for programs) is not, and programs that were attached have to be started again.
    ///
    /// ```no_run
    /// # fn work(node: &kddm::Node) {}
    /// # let contact = "192.0.2.1:7600".parse::<kddm::Address>().expect("an address");
    /// use std::time::Duration;
    /// let mut node = kddm::Node::join(kddm::Config::new().contact(contact)).wait()?;
    /// loop {
    ///     work(&node); // in other threads, or until it meets `Fenced`
    ///     if !node.wait_until_fenced() {
    ///         break; // it has stopped
    ///     }
    ///     node = node.rejoin(Duration::from_secs(60)).wait()?;
    /// }
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Refused` if it is not fenced, or decides itself who is a member; nothing has changed then. As
    /// [`join`](Node::join) with the reason of the last attempt; this life has ended then, and another `rejoin` tries
    /// again. `Attached` in an attached program.
    pub fn rejoin(&self, limit: Duration) -> Pending<Node> {
        if let Err(error) = self.is_no_program("join again", "its daemon does") {
            return Pending::ready(Err(error));
        }
        let node = self.clone();
        let again = move || node.runtime().rejoin(limit).map(|runtime| Node(Owner::new(runtime)));
        promise("kddm-rejoin", again, |limit| still("it was still on its way back", limit))
    }

    /// Who decides which nodes are members, as far as this node knows.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let voting = nodes[1].voting();
    /// assert_eq!((voting.voters, voting.leader), (vec![nodes[0].id()], Some(nodes[0].id())));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn voting(&self) -> VotingInfo {
        self.runtime().voting_info()
    }

    /// Where this node listens.
    pub fn address(&self) -> &Address {
        &self.runtime().address
    }

    /// The epoch of the installed view.
    pub fn epoch(&self) -> u32 {
        match &self.runtime().lender {
            Some(lender) => lender.members().0,
            None => self.runtime().view().epoch.0,
        }
    }

    /// All members as this node knows them.
    pub fn members(&self) -> Vec<MemberInfo> {
        match &self.runtime().lender {
            Some(lender) => lender.members().1,
            None => self.runtime().members(),
        }
    }

    /// Nodes that were members and have left, since this node runs: offline, with the address that they
    /// had last. A program that is attached remembers none.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let second = nodes[1].id();
    /// nodes[1].stop();
    /// let gone = nodes[0].departed();
    /// assert_eq!((gone[0].id, gone[0].state), (second, kddm::NodeState::Offline));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn departed(&self) -> Vec<MemberInfo> {
        self.runtime().departed()
    }

    /// Waits until `count` members are `possible` here.
    ///
    /// # Errors
    /// `JoinTimedOut` says how many are.
    pub fn wait_for_members(&self, count: usize, limit: Duration) -> Result<(), Error> {
        match &self.runtime().lender {
            Some(lender) => lender.wait_for_members(count, limit).map(|_| ()),
            None => self.runtime().wait_for_members(count, limit),
        }
    }

    /// Registers a notifier, as [`Config::notifier`] does, for what comes from now on.
    ///
    /// A program that is attached is told of each view that its node has installed, in the same order; the node
    /// waits for nobody there, so that a program may hear of a change when it is in force already. While the node is gone
    /// nothing is told; once the program is attached again it hears of all that has changed meanwhile, also that
    /// the node has begun a new life.
    ///
    /// ```
    /// use kddm::{Chain, Priority};
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let socket = std::env::temp_dir().join(format!("kddm-notifier-{}.sock", std::process::id()));
    /// nodes[0].accept_programs(&socket)?;
    /// let program = kddm::Node::attach(&socket).wait()?;
    /// let (sender, told) = std::sync::mpsc::channel();
    /// let notifier = program.notifier(Chain::Possible, Priority::APPLICATION, "watch", move |event| {
    ///     let _nobody_listens = sender.send((event.node, event.to));
    /// })?;
    /// nodes[1].stop();
    /// assert_eq!(told.recv().ok(), Some((nodes[1].id(), kddm::NodeState::Online)));
    /// notifier.remove();
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `OutOfRange` for a name that cannot stand in a log, or beyond 256 notifiers.
    pub fn notifier(
        &self,
        chain: Chain,
        priority: Priority,
        name: &str,
        function: impl Fn(&MemberEvent) + Send + Sync + 'static,
    ) -> Result<Notifier, Error> {
        let wanted = Wanted { chain, priority, name: name.into(), function: Arc::new(function) };
        let registered = self.runtime().notify.register(self.id(), &wanted);
        let registration = registered.map_err(|error| refused(name, &error))?;
        Ok(Notifier { runtime: Arc::downgrade(self.runtime()), registration })
    }

    /// The set of that name: `.open()` opens it, and creates it if it does not exist.
    pub fn set<T: Value>(&self, name: &str) -> SetBuilder<T> {
        SetBuilder::new(self.clone(), name)
    }

    /// What this node has counted so far.
    pub fn statistics(&self) -> Statistics {
        self.runtime().statistics()
    }

    /// Shares objects: from online to possible. The answer comes when it does. Goes on if the answer is
    /// dropped.
    ///
    /// # Errors
    /// `JoinTimedOut` with what is missing.
    pub fn start_sharing(&self, limit: Duration) -> Pending<()> {
        if let Err(error) = self.is_no_program("start sharing", "`kddmadm cluster start` does") {
            return Pending::ready(Err(error));
        }
        let node = self.clone();
        let start = move || node.runtime().start_sharing(limit);
        promise("kddm-start", start, |limit| still("its start was still under way", limit))
    }

    /// Hands over all that this node holds, and stops sharing: from possible to online. No other node
    /// notices. Operations here are refused with `NotSharing` from now on. Goes on if the answer is
    /// dropped.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let notes: kddm::Set<String> = nodes[1].set("notes").open().wait()?;
    /// notes.grab(7).wait()?.put().wait()?;
    /// nodes[1].stop_sharing(std::time::Duration::from_secs(10)).wait()?;
    /// let here: kddm::Set<String> = nodes[0].set("notes").open().wait()?;
    /// assert!(here.get_existing(7).wait().is_ok());
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `DrainTimedOut` if local threads hold objects beyond the limit, or another node does not answer:
    /// this node then shares objects as before. `Refused` if it is the last one that shares objects.
    pub fn stop_sharing(&self, limit: Duration) -> Pending<()> {
        if let Err(error) = self.is_no_program("stop sharing", "`kddmadm cluster stop` does") {
            return Pending::ready(Err(error));
        }
        let node = self.clone();
        let stop = move || node.runtime().stop_sharing(limit);
        let late = |limit: Duration| {
            let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
            MembershipError::DrainTimedOut { limit_ms, missing: "it was still under way".into() }.into()
        };
        promise("kddm-drain", stop, late)
    }

    /// Objects that a [`stop`](Node::stop) or [`stop_sharing`](Node::stop_sharing) still has to hand
    /// over, while it runs.
    pub fn left_to_hand_over(&self) -> usize {
        self.runtime().draining_left.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Ends this node. It hands over what it holds and leaves the cluster first, within the drain
    /// limit of its configuration (60 s); what it could not hand over is said in the log. Its own
    /// notifiers hear of its way down (up to 60 s are waited for them). Then waiting operations end
    /// with `Stopped`, and connections are closed.
    pub fn stop(&self) {
        self.runtime().stop();
    }

    /// As [`stop`](Node::stop), with another limit for what it hands over. Zero: it goes at once, and
    /// what it holds goes with it.
    pub fn stop_within(&self, limit: Duration) {
        self.runtime().stop_within(limit, crate::runtime::notify::DRAIN_LIMIT);
    }

    pub(crate) fn open_here<T: Value>(
        &self,
        set: SetId,
        name: String,
        (first_touch, linked): (Make<T>, Option<Arc<Linked<T>>>),
        wait_limit: Duration,
    ) -> Result<Set<T>, Error> {
        let table = self.runtime().table::<T>(set)?;
        table.set_limit_bytes(self.runtime().limits.object_bytes);
        if self.runtime().lender.is_some() {
            table.set_borrowed();
        } else if set.replicas() > 0 {
            table.set_replicated();
        }
        if linked.as_ref().is_some_and(|linked| linked.is_written()) {
            table.set_linked();
        }
        self.runtime().name_set(set, &name);
        if let Some(linked) = &linked {
            linked.begin_to_tell(self.runtime(), set, &name)?;
        }
        let here = SetHere { runtime: Arc::clone(self.runtime()), set };
        register(table.number(), &here, wait_limit);
        let lease = Arc::clone(&self.runtime().lease);
        table.set_lease(Arc::clone(&lease));
        let node = Arc::clone(&self.0);
        let shared = Shared { here, _node: node, name, table, first_touch, wait_limit, linked, lease };
        Ok(Set(Arc::new(shared)))
    }
}

/// Whoever waits has less time than the work takes.
fn still(what: &str, limit: Duration) -> Error {
    let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
    MembershipError::JoinTimedOut { limit_ms, reason: what.into() }.into()
}
