//! Every interleaving of small cases of the rules of leases, on the real [`kddm_view::lease`].
//!
//! A member `H` holds, `A` leads the log, `B` may be elected in its place, `C` only votes. Messages are
//! late, lost, doubled, reordered; clocks go wrong, each at its own rate. What must not be: that a use is
//! taken for good whose value was looked at when others may have been told of the expulsion.
//!
//! A use looks at the value, and then at the clock; anything may happen in between. It is broken if the
//! clock is still good when the expulsion is known, since the value might be looked at just then; whoever
//! looks at the value earlier has seen nothing new, and at the clock later, is in that state too. So there
//! are no steps for uses, unless the clock is looked at first.
//!
//! A lease is three ticks of true time here, and a clock may be wrong by a tenth, so that what a
//! hundredth does in a second shows after few steps. Nothing in the rules depends on either number.

use std::time::Instant;

use kddm_core::id::{Incarnation, NodeId, Time};
use kddm_view::lease::{Grant, Granter, Holder, OwnLease, Renewal, Terms};

pub use self::case::{CASES, Case, Deviation, LARGE_CASES};
use self::run::Found;
use crate::model::Report;

mod case;
mod run;

/// Ten parts of a clock that is right make a tick.
const TICK: u64 = 10;
const TERMS: Terms = Terms { lease_ns: 3 * TICK, drift_per_mille: 100 };
const FOREVER: Time = Time(u64::MAX);
const LIFE: Incarnation = Incarnation(1);
const H: NodeId = NodeId(1);
const A: NodeId = NodeId(2);
const B: NodeId = NodeId(3);
const C: NodeId = NodeId(4);
const VOTERS: [NodeId; 3] = [A, B, C];

/// Many times what any case has with clocks of given rates.
const STATE_LIMIT: usize = 5_000_000;

/// What is under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Message {
    Renew {
        from: NodeId,
        to: NodeId,
        renewal: Renewal,
    },
    Granted {
        to: NodeId,
        grant: Grant,
    },
    /// A leader asks a voter whether it leads, and has noted when.
    Ask {
        leader: NodeId,
        voter: NodeId,
        sent: Time,
    },
    Confirmed {
        leader: NodeId,
        voter: NodeId,
        sent: Time,
    },
}

/// The way of an expulsion into the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Expulsion {
    None,
    /// `A` has proposed it, and no other voter has it.
    Proposed,
    /// The new leader has found it with `A`, and is about to decide it.
    Adopted,
    /// Others may have been told.
    Decided,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Leader {
    granter: Granter,
    own: OwnLease,
    has_applied: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    time: u8,
    holders: [Holder; 2],
    /// The clock was looked at, and the value will be: only done wrongly.
    checked: [bool; 2],
    expulsions: [Expulsion; 2],
    renewals: [u8; 2],
    asks: [u8; 2],
    duplicates: u8,
    /// `A` and, once elected, `B`.
    a: Leader,
    b: Option<Leader>,
    /// Which voters have promised themselves to `B`.
    promised: [bool; 3],
    messages: Vec<Message>,
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Tick,
    Renew {
        from: NodeId,
        to: NodeId,
    },
    Deliver {
        at: usize,
        again: bool,
    },
    AskVoter {
        leader: NodeId,
        voter: NodeId,
    },
    Promise(NodeId),
    /// `B` is elected, by itself and that voter.
    Elect {
        with: NodeId,
    },
    Apply,
    Propose {
        by: NodeId,
        whom: NodeId,
    },
    Accept,
    Check(NodeId),
}

/// Searches a case with clocks of the rates given: parts for each tick, of `H`, `A` and `B`.
struct Search {
    case: Case,
    deviation: Option<Deviation>,
    rates: [u64; 3],
}

fn place(node: NodeId) -> usize {
    usize::from(node.0 != H.0)
}

impl Search {
    fn is(&self, deviation: Deviation) -> bool {
        self.deviation == Some(deviation)
    }

    fn terms_of_granter(&self) -> Terms {
        match self.deviation {
            Some(Deviation::NoDrift) => Terms { drift_per_mille: 0, ..TERMS },
            // A tenth of a lease.
            Some(Deviation::DriftOfOneClock) => Terms { drift_per_mille: 47, ..TERMS },
            _ => TERMS,
        }
    }

    fn clock(&self, world: &World, node: NodeId) -> Time {
        Time(u64::from(world.time) * self.rates[usize::from(node.0) - 1])
    }

    fn first(&self) -> World {
        let members: &[NodeId] = if self.case.renewals_of_h > 0 { &[H, A] } else { &[A] };
        let members = members.iter().map(|node| (*node, LIFE));
        let granter = Granter::elected(self.terms_of_granter(), members, Time(0));
        World {
            time: 0,
            holders: [Holder::new(), Holder::new()],
            checked: [false; 2],
            expulsions: [Expulsion::None; 2],
            renewals: [self.case.renewals_of_h, self.case.renewals_of_a],
            asks: self.case.asks,
            duplicates: self.case.duplicates,
            a: Leader { granter, own: OwnLease::new(), has_applied: true },
            b: None,
            promised: [false; 3],
            messages: Vec::new(),
        }
    }

    /// When the own lease of a leader ends.
    fn own_until(&self, world: &World, leader: NodeId) -> Time {
        if self.case.has_one_voter {
            return FOREVER;
        }
        let state = if leader == A { Some(&world.a) } else { world.b.as_ref() };
        state.map_or(Time(0), |state| state.own.until(leader, &VOTERS, TERMS))
    }

    fn may_use(&self, world: &World, node: NodeId) -> bool {
        let now = self.clock(world, node);
        let as_leader = node == A && !self.case.has_one_voter && now < self.own_until(world, A);
        as_leader || world.holders[place(node)].is_valid(now)
    }

    /// `A` takes itself for the leader.
    fn a_leads(&self, world: &World) -> bool {
        !world.promised[0]
    }

    fn steps(&self, world: &World) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut add = |may: bool, step| {
            if may {
                steps.push(step);
            }
        };
        add(world.time < self.case.ticks, Step::Tick);
        for from in [H, A] {
            let may = world.renewals[place(from)] > 0;
            add(may && from == H, Step::Renew { from, to: A });
            add(may && world.b.is_some(), Step::Renew { from, to: B });
        }
        for at in 0..world.messages.len() {
            add(true, Step::Deliver { at, again: false });
            add(world.duplicates > 0, Step::Deliver { at, again: true });
        }
        if !self.case.has_one_voter {
            add(world.asks[0] > 0 && self.a_leads(world), Step::AskVoter { leader: A, voter: C });
            add(world.asks[0] > 0 && self.a_leads(world), Step::AskVoter { leader: A, voter: B });
            add(world.asks[1] > 0 && world.b.is_some(), Step::AskVoter { leader: B, voter: C });
            add(!world.promised[1], Step::Promise(B));
            for voter in [A, C] {
                let has_promised = world.promised[usize::from(voter.0) - 2];
                add(world.promised[1] && !has_promised, Step::Promise(voter));
                add(has_promised && world.b.is_none(), Step::Elect { with: voter });
            }
        }
        let has_to_apply = world.b.as_ref().is_some_and(|leader| !leader.has_applied);
        add(has_to_apply, Step::Apply);
        self.add_expulsions(world, &mut add);
        for node in [H, A].into_iter().filter(|_| self.is(Deviation::ClockBeforeValue)) {
            add(!world.checked[place(node)] && self.may_use(world, node), Step::Check(node));
        }
        steps
    }

    fn add_expulsions(&self, world: &World, add: &mut impl FnMut(bool, Step)) {
        let ran_out =
            |leader: &Leader, by, whom| leader.granter.ran_out(self.clock(world, by)).any(|who| who.0 == whom);
        let is_open = world.expulsions[0] == Expulsion::None;
        let by_a = is_open && self.a_leads(world) && ran_out(&world.a, A, H);
        add(by_a && self.case.renewals_of_h > 0, Step::Propose { by: A, whom: H });
        // Only those who have promised nothing to another leader accept.
        add(world.expulsions[0] == Expulsion::Proposed && !(world.promised[1] && world.promised[2]), Step::Accept);
        if let Some(leader) = world.b.as_ref().filter(|leader| leader.has_applied) {
            for whom in [H, A] {
                let may = self.is(Deviation::ExpelAtOnce) || ran_out(leader, B, whom);
                let is_member = whom == A || self.case.renewals_of_h > 0;
                let is_open = world.expulsions[place(whom)] == Expulsion::None;
                add(may && is_member && is_open, Step::Propose { by: B, whom });
            }
        }
    }

    /// What comes of a step. An error if it is what must not be.
    fn take(&self, world: &mut World, step: Step) -> Result<(), String> {
        match step {
            Step::Tick => world.time += 1,
            Step::Renew { from, to } => self.renew(world, from, to),
            Step::Deliver { at, again } => {
                let message = world.messages[at];
                if again {
                    world.duplicates -= 1;
                } else {
                    world.messages.remove(at);
                }
                self.deliver(world, message);
            }
            Step::AskVoter { leader, voter } => {
                let sent = self.clock(world, leader);
                world.asks[usize::from(leader == B)] -= 1;
                if self.is(Deviation::LeadAlone) {
                    world.a.own.confirmed(voter, sent);
                }
                send(world, Message::Ask { leader, voter, sent });
            }
            Step::Promise(voter) => world.promised[usize::from(voter.0) - 2] = true,
            Step::Elect { with } => self.elect(world, with),
            Step::Apply => self.apply(world),
            Step::Propose { by, whom } => self.propose(world, by, whom),
            Step::Accept => world.expulsions[0] = Expulsion::Decided,
            Step::Check(node) => world.checked[place(node)] = true,
        }
        self.forget_what_does_nothing(world);
        for node in [H, A] {
            let uses = world.checked[place(node)] || self.may_use(world, node);
            if uses && world.expulsions[place(node)] == Expulsion::Decided {
                return Err(format!("{} may read after its expulsion", name(node)));
            }
        }
        Ok(())
    }

    fn renew(&self, world: &mut World, from: NodeId, to: NodeId) {
        world.renewals[place(from)] -= 1;
        let now = self.clock(world, from);
        let holder = &mut world.holders[place(from)];
        let Some(renewal) = holder.renew(now) else { return };
        if self.is(Deviation::OneWayRenews) {
            holder.granted(Grant { number: renewal.number, lasts_ns: TERMS.lease_ns }, now);
        }
        send(world, Message::Renew { from, to, renewal });
    }

    fn deliver(&self, world: &mut World, message: Message) {
        match message {
            Message::Renew { from, to, renewal } => {
                let whole = self.is(Deviation::GrantBeyondOwn) || self.is(Deviation::LeadAlone);
                let (own, now) = (self.own_until(world, to), self.clock(world, to));
                let own = if whole && now < own.max(Time(1)) { FOREVER } else { own };
                let early = self.is(Deviation::GrantBeforeApplied);
                let leads = if to == A { self.a_leads(world) } else { true };
                let condemned = self.is(Deviation::GrantToCondemned);
                let leader = if to == A { Some(&mut world.a) } else { world.b.as_mut() };
                let Some(leader) = leader.filter(|leader| leads && (leader.has_applied || early)) else { return };
                let grant = if condemned {
                    Some(Grant { number: renewal.number, lasts_ns: own.0.saturating_sub(now.0).min(TERMS.lease_ns) })
                } else {
                    leader.granter.renew(from, LIFE, renewal, own, now)
                };
                if let Some(grant) = grant {
                    send(world, Message::Granted { to: from, grant });
                }
            }
            Message::Granted { to, grant } => {
                let now = self.clock(world, to);
                let holder = &mut world.holders[place(to)];
                let asked_now = self.is(Deviation::CountFromAnswer).then(|| holder.renew(now)).flatten();
                let number = asked_now.map_or(grant.number, |renewal| renewal.number);
                holder.granted(Grant { number, ..grant }, now);
            }
            Message::Ask { leader, voter, sent } => {
                let is_of_b = world.promised[usize::from(voter.0) - 2];
                if is_of_b == (leader == B) {
                    send(world, Message::Confirmed { leader, voter, sent });
                }
            }
            Message::Confirmed { leader, voter, sent } => {
                let leader = if leader == A { Some(&mut world.a) } else { world.b.as_mut() };
                leader.into_iter().for_each(|leader| leader.own.confirmed(voter, sent));
            }
        }
    }

    /// Messages that would change nothing, whenever they come, need not come.
    fn forget_what_does_nothing(&self, world: &mut World) {
        let now = [H, A].map(|node| self.clock(world, node));
        let World { messages, holders, a, b, promised, .. } = world;
        for (holder, now) in holders.iter_mut().zip(now) {
            holder.look(now);
        }
        messages.retain(|message| match *message {
            Message::Granted { to, grant } => holders[place(to)].clone().granted(grant, now[place(to)]),
            Message::Renew { from, to, .. } => (to != A || !promised[0]) && !holders[place(from)].has_ended(),
            Message::Ask { leader, voter, sent } => {
                let is_of_b = promised[usize::from(voter.0) - 2];
                (leader == B || !is_of_b) && is_news(a, b.as_ref(), leader, voter, sent)
            }
            Message::Confirmed { leader, voter, sent } => is_news(a, b.as_ref(), leader, voter, sent),
        });
    }

    fn elect(&self, world: &mut World, with: NodeId) {
        // What was decided has a voter of this majority; what was only proposed, if `A` is in it.
        if world.expulsions[0] == Expulsion::Proposed {
            world.expulsions[0] = if with == A { Expulsion::Adopted } else { Expulsion::None };
        }
        let members = if self.case.renewals_of_h > 0 { vec![(H, LIFE), (A, LIFE)] } else { vec![(A, LIFE)] };
        let granter = Granter::elected(self.terms_of_granter(), members, self.clock(world, B));
        world.b = Some(Leader { granter, own: OwnLease::new(), has_applied: false });
    }

    fn apply(&self, world: &mut World) {
        if world.expulsions[0] == Expulsion::Adopted {
            world.expulsions[0] = Expulsion::Decided;
        }
        let is_out = world.expulsions[0] == Expulsion::Decided || self.case.renewals_of_h == 0;
        let now = self.clock(world, B);
        if let Some(leader) = &mut world.b {
            let members = if is_out { vec![(A, LIFE)] } else { vec![(H, LIFE), (A, LIFE)] };
            leader.granter.members_are(members, now);
            leader.has_applied = true;
        }
    }

    fn propose(&self, world: &mut World, by: NodeId, whom: NodeId) {
        let is_decided_at_once = by == B || self.case.has_one_voter;
        let leader = if by == A { Some(&mut world.a) } else { world.b.as_mut() };
        if let Some(leader) = leader {
            leader.granter.condemn(whom, LIFE);
        }
        world.expulsions[place(whom)] = if is_decided_at_once { Expulsion::Decided } else { Expulsion::Proposed };
    }
}

fn send(world: &mut World, message: Message) {
    let at = world.messages.partition_point(|other| *other < message);
    world.messages.insert(at, message);
}

/// Whether a leader's own lease, or what it knows for it, gets longer by that.
fn is_news(a: &Leader, b: Option<&Leader>, leader: NodeId, voter: NodeId, sent: Time) -> bool {
    let state = if leader == A { Some(a) } else { b };
    state.is_some_and(|state| {
        let mut own = state.own.clone();
        own.confirmed(voter, sent);
        own != state.own
    })
}

fn name(node: NodeId) -> &'static str {
    if node == H { "the member" } else { "the old leader" }
}

/// Searches a case with every combination of clocks that are too slow or too fast, and, if `full`, of
/// those that are right.
pub fn search(case: Case, deviation: Option<Deviation>, full: bool) -> Report {
    let start = Instant::now();
    let rates: &[u64] = if full { &[TICK - 1, TICK, TICK + 1] } else { &[TICK - 1, TICK + 1] };
    let (mut sum, mut broken) = (Found::default(), None);
    'all: for h in rates {
        for a in rates {
            for b in if case.has_one_voter { &rates[..1] } else { rates } {
                let found = Search { case, deviation, rates: [*h, *a, *b] }.run();
                sum.states += found.states;
                sum.steps += found.steps;
                sum.depth = sum.depth.max(found.depth);
                if found.broken.is_some() {
                    broken = found.broken;
                    sum.trace = found.trace;
                    break 'all;
                }
            }
        }
    }
    Report {
        name: case.name.to_owned(),
        states: sum.states,
        steps: sum.steps,
        depth: sum.depth,
        seconds: start.elapsed().as_secs_f64(),
        clean: broken.is_none(),
        broken,
        trace: sum.trace,
        choices: Vec::new(),
    }
}
