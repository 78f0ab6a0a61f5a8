//! What this node's log says to those of others, and what it hears from them.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{NodeId, Time};
use kddm_view::{Change, Outgoing, State};

use crate::cell::Lease;
use crate::error::{Error, MembershipError};
use crate::runtime::Runtime;
use crate::runtime::control::{Answer, CONTROL_LIMIT, Question};
use crate::runtime::couriers::Tells;
use crate::runtime::membership::Guard;
use crate::transport::greeting::{self, Hello, Purpose, call, greet};
use crate::transport::{Address, Stream};

/// How often it is looked whether an answer is still wanted: short beside the shortest lease.
const WANTED_LOOK: Duration = Duration::from_millis(5);

/// A connection to another node, kept from one question to the next.
pub(crate) struct Line {
    to: NodeId,
    stream: Stream,
}

impl Runtime {
    fn step(&self, membership: &mut Guard<'_>, from: NodeId, message: &[u8]) {
        if let Err(error) = membership.log.step(from, message) {
            tracing::debug!(%error, "a message of the view log did nothing");
        }
        self.advance(membership);
    }

    /// Takes in a message of another node's log; what there is to say to that node at once.
    pub fn step_and_answer(&self, from: NodeId, message: &[u8]) -> Answer {
        let mut membership = self.membership.lock();
        self.step(&mut membership, from, message);
        let said = membership.outbox.extract_if(.., |out| out.to == from).map(|out| out.message).collect();
        Answer::Log { said, promised: membership.log.promised() }
    }

    /// Hands a message to another node's log, and takes in what that says.
    fn exchange(self: &Arc<Self>, line: &mut Option<Line>, message: &Outgoing) -> Result<(), Error> {
        let question = Question::Log(message.message.clone());
        let led = {
            let membership = self.membership.lock();
            membership.log.is_leader().then(|| membership.log.term())
        };
        let address = self.address_of(message.to)?;
        // Before it is sent: what a voter confirms counts from here.
        let sent = Time(Lease::now_ns());
        let answer = self.ask_on(line, message.to, &address, &question, CONTROL_LIMIT);
        match answer.map_err(|error| refused(format!("node {}: {error}", message.to)))? {
            Answer::Log { said, promised } => {
                self.silence.heard(message.to);
                let mut membership = self.membership.lock();
                if let (Some(term), Some(promised)) = (led, promised)
                    && promised <= term
                {
                    self.is_confirmed(&mut membership, message.to, sent, term);
                }
                for answer in said {
                    self.step(&mut membership, message.to, &answer);
                }
            }
            Answer::NotAMember => self.is_out(message.to),
            _ => tracing::warn!(node = message.to.0, "an answer to another question"),
        }
        Ok(())
    }

    /// Whoever leads does not know this life any more: it was expelled, or another process has taken its number.
    pub fn is_out(self: &Arc<Self>, says: NodeId) {
        let mut membership = self.membership.lock();
        if membership.is_leaving {
            membership.is_out = true;
            self.changed.notify_all();
            return;
        }
        let is_news = says == membership.state.voter();
        drop(membership);
        if is_news && !self.lease.is_valid() {
            self.lease_is_over("it was expelled");
        } else if is_news && !self.is_stopping() {
            tracing::error!("this node is no member any more: another process has taken its number. It stops");
            // On a thread that the stop does not wait for.
            let runtime = Arc::clone(self);
            let _it_ends_with_its_lease =
                std::thread::Builder::new().name("kddm-stop".into()).spawn(move || runtime.stop());
        }
    }

    /// Where a node is, or was when it was a member: it may be told that it is none any more.
    fn address_of(&self, node: NodeId) -> Result<Address, Error> {
        let membership = self.membership.lock();
        let entry = membership.state.member(node).or_else(|| membership.departed.get(&node));
        let address = entry.map(|entry| entry.address.clone());
        drop(membership);
        let address = address.ok_or_else(|| refused(format!("node {node} is not a member")))?;
        address.parse().map_err(|error| refused(format!("node {node}: {error}")))
    }

    /// Puts a question to a member.
    pub fn ask(&self, node: NodeId, question: &Question) -> Result<Answer, Error> {
        call(&self.address_of(node)?, &self.hello(Purpose::Control), question, CONTROL_LIMIT)
            .map_err(|error| refused(format!("node {node}: {error}")))
    }

    /// Puts a question on a connection that stays.
    pub fn ask_on(
        &self,
        line: &mut Option<Line>,
        to: NodeId,
        address: &Address,
        question: &Question,
        limit: Duration,
    ) -> Result<Answer, Box<dyn std::error::Error>> {
        ask_on(&self.hello(Purpose::Control), line, (to, address), question, limit)
    }

    /// The same as long as the answer is wanted. A connection that is only silent is not made anew: the host may be gone,
    /// and there would be no time left for whoever is wanted instead.
    pub fn ask_on_while(
        &self,
        line: &mut Option<Line>,
        (to, address): (NodeId, &Address),
        question: &Question,
        limit: Duration,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Answer, Box<dyn std::error::Error>> {
        if let Some(kept) = line.take().filter(|line| line.to == to) {
            match put_while(&kept.stream, question, limit, &is_wanted) {
                Ok(answer) => {
                    *line = Some(kept);
                    return Ok(answer);
                }
                Err(error) if error.kind() == ErrorKind::TimedOut => return Err(error.into()),
                Err(_it_has_ended) => {}
            }
        }
        let (stream, ..) = greet(address, &self.hello(Purpose::Control), limit / 2)?;
        let answer = put_while(&stream, question, limit, is_wanted)?;
        *line = Some(Line { to, stream });
        Ok(answer)
    }

    /// The state of the cluster as that node knows it, if it tells.
    pub fn state_of(&self, node: NodeId) -> Result<Option<State>, Error> {
        match self.ask(node, &Question::State)? {
            Answer::State(bytes) => State::decode(&bytes).map(Some).map_err(|error| refused(error.to_string())),
            _ => Ok(None),
        }
    }

    /// Tells the others that this node goes, where they can do without it. Best effort: nobody waits
    /// for those who do not answer.
    pub fn leave(self: &Arc<Self>) {
        let leave = Change::Leave { node: self.identity.id, incarnation: self.identity.incarnation };
        let mut membership = self.membership.lock();
        membership.is_leaving = true;
        if membership.state.check(&leave).is_err() || self.propose_in(&mut membership, leave).is_err() {
            return;
        }
        let deadline = Instant::now() + CONTROL_LIMIT;
        while self.is_member(&membership) && !membership.is_out {
            if !self.wait_for_change(&mut membership, deadline) {
                return;
            }
        }
    }
}

/// Puts a question on a connection that stays. One that has ended is made anew, once.
pub(crate) fn ask_on(
    hello: &Hello,
    line: &mut Option<Line>,
    (to, address): (NodeId, &Address),
    question: &Question,
    limit: Duration,
) -> Result<Answer, Box<dyn std::error::Error>> {
    if let Some(kept) = line.take().filter(|line| line.to == to)
        && let Ok(answer) = put(&kept.stream, question, limit)
    {
        *line = Some(kept);
        return Ok(answer);
    }
    let (stream, ..) = greet(address, hello, limit)?;
    let answer = put(&stream, question, limit)?;
    *line = Some(Line { to, stream });
    Ok(answer)
}

impl Tells for Arc<Runtime> {
    fn tell(&self, line: &mut Option<Line>, message: &Outgoing) -> bool {
        let told = self.exchange(line, message);
        if let Err(error) = &told {
            tracing::debug!(node = message.to.0, %error, "a message of the view log was lost");
        }
        told.is_ok()
    }

    fn has_ended(&self) -> bool {
        self.is_stopping()
    }
}

fn put(stream: &Stream, question: &Question, limit: Duration) -> std::io::Result<Answer> {
    stream.set_limit(Some(limit))?;
    greeting::send(stream, question)?;
    greeting::receive(stream)
}

/// Gives up, as if there were no answer in time, when none is wanted any more.
fn put_while(
    stream: &Stream,
    question: &Question,
    limit: Duration,
    is_wanted: impl Fn() -> bool,
) -> std::io::Result<Answer> {
    stream.set_limit(Some(limit))?;
    greeting::send(stream, question)?;
    let deadline = Instant::now() + limit;
    while !stream.wait_readable(WANTED_LOOK) {
        if Instant::now() >= deadline || !is_wanted() {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    greeting::receive(stream)
}

fn refused(reason: String) -> Error {
    MembershipError::Refused { reason }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Node;
    use crate::transport::Listener;

    #[test]
    fn an_answer_that_is_not_wanted_any_more_is_not_waited_for() {
        let nodes = Node::local_cluster(1).expect("a node");
        // It takes connections, and says nothing.
        let silent: Address = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(&silent, true).expect("a free port");
        let stream = crate::transport::stream::dial(listener.address(), LONG).expect("it listens");
        let mut line = Some(Line { to: NodeId(9), stream });
        let (question, asked) = (Question::State, (NodeId(9), listener.address()));
        let looks = std::cell::Cell::new(0);
        let is_wanted = || {
            looks.set(looks.get() + 1);
            looks.get() < 3
        };
        let runtime = nodes[0].runtime();
        let error = runtime.ask_on_while(&mut line, asked, &question, LONG, is_wanted).expect_err("it says nothing");
        assert!(error.to_string().contains("timed out"), "{error}");
        assert_eq!((looks.get(), line.is_none()), (3, true), "and it is not greeted anew");
    }

    const LONG: Duration = Duration::from_secs(3600);
}
