//! All nodes and what is on its way between them, in the order of a time that is modelled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, ObjectId, PlacementPolicy, SetId};
use kddm_core::message::RequestKind;
use kddm_core::view::NodeState;
use kddm_view::{Cause, Change, ClusterId, Decided, Identity, Outcome, SessionId, Site, State};

use super::host::{Host, Packet, Taken};
use super::{Cost, LATENCY_NS, MESSAGE_NS, Part, STEP_NS, Size, Wrong};

enum Event {
    Arrives(NodeId, NodeId, Packet),
    /// An entry of the log has come to that node.
    Decided(NodeId),
    Goes(NodeId),
}

/// In the order of time, and of their making where that is the same.
struct Due(u64, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

pub(super) struct World {
    size: Size,
    set: SetId,
    pub hosts: Vec<Host>,
    state: State,
    events: BinaryHeap<Reverse<Due>>,
    made: u64,
    now: u64,
    /// By node: until when it is busy, and whether it is going to go on.
    busy: Vec<(u64, bool)>,
    settled_at: u64,
    part: Part,
    core_time: Duration,
}

fn index(node: NodeId) -> usize {
    usize::from(node.0) - 1
}

impl World {
    /// A cluster whose nodes have all just begun.
    pub fn new(size: Size) -> Result<World, Wrong> {
        let identity = Identity { cluster: ClusterId(1), session: SessionId::DEFAULT };
        let set = SetId::new(PlacementPolicy::Hash, SetId::FIRST_COUNTER).with_replicas(1);
        let mut world = World {
            size,
            set,
            hosts: Vec::new(),
            state: State::new(identity, NodeId(1)),
            events: BinaryHeap::new(),
            made: 0,
            now: 0,
            busy: Vec::new(),
            settled_at: 0,
            part: Part::default(),
            core_time: Duration::ZERO,
        };
        for _ in 0..size.nodes {
            let node = world.join()?;
            world.decide(&Change::SetState { node, incarnation: world.life(node), state: NodeState::Possible })?;
        }
        world.decide(&Change::Seal)?;
        let view = world.state.view();
        for host in &mut world.hosts {
            host.views.push_back(view.clone());
        }
        (1..=size.nodes).for_each(|node| world.wake(NodeId(node)));
        world.run()?;
        Ok(world)
    }

    fn life(&self, node: NodeId) -> Incarnation {
        self.state.member(node).map_or(Incarnation(0), |entry| entry.incarnation)
    }

    /// Applies the next entry of the log to the state that all members have alike.
    fn decide(&mut self, change: &Change) -> Result<(), Wrong> {
        let entry = Decided { index: self.state.applied() + 1, change: change.clone() };
        match self.state.apply(&entry) {
            Ok(Outcome::Refused(reason)) => Err(format!("{change:?} was refused: {reason}")),
            Ok(_) => Ok(()),
            Err(gap) => Err(gap.to_string()),
        }
    }

    fn join(&mut self) -> Result<NodeId, Wrong> {
        let nonce = u64::from(self.state.last_life().0) + 1;
        let address = format!("10.0.{}.{}:7600", nonce / 250, nonce % 250);
        let zone = (self.size.zones > 0).then(|| format!("rack-{}", nonce % u64::from(self.size.zones)));
        self.decide(&Change::Join { node: None, address, nonce, site: Site { zone, ..Site::default() } })?;
        let node = self.state.member_by_nonce(nonce).ok_or("it was let in")?;
        self.hosts.push(Host::new(node, self.life(node), self.set));
        self.busy.push((0, false));
        Ok(node)
    }

    /// Has a change decided, and told by the node that leads to one member after the other, each of which says that
    /// it has it; then all goes on until nothing is left to do.
    fn change(&mut self, change: &Change) -> Result<(), Wrong> {
        self.decide(change)?;
        let view = self.state.view();
        let bytes = change.encode().map_err(|error| error.to_string())?.len() as u64;
        let mut told_at = self.now;
        for member in &view.members {
            self.hosts[index(member.id)].views.push_back(view.clone());
            told_at += MESSAGE_NS;
            self.part.messages += 2;
            self.part.bytes += bytes + u64::from(super::LOG_BYTES);
            self.at(told_at + LATENCY_NS, Event::Decided(member.id));
        }
        for host in self.hosts.iter_mut().filter(|host| view.member(host.core.id()).is_none()) {
            host.is_there = false;
            host.inbox.clear();
        }
        self.run()
    }

    fn at(&mut self, time: u64, event: Event) {
        self.made += 1;
        self.events.push(Reverse(Due(time, self.made, event)));
    }

    fn wake(&mut self, node: NodeId) {
        let (until, goes) = &mut self.busy[index(node)];
        if !std::mem::replace(goes, true) {
            let at = (*until).max(self.now);
            self.at(at, Event::Goes(node));
        }
    }

    /// Goes on until nothing is under way.
    fn run(&mut self) -> Result<(), Wrong> {
        while let Some(Reverse(Due(time, _, event))) = self.events.pop() {
            self.now = self.now.max(time);
            match event {
                Event::Arrives(from, to, packet) => {
                    let host = &mut self.hosts[index(to)];
                    if host.is_there {
                        host.inbox.push_back((time, from, packet));
                        self.wake(to);
                    }
                }
                Event::Decided(node) => self.wake(node),
                Event::Goes(node) => self.goes(node)?,
            }
        }
        Ok(())
    }

    /// A node does one thing: it takes a message, and does a step of what else there is.
    fn goes(&mut self, node: NodeId) -> Result<(), Wrong> {
        let now = self.now;
        let host = &mut self.hosts[index(node)];
        let was_settled = host.is_settled();
        let mut cost = 0;
        if let Some((came, ..)) = host.inbox.front() {
            self.part.longest_wait_ns = self.part.longest_wait_ns.max(now - came);
            cost += MESSAGE_NS;
        }
        let begun = Instant::now();
        if let Taken::Waits(from, packet) = host.take()? {
            host.wait(from, packet);
        }
        host.go_on(now)?;
        self.core_time += begun.elapsed();
        let sent = std::mem::take(&mut host.sent);
        cost += STEP_NS + sent.len() as u64 * MESSAGE_NS;
        let until = now + cost;
        if !was_settled && host.is_settled() {
            self.settled_at = self.settled_at.max(until);
        }
        let goes_on = host.has_work();
        self.busy[index(node)] = (until, goes_on);
        if goes_on {
            self.at(until, Event::Goes(node));
        }
        for (number, (to, packet)) in (1..).zip(sent) {
            self.part.messages += 1;
            self.part.bytes += u64::from(packet.bytes);
            self.part.of_none += u64::from(packet.object == ObjectId(0));
            self.at(now + number * MESSAGE_NS + LATENCY_NS, Event::Arrives(node, to, packet));
        }
        Ok(())
    }

    /// What a part of the run has cost.
    fn measured(&mut self, what: impl FnOnce(&mut World) -> Result<(), Wrong>) -> Result<Cost, Wrong> {
        (self.part, self.core_time, self.settled_at) = (Part::default(), Duration::ZERO, 0);
        let begun = self.now;
        what(self)?;
        let nodes = self.hosts.iter().filter(|host| host.is_there).count() as f64;
        let ms = |ns: u64| ns as f64 / 1e6;
        Ok(Cost {
            messages: self.part.messages as f64 / nodes,
            of_none: self.part.of_none as f64 / nodes,
            kib: self.part.bytes as f64 / nodes / 1024.0,
            holds_ms: ms(self.settled_at.saturating_sub(begun)),
            over_ms: ms(self.now - begun),
            longest_wait_ms: ms(self.part.longest_wait_ns),
            core_ms: self.core_time.as_secs_f64() * 1e3 / nodes,
        })
    }

    fn object(&self, node: u16, number: u32) -> ObjectId {
        ObjectId((u64::from(node) << 20) + u64::from(number) + 1)
    }

    /// Each node makes its objects, and reads some of the others'.
    pub fn fill(&mut self) -> Result<Cost, Wrong> {
        self.measured(|world| {
            world.each_wants(world.size.owned, |node, number| (node, number, RequestKind::Grab { existing: false }))?;
            let nodes = world.size.nodes;
            let read = |node: u16, number: u32| {
                // Of other nodes, near and far.
                let of = (u32::from(node) + 7 * number) % u32::from(nodes) + 1;
                (of as u16, number, RequestKind::Get { existing: true })
            };
            world.each_wants(world.size.copies, read)
        })
    }

    /// Each node grabs objects of others, which costs what it costs anywhere. Per grab.
    pub fn misses(&mut self) -> Result<Cost, Wrong> {
        let (count, nodes) = (self.size.misses, self.size.nodes);
        let grab = |node: u16, number: u32| {
            let of = (u32::from(node) + number) % u32::from(nodes) + 1;
            (of as u16, number, RequestKind::Grab { existing: true })
        };
        let of_all = self.measured(|world| world.each_wants(count, grab))?;
        let each = f64::from(count);
        let Cost { messages, kib, over_ms, core_ms, .. } = of_all;
        let (messages, kib, over_ms) = (messages / each, kib / each, over_ms / each);
        Ok(Cost { messages, kib, over_ms, core_ms: core_ms / each, ..of_all })
    }

    fn each_wants(&mut self, count: u32, what: impl Fn(u16, u32) -> (u16, u32, RequestKind)) -> Result<(), Wrong> {
        for node in 1..=self.size.nodes {
            for number in 0..count {
                let (of, number, kind) = what(node, number);
                let object = self.object(of, number);
                self.hosts[index(NodeId(node))].wants.push_back((object, kind));
            }
            self.wake(NodeId(node));
        }
        self.run()?;
        let unserved = self.hosts.iter().find(|host| !host.wants.is_empty());
        unserved.map_or(Ok(()), |host| Err(format!("node {} waits for ever", host.core.id())))
    }

    /// One more node comes in and shares.
    pub fn join_one(&mut self) -> Result<Cost, Wrong> {
        self.measured(|world| {
            let address = "10.9.9.9:7600".to_owned();
            let nonce = u64::MAX;
            let me = NodeId(world.size.nodes + 1);
            let life = Incarnation(world.state.last_life().0 + 1);
            world.hosts.push(Host::new(me, life, world.set));
            world.busy.push((0, false));
            world.change(&Change::Join { node: Some(me), address, nonce, site: Default::default() })?;
            world.change(&Change::SetState { node: me, incarnation: life, state: NodeState::Possible })
        })
    }

    /// A node hands over all it has, and goes.
    pub fn leave_one(&mut self, node: NodeId) -> Result<Cost, Wrong> {
        self.measured(|world| {
            let incarnation = world.life(node);
            world.change(&Change::Drain { node, incarnation })?;
            while world.hosts[index(node)].drain() {
                world.wake(node);
                world.run()?;
            }
            world.change(&Change::SetState { node, incarnation, state: NodeState::Online })?;
            while world.hosts[index(node)].drain() {
                world.wake(node);
                world.run()?;
            }
            world.change(&Change::Leave { node, incarnation })
        })
    }

    /// A node is gone without a word, and that is decided: how long its lease took to run out is not in here.
    pub fn lose_one(&mut self, node: NodeId) -> Result<Cost, Wrong> {
        let cost = self.measured(|world| {
            let incarnation = world.life(node);
            world.change(&Change::Expel { node, incarnation, cause: Cause::Lease })
        })?;
        self.check()?;
        Ok(cost)
    }

    /// All is whole, and nothing is lost.
    pub fn check(&self) -> Result<(), Wrong> {
        for host in self.hosts.iter().filter(|host| host.is_there) {
            let node = host.core.id();
            if let Some(what) = host.core.what_is_missing() {
                return Err(format!("node {node} is not whole: {what}"));
            }
            if host.core.lost_count(self.set) > 0 || host.core.view() != &self.state.view() {
                return Err(format!("node {node} has lost objects, or has not come along"));
            }
        }
        Ok(())
    }

    /// What the cores keep, per node.
    pub fn memory(&self) -> (f64, f64) {
        let (mut of_sets, mut of_views, mut nodes) = (0, 0, 0);
        for host in self.hosts.iter().filter(|host| host.is_there) {
            let (sets, view) = host.memory_bytes();
            (of_sets, of_views, nodes) = (of_sets + sets, of_views + view, nodes + 1);
        }
        (of_sets as f64 / f64::from(nodes) / 1024.0, of_views as f64 / f64::from(nodes) / 1024.0)
    }
}
