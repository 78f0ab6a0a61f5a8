//! The words of a script: one way to write each input, message and output, read and printed here.

use std::fmt::Write as _;
use std::str::SplitWhitespace;

use kddm_core::home::{Entry, EntryState};
use kddm_core::id::{Epoch, Incarnation, NodeId, PlacementPolicy, RequestId, ShardIndex, Tenure, Version};
use kddm_core::io::{Access, Answer, Body, Input, Output};
use kddm_core::message::{CopyKind, Have, Knew, Message, ReadCopy, Request, RequestKind, Role, Since};
use kddm_core::nodeset::NodeSet;
use kddm_core::replicas::ReplicaSet;
use kddm_core::shard::{Inspection, Main};

/// The shard of the one object of all stories: it is the same in all sets of that kind.
const SHARD: ShardIndex = super::OBJECT.shard(PlacementPolicy::Fixed(NodeId::NOBODY));

/// The rest of a line, word by word.
pub struct Words<'a>(SplitWhitespace<'a>);

impl<'a> Words<'a> {
    pub fn new(line: &'a str) -> Words<'a> {
        Words(line.split_whitespace())
    }

    pub fn next(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| "a word is missing".into())
    }

    fn peek(&self) -> Option<&'a str> {
        self.0.clone().next()
    }

    /// Takes the next word if it is this one.
    pub fn takes(&mut self, word: &str) -> bool {
        let is_it = self.peek() == Some(word);
        if is_it {
            self.0.next();
        }
        is_it
    }

    pub fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.takes(word) { Ok(()) } else { Err(format!("`{word}` expected, not {:?}", self.peek())) }
    }

    pub fn end(&mut self) -> Result<(), String> {
        self.0.next().map_or(Ok(()), |word| Err(format!("`{word}` is one word too many")))
    }

    pub fn number<N: std::str::FromStr>(&mut self) -> Result<N, String> {
        number(self.next()?)
    }

    pub fn node(&mut self) -> Result<NodeId, String> {
        Ok(NodeId(self.number()?))
    }

    /// `1.7`: the seventh tenure of epoch 1.
    fn tenure(&mut self) -> Result<Tenure, String> {
        let word = self.next()?;
        let (epoch, n) = word.split_once('.').ok_or_else(|| format!("`{word}` is no tenure like 1.7"))?;
        Ok(Tenure::new(Epoch(number(epoch)?), number(n)?))
    }

    /// `v3`: version 3.
    fn version(&mut self) -> Result<Version, String> {
        let word = self.next()?;
        let digits = word.strip_prefix('v').ok_or_else(|| format!("`{word}` is no version like v3"))?;
        Ok(Version(number(digits)?))
    }

    /// `2/7`: the seventh request of node 2.
    fn id(&mut self) -> Result<RequestId, String> {
        let word = self.next()?;
        let (node, counter) = word.split_once('/').ok_or_else(|| format!("`{word}` is no request like 2/7"))?;
        Ok(RequestId { node: NodeId(number(node)?), incarnation: Incarnation(0), counter: number(counter)? })
    }

    fn id_after_for(&mut self) -> Result<RequestId, String> {
        self.expect("for")?;
        self.id()
    }

    /// `2,3`: nodes 2 and 3.
    pub fn nodes<S: FromIterator<NodeId>>(&mut self) -> Result<S, String> {
        self.next()?
            .split(',')
            .map(|node| Ok(NodeId(number(node)?)))
            .collect::<Result<Vec<_>, String>>()
            .map(|nodes| nodes.into_iter().collect())
    }

    fn kind(&mut self, word: &str) -> Result<RequestKind, String> {
        Ok(match word {
            "get" => RequestKind::Get { existing: self.takes("existing") },
            "grab" => RequestKind::Grab { existing: self.takes("existing") },
            "try_grab" => RequestKind::TryGrab,
            "remove" => RequestKind::Remove,
            "flush" if self.takes("to") => RequestKind::Flush { to: self.node()? },
            "flush" => RequestKind::Flush { to: NodeId::NOBODY },
            other => return Err(format!("`{other}` is nothing that can be asked or said")),
        })
    }

    /// What happened at home, or a message of another node.
    pub fn input(&mut self) -> Result<Input, String> {
        let input = match self.next()? {
            "want" => {
                let word = self.next()?;
                Input::Want { kind: self.kind(word)? }
            }
            "remove_unused" => Input::RemoveUnused { version: self.version()?, has_value: !self.takes("empty") },
            "cancel" => Input::Cancel,
            "accept_loss" => Input::AcceptLoss,
            "revoked" => Input::Revoked { version: self.version()?, has_value: !self.takes("empty") },
            "held" => Input::Held,
            "put" => Input::Put { version: self.version()? },
            "from" => {
                let word = self.next()?;
                let from = word.strip_suffix(':').ok_or("a sender is written like `from 2:`")?;
                Input::Message { from: NodeId(number(from)?), message: self.message()? }
            }
            other => return Err(format!("`{other}` is no input")),
        };
        self.end()?;
        Ok(input)
    }

    fn message(&mut self) -> Result<Message, String> {
        Ok(match self.next()? {
            "create" => Message::Create { tenure: self.tenure()?, id: self.id_after_for()? },
            "data" => Message::Data { tenure: self.tenure()?, version: self.version()?, id: self.id_after_for()? },
            "transfer" => self.transfer()?,
            "invalidate" => self.invalidate()?,
            "ack" => Message::Ack { tenure: self.tenure()?, version: self.version()? },
            "confirm" => Message::Confirm { tenure: self.tenure()? },
            "owner_is" => Message::OwnerIs { owner: self.node()?, tenure: self.tenure()? },
            "removing" => Message::Removing { tenure: self.tenure()?, forwarded: self.takes("forwarded") },
            "removed" => Message::Removed { tenure: self.tenure()? },
            "remove_done" => Message::RemoveDone { id: self.id_after_for()? },
            "not_found" => Message::NotFound { id: self.id_after_for()? },
            "busy" => Message::Busy { id: self.id_after_for()? },
            "lost" => Message::Lost { id: self.id_after_for()? },
            "try_invalidate" => {
                let (tenure, version) = (self.tenure()?, self.version()?);
                Message::TryInvalidate { tenure, version, id: self.id_after_for()? }
            }
            "try_answer" => {
                let held = self.takes("held");
                if !held {
                    self.expect("free")?;
                }
                Message::TryAnswer { id: self.id_after_for()?, held }
            }
            "flushed" => Message::Flushed { id: self.id_after_for()? },
            "entry" => self.entry()?,
            "push" => Message::Push { tenure: self.tenure()?, version: self.version()? },
            "push_ack" => Message::PushAck { tenure: self.tenure()?, version: self.version()? },
            "drop_replica" => Message::DropReplica { tenure: self.tenure()? },
            "replica_gone" => Message::ReplicaGone { tenure: self.tenure()? },
            "have" => self.have()?,
            "have_replica" => Message::HaveReplica { tenure: self.tenure()?, version: self.version()? },
            "have_offer" => {
                let (tenure, version, left) = self.offer()?;
                Message::HaveOffer { tenure, version, left }
            }
            "reported" => {
                let forgotten = if self.takes("forgotten") { self.tenure()? } else { Tenure::NONE };
                Message::Reported { shard: SHARD, forgotten }
            }
            "all_reported" => Message::AllReported,
            "returned" => Message::Returned { left: Epoch(self.number()?) },
            "knew" => self.knew()?,
            "knew_all" => {
                let floor = if self.takes("floor") { self.tenure()? } else { Tenure::NONE };
                let in_doubt = self.takes("in_doubt");
                Message::KnewAll { shard: SHARD, floor, in_doubt, since: self.since()? }
            }
            "wanted" => Message::Wanted { shard: SHARD },
            "shard_is_yours" => {
                let floor = if self.takes("floor") { self.tenure()? } else { Tenure::NONE };
                let in_doubt = self.takes("in_doubt");
                let unbroken = Epoch(if self.takes("unbroken") { self.number()? } else { 0 });
                Message::ShardIsYours { shard: SHARD, floor, in_doubt, unbroken }
            }
            "promote" => self.promote()?,
            "orphan" => Message::Orphan { tenure: self.tenure()?, version: self.version()? },
            "accept_loss" if self.takes("until") => Message::AcceptLoss { set_until: Some(Epoch(self.number()?)) },
            "accept_loss" => Message::AcceptLoss { set_until: None },
            "revalidate" => Message::Revalidate { id: self.id()?, copies: vec![self.read_copy()?] },
            "revalidated" => {
                let valid = if self.takes("valid") { vec![super::OBJECT] } else { vec![] };
                Message::Revalidated { id: self.id_after_for()?, valid }
            }
            "decline" => Message::Decline { tenure: self.tenure()?, copy: self.copy()? },
            word => self.request(word)?,
        })
    }

    fn request(&mut self, word: &str) -> Result<Message, String> {
        let kind = self.kind(word)?;
        let id = self.id()?;
        let tau = if self.takes("tau") { self.tenure()? } else { Tenure::NONE };
        let forwards = if self.takes("forwards") { self.number()? } else { 0 };
        let (inherited, first, to_home) = (self.takes("inherited"), self.takes("first"), self.takes("to_home"));
        Ok(Message::Request(Request { id, kind, tau, forwards, inherited, first, to_home }))
    }

    /// `1.5 owner 2 fact`, `1.5 owner 2 predicted`, `1.5 removing`, `1.5 unknown lost`.
    fn entry(&mut self) -> Result<Message, String> {
        let tenure = self.tenure()?;
        let owner = if self.takes("owner") { self.node()? } else { NodeId::NOBODY };
        Ok(Message::Entry { tenure, owner, state: self.entry_state()?, lost: self.takes("lost") })
    }

    fn entry_state(&mut self) -> Result<EntryState, String> {
        Ok(match self.next()? {
            "predicted" => EntryState::Predicted,
            "fact" => EntryState::Fact,
            "removing" => EntryState::Removing,
            "promoted" => EntryState::Promoted,
            "unknown" => EntryState::Unknown,
            "absent" => EntryState::Absent,
            other => return Err(format!("`{other}` is no way to know of an owner")),
        })
    }

    /// `1.1 owner 3 life 1 fact since 0 left 3`.
    fn knew(&mut self) -> Result<Message, String> {
        let tenure = self.tenure()?;
        let owner = if self.takes("owner") { self.node()? } else { NodeId::NOBODY };
        let life = Incarnation(if self.takes("life") { self.number()? } else { 0 });
        let state = self.entry_state()?;
        let lost = self.takes("lost");
        Ok(Message::Knew(Knew { tenure, owner, life, state, lost, since: self.since()? }))
    }

    /// `since 0 left 3`.
    fn since(&mut self) -> Result<Since, String> {
        self.expect("since")?;
        let unbroken = Epoch(self.number()?);
        self.expect("left")?;
        Ok(Since { unbroken, left: Epoch(self.number()?) })
    }

    /// `nothing seen 1.5 removed`, `owner 1.3 v1 seen 1.3`, `ghost 1.2 v1 sent 1.3 to 4 seen 1.3`.
    fn have(&mut self) -> Result<Message, String> {
        let role = match self.next()? {
            "nothing" => Role::None,
            "owner" => Role::Owner,
            "sharer" => Role::Sharer,
            "ghost" => Role::Ghost,
            "tombstone" => Role::Tombstone,
            other => return Err(format!("`{other}` is no role")),
        };
        let mut have = Have { role, ..Have::default() };
        if role != Role::None {
            (have.tenure, have.version) = (self.tenure()?, self.version()?);
        }
        if role == Role::Ghost {
            self.expect("sent")?;
            have.sent = self.tenure()?;
            have.to = if self.takes("to") { self.node()? } else { NodeId::NOBODY };
        }
        self.expect("seen")?;
        have.seen = self.tenure()?;
        have.removed = self.takes("removed");
        have.replicas = self.list_of("replicas")?;
        have.has_value = !self.takes("empty") && !matches!(role, Role::None | Role::Tombstone);
        Ok(Message::Have(have))
    }

    /// `1.3 v2 left 2`: what a life owned that was a member until that epoch.
    pub fn offer(&mut self) -> Result<(Tenure, Version, Epoch), String> {
        let (tenure, version) = (self.tenure()?, self.version()?);
        self.expect("left")?;
        Ok((tenure, version, Epoch(self.number()?)))
    }

    /// `1.3 v2`: a read copy of a former life.
    pub fn read_copy(&mut self) -> Result<ReadCopy, String> {
        Ok(ReadCopy { object: super::OBJECT, tenure: self.tenure()?, version: self.version()? })
    }

    fn copy(&mut self) -> Result<CopyKind, String> {
        Ok(match self.next()? {
            "sharer" => CopyKind::Sharer,
            "replica" => CopyKind::Replica,
            "ghost" => CopyKind::Ghost,
            "offer" => CopyKind::Offer,
            other => return Err(format!("`{other}` is no kind of copy")),
        })
    }

    /// `2.5 v1 replica sharers 3 replicas 4`.
    fn promote(&mut self) -> Result<Message, String> {
        let (tenure, version, copy) = (self.tenure()?, self.version()?, self.copy()?);
        let (sharers, replicas) = (self.list_of("sharers")?, self.list_of("replicas")?);
        Ok(Message::Promote { tenure, version, copy, sharers, replicas })
    }

    /// A list under its name, if it is there.
    fn list_of<S: FromIterator<NodeId>>(&mut self, name: &str) -> Result<S, String> {
        if self.takes(name) { self.nodes() } else { Ok(S::from_iter([])) }
    }

    fn transfer(&mut self) -> Result<Message, String> {
        let (tenure, version) = (self.tenure()?, self.version()?);
        self.expect("born")?;
        let born = self.tenure()?;
        let has_value = !self.takes("empty");
        let (sharers, replicas): (NodeSet, ReplicaSet) = (self.list_of("sharers")?, self.list_of("replicas")?);
        let id = if self.peek() == Some("for") { self.id_after_for()? } else { RequestId::default() };
        Ok(Message::Transfer { tenure, version, born, sharers, replicas, has_value, id })
    }

    fn invalidate(&mut self) -> Result<Message, String> {
        let (tenure, version) = (self.tenure()?, self.version()?);
        self.expect("owner")?;
        let owner = self.node()?;
        Ok(Message::Invalidate { tenure, version, owner, remove: self.takes("remove") })
    }
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("`{word}` is no number that fits here"))
}

fn list(nodes: impl IntoIterator<Item = NodeId>) -> String {
    nodes.into_iter().map(|node| node.to_string()).collect::<Vec<_>>().join(",")
}

fn id(id: RequestId) -> String {
    format!("{}/{}", id.node, id.counter)
}

fn kind(kind: RequestKind) -> String {
    match kind {
        RequestKind::Get { existing: false } => "get".into(),
        RequestKind::Get { existing: true } => "get existing".into(),
        RequestKind::Grab { existing: false } => "grab".into(),
        RequestKind::Grab { existing: true } => "grab existing".into(),
        RequestKind::TryGrab => "try_grab".into(),
        RequestKind::Remove => "remove".into(),
        RequestKind::Flush { to } if to.is_somebody() => format!("flush to {to}"),
        RequestKind::Flush { .. } => "flush".into(),
    }
}

/// Some text if it applies.
fn also(applies: bool, text: impl Into<String>) -> String {
    if applies { text.into() } else { String::new() }
}

pub fn message(message: &Message) -> String {
    let name = Message::NAMES[usize::from(message.kind())];
    match message {
        Message::Request(request) => {
            let tau = also(request.tau != Tenure::NONE, format!(" tau {}", request.tau));
            let forwards = also(request.forwards > 0, format!(" forwards {}", request.forwards));
            let (inherited, first) = (also(request.inherited, " inherited"), also(request.first, " first"));
            let to_home = also(request.to_home, " to_home");
            format!("{} {}{tau}{forwards}{inherited}{first}{to_home}", kind(request.kind), id(request.id))
        }
        Message::Create { tenure, id: of } => format!("{name} {tenure} for {}", id(*of)),
        Message::Data { tenure, version, id: of } | Message::TryInvalidate { tenure, version, id: of } => {
            format!("{name} {tenure} v{} for {}", version.0, id(*of))
        }
        Message::Transfer { tenure, version, born, sharers, replicas, has_value, id: of } => {
            let empty = also(!has_value, " empty");
            let lists = lists(sharers, replicas);
            let answers = also(of.counter != 0, format!(" for {}", id(*of)));
            format!("{name} {tenure} v{} born {born}{empty}{lists}{answers}", version.0)
        }
        Message::Invalidate { tenure, version, owner, remove } => {
            format!("{name} {tenure} v{} owner {owner}{}", version.0, also(*remove, " remove"))
        }
        Message::Ack { tenure, version }
        | Message::Push { tenure, version }
        | Message::PushAck { tenure, version }
        | Message::Orphan { tenure, version }
        | Message::HaveReplica { tenure, version } => format!("{name} {tenure} v{}", version.0),
        Message::HaveOffer { tenure, version, left } => format!("{name} {tenure} v{} left {}", version.0, left.0),
        Message::OwnerIs { owner, tenure } => format!("{name} {owner} {tenure}"),
        Message::Confirm { tenure }
        | Message::Removed { tenure }
        | Message::DropReplica { tenure }
        | Message::ReplicaGone { tenure } => {
            format!("{name} {tenure}")
        }
        Message::Removing { tenure, forwarded } => format!("{name} {tenure}{}", also(*forwarded, " forwarded")),
        Message::Entry { tenure, owner, state, lost } => {
            let owner = also(owner.is_somebody(), format!(" owner {owner}"));
            format!("{name} {tenure}{owner} {}{}", entry_state(*state), also(*lost, " lost"))
        }
        Message::ShardIsYours { floor, in_doubt, unbroken, .. } => {
            let floor = also(*floor != Tenure::NONE, format!(" floor {floor}"));
            let unbroken = also(unbroken.0 > 0, format!(" unbroken {}", unbroken.0));
            format!("{name}{floor}{}{unbroken}", also(*in_doubt, " in_doubt"))
        }
        Message::Placed { placement } => format!("{name} {}", placement.0),
        Message::Have(have) => format!("{name} {}", what_is_there(have)),
        Message::Reported { forgotten, .. } => {
            format!("{name}{}", also(*forgotten != Tenure::NONE, format!(" forgotten {forgotten}")))
        }
        Message::Returned { left } => format!("{name} {}", left.0),
        Message::Knew(Knew { tenure, owner, life, state, lost, since }) => {
            let owner = also(owner.is_somebody(), format!(" owner {owner} life {}", life.0));
            let state = format!("{}{}", entry_state(*state), also(*lost, " lost"));
            format!("{name} {tenure}{owner} {state} since {} left {}", since.unbroken.0, since.left.0)
        }
        Message::KnewAll { floor, in_doubt, since, .. } => {
            let floor = also(*floor != Tenure::NONE, format!(" floor {floor}"));
            let in_doubt = also(*in_doubt, " in_doubt");
            format!("{name}{floor}{in_doubt} since {} left {}", since.unbroken.0, since.left.0)
        }
        Message::AllReported | Message::Wanted { .. } | Message::AcceptLoss { set_until: None } => name.into(),
        Message::AcceptLoss { set_until: Some(epoch) } => format!("{name} until {}", epoch.0),
        Message::Loss(loss) => {
            let homes = |nodes: &NodeSet| list(nodes.iter());
            format!("{name} {} from {} to {}", loss.epoch.0, homes(&loss.before), homes(&loss.after))
        }
        Message::Promote { tenure, version, copy, sharers, replicas } => {
            format!("{name} {tenure} v{} {}{}", version.0, copy_kind(*copy), lists(sharers, replicas))
        }
        Message::Revalidate { id: of, copies } => {
            let copy = |copy: &ReadCopy| format!(" {} v{}", copy.tenure, copy.version.0);
            format!("{name} {}{}", id(*of), copies.iter().map(copy).collect::<String>())
        }
        Message::Revalidated { id: of, valid } => {
            format!("{name}{} for {}", also(!valid.is_empty(), " valid"), id(*of))
        }
        Message::Decline { tenure, copy } => format!("{name} {tenure} {}", copy_kind(*copy)),
        Message::TryAnswer { id: of, held } => {
            format!("{name} {} for {}", if *held { "held" } else { "free" }, id(*of))
        }
        Message::RemoveDone { id: of }
        | Message::NotFound { id: of }
        | Message::Busy { id: of }
        | Message::Lost { id: of }
        | Message::Flushed { id: of } => format!("{name} for {}", id(*of)),
    }
}

fn lists(sharers: &NodeSet, replicas: &ReplicaSet) -> String {
    let sharers = also(!sharers.is_empty(), format!(" sharers {}", list(sharers.iter())));
    let replicas = also(!replicas.is_empty(), format!(" replicas {}", list(replicas.iter())));
    sharers + &replicas
}

fn what_is_there(have: &Have) -> String {
    let role = match have.role {
        Role::None => "nothing",
        Role::Owner => "owner",
        Role::Sharer => "sharer",
        Role::Ghost => "ghost",
        Role::Tombstone => "tombstone",
    };
    let holds = have.role != Role::None;
    let copy = also(holds, format!(" {} v{}", have.tenure, have.version.0));
    let to = also(have.to.is_somebody(), format!(" to {}", have.to));
    let sent = also(have.role == Role::Ghost, format!(" sent {}{to}", have.sent));
    let empty = also(!have.has_value && holds && have.role != Role::Tombstone, " empty");
    let replicas = also(!have.replicas.is_empty(), format!(" replicas {}", list(have.replicas.iter())));
    format!("{role}{copy}{sent} seen {}{}{replicas}{empty}", have.seen, also(have.removed, " removed"))
}

fn copy_kind(copy: CopyKind) -> &'static str {
    match copy {
        CopyKind::Sharer => "sharer",
        CopyKind::Replica => "replica",
        CopyKind::Ghost => "ghost",
        CopyKind::Offer => "offer",
    }
}

pub fn entry(entry: &Entry) -> String {
    let node = also(entry.node.is_somebody(), format!(" at {}", entry.node));
    let lost = also(entry.lost, " lost");
    format!("entry {} {}{node}{lost}", entry_state(entry.state), entry.tenure)
}

fn entry_state(state: EntryState) -> &'static str {
    match state {
        EntryState::Predicted => "predicted",
        EntryState::Fact => "fact",
        EntryState::Removing => "removing",
        EntryState::Promoted => "promoted",
        EntryState::Unknown => "unknown",
        EntryState::Absent => "absent",
    }
}

fn access(access: Access) -> &'static str {
    match access {
        Access::None => "none",
        Access::Read => "read",
        Access::Write => "write",
    }
}

pub fn output(output: &Output) -> String {
    match output {
        Output::Send { to, message: said, body, deferred, .. } => {
            let body = also(*body == Body::Object, " + object");
            format!("{} {to}: {}{body}", if *deferred { "send soon" } else { "send" }, message(said))
        }
        Output::Install { version, has_value, .. } => format!("install v{}{}", version.0, also(!has_value, " empty")),
        Output::Granted { access: level, needs_value, answers, .. } => {
            let unasked = also(!answers, " unasked");
            format!("grant {}{}{unasked}", access(*level), also(*needs_value, " first touch"))
        }
        Output::Revoke { to, .. } => format!("revoke to {}", access(*to)),
        Output::TryRevoke { .. } => "try_revoke".into(),
        Output::Answer { answer, .. } => {
            let word = match answer {
                Answer::NotFound => "not_found",
                Answer::Busy => "busy",
                Answer::Removed => "removed",
                Answer::Flushed => "flushed",
                Answer::Lost => "lost",
                Answer::Unknown => "unknown",
            };
            format!("answer {word}")
        }
        Output::PutDone { version, .. } => format!("put_done v{}", version.0),
        Output::StoreReplica { .. } => "store_replica".into(),
        Output::KeepReplica { .. } => "keep_replica".into(),
        Output::DropReplica { .. } => "drop_replica".into(),
        Output::UseReplica { version, .. } => format!("use_replica v{}", version.0),
        Output::UseCopy { version, question, .. } => format!("use_copy v{} of question {question}", version.0),
        Output::RolledBack { .. } => "rolled_back".into(),
        Output::Discard { .. } => "discard".into(),
        Output::Dropped { what, .. } => format!("dropped: {what}"),
        Output::Fault { what, .. } => format!("fault: {what}"),
    }
}

/// What is here after an input: the role first, then what is not as it is with nothing.
pub fn state(me: NodeId, seen: &Inspection) -> String {
    let mut text = match seen.main {
        Main::None => "none".to_owned(),
        Main::Owner { tenure, version, born } => format!("owner {tenure} v{} born {born}", version.0),
        Main::Sharer { tenure, version, counter } => format!("sharer {tenure} v{} by {me}/{counter}", version.0),
        Main::Ghost { tenure, version, sent, to } => format!("ghost {tenure} v{} sent {sent} to {to}", version.0),
        Main::Tombstone { tenure, requester } => format!("tombstone {tenure} for {}", id(requester)),
    };
    let mut part = |applies: bool, more: String| {
        if applies {
            write!(text, " | {more}").expect("a string takes all");
        }
    };
    part(seen.access != Access::None, access(seen.access).into());
    part(seen.has_value, "value".into());
    part(
        seen.seen != Tenure::NONE && seen.hint != me,
        match seen.hint {
            NodeId::NOBODY => format!("seen {}", seen.seen),
            node => format!("seen {} at {node}", seen.seen),
        },
    );
    part(!seen.sharers.is_empty(), format!("sharers {}", list(seen.sharers.iter().copied())));
    part(!seen.owed.is_empty(), format!("owed {}", list(seen.owed.iter().copied())));
    part(!seen.replicas.is_empty(), format!("replicas {}", list(seen.replicas.iter())));
    part(seen.is_pushing, "pushing".into());
    if let Some((tenure, version)) = seen.replica {
        part(true, format!("keeps {tenure} v{}", version.0));
    }
    if let Some((tenure, version)) = seen.offer {
        part(true, format!("offers {tenure} v{}", version.0));
    }
    part(seen.queue > 0, format!("queue {}", seen.queue));
    part(seen.wanting, if seen.asked == me { "wants".into() } else { format!("wants of {}", seen.asked) });
    if let Some(known) = seen.entry {
        part(true, entry(&known));
    }
    part(seen.parked > 0, format!("parked {}", seen.parked));
    text
}
