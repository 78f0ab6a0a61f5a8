//! The membership, as far as it goes today: one voter, the first node, decides; the others learn.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{Epoch, Incarnation, NodeId, Placement, SetId};
use kddm_core::view::{Member, NodeState, View};
use serde::{Deserialize, Serialize};

use crate::error::{Error, MembershipError, SetError};
use crate::node::MemberInfo;
use crate::runtime::Runtime;
use crate::transport::greeting::{self, GreetError, Hello, PROTOCOL, Purpose, Reply};
use crate::transport::{Address, Stream};

/// Most members: a view of them fits one word of a control exchange many times.
pub(crate) const MOST_MEMBERS: usize = 1024;

/// How long one control exchange may take.
pub(crate) const CONTROL_LIMIT: Duration = Duration::from_secs(2);

/// A member as the log of views knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub id: u16,
    pub incarnation: u32,
    pub possible: bool,
    pub address: String,
    pub nonce: u64,
}

/// The newest decided view and what belongs to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub id: u64,
    /// The node that decides.
    pub voter: u16,
    pub epoch: u32,
    pub placement: u32,
    pub members: Vec<Entry>,
    pub homes: Vec<u16>,
    /// Sets of applications exist: homes stay where they are.
    pub sealed: bool,
    pub next_incarnation: u32,
}

impl Cluster {
    pub fn view(&self) -> View {
        let state = |entry: &Entry| if entry.possible { NodeState::Possible } else { NodeState::Online };
        let member = |entry: &Entry| Member {
            id: NodeId(entry.id),
            incarnation: Incarnation(entry.incarnation),
            state: state(entry),
        };
        View {
            epoch: Epoch(self.epoch),
            placement: Placement(self.placement),
            members: self.members.iter().map(member).collect(),
            homes: self.homes.iter().map(|id| NodeId(*id)).collect(),
        }
    }

    pub fn entry(&self, id: u16) -> Option<&Entry> {
        self.members.iter().find(|entry| entry.id == id)
    }

    /// Decides on an admission: the voter's side.
    pub fn admit(&mut self, wanted: Option<u16>, address: String, nonce: u64) -> Result<u16, String> {
        if let Some(same) = self.members.iter().find(|entry| entry.nonce == nonce) {
            return Ok(same.id);
        }
        if self.members.len() >= MOST_MEMBERS {
            return Err(format!("the cluster has {MOST_MEMBERS} members, which is the most it can have"));
        }
        if let Some(first) = wanted.and_then(|id| self.entry(id)) {
            return Err(format!(
                "node id {} is taken by the process at {}; choose another id",
                first.id, first.address
            ));
        }
        let free = || (1..=u16::MAX).find(|id| self.entry(*id).is_none());
        let Some(id) = wanted.or_else(free) else { return Err("no node id is free".into()) };
        self.next_incarnation += 1;
        self.members.push(Entry { id, incarnation: self.next_incarnation, possible: false, address, nonce });
        self.members.sort_by_key(|entry| entry.id);
        self.placement += 1;
        Ok(id)
    }

    /// A member has met all others and shares objects from now on.
    pub fn make_possible(&mut self, id: u16) {
        if let Some(entry) = self.members.iter_mut().find(|entry| entry.id == id && !entry.possible) {
            entry.possible = true;
            self.placement += 1;
            if !self.sealed {
                self.homes = self.members.iter().filter(|entry| entry.possible).map(|entry| entry.id).collect();
            }
        }
    }

    pub fn seal(&mut self) {
        if !self.sealed {
            self.sealed = true;
            self.placement += 1;
        }
    }
}

/// What is asked in a control exchange.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    Join { wanted: Option<u16>, address: String, nonce: u64 },
    Possible { id: u16 },
    Seal,
    Learn(Cluster),
    Destroy { set: u64, limit_ms: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Admitted { id: u16, cluster: Cluster },
    Ask(String),
    Done,
    No(String),
}

impl Runtime {
    pub fn hello(&self, purpose: Purpose) -> Hello {
        Hello {
            protocol: PROTOCOL,
            session: self.config.session,
            cluster: self.identity.cluster,
            node: self.identity.id.0,
            incarnation: self.identity.incarnation.0,
            nonce: self.identity.nonce,
            purpose,
        }
    }

    pub fn is_voter(&self, cluster: &Cluster) -> bool {
        cluster.voter == self.identity.id.0
    }

    /// Serves one connection: greets, then answers a question or hands the stream to its lane.
    pub fn serve(self: &Arc<Self>, stream: Stream) -> io::Result<()> {
        stream.set_limit(Some(CONTROL_LIMIT))?;
        let hello: Hello = greeting::receive(&stream)?;
        if let Err(reason) = self.admits(&hello) {
            return greeting::send(&stream, &Reply::Refused(reason));
        }
        match hello.purpose {
            Purpose::Control => {
                greeting::send(&stream, &Reply::Welcome { node: self.identity.id.0, received: 0 })?;
                let answer = self.answer(greeting::receive(&stream)?);
                stream.set_limit(Some(CONTROL_LIMIT))?;
                greeting::send(&stream, &answer)
            }
            Purpose::Link { lane, received, .. } => {
                let lane = &self.lanes[usize::from(lane)];
                let mut state = lane.lock();
                let peer = state.peers.entry(NodeId(hello.node)).or_insert_with(super::peer::Peer::unconnected);
                let mine = peer.session.received();
                greeting::send(&stream, &Reply::Welcome { node: self.identity.id.0, received: mine })?;
                let connected = state.connect(NodeId(hello.node), stream, received, &lane.poller);
                lane.finish(state);
                self.changed.notify_all();
                connected
            }
        }
    }

    fn admits(&self, hello: &Hello) -> Result<(), String> {
        let session = self.config.session;
        if hello.protocol != PROTOCOL {
            return Err(format!("this node speaks protocol {PROTOCOL}, not {}", hello.protocol));
        }
        if hello.session != session {
            return Err(format!("this cluster has session {session}, not {}; give the same session", hello.session));
        }
        if hello.cluster != 0 && hello.cluster != self.identity.cluster {
            return Err("this is another cluster with the same session; it may have been started anew".into());
        }
        let Purpose::Link { lane, lanes, .. } = hello.purpose else { return Ok(()) };
        if usize::from(lanes) != self.lanes.len() || lane >= lanes {
            return Err(format!(
                "this node has {} lanes, not {lanes}; all nodes need the same number",
                self.lanes.len()
            ));
        }
        let cluster = self.cluster.lock();
        match cluster.entry(hello.node) {
            Some(entry) if entry.incarnation == hello.incarnation && entry.nonce == hello.nonce => Ok(()),
            _ => Err(format!("node {} is not a member here yet, or another process has its number", hello.node)),
        }
    }

    fn answer(self: &Arc<Self>, question: Question) -> Answer {
        match question {
            Question::Learn(cluster) => {
                self.learn(cluster);
                Answer::Done
            }
            Question::Destroy { set, limit_ms } => {
                self.destroy_here(SetId(set), Duration::from_millis(limit_ms));
                Answer::Done
            }
            question => {
                let mut cluster = self.cluster.lock();
                if !self.is_voter(&cluster) {
                    let voter = cluster.voter;
                    return Answer::Ask(cluster.entry(voter).map_or(String::new(), |entry| entry.address.clone()));
                }
                let before = cluster.clone();
                let mut next = cluster.clone();
                let answer = match question {
                    Question::Join { wanted, address, nonce } => match next.admit(wanted, address, nonce) {
                        Ok(id) => Answer::Admitted { id, cluster: next.clone() },
                        Err(reason) => Answer::No(reason),
                    },
                    Question::Possible { id } => {
                        next.make_possible(id);
                        Answer::Done
                    }
                    _ => {
                        next.seal();
                        Answer::Done
                    }
                };
                if next != before {
                    self.install(&mut cluster, next);
                }
                answer
            }
        }
    }

    /// Takes in a view that the voter decided; older ones are old news.
    pub fn learn(&self, new: Cluster) {
        let mut cluster = self.cluster.lock();
        if new.placement > cluster.placement && new.id == cluster.id {
            self.install(&mut cluster, new);
        }
    }

    pub fn install(&self, cluster: &mut Cluster, new: Cluster) {
        let view = new.view();
        for lane in &self.lanes {
            let mut state = lane.lock();
            for member in &view.members {
                if member.id != self.identity.id {
                    state.peers.entry(member.id).or_insert_with(super::peer::Peer::unconnected);
                }
            }
            if let Ok(copy) = view.try_clone() {
                let _always_fits = state.core.install_view(copy);
            }
        }
        *cluster = new;
        self.changed.notify_all();
    }

    /// Asks the voter, wherever it is.
    pub fn ask_voter(self: &Arc<Self>, question: Question) -> Result<Answer, Error> {
        let (is_voter, address) = {
            let cluster = self.cluster.lock();
            let address = cluster.entry(cluster.voter).map(|entry| entry.address.clone());
            (self.is_voter(&cluster), address.unwrap_or_default())
        };
        if is_voter {
            return Ok(self.answer(question));
        }
        let refused = |error: &dyn std::fmt::Display| {
            Error::from(MembershipError::Refused { reason: format!("the first node must agree: {error}") })
        };
        let address: Address = address.parse().map_err(|error| refused(&error))?;
        greeting::call(&address, &self.hello(Purpose::Control), &question, CONTROL_LIMIT)
            .map_err(|error: GreetError| refused(&error))
    }

    /// From the first set of an application on, homes stay where they are. Waits until every member
    /// knows, so that no two disagree about a home.
    pub fn seal(self: &Arc<Self>) -> Result<(), Error> {
        if self.cluster.lock().sealed {
            return Ok(());
        }
        self.ask_voter(Question::Seal)?;
        let deadline = Instant::now() + self.config.wait_limit;
        let mut cluster = self.cluster.lock();
        while !cluster.sealed && self.wait_for_change(&mut cluster, deadline) {}
        let reason = || "the first node has not told this one that sets exist".to_string();
        if cluster.sealed { Ok(()) } else { Err(MembershipError::Refused { reason: reason() }.into()) }
    }

    pub fn destroy_everywhere(self: &Arc<Self>, set: SetId, name: &str, limit: Duration) -> Result<(), Error> {
        let members = self.cluster.lock().members.clone();
        self.destroy_here(set, limit);
        for member in members.iter().filter(|member| member.id != self.identity.id.0) {
            let question = Question::Destroy { set: set.0, limit_ms: limit.as_millis() as u64 };
            let told = member.address.parse::<Address>().map_err(|error| error.to_string()).and_then(|address| {
                let hello = self.hello(Purpose::Control);
                greeting::call::<_, Answer>(&address, &hello, &question, limit + CONTROL_LIMIT)
                    .map_err(|error| error.to_string())
            });
            if let Err(reason) = told {
                return Err(SetError::DestroyUnconfirmed { name: name.into(), node: member.id, reason }.into());
            }
        }
        Ok(())
    }

    pub fn members(&self) -> Vec<MemberInfo> {
        let cluster = self.cluster.lock().clone();
        let state = self.lanes[0].lock();
        let info = |entry: &Entry| MemberInfo {
            id: entry.id,
            incarnation: entry.incarnation,
            state: if entry.possible { NodeState::Possible } else { NodeState::Online },
            address: entry.address.clone(),
            reachable: entry.id == self.identity.id.0
                || state.peers.get(&NodeId(entry.id)).is_some_and(super::peer::Peer::is_connected),
        };
        cluster.members.iter().map(info).collect()
    }

    pub fn wait_for_members(&self, count: usize, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        let mut cluster = self.cluster.lock();
        loop {
            let possible = cluster.members.iter().filter(|entry| entry.possible).count();
            if possible >= count {
                return Ok(());
            }
            if !self.wait_for_change(&mut cluster, deadline) {
                let reason = format!("{possible} of {count} members are possible");
                return Err(MembershipError::JoinTimedOut { limit_ms: limit.as_millis() as u64, reason }.into());
            }
        }
    }
}
