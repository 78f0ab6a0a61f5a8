//! What can be set when a node starts, with the limits and their reasons.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kddm_view::LogSource;

use crate::node::NodeState;
use crate::notifier::{Chain, MemberEvent, Priority, Wanted};
use crate::transport::Address;

/// How a node joins and what it may use.
///
/// ```
/// use kddm::Config;
///
/// let config = Config::new().contact("127.0.0.1:7600".parse().unwrap()).session(4711);
/// assert_eq!(config.session, 4711);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Members to ask for admission, in order. None: this node begins a cluster of its own.
    pub contacts: Vec<Address>,
    /// Where this node listens. Default: a free TCP port on loopback.
    pub listen: Address,
    /// Listen beyond loopback without encryption.
    pub insecure: bool,
    /// This node's number, 1 to 65,535. Default: the cluster gives one.
    pub node_id: Option<u16>,
    /// Keeps clusters on one network apart, 1 to 9,999.
    pub session: u16,
    /// The limit of every wait that has none of its own.
    pub wait_limit: Duration,
    /// How long admission may take.
    pub join_limit: Duration,
    /// Largest encoded object that may be put at this node. What others have put is always taken.
    pub object_limit_bytes: usize,
    /// Requests of this node that may wait for an answer at one time; each lane has its share.
    pub outstanding_limit: usize,
    /// Bytes that may wait for one peer to take them before its own requests wait here, of which each lane has its
    /// share. Beyond twice this and the largest object, requests to it are refused.
    pub peer_buffer_limit_bytes: usize,
    /// Lanes of this node, 1 to 16: the threads that serve objects, each with some of them, its own lock, and a
    /// link to each member. All nodes of a cluster need the same number. Default: what `KDDM_LANES` says, or one.
    pub lanes: usize,
    /// How long a notifier may run before it is reported. It is waited for all the same.
    pub notifier_limit: Duration,
    /// How long a stop may take to hand over what this node holds. Zero: it goes at once, and what it
    /// holds goes with it.
    pub drain_limit: Duration,
    /// How long a member of a cluster that this node begins may use what it holds without word from the
    /// node that decides. Whoever joins has that of its cluster.
    pub lease: Duration,
    /// The socket of the guardian that is to watch this process and tell the others of its end; none: nobody
    /// does. Default: [`default_guardian`](crate::default_guardian). A node without one works all the same,
    /// and the others take longer to be sure of its end.
    pub guardian: Option<PathBuf>,
    /// What this node becomes by itself: `Possible`, or `Online` until it is told to share objects.
    pub start_as: NodeState,
    /// The file in which this node keeps what is decided about members, so that a cluster whose nodes were all stopped
    /// goes on with its last view and epoch. It needs a [`node_id`](Self::node_id), and an address that stays
    /// the same. Default: none, then a node that comes back is a new one.
    pub view_log: Option<PathBuf>,
    /// Where the log of views is kept, if not by members: all nodes of the cluster need the same. Default: members keep it.
    pub view_log_in: Option<Arc<dyn LogSource>>,
    /// What it says of itself when it comes in.
    pub(crate) site: kddm_view::Site,
    /// This node never asks others to decide with it: where all live and end together.
    pub(crate) decides_alone: bool,
    /// Notifiers that hear of everything from the beginning.
    pub(crate) notifiers: Vec<Wanted>,
}

/// The default session id, as in the original.
pub const DEFAULT_SESSION: u16 = 4711;

/// Default limit of a wait: long enough for a busy object, short enough to be noticed.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(10);

/// Default of how long a hold may be in somebody's way before it is reported: long for a program, short
/// for a person.
pub const DEFAULT_HOLD_LIMIT: Duration = Duration::from_secs(1);

/// Default limit of a drain: some ten million small objects.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(60);

/// The shortest lease of a cluster that begins on this host: 50 ms, or 200 ms where it is virtual.
///
/// ```
/// assert!(kddm::Config::new().lease < kddm::least_lease() * 100 && kddm::least_lease().as_millis() >= 50);
/// ```
pub fn least_lease() -> Duration {
    Duration::from_millis(crate::runtime::leasing::least_ms().into())
}

/// Default length of a lease, 1 s: no pause of a host that is shared or virtual is as long in ordinary
/// times, and for so long others wait for what a node has that died without a word.
pub const DEFAULT_LEASE: Duration = Duration::from_millis(kddm_view::LEASE_MS_DEFAULT as u64);

/// Default largest object: 16 MiB.
pub const DEFAULT_OBJECT_LIMIT_BYTES: usize = 16 << 20;

/// The largest object that can be configured: 1 GiB.
pub const MOST_OBJECT_LIMIT_BYTES: usize = 1 << 30;

/// Default bound on outstanding requests: at some hundred bytes each this is a few MiB.
pub const DEFAULT_OUTSTANDING: usize = 65_536;

/// Default bound on bytes waiting for one peer: four objects of the largest default size.
pub const DEFAULT_PEER_BUFFER_BYTES: usize = 64 << 20;

/// The most lanes of a node: so many threads and links to each member cost more than they bring on any machine of today.
pub const MOST_LANES: usize = 16;

/// Names the number of lanes of nodes whose configuration does not.
pub const LANES_VARIABLE: &str = "KDDM_LANES";

/// Default number of lanes: one thread keeps up with one processor's worth of messages. What the environment says and is no
/// number is none, which is refused where the node begins.
fn default_lanes() -> usize {
    match std::env::var_os(LANES_VARIABLE).filter(|said| !said.is_empty()) {
        Some(said) => said.to_str().and_then(|said| said.parse().ok()).unwrap_or(0),
        None => 1,
    }
}

/// Default limit of a notifier, 1 s: as long as a hold before it is warned about.
pub const DEFAULT_NOTIFIER_LIMIT: Duration = Duration::from_nanos(kddm_view::NOTIFIER_LIMIT_NS);

impl Default for Config {
    fn default() -> Config {
        Config {
            contacts: Vec::new(),
            listen: Address::loopback(),
            insecure: false,
            node_id: None,
            session: DEFAULT_SESSION,
            wait_limit: DEFAULT_WAIT,
            join_limit: DEFAULT_WAIT,
            object_limit_bytes: DEFAULT_OBJECT_LIMIT_BYTES,
            outstanding_limit: DEFAULT_OUTSTANDING,
            peer_buffer_limit_bytes: DEFAULT_PEER_BUFFER_BYTES,
            lanes: default_lanes(),
            notifier_limit: DEFAULT_NOTIFIER_LIMIT,
            drain_limit: DEFAULT_DRAIN,
            lease: DEFAULT_LEASE,
            guardian: crate::place::default_guardian(),
            start_as: NodeState::Possible,
            view_log: None,
            view_log_in: None,
            site: kddm_view::Site::default(),
            decides_alone: false,
            notifiers: Vec::new(),
        }
    }
}

impl Config {
    /// The defaults: a cluster of its own on a free loopback port.
    pub fn new() -> Config {
        Config::default()
    }

    /// Asks this member for admission.
    pub fn contact(mut self, contact: Address) -> Config {
        self.contacts.push(contact);
        self
    }

    /// Listens there.
    pub fn listen(mut self, listen: Address) -> Config {
        self.listen = listen;
        self
    }

    /// Asks for this number.
    pub fn node_id(mut self, node_id: u16) -> Config {
        self.node_id = Some(node_id);
        self
    }

    /// Sets the session id.
    pub fn session(mut self, session: u16) -> Config {
        self.session = session;
        self
    }

    /// Sets the limit of every wait that has none of its own.
    pub fn wait_limit(mut self, limit: Duration) -> Config {
        self.wait_limit = limit;
        self
    }

    /// Sets how long admission may take.
    pub fn join_limit(mut self, limit: Duration) -> Config {
        self.join_limit = limit;
        self
    }

    /// Sets how long a stop may take to hand over what this node holds.
    pub fn drain_limit(mut self, limit: Duration) -> Config {
        self.drain_limit = limit;
        self
    }

    /// Sets the lease of the cluster that this node begins: 200 ms to 60 s, from 50 ms on a host that is
    /// not virtual. A short one lets others go on sooner after a failure, and takes a node for dead that was
    /// only held up for so long.
    pub fn lease(mut self, lease: Duration) -> Config {
        self.lease = lease;
        self
    }

    /// Keeps there what is decided about members.
    pub fn view_log(mut self, file: impl Into<PathBuf>) -> Config {
        self.view_log = Some(file.into());
        self
    }

    /// Has the log of views kept there, and not by members, as `kddm-view-etcd` does in etcd: all nodes of a cluster need
    /// the same. Each needs a [`node_id`](Self::node_id), and no contacts: it finds the members there. After all were
    /// stopped whoever comes first goes on.
    pub fn view_log_in(mut self, source: impl LogSource + 'static) -> Config {
        self.view_log_in = Some(Arc::new(source));
        self
    }

    /// Says what fails together with this node, a rack or a room: those who decide are spread over zones. At
    /// most 64 bytes without control characters.
    pub fn zone(mut self, zone: &str) -> Config {
        self.site.zone = Some(zone.into());
        self
    }

    /// A witness: it shares no objects, and helps to decide who is a member. With two nodes that share it makes
    /// three, so that one of them may fail.
    ///
    /// ```
    /// let first = kddm::Node::join(kddm::Config::new()).wait()?;
    /// let witness = kddm::Node::join(kddm::Config::new().contact(first.address().clone()).witness()).wait()?;
    /// assert_eq!(witness.members()[1].state, kddm::NodeState::Online);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn witness(mut self) -> Config {
        self.site.witness = true;
        self.start_as = NodeState::Online;
        self
    }

    /// Of two nodes this is the one that decides who is a member: the other one may be lost, and stops sharing while
    /// this one is gone. With a third node, or a [witness](Config::witness), it makes no difference.
    ///
    /// ```
    /// let first = kddm::Node::join(kddm::Config::new()).wait()?;
    /// let second = kddm::Node::join(kddm::Config::new().contact(first.address().clone()).preferred()).wait()?;
    /// assert_eq!(first.voting().preferred, [2]);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `OutOfRange` when a witness joins with it.
    pub fn preferred(mut self) -> Config {
        self.site.preferred = true;
        self
    }

    /// Stays online, without sharing objects, until [`Node::start_sharing`](crate::Node::start_sharing).
    pub fn without_autostart(mut self) -> Config {
        self.start_as = NodeState::Online;
        self
    }

    /// Sets the largest encoded object, up to 1 GiB.
    pub fn object_limit_bytes(mut self, limit_bytes: usize) -> Config {
        self.object_limit_bytes = limit_bytes;
        self
    }

    /// Sets how many requests may wait for an answer at one time.
    pub fn outstanding_limit(mut self, limit: usize) -> Config {
        self.outstanding_limit = limit;
        self
    }

    /// Serves objects by so many threads, 1 to 16, which share nothing but their memory: an object is served by the one that
    /// its number falls to. It is worth while where one thread does not keep up with what other nodes ask for, and there are
    /// processors for more. All nodes of a cluster need the same number; a program that attaches to one takes what that
    /// has.
    ///
    /// ```
    /// let first = kddm::Node::join(kddm::Config::new().lanes(2)).wait()?;
    /// let other = kddm::Config::new().lanes(3).contact(first.address().clone());
    /// let refused = kddm::Node::join(other).wait().err().expect("all need the same number");
    /// assert!(refused.to_string().contains("has 2 lanes, not 3"), "{refused}");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the node joins: `OutOfRange` for another number, `Refused` if the cluster has another one.
    pub fn lanes(mut self, lanes: usize) -> Config {
        self.lanes = lanes;
        self
    }

    /// Allows listening beyond loopback without encryption.
    pub fn insecure(mut self) -> Config {
        self.insecure = true;
        self
    }

    /// Has `function` told of members that come and go, from the first view on: of every member that
    /// comes online or goes offline, or of every one that becomes possible or steps back.
    ///
    /// All notifiers of a node run in one order, one at a time: a lower priority first on the way up,
    /// in exact reverse on the way down. A node goes up and down one level at a time, also when it
    /// vanishes at once. Parts of an application use [`Priority::APPLICATION`]. A notifier must not
    /// wait for objects: that answers `WouldBlock`, and views would stand still.
    ///
    /// ```
    /// use kddm::{Chain, Config, Node, Priority};
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// let config = Config::new().notifier(Chain::Possible, Priority::APPLICATION, "greet", move |event| {
    ///     let _nobody_listens = sender.send(event.node);
    /// });
    /// let node = Node::join(config).wait()?; // returns when all its notifiers have heard of it
    /// assert_eq!(receiver.try_recv(), Ok(node.id()));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn notifier(
        mut self,
        chain: Chain,
        priority: Priority,
        name: &str,
        function: impl Fn(&MemberEvent) + Send + Sync + 'static,
    ) -> Config {
        self.notifiers.push(Wanted { chain, priority, name: name.into(), function: Arc::new(function) });
        self
    }

    /// Sets how long a notifier may run before it is reported.
    pub fn notifier_limit(mut self, limit: Duration) -> Config {
        self.notifier_limit = limit;
        self
    }
}
