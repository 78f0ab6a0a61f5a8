//! One life of a daemon's node: what is set up for it. When its lease has ended the next one begins in the same
//! process, with what this one owned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use kddm::{Chain, Node, NodeState, Priority, attach_socket};

use crate::daemon::{DaemonError, Event, system};
use crate::data_dir::DataDir;
use crate::ending::{self, End};
use crate::{bench, doctor, sharing};

/// How long one attempt to come back takes at most, beside the leases that it has to wait for: after it a stop that was
/// asked for is heard, and why it failed is said.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Between two attempts, each of which waits itself where that is of use.
const PAUSE: Duration = Duration::from_millis(500);

/// What a life has to do with.
pub(crate) struct Around<'a> {
    pub data_dir: &'a DataDir,
    pub sender: &'a Sender<Event>,
    /// Ends the daemon with all others.
    pub end: End,
}

/// A node that is a member, or was until its lease ended.
pub(crate) struct Life {
    pub node: Node,
    /// Tells its news from those of other lives.
    pub number: u64,
    /// What other daemons may ask of it. Dropped with the life: that waits for what runs.
    served: Option<Box<dyn std::any::Any + Send>>,
}

impl Life {
    /// Sets up what programs, other daemons and this one need of a node.
    pub fn begin(node: Node, number: u64, around: &Around<'_>) -> Result<Life, DaemonError> {
        let begun = Life::try_begin(&node, number, around);
        begun.inspect_err(|_| node.stop())
    }

    fn try_begin(node: &Node, number: u64, around: &Around<'_>) -> Result<Life, DaemonError> {
        around.data_dir.keep_node_id(node.id())?;
        let mut life = Life { node: node.clone(), number, served: None };
        life.keep_members(around.data_dir);
        life.watch_members(around.sender)?;
        life.watch_fence(around.sender)?;
        life.offer_services(around)?;
        Ok(life)
    }

    /// For the next start: it asks whether this cluster is still there before it begins another.
    pub fn keep_members(&self, data_dir: &DataDir) {
        let others = self.node.members().into_iter().filter(|member| member.id != self.node.id());
        if let Err(error) = data_dir.keep_members(&others.map(|member| member.address).collect::<Vec<_>>()) {
            tracing::warn!(%error, "the members are not kept");
        }
    }

    fn watch_members(&self, sender: &Sender<Event>) -> Result<(), DaemonError> {
        let (news, number) = (sender.clone(), self.number);
        let watch = self.node.notifier(Chain::Online, Priority::APPLICATION, "kddmd", move |event| {
            let is_out = event.is_this_node && event.to == NodeState::Offline;
            let _main_may_have_left = news.send(if is_out { Event::Out(number) } else { Event::Members });
        });
        watch.map(|_| ()).map_err(|error| DaemonError::Node(error.to_string()))
    }

    fn watch_fence(&self, sender: &Sender<Event>) -> Result<(), DaemonError> {
        let (node, sender, number) = (self.node.clone(), sender.clone(), self.number);
        let watch = move || {
            if node.wait_until_fenced() {
                let _main_may_have_left = sender.send(Event::Fenced(number));
            }
        };
        std::thread::Builder::new().name("kddmd-fence".into()).spawn(watch).map_err(system("start a thread"))?;
        Ok(())
    }

    fn offer_services(&mut self, around: &Around<'_>) -> Result<(), DaemonError> {
        let (node, end) = (&self.node, Arc::clone(&around.end));
        let offer = || -> Result<_, kddm::Error> {
            node.accept_programs(attach_socket(around.data_dir.path()))?;
            Ok((bench::serve(node)?, sharing::serve(node)?, doctor::serve(node)?, ending::serve(node, end)?))
        };
        let served = offer().map_err(|error| DaemonError::Node(error.to_string()))?;
        self.served = Some(Box::new(served));
        Ok(())
    }

    /// Whether another life can follow in this process. One that has found its own state broken leaves nothing behind,
    /// and one that decides alone who is a member is known nowhere else.
    pub fn can_come_back(&self, keeps_log: bool) -> bool {
        let decides_alone = self.node.voting().voters == [self.node.id()];
        self.node.statistics().faults == 0 && (keeps_log || !decides_alone)
    }

    /// Joins again as a new life, however long that takes, as long as it is wanted. What became of it is an
    /// event.
    pub fn come_back(&self, sender: &Sender<Event>, is_wanted: &Arc<AtomicBool>) -> Result<(), DaemonError> {
        let (node, sender, is_wanted) = (self.node.clone(), sender.clone(), Arc::clone(is_wanted));
        let limit = ATTEMPT + 6 * node.lease().length;
        let again = move || {
            let came = loop {
                match node.rejoin(limit).wait_for(limit + ATTEMPT) {
                    Ok(node) => break Some(node),
                    Err(error) if is_wanted.load(Ordering::Acquire) => {
                        tracing::warn!(%error, "not back yet");
                        std::thread::park_timeout(PAUSE);
                    }
                    Err(_) => break None,
                }
            };
            let _main_may_have_left = sender.send(Event::Back(came));
        };
        std::thread::Builder::new().name("kddmd-rejoin".into()).spawn(again).map_err(system("start a thread"))?;
        Ok(())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // To end a service waits for what runs, and nobody needs to wait for that.
        let served = self.served.take();
        let _it_ends_with_the_process = std::thread::Builder::new().name("kddmd-former".into()).spawn(|| drop(served));
    }
}
