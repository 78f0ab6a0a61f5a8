//! Connecting over TCP: a handshake that is not answered soon may be lost, or only slow. Another one is begun beside it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect as begin_to_connect, socket_with, sockopt};

/// After how long another handshake is begun, and then after twice as long each time. The system says again what was lost of
/// one only after a whole second, which a lease may be.
const BEGIN_AGAIN: Duration = Duration::from_millis(250);

/// Handshakes of one dial at one time; the last is begun after eight seconds, when the system has said thrice again what the
/// first one says. Whoever listens may have to greet all of them and see all but one end.
const HANDSHAKES: usize = 6;

/// Connects within a limit.
///
/// # Errors
/// `TimedOut`, and the system's.
pub(super) fn connect(target: &SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::from(first_answered(|| begin(target), BEGIN_AGAIN, limit)?);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Begins a handshake. It is over when the socket is writable.
fn begin(target: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match begin_to_connect(&socket, target) {
        // Interrupted, it goes on.
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// The first socket whose handshake is over; the others are closed. All wait for the same other side, so that a refusal of one
/// is one of all.
fn first_answered(
    mut begin: impl FnMut() -> io::Result<OwnedFd>,
    mut pause: Duration,
    limit: Duration,
) -> io::Result<OwnedFd> {
    let start = Instant::now();
    let (deadline, mut next) = (start + limit, start + pause);
    let mut under_way = vec![begin()?];
    let mut trouble = None;
    loop {
        let has_room = under_way.len() < HANDSHAKES;
        let until = if has_room { next.min(deadline) } else { deadline };
        if let Some(answered) = take_answered(&mut under_way, until.saturating_duration_since(Instant::now())) {
            return answered;
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(trouble.unwrap_or(ErrorKind::TimedOut.into()));
        }
        if has_room && now >= next {
            pause *= 2;
            next = now + pause;
            // Those that are under way may come to an end though there is no descriptor, or no port, for one more.
            match begin() {
                Ok(socket) => under_way.push(socket),
                // Nobody listens there any more: those that are under way will not be answered.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err(error),
                Err(error) => trouble = Some(error),
            }
        }
    }
}

/// Waits for one of them, at most for that long: connected, or refused.
fn take_answered(under_way: &mut Vec<OwnedFd>, limit: Duration) -> Option<io::Result<OwnedFd>> {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    let mut all: Vec<PollFd<'_>> = under_way.iter().map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
    match poll(&mut all, Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Some(Err(error.into())),
    }
    let ready: Vec<usize> = (0..all.len()).filter(|at| !all[*at].revents().is_empty()).collect();
    let mut refused = None;
    for at in ready {
        match sockopt::socket_error(&under_way[at]).and_then(|said| said) {
            Ok(()) => return Some(Ok(under_way.swap_remove(at))),
            Err(error) => refused = Some(Err(error.into())),
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// No test takes as long; one that does has failed.
    const LIMIT: Duration = Duration::from_secs(60);

    /// A socket that is not writable before the other end has read.
    fn unanswered() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        while (&ours).write(&[0; 4096]).is_ok() {}
        (ours.into(), theirs)
    }

    fn answer(mut theirs: &UnixStream) {
        theirs.set_nonblocking(true).expect("a socket");
        while theirs.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    }

    fn has_ended(mut theirs: &UnixStream) -> bool {
        answer(theirs);
        matches!(theirs.read(&mut [0; 1]), Ok(0))
    }

    /// A round trip that takes longer than it takes until the next one is begun, as of a satellite.
    #[test]
    fn a_handshake_that_is_only_slow_counts_when_another_one_was_begun_beside_it() {
        let mut others = Vec::new();
        let begin = || {
            let (ours, theirs) = unanswered();
            others.push(theirs);
            if others.len() == 3 {
                answer(&others[0]);
            }
            Ok(ours)
        };
        let first = first_answered(begin, Duration::from_millis(1), LIMIT).expect("the first one is answered");
        let is_open: Vec<bool> = others.iter().map(|theirs| !has_ended(theirs)).collect();
        assert_eq!(is_open.iter().filter(|is_open| **is_open).count(), 1, "the others are closed");
        assert!(is_open[0] && is_open.len() >= 3, "{is_open:?}");
        drop(first);
        assert!(has_ended(&others[0]), "it was that one");
    }

    #[test]
    fn so_many_handshakes_are_under_way_and_no_more() {
        let mut others = Vec::new();
        let begin = || {
            let (ours, theirs) = unanswered();
            others.push(theirs);
            assert!(others.len() <= HANDSHAKES, "it was to wait for these");
            Ok(ours)
        };
        let ended = first_answered(begin, Duration::ZERO, Duration::from_millis(50));
        assert!(ended.is_err_and(|error| error.kind() == ErrorKind::TimedOut));
        assert!(others.iter().all(has_ended), "nothing is left behind");
    }

    #[test]
    fn a_handshake_goes_on_where_there_is_no_descriptor_for_another_one() {
        let mut first = None;
        let begin = || match &first {
            None => {
                let (ours, theirs) = unanswered();
                first = Some(theirs);
                Ok(ours)
            }
            Some(theirs) => {
                answer(theirs);
                Err(Errno::MFILE.into())
            }
        };
        first_answered(begin, Duration::from_millis(1), LIMIT).expect("the first one is answered");
    }

    /// Whoever listens nowhere says so at once: nobody waits for the limit.
    #[test]
    fn a_refusal_ends_it() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = nobody.local_addr().expect("it is bound");
        drop(nobody);
        let refused = connect(&address, LIMIT).map(drop);
        assert!(refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
    }

    /// A listener that has no room for another connection drops what begins one, as a network may. There is room when the second
    /// one is begun, which the system says nothing of to the first one before a second is over.
    #[test]
    fn a_handshake_that_was_lost_is_begun_anew_long_before_the_system_would() {
        use rustix::net::{accept, bind, getsockname, listen, socket};
        const { assert!(BEGIN_AGAIN.as_millis() <= 500) }
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        listen(&listener, 0).expect("it listens");
        let address = SocketAddr::try_from(getsockname(&listener).expect("it is bound")).expect("of the internet");
        let first = TcpStream::connect(address).expect("there is room for one");
        let mut begun = 0;
        let begin = || {
            begun += 1;
            if begun == 2 {
                drop(accept(&listener).expect("the one that is there"));
            }
            begin(&address)
        };
        first_answered(begin, BEGIN_AGAIN, LIMIT).expect("there is room then");
        assert!(begun >= 2, "the first one was lost");
        drop(first);
    }
}
