//! Programs that take nothing of what they are told: they cannot even be asked for what they have.

use std::time::{Duration, Instant};

use super::session::Session;
use crate::runtime::lane::LaneState;
use crate::sync::now;
use crate::transport::Poller;

/// How long a program may take nothing of what waits for it before its session ends: one that keeps what it
/// was asked for is in the way of everybody else. As long as others wait for an object by default. One that
/// is only stopped has little to take, and is named as who is in the way.
pub(crate) const TAKES_NOTHING: Duration = Duration::from_secs(10);

impl Session {
    /// Writes what waits for it. When to look whether it has taken any of that.
    pub fn write(&mut self, limit: Duration) -> Option<Instant> {
        self.outbox.write(&self.stream);
        let (waits, written) = (self.outbox.waiting_bytes() > 0 || self.outbox.is_cut(), self.outbox.written());
        if !waits {
            self.takes_nothing = None;
        } else if self.takes_nothing.is_none_or(|(_, before)| before != written) {
            self.takes_nothing = Some((now(), written));
        }
        self.ends_at(limit)
    }

    /// When its session is to end if it goes on to take nothing: at once if it has closed its side.
    fn ends_at(&self, limit: Duration) -> Option<Instant> {
        let (since, _) = self.takes_nothing?;
        Some(if self.outbox.is_cut() { since } else { since + limit })
    }
}

impl LaneState {
    /// Ends the sessions of programs that have taken nothing for too long. What they had put before is in
    /// their sockets: it is read, and nothing can be put any more.
    pub fn end_programs_that_take_nothing(&mut self, now: Instant, poller: &Poller) {
        let limit = self.limits.program_takes_nothing;
        let due = |session: &Session| session.ends_at(limit).is_some_and(|at| at <= now);
        let late: Vec<u32> =
            self.desk.sessions.iter().filter(|(_, session)| due(session)).map(|(number, _)| *number).collect();
        for number in late {
            let Some(session) = self.desk.sessions.get(&number) else { continue };
            let (pid, name, waiting_bytes) = (session.pid, &session.name, session.outbox.waiting_bytes());
            tracing::warn!(
                pid,
                name,
                waiting_bytes,
                ?limit,
                "a program takes nothing of what it is told: detaching it"
            );
            session.stream.shut_reading();
            self.read_program(number, true, poller);
        }
        let later = self.desk.sessions.values().filter_map(|session| session.ends_at(limit));
        // One whose last words are still being read is told of by its socket.
        self.desk.look_again = later.filter(|at| *at > now).min();
    }
}
