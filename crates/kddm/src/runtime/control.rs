//! Questions between nodes outside the links: admission, the view log, the end of a set.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{Epoch, Incarnation, NodeId, Placement, SetId};
use kddm_view::{Change, ClusterId, Foreign, Frozen, MemberEntry, SessionId, Site};
use serde::{Deserialize, Serialize};

use crate::error::{AccessError, Error, MembershipError, SetError};
use crate::guardian::Secret;
use crate::node::{MemberInfo, NodeState};
use crate::runtime::Runtime;
use crate::runtime::deciding::NotAdmitted;
use crate::runtime::lane::Lane;
use crate::transport::address::AddressError;
use crate::transport::greeting::{self, Hello, PROTOCOL, Purpose, Reply};
use crate::transport::{Address, Stream};

/// What is said of a member whose answer fits nothing else.
pub(crate) const NO_MEMBER: &str = "it does not take this node for a member";

/// How long one control exchange may take.
pub(crate) const CONTROL_LIMIT: Duration = Duration::from_secs(2);

/// How long a link of a new member waits here until this node hears of its admission: far longer than
/// the voter needs to tell, short beside the limit of a join.
const LEARN_LIMIT: Duration = Duration::from_millis(500);

/// What is asked in a control exchange.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Let me in. For the voter.
    Join {
        wanted: Option<u16>,
        address: String,
        nonce: u64,
        zone: Option<String>,
        witness: bool,
        preferred: bool,
        lanes: u8,
    },
    /// A message of the view log.
    Log(Vec<u8>),
    /// The whole state. For the voter.
    State,
    /// Forget a set.
    Destroy { set: u64, limit_ms: u64 },
    /// Let me use what I hold for longer. For the voter; more may follow on the same connection. If there is
    /// something to heal: the placement in which all is whole as far as I am concerned.
    Renew { number: u64, whole: Option<u32> },
    /// The process of that life has ended. From the guardian of its host.
    Died { node: u16, incarnation: u32, secret: Secret },
    /// All that was lost of that set up to that epoch is accepted: give it up.
    AcceptLosses { set: u64, epoch: u32, limit_ms: u64 },
    /// What is the greatest number of a set that you know?
    GreatestSet,
    /// Say when nobody writes any more there what I have frozen by that entry of the log.
    Freeze { set: u64, number: u64, entry: u64, limit_ms: u64 },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// You are that node, in this state of the cluster.
    Admitted {
        node: u16,
        state: Vec<u8>,
    },
    /// Ask the node at that address.
    Ask(String),
    /// What the view log has to say to you, and the latest term that it has promised anything in, if it counts.
    Log {
        said: Vec<Vec<u8>>,
        promised: Option<u64>,
    },
    /// The state of the cluster.
    State(Vec<u8>),
    /// Another process has your number by now.
    NotAMember,
    Done,
    No(String),
    /// You may, for that long from when you sent that renewal.
    Granted {
        number: u64,
        lasts_ns: u64,
    },
    /// Nobody has been let in here under that life; it may be news.
    NotYet,
    /// Ask again soon: why it cannot be decided now.
    Later(String),
    /// The greatest number of a set that is known here.
    GreatestSet(u64),
}

impl Runtime {
    pub fn hello(&self, purpose: Purpose) -> Hello {
        Hello {
            protocol: PROTOCOL,
            session: self.config.session,
            cluster: self.identity.cluster.cluster.0,
            node: self.identity.id.0,
            incarnation: self.identity.incarnation.0,
            nonce: self.identity.nonce,
            purpose,
        }
    }

    /// Serves one connection: greets, then answers a question or hands the stream to its lane.
    pub fn serve(self: &Arc<Self>, stream: Stream) -> io::Result<()> {
        stream.set_limit(Some(CONTROL_LIMIT))?;
        let hello: Hello = greeting::receive(&stream)?;
        if let Err(reason) = self.admits(&hello) {
            return self.refuse(&stream, reason);
        }
        match hello.purpose {
            Purpose::Control => {
                greeting::send(&stream, &Reply::Welcome { node: self.identity.id.0, received: 0 })?;
                let question = greeting::receive(&stream)?;
                let stays = stays(&question);
                let answer = self.answer(&hello, question);
                stream.set_limit(Some(CONTROL_LIMIT))?;
                greeting::send(&stream, &answer)?;
                if stays { self.answer_more(&hello, &stream) } else { Ok(()) }
            }
            Purpose::Rpc => {
                let life = u64::from(self.identity.incarnation.0);
                greeting::send(&stream, &Reply::Welcome { node: self.identity.id.0, received: life })?;
                self.rpc.accepted(hello.node, hello.incarnation, stream)
            }
            Purpose::Link { lane, received, .. } => {
                let lane = &self.lanes[usize::from(lane)];
                let node = NodeId(hello.node);
                let mut state = lane.lock();
                let peer = state.peers.get(&node).filter(|peer| peer.incarnation.0 == hello.incarnation);
                let Some(mine) = peer.map(|peer| peer.session.received()) else {
                    drop(state);
                    return self.refuse(&stream, not_a_member(&hello));
                };
                greeting::send(&stream, &Reply::Welcome { node: self.identity.id.0, received: mine })?;
                let connected = state.connect(node, stream, received, &lane.poller);
                lane.finish(state);
                self.changed.notify_all();
                connected
            }
        }
    }

    /// Answers what follows the first question, until the connection ends or is silent for two leases.
    fn answer_more(self: &Arc<Self>, hello: &Hello, stream: &Stream) -> io::Result<()> {
        let lease_ms = self.membership.lock().state.lease_ms();
        stream.set_limit(Some(Duration::from_millis(2 * u64::from(lease_ms))))?;
        while !self.is_stopping() {
            let question = match greeting::receive(stream) {
                Ok(question) if stays(&question) => question,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                _ => return Ok(()),
            };
            greeting::send(stream, &self.answer(hello, question))?;
        }
        Ok(())
    }

    fn refuse(&self, stream: &Stream, reason: String) -> io::Result<()> {
        self.lanes[0].lock().statistics.refused_greetings += 1;
        greeting::send(stream, &Reply::Refused(reason))
    }

    /// Whether this node talks to a caller at all.
    fn admits(&self, hello: &Hello) -> Result<(), String> {
        if hello.protocol != PROTOCOL {
            return Err(format!(
                "this node speaks protocol {PROTOCOL}, not {}; run one version of the program on all nodes",
                hello.protocol
            ));
        }
        let ours = self.identity.cluster;
        let session = SessionId::new(hello.session).map_err(|error| error.to_string())?;
        ours.admits_session(session).map_err(|foreign| foreign.to_string())?;
        if hello.cluster != 0 && hello.cluster != ours.cluster.0 {
            let foreign = Foreign::Cluster { ours: ours.cluster, theirs: ClusterId(hello.cluster) };
            return Err(format!("{foreign}; one of them may have been started anew"));
        }
        if hello.purpose == Purpose::Control {
            return Ok(());
        }
        if let Purpose::Link { lane, lanes, .. } = hello.purpose
            && (usize::from(lanes) != self.lanes.len() || lane >= lanes)
        {
            return Err(self.has_other_lanes(lanes));
        }
        if self.knows(hello) { Ok(()) } else { Err(not_a_member(hello)) }
    }

    /// Why a node with so many lanes is not let in.
    fn has_other_lanes(&self, theirs: u8) -> String {
        let (ours, id) = (self.lanes.len(), self.identity.id);
        let s = if ours == 1 { "" } else { "s" };
        format!(
            "node {id} has {ours} lane{s}, not {theirs}; all nodes of a cluster need the same number: set `lanes` to {ours}"
        )
    }

    /// Whether the caller is a member. One that has just been let in may be ahead of the news of it.
    fn knows(&self, hello: &Hello) -> bool {
        let deadline = Instant::now() + LEARN_LIMIT;
        let mut membership = self.membership.lock();
        loop {
            if membership.state.has_life(NodeId(hello.node), Incarnation(hello.incarnation), hello.nonce) {
                return true;
            }
            let is_from_the_future = hello.incarnation > membership.state.last_life().0;
            if !is_from_the_future || self.is_stopping() || !self.wait_for_change(&mut membership, deadline) {
                return false;
            }
        }
    }

    /// Whether the caller is a voter that was a member: on its way back with the log that it has kept, which may
    /// be needed before it can be let in.
    fn has_a_say(&self, hello: &Hello) -> bool {
        let membership = self.membership.lock();
        let node = NodeId(hello.node);
        let was_member = membership
            .departed
            .get(&node)
            .is_some_and(|entry| (entry.incarnation.0, entry.nonce) == (hello.incarnation, hello.nonce));
        was_member && membership.log.groups().iter().any(|group| group.contains(&node))
    }

    fn answer(self: &Arc<Self>, hello: &Hello, question: Question) -> Answer {
        match question {
            Question::Join { .. } if hello.cluster == 0 && self.membership.lock().is_kept_elsewhere() => {
                let place = self.config.view_log_in.as_ref().map_or("another place", |source| source.name());
                Answer::No(format!(
                    "the log of this cluster's views is in {place}, and not with its members: tell this node where"
                ))
            }
            Question::Join { lanes, .. } if usize::from(lanes) != self.lanes.len() => {
                Answer::No(self.has_other_lanes(lanes))
            }
            Question::Join { wanted, address, nonce, zone, witness, preferred, .. } => {
                let (node, site) = (wanted.map(NodeId), Site { zone, witness, preferred });
                self.answer_join(&Change::Join { node, address, nonce, site }, nonce)
            }
            Question::Renew { .. } if !self.leads(&self.membership.lock()) => {
                Answer::No("another node decides, or this one does not know yet that it does".into())
            }
            // It proves by itself that it is meant.
            Question::Died { node, incarnation, secret } => {
                self.answer_died(NodeId(node), Incarnation(incarnation), &secret)
            }
            Question::Log(message) if self.has_a_say(hello) => self.step_and_answer(NodeId(hello.node), &message),
            // All else is for members: anyone can learn a session id.
            _ if !self.knows(hello) => Answer::NotAMember,
            Question::Log(message) => {
                self.silence.heard(NodeId(hello.node));
                self.step_and_answer(NodeId(hello.node), &message)
            }
            Question::Renew { number, whole } => {
                let (node, incarnation) = (NodeId(hello.node), Incarnation(hello.incarnation));
                self.silence.heard(node);
                match self.grant(node, incarnation, number, whole.map(Placement)) {
                    Some(lasts_ns) => Answer::Granted { number, lasts_ns },
                    None => Answer::No("this node grants it no time".into()),
                }
            }
            Question::State => Answer::State(self.membership.lock().state.encode()),
            Question::GreatestSet => Answer::GreatestSet(self.greatest_set()),
            Question::Freeze { set, number, entry, limit_ms } => {
                let (node, incarnation) = (NodeId(hello.node), Incarnation(hello.incarnation));
                match self.close_frozen(&Frozen { set, node, incarnation, number }, entry, limit_ms) {
                    Ok(()) => Answer::Done,
                    Err(reason) => Answer::Later(reason),
                }
            }
            Question::Destroy { set, limit_ms } => {
                self.destroy_here(SetId(set), Duration::from_millis(limit_ms));
                Answer::Done
            }
            Question::AcceptLosses { set, epoch, limit_ms } => {
                match self.accept_losses_here(SetId(set), Epoch(epoch), Duration::from_millis(limit_ms)) {
                    Ok(()) => Answer::Done,
                    Err(error) => Answer::No(error.to_string()),
                }
            }
        }
    }

    fn answer_join(&self, join: &Change, nonce: u64) -> Answer {
        if let Err(error) = join.check() {
            return Answer::No(error.to_string());
        }
        let mut membership = self.membership.lock();
        if !self.leads(&membership) {
            let voter = membership.state.voter();
            let entry = membership.state.member(voter).filter(|_| voter != self.identity.id);
            return match entry {
                Some(entry) => Answer::Ask(entry.address.clone()),
                None => Answer::Later("nobody leads those who decide".into()),
            };
        }
        match self.let_in(&mut membership, join, nonce) {
            Ok(node) if !self.is_welcome(&mut membership, node) => {
                Answer::Later("it was let in before, and is to be expelled: its answer was lost".into())
            }
            Ok(node) => Answer::Admitted { node: node.0, state: membership.state.encode() },
            Err(NotAdmitted::Yet(reason)) => Answer::Later(reason),
            Err(NotAdmitted::Ever(reason)) => Answer::No(reason),
        }
    }

    /// Has every member forget a set; also those that come while others are told.
    pub fn destroy_everywhere(self: &Arc<Self>, set: SetId, name: &str, limit: Duration) -> Result<(), Error> {
        self.destroy_here(set, limit);
        let mut told = vec![(self.identity.id, self.identity.incarnation)];
        loop {
            let state = self.membership.lock().state.clone();
            let is_new = |(node, member): &(NodeId, &MemberEntry)| !told.contains(&(*node, member.incarnation));
            let Some((node, member)) = state.members().find(is_new) else { return Ok(()) };
            let question = Question::Destroy { set: set.0, limit_ms: limit.as_millis() as u64 };
            let answer = self.ask_member(&member.address, &question, limit);
            let is_member = || self.membership.lock().state.has_life(node, member.incarnation, member.nonce);
            match answer {
                Err(reason) if is_member() => {
                    return Err(SetError::DestroyUnconfirmed { name: name.into(), node: node.0, reason }.into());
                }
                // Who has left meanwhile has taken nothing of the set along.
                _ => told.push((node, member.incarnation)),
            }
        }
    }

    /// Has a member do something that takes it up to `limit`.
    pub fn ask_member(&self, address: &str, question: &Question, limit: Duration) -> Result<(), String> {
        match self.answer_of(address, question, limit)? {
            Answer::Done => Ok(()),
            _ => Err(NO_MEMBER.into()),
        }
    }

    /// What a member answers, which may take it up to `limit`, if that is no refusal.
    pub fn answer_of(&self, address: &str, question: &Question, limit: Duration) -> Result<Answer, String> {
        let address: Address = address.parse().map_err(|error: AddressError| error.to_string())?;
        let hello = self.hello(Purpose::Control);
        match greeting::call::<_, Answer>(&address, &hello, question, limit.saturating_add(CONTROL_LIMIT)) {
            Ok(Answer::No(reason) | Answer::Later(reason)) => Err(reason),
            Ok(answer) => Ok(answer),
            Err(error) => Err(error.to_string()),
        }
    }

    pub fn members(&self) -> Vec<MemberInfo> {
        let members = self.membership.lock().state.clone();
        let answers =
            |lane: &Arc<Lane>, node| lane.lock().peers.get(&node).is_some_and(|peer| peer.answers(node, &self.silence));
        let answers = |node| self.lanes.iter().all(|lane| answers(lane, node));
        let info = |(node, entry): (NodeId, &MemberEntry)| MemberInfo {
            id: node.0,
            incarnation: entry.incarnation.0,
            state: entry.state,
            address: entry.address.clone(),
            reachable: node == self.identity.id || answers(node),
        };
        members.members().map(info).collect()
    }

    /// Nodes that have left since this one runs.
    pub fn departed(&self) -> Vec<MemberInfo> {
        let membership = self.membership.lock();
        let info = |(node, entry): (&NodeId, &MemberEntry)| MemberInfo {
            id: node.0,
            incarnation: entry.incarnation.0,
            state: NodeState::Offline,
            address: entry.address.clone(),
            reachable: false,
        };
        membership.departed.iter().map(info).collect()
    }

    pub fn wait_for_members(&self, count: usize, limit: Duration) -> Result<(), Error> {
        if !super::wait::may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let deadline = super::wait::deadline_in(limit);
        let mut membership = self.membership.lock();
        loop {
            let possible = membership.state.members().filter(|(_, entry)| entry.state.can_share()).count();
            if possible >= count {
                return Ok(());
            }
            if self.is_stopping() {
                return Err(MembershipError::Stopped.into());
            }
            if !self.wait_for_change(&mut membership, deadline) {
                let reason = format!("{possible} of {count} members are possible");
                return Err(MembershipError::JoinTimedOut { limit_ms: limit.as_millis() as u64, reason }.into());
            }
        }
    }
}

/// Whether more questions may follow on the same connection.
fn stays(question: &Question) -> bool {
    matches!(question, Question::Renew { .. } | Question::Log(_))
}

fn not_a_member(hello: &Hello) -> String {
    format!("node {} is not a member here yet, or another process has its number", hello.node)
}
