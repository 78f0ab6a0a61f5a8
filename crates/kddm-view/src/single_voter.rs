//! The default log of a small cluster: one node decides, the others follow it.
//!
//! What the voter proposes is decided at once. A follower sends its changes to the voter, one at a
//! time and numbered, and repeats them until the voter says that it has taken them. It also tells
//! the voter which entries it has, after every new one and every [`FOLLOW_INTERVAL_NS`], and so gets
//! those that were lost.

use std::collections::{BTreeMap, VecDeque};

use kddm_core::id::{Incarnation, NodeId, Time};
use serde::{Deserialize, Serialize};

use crate::change::Change;
use crate::log::{Decided, LogError, Outgoing, ViewLog};
use crate::state::{MEMBERS, State};

/// Entries kept for those who are behind: about a megabyte at the worst. Whoever is further behind
/// takes the whole state, which is smaller.
pub const ENTRIES_KEPT: usize = 4096;

/// Entries in one message: with the longest changes it stays under [`MESSAGE_BYTES`].
pub const ENTRIES_PER_MESSAGE: usize = 64;

/// Longest message in bytes; 64 of the longest changes are 33 KB.
pub const MESSAGE_BYTES: usize = 65_536;

/// Changes of one node that wait to be decided. People and joining nodes make them: few at a time.
pub const PROPOSALS: usize = 64;

/// How often a follower asks, 1 s: what was lost is missed for no longer, and a thousand followers
/// ask for a thousand small messages a second.
pub const FOLLOW_INTERVAL_NS: u64 = 1_000_000_000;

/// Silence after which the voter sends a follower nothing more by itself, 10 s: ten asks were lost.
pub const FOLLOWER_SILENCE_NS: u64 = 10 * FOLLOW_INTERVAL_NS;

/// Messages that wait to be taken. More are dropped, as if the network had lost them.
const OUTGOING: usize = 4 * MEMBERS;

/// First byte of a message.
const MESSAGE_SCHEMA: u8 = 1;

/// The layout of messages in postcard. It changes only together with [`MESSAGE_SCHEMA`].
#[derive(Serialize, Deserialize)]
enum Wire {
    /// Follower to voter: what I have, and the change that I want decided, with its number.
    Follow { have: u64, proposal: Option<(u64, Vec<u8>)> },
    /// Voter to follower: the entries after `after`, and the number of your last change taken.
    Decided { after: u64, accepted: u64, entries: Vec<Vec<u8>> },
    /// Voter to follower: what you ask for is not kept any more.
    Forgotten { first: u64, accepted: u64 },
}

impl Wire {
    fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![MESSAGE_SCHEMA]).expect("numbers and bytes can always be written to memory")
    }
}

/// A follower as the voter knows it.
#[derive(Debug)]
struct Follower {
    /// The number of its last change taken.
    accepted: u64,
    /// The last entry that it says it has.
    has: u64,
    /// The last entry sent to it.
    sent: u64,
    /// When it last said something.
    heard: Time,
}

/// What a follower keeps for the voter.
#[derive(Debug)]
struct Following {
    voter: NodeId,
    /// The number of the first proposal.
    ticket: u64,
    proposals: VecDeque<Change>,
    ask_at: Time,
}

impl Following {
    fn new(voter: NodeId, ticket: u64) -> Following {
        Following { voter, ticket, proposals: VecDeque::new(), ask_at: Time(0) }
    }
}

#[derive(Debug)]
enum Role {
    Voter(BTreeMap<NodeId, Follower>),
    Follower(Following),
}

/// A log that one node decides alone. While that node is away nothing is decided.
#[derive(Debug)]
pub struct SingleVoter {
    me: NodeId,
    now: Time,
    /// The index before the first entry kept.
    base: u64,
    entries: VecDeque<Change>,
    outgoing: Vec<Outgoing>,
    role: Role,
}

impl SingleVoter {
    /// The log of the voter. Entries up to `after` are in its state; 0 for a new cluster.
    pub fn voter(me: NodeId, after: u64) -> SingleVoter {
        SingleVoter::new(me, after, Role::Voter(BTreeMap::new()))
    }

    /// The log of a member that follows `voter`. Entries up to `after` are in its state.
    pub fn follower(me: NodeId, incarnation: Incarnation, voter: NodeId, after: u64) -> SingleVoter {
        // A later life counts on above all numbers of the earlier ones.
        let ticket = (u64::from(incarnation.0) << 32) | 1;
        SingleVoter::new(me, after, Role::Follower(Following::new(voter, ticket)))
    }

    fn new(me: NodeId, after: u64, role: Role) -> SingleVoter {
        SingleVoter { me, now: Time(0), base: after, entries: VecDeque::new(), outgoing: Vec::new(), role }
    }

    /// Who decides.
    pub fn voter_id(&self) -> NodeId {
        match &self.role {
            Role::Voter(_) => self.me,
            Role::Follower(following) => following.voter,
        }
    }

    /// The index of the last entry known here.
    pub fn last(&self) -> u64 {
        self.base.saturating_add(self.entries.len() as u64)
    }

    fn skip(&mut self, index: u64) {
        if index > self.last() {
            self.entries.clear();
            self.base = index;
        }
    }

    fn append(&mut self, change: Change) {
        if self.entries.len() >= ENTRIES_KEPT {
            self.entries.pop_front();
            self.base = self.base.saturating_add(1);
        }
        self.entries.push_back(change);
    }

    fn send(&mut self, to: NodeId, message: &Wire) {
        if self.outgoing.len() >= OUTGOING {
            return;
        }
        self.outgoing.push(Outgoing { to, message: message.encode() });
    }

    fn entries_after(&self, index: u64) -> impl Iterator<Item = Decided> + '_ {
        let skip = usize::try_from(index.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let first = self.base.saturating_add(1);
        let numbered = self.entries.iter().zip(first..).skip(skip);
        numbered.map(|(change, index)| Decided { index, change: change.clone() })
    }

    // The voter.

    /// Decides a change, and tells those followers that have all entries before it, except one.
    fn decide(&mut self, change: Change, except: NodeId) {
        self.append(change);
        let last = self.last();
        let Role::Voter(followers) = &self.role else { return };
        let heard_from = |follower: &Follower| self.now <= follower.heard.after_ns(FOLLOWER_SILENCE_NS);
        let up_to_date: Vec<NodeId> = followers
            .iter()
            .filter(|(_, follower)| heard_from(follower) && follower.sent.saturating_add(1) == last)
            .map(|(node, _)| *node)
            .filter(|node| *node != except)
            .collect();
        for node in up_to_date {
            self.send_entries(node);
        }
    }

    /// Sends a follower what comes after the last entry sent to it.
    fn send_entries(&mut self, to: NodeId) {
        let Role::Voter(followers) = &self.role else { return };
        let Some(&Follower { accepted, sent, .. }) = followers.get(&to) else { return };
        let message = if sent < self.base {
            Wire::Forgotten { first: self.base.saturating_add(1), accepted }
        } else {
            Wire::Decided { after: sent, accepted, entries: self.encoded_after(sent) }
        };
        if let (Wire::Decided { entries, .. }, Role::Voter(followers)) = (&message, &mut self.role)
            && let Some(follower) = followers.get_mut(&to)
        {
            follower.sent = sent.saturating_add(entries.len() as u64);
        }
        self.send(to, &message);
    }

    /// One that is not the voter (any more) tells what was decided before.
    fn send_old_entries(&mut self, to: NodeId, after: u64) {
        let message = if after < self.base {
            Wire::Forgotten { first: self.base.saturating_add(1), accepted: 0 }
        } else {
            Wire::Decided { after, accepted: 0, entries: self.encoded_after(after) }
        };
        self.send(to, &message);
    }

    fn encoded_after(&self, index: u64) -> Vec<Vec<u8>> {
        let entries = self.entries_after(index).take(ENTRIES_PER_MESSAGE);
        entries.map(|entry| entry.change.encode().expect("every change was checked when it came in")).collect()
    }

    fn on_follow(&mut self, from: NodeId, have: u64, proposal: Option<(u64, Change)>) -> Result<(), LogError> {
        let (last, now) = (self.last(), self.now);
        let Role::Voter(followers) = &mut self.role else {
            if have < last {
                self.send_old_entries(from, have); // It may not have heard yet who decides now.
                return Ok(());
            }
            return Err(LogError::BadMessage { from, what: "it is for the voter, and this node is not it" });
        };
        if have > last {
            return Err(LogError::FollowerAhead { follower: from, seen: have, last });
        }
        make_room(followers, from, now)?;
        let follower = followers.entry(from).or_insert(Follower { accepted: 0, has: have, sent: have, heard: now });
        follower.has = have;
        follower.sent = have;
        follower.heard = now;
        let answer = have < last || proposal.is_some();
        if let Some((ticket, change)) = proposal
            && ticket > follower.accepted
        {
            follower.accepted = ticket;
            self.decide(change, from); // The proposer hears of it below, with all that it has missed.
        }
        if answer {
            self.send_entries(from);
        }
        Ok(())
    }

    // The follower.

    /// Tells the voter what is here and what is wanted.
    fn ask(&mut self) {
        let have = self.last();
        let Role::Follower(following) = &mut self.role else { return };
        following.ask_at = self.now.after_ns(FOLLOW_INTERVAL_NS);
        let voter = following.voter;
        let proposal = following.proposals.front().map(|change| {
            let bytes = change.encode().expect("every change was checked when it was proposed");
            (following.ticket, bytes)
        });
        self.send(voter, &Wire::Follow { have, proposal });
    }

    /// Checks that a message comes from the voter, and forgets the proposal that it has taken.
    fn on_voter(&mut self, from: NodeId, accepted: u64) -> Result<Answered, LogError> {
        let Role::Follower(following) = &mut self.role else {
            return Err(LogError::BadMessage { from, what: "it is for a follower, and this node is the voter" });
        };
        if from != following.voter {
            return Err(LogError::BadMessage { from, what: "only the voter tells what was decided" });
        }
        if accepted != following.ticket || following.proposals.pop_front().is_none() {
            return Ok(Answered::Nothing);
        }
        following.ticket = following.ticket.saturating_add(1);
        Ok(if following.proposals.is_empty() { Answered::Nothing } else { Answered::NextIsDue })
    }

    fn on_decided(&mut self, from: NodeId, after: u64, accepted: u64, changes: Vec<Change>) -> Result<(), LogError> {
        let answered = self.on_voter(from, accepted)?;
        let gap = after > self.last();
        let before = self.last();
        if !gap {
            let known = usize::try_from(before - after).unwrap_or(usize::MAX);
            for change in changes.into_iter().skip(known) {
                self.append(change);
            }
        }
        // A gap is asked for, and new entries are confirmed: somebody may wait until all have them.
        if gap || self.last() > before || answered == Answered::NextIsDue {
            self.ask();
        }
        Ok(())
    }

    /// Skips to where the voter's log begins: whoever reads on here is told to take a whole state.
    fn on_forgotten(&mut self, from: NodeId, first: u64, accepted: u64) -> Result<(), LogError> {
        self.on_voter(from, accepted)?;
        self.skip(first.saturating_sub(1));
        self.ask();
        Ok(())
    }
}

/// Whether a message of the voter made way for the next proposal.
#[derive(PartialEq, Eq)]
enum Answered {
    Nothing,
    NextIsDue,
}

/// Makes room for one more follower, if need be in the place of one that fell silent.
fn make_room(followers: &mut BTreeMap<NodeId, Follower>, from: NodeId, now: Time) -> Result<(), LogError> {
    if followers.len() < MEMBERS || followers.contains_key(&from) {
        return Ok(());
    }
    let silent = followers.iter().min_by_key(|(_, follower)| follower.heard);
    match silent.map(|(node, follower)| (*node, follower.heard.after_ns(FOLLOWER_SILENCE_NS))) {
        Some((node, silent_at)) if silent_at < now => {
            followers.remove(&node);
            Ok(())
        }
        _ => Err(LogError::TooManyFollowers { from, limit: MEMBERS }),
    }
}

fn read_message(from: NodeId, message: &[u8]) -> Result<Wire, LogError> {
    let bad = |what| LogError::BadMessage { from, what };
    if message.len() > MESSAGE_BYTES {
        return Err(bad("it is longer than any message of a log"));
    }
    let (schema, body) = message.split_first().ok_or(bad("it is empty"))?;
    if *schema != MESSAGE_SCHEMA {
        return Err(bad("another version of the program wrote it, run one version on all nodes"));
    }
    match postcard::take_from_bytes(body) {
        Ok((wire, [])) => Ok(wire),
        _ => Err(bad("it cannot be read")),
    }
}

impl ViewLog for SingleVoter {
    fn propose(&mut self, change: Change) -> Result<(), LogError> {
        change.check()?;
        match &mut self.role {
            Role::Voter(_) => self.decide(change, self.me),
            Role::Follower(Following { proposals, .. }) => {
                if proposals.len() >= PROPOSALS {
                    return Err(LogError::TooManyProposals { waiting: proposals.len() });
                }
                proposals.push_back(change);
                if proposals.len() == 1 {
                    self.ask();
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, from: NodeId, message: &[u8]) -> Result<(), LogError> {
        if !from.is_somebody() || from == self.me {
            return Err(LogError::BadMessage { from, what: "it does not come from another node" });
        }
        match read_message(from, message)? {
            Wire::Follow { have, proposal } => {
                let proposal = match proposal {
                    Some((ticket, bytes)) => Some((ticket, Change::decode(&bytes)?)),
                    None => None,
                };
                self.on_follow(from, have, proposal)
            }
            Wire::Decided { after, accepted, entries } => {
                let changes = entries.iter().map(|bytes| Change::decode(bytes)).collect::<Result<_, _>>()?;
                self.on_decided(from, after, accepted, changes)
            }
            Wire::Forgotten { first, accepted } => self.on_forgotten(from, first, accepted),
        }
    }

    fn tick(&mut self, now: Time) {
        self.now = self.now.max(now);
        if let Role::Follower(following) = &self.role
            && self.now >= following.ask_at
        {
            self.ask();
        }
    }

    fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    fn decided_since(&self, index: u64) -> Result<Vec<Decided>, LogError> {
        if index < self.base {
            return Err(LogError::Forgotten { first: self.base.saturating_add(1) });
        }
        Ok(self.entries_after(index).collect())
    }

    fn known_by(&self, node: NodeId) -> u64 {
        match &self.role {
            _ if node == self.me => self.last(),
            Role::Voter(followers) => followers.get(&node).map_or(0, |follower| follower.has),
            Role::Follower(_) => 0,
        }
    }

    fn skip_to(&mut self, state: &State) {
        self.skip(state.applied());
    }

    fn state(&self) -> Option<&State> {
        None
    }

    fn reconfigure(&mut self, voters: &[NodeId]) -> Result<(), LogError> {
        match *voters {
            [to] if to == self.voter_id() => Ok(()),
            [to] => self.propose(Change::MoveVoter { to }),
            _ => Err(LogError::OneVoter { voter: self.voter_id() }),
        }
    }

    fn voters_are(&mut self, voters: &[NodeId]) {
        let [to] = *voters else { return };
        let me = self.me;
        match &mut self.role {
            Role::Follower(following) if to == me => {
                let proposals = std::mem::take(&mut following.proposals);
                self.role = Role::Voter(BTreeMap::new());
                for change in proposals {
                    self.decide(change, me);
                }
            }
            Role::Follower(following) if to != following.voter => {
                following.voter = to;
                self.ask();
            }
            Role::Voter(_) if to != me => {
                // The new voter has heard nothing of this node before: any number is a new one.
                self.role = Role::Follower(Following::new(to, 1));
                self.ask();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
