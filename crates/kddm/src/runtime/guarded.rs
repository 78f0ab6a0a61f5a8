//! A node and its guardian: registered as long as the node runs, with the addresses of those who are to
//! hear of its end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::guardian::{Heard, Life, MOST_WORD_BYTES, Said, Secret, VERSION, WORD_LIMIT};
use crate::runtime::Runtime;
use crate::transport::greeting::{receive_at_most, send};
use crate::transport::stream::dial;
use crate::transport::{Address, Stream};

/// How often a guardian that is not there is looked for, and one that is there is looked after: it may
/// be started anew, and then knows nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

impl Runtime {
    /// The thread that keeps this node registered.
    pub fn keep_guarded(self: &Arc<Self>) {
        crate::runtime::wait::mark_part_of_node();
        let (Some(socket), Some(secret)) = (self.config.guardian.clone(), self.secret) else { return };
        let mut said = String::new();
        while !self.is_stopping() {
            let guarded = self.be_guarded(&socket, secret);
            self.is_guarded.store(false, Ordering::Relaxed);
            if let Err(reason) = guarded
                && reason != said
            {
                // Most hosts have none, and nobody has asked for one there.
                let is_meant = socket.exists() || self.config.guardian != crate::place::default_guardian();
                if is_meant {
                    tracing::warn!(socket = %socket.display(), %reason, "no guardian watches this process");
                } else {
                    tracing::debug!(socket = %socket.display(), %reason, "no guardian watches this process");
                }
                said = reason;
            }
            self.pause(LOOK_INTERVAL);
        }
    }

    /// Registers, and stays so until the node stops or the guardian does.
    fn be_guarded(&self, socket: &Path, secret: Secret) -> Result<(), String> {
        let stream = dial(&Address::Unix(socket.into()), WORD_LIMIT).map_err(|error| error.to_string())?;
        stream.set_limit(Some(WORD_LIMIT)).map_err(|error| error.to_string())?;
        let me = &self.identity;
        let life = Life {
            session: me.cluster.session.number(),
            cluster: me.cluster.cluster.0,
            node: me.id.0,
            incarnation: me.incarnation.0,
            secret,
        };
        let (mut told_at, members) = self.others();
        say(&stream, &Said::Register { version: VERSION, life, members })?;
        tracing::info!(socket = %socket.display(), "a guardian watches this process");
        self.is_guarded.store(true, Ordering::Relaxed);
        loop {
            let mut membership = self.membership.lock();
            let deadline = Instant::now() + LOOK_INTERVAL;
            let has_news = |applied| applied != told_at;
            while !self.is_stopping() && !has_news(membership.state.applied()) {
                if !self.wait_for_change(&mut membership, deadline) {
                    break;
                }
            }
            let (is_out, has_news) = (!self.is_member(&membership), has_news(membership.state.applied()));
            drop(membership);
            if self.is_stopping() {
                // Of one that could not leave the members are to hear when its process ends.
                return if is_out { say(&stream, &Said::Left) } else { Ok(()) };
            }
            if has_news {
                let (applied, members) = self.others();
                say(&stream, &Said::Members(members))?;
                told_at = applied;
            } else if stream.wait_readable(Duration::ZERO) {
                return Err("it has ended".into());
            }
        }
    }

    /// Where the other members are, and after which entry of the view log.
    fn others(&self) -> (u64, Vec<String>) {
        let membership = self.membership.lock();
        let others = membership.state.members().filter(|(node, _)| *node != self.identity.id);
        (membership.state.applied(), others.map(|(_, member)| member.address.clone()).collect())
    }
}

fn say(stream: &Stream, word: &Said) -> Result<(), String> {
    let answer = send(stream, word).and_then(|()| receive_at_most(stream, MOST_WORD_BYTES));
    match answer {
        Ok(Heard::Yes) => Ok(()),
        Ok(Heard::No(reason)) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}
