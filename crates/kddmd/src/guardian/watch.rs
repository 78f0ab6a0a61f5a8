//! One node that has registered: what it says, and its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use kddm::guardian::{Heard, Life, MOST_MEMBERS, MOST_WORD_BYTES, Said, VERSION, WORD_LIMIT};
use kddm::transport::{Stream, greeting};
use kddm::{Address, transport::address::MOST_ADDRESS_BYTES};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{Watched, peer, tell};

/// Words of a node that are read after its end: it says at most one when it leaves, after one about the
/// members that it may have been saying.
const LAST_WORDS: usize = 4;

/// Serves one socket until the process behind it has ended, or needs no guardian any more.
pub fn serve(stream: &Stream, watched: &Arc<Watched>) {
    let begun = stream.set_limit(Some(WORD_LIMIT)).and_then(|()| Watch::begin(stream));
    let mut watch = match begun {
        Ok(Ok(watch)) => watch,
        Ok(Err(reason)) => {
            tracing::warn!(%reason, "a node was refused");
            let _it_may_be_gone = greeting::send(stream, &Heard::No(reason));
            return;
        }
        Err(error) => return tracing::debug!(%error, "a socket ended before it was of use"),
    };
    if let Err(error) = watch.take_over(watched).and_then(|()| greeting::send(stream, &Heard::Yes)) {
        tracing::debug!(%error, "a socket ended while its node registered");
    }
    let (node, process) = (watch.life.node, watch.number);
    tracing::info!(node, life = watch.life.incarnation, process, members = watch.members.len(), "watching a node");
    let end = watch.until_end(stream);
    watched.lives.lock().retain(|_, (_, wake)| !Arc::ptr_eq(wake, &watch.wake));
    match end {
        Ok(End::Left) => tracing::info!(node, process, "a node has left its cluster"),
        Ok(End::TakenOver) => tracing::debug!(node, process, "a node has registered again"),
        Ok(End::Died) => {
            tracing::warn!(node, life = watch.life.incarnation, process, "the process of a node has ended");
            tell::all(&watch.life, &watch.members);
        }
        Err(error) => tracing::error!(node, process, %error, "a node cannot be watched any more"),
    }
}

/// Why a node is watched no more.
enum End {
    Died,
    Left,
    /// It has registered again.
    TakenOver,
}

struct Watch {
    life: Life,
    process: OwnedFd,
    /// Of the process, for people.
    number: i32,
    members: Vec<Address>,
    /// Written to when the same life has registered again, or the next one of the same process.
    wake: Arc<OwnedFd>,
}

impl Watch {
    /// Hears who it is. The inner error is for the node.
    fn begin(stream: &Stream) -> io::Result<Result<Watch, String>> {
        let (process, number) = peer::process_of(stream)?;
        let said: Said = greeting::receive_at_most(stream, MOST_WORD_BYTES)?;
        let Said::Register { version, life, members } = said else {
            return Ok(Err("the first word must be a registration".into()));
        };
        if version != VERSION {
            let ours = format!("this guardian speaks version {VERSION}, not {version}; run one version of both");
            return Ok(Err(ours));
        }
        let members = match addresses(&members) {
            Ok(members) => members,
            Err(reason) => return Ok(Err(reason)),
        };
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        Ok(Ok(Watch { life, process, number, members, wake }))
    }

    /// Nobody else watches this life from now on, nor a former one of the node in the same process: that is over,
    /// or its number would not be free.
    fn take_over(&self, watched: &Watched) -> io::Result<()> {
        let mut lives = watched.lives.lock();
        let is_over = |life: &Life, (process, _): &mut (i32, Arc<OwnedFd>)| {
            *life == self.life || (*process == self.number && life.is_of_the_node_of(&self.life))
        };
        let before: Vec<_> = lives.extract_if(is_over).collect();
        lives.insert(self.life.clone(), (self.number, Arc::clone(&self.wake)));
        for (_, (_, before)) in before {
            rustix::io::write(&before, &1u64.to_ne_bytes())?;
        }
        Ok(())
    }

    fn until_end(&mut self, stream: &Stream) -> io::Result<End> {
        // Its end is no end: the node may be in trouble, and register again.
        let mut is_open = true;
        loop {
            let mut fds = vec![PollFd::new(&self.process, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
            if is_open {
                fds.push(PollFd::new(stream, PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
            let (has_died, is_taken_over, has_words) = (is_ready(0), is_ready(1), is_ready(2));
            if has_died {
                let has_left = is_open && self.last_words(stream);
                return Ok(if has_left { End::Left } else { End::Died });
            }
            if is_taken_over {
                return Ok(End::TakenOver);
            }
            if has_words {
                match self.hear(stream) {
                    Ok(true) => return Ok(End::Left),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(node = self.life.node, %error, "the socket of a node has ended");
                        stream.shutdown();
                        is_open = false;
                    }
                }
            }
        }
    }

    /// Hears a word. True if the node has left its cluster.
    fn hear(&mut self, stream: &Stream) -> io::Result<bool> {
        let (answer, has_left) = match greeting::receive_at_most(stream, MOST_WORD_BYTES)? {
            Said::Left => (Heard::Yes, true),
            Said::Register { .. } => (Heard::No("this socket is that of a registered node".into()), false),
            Said::Members(members) => match addresses(&members) {
                Ok(members) => {
                    self.members = members;
                    (Heard::Yes, false)
                }
                Err(reason) => (Heard::No(reason), false),
            },
        };
        // Who leaves need not wait for the answer.
        let sent = greeting::send(stream, &answer);
        if has_left { Ok(true) } else { sent.map(|()| false) }
    }

    /// What the process had said before it ended. True if it had left its cluster.
    fn last_words(&mut self, stream: &Stream) -> bool {
        (0..LAST_WORDS).any(|_| stream.wait_readable(Duration::ZERO) && matches!(self.hear(stream), Ok(true)))
    }
}

fn addresses(members: &[String]) -> Result<Vec<Address>, String> {
    if members.len() > MOST_MEMBERS {
        return Err(format!("{} members, at most {MOST_MEMBERS} are kept", members.len()));
    }
    let address = |text: &String| match text.parse::<Address>() {
        Ok(Address::Local(_)) => Err(format!("{text} is an address inside a process")),
        Ok(address) => Ok(address),
        Err(error) => Err(error.to_string().chars().take(2 * MOST_ADDRESS_BYTES).collect()),
    };
    members.iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_nobody_can_be_told_at_are_refused() {
        assert_eq!(addresses(&["127.0.0.1:1".into(), "unix:/a".into()]).expect("good").len(), 2);
        for (bad, word) in [("local:a", "inside"), ("x", "port")] {
            assert!(addresses(&[bad.into()]).expect_err("bad").contains(word));
        }
        let many = vec!["127.0.0.1:1".to_string(); MOST_MEMBERS + 1];
        assert!(addresses(&many).expect_err("too many").contains("at most"));
    }
}
