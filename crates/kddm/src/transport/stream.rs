//! Listening, dialling, and the streams that come of it.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::sockopt;

use super::address::Address;
use super::failures::Failures;
use super::handshake::connect;
use super::unix::{self, SocketFile};
use crate::sync::something_has_happened;

/// A connected stream socket.
#[derive(Debug)]
pub enum Stream {
    /// Over the network.
    Tcp(TcpStream),
    /// On this host, or in this process.
    Unix(UnixStream),
}

impl Stream {
    /// Reads and writes return at once, or block.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Stream::Unix(stream) => stream.set_nonblocking(nonblocking),
        }
    }

    /// The limit of a blocking read or write.
    pub fn set_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)),
            Stream::Unix(stream) => stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)),
        }
    }

    /// Waits until there is something to read, or the end. False: not within the limit.
    pub fn wait_readable(&self, limit: Duration) -> bool {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        matches!(poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&limit)), Ok(1..))
    }

    /// It ends soon if the other host says nothing, not even that it has received something.
    ///
    /// # Errors
    /// The system's.
    pub fn end_soon_in_silence(&self) -> io::Result<()> {
        let Stream::Tcp(stream) = self else { return Ok(()) };
        sockopt::set_tcp_keepidle(stream, LINK_KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(stream, LINK_KEEPALIVE)?;
        Ok(sockopt::set_tcp_user_timeout(stream, SILENT_LINK_LIMIT.as_millis() as u32)?)
    }

    /// Nothing more comes in but what is in the socket already: whoever writes is told so.
    pub fn shut_reading(&self) {
        let _already_ended = match self {
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Read),
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Read),
        };
        something_has_happened();
    }

    /// Ends both directions; the other side sees the end.
    pub fn shutdown(&self) {
        let _already_ended = match self {
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Both),
        };
        something_has_happened();
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Stream::Tcp(stream) => (&mut &*stream).read(buffer),
            Stream::Unix(stream) => (&mut &*stream).read(buffer),
        };
        something_has_happened();
        read
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = match self {
            Stream::Tcp(stream) => (&mut &*stream).write(buffer),
            Stream::Unix(stream) => (&mut &*stream).write(buffer),
        };
        something_has_happened();
        written
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let written = match self {
            Stream::Tcp(stream) => (&mut &*stream).write_vectored(pieces),
            Stream::Unix(stream) => (&mut &*stream).write_vectored(pieces),
        };
        something_has_happened();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Why nobody answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The address answers, but nobody listens.
    #[error("nobody listens on {0}; is the node started, and the port right?")]
    NobodyListens(Address),
    /// Nothing came back in time.
    #[error("{0} does not answer; is the host up, and no firewall between?")]
    TimedOut(Address),
    /// Anything else the system says.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// Whom.
        address: Address,
        /// What the system says.
        reason: String,
    },
}

/// Connects, within a limit.
///
/// # Errors
/// Each names the address and what to look at.
pub fn dial(address: &Address, limit: Duration) -> Result<Stream, DialError> {
    let unreachable = |error: io::Error| match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => DialError::NobodyListens(address.clone()),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => DialError::TimedOut(address.clone()),
        _ => DialError::Unreachable { address: address.clone(), reason: error.to_string() },
    };
    match address {
        Address::Tcp { .. } => {
            let targets = address.to_string().to_socket_addrs().map_err(unreachable)?;
            let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
            for target in targets {
                match connect(&target, limit) {
                    Ok(stream) => {
                        tune(&stream).map_err(unreachable)?;
                        return Ok(Stream::Tcp(stream));
                    }
                    Err(error) => last = error,
                }
            }
            Err(unreachable(last))
        }
        Address::Unix(path) => unix::dial(path, limit).map(Stream::Unix).map_err(unreachable),
        Address::Local(name) => {
            let (ours, theirs) = UnixStream::pair().map_err(unreachable)?;
            let listeners = LOCAL.lock();
            let Some(listener) = listeners.get(name) else { return Err(DialError::NobodyListens(address.clone())) };
            match listener.queue.try_send(theirs) {
                Ok(()) => {
                    listener.wake();
                    Ok(Stream::Unix(ours))
                }
                Err(TrySendError::Full(_)) => Err(DialError::TimedOut(address.clone())),
                Err(TrySendError::Disconnected(_)) => Err(DialError::NobodyListens(address.clone())),
            }
        }
    }
}

/// After how long without a word a TCP connection is looked after: rare enough to cost nothing.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// How often it is then asked, and how often in vain before it ends.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;
/// How long bytes may wait for the other host's acknowledgement before a connection ends: some
/// retransmissions, and what a keepalive takes to notice the same.
const SILENT_HOST_LIMIT: Duration = Duration::from_secs(10);

/// The same for connections that are made anew at once, and then go on where they were. TCP doubles its pause each
/// time that it sends something again in vain (0.2, 0.4, 0.8 s …), so that an old connection may be back only when
/// as long again as the network was gone has passed; a new one is back within a second. Not less than this: a
/// path with a round trip of some hundred ms may lose a packet or two.
const SILENT_LINK_LIMIT: Duration = Duration::from_secs(2);
/// After how long without a word such a connection is looked after, and how often it is asked then: the end that
/// makes it anew may have nothing to say, and the other may have given up.
const LINK_KEEPALIVE: Duration = Duration::from_secs(1);

/// A host that loses its power or its network says nothing, and TCP alone waits a quarter of an hour.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // With a packet or two under way, as with leases and votes, TCP asks again at the same pace, and does not wait twice as
    // long after each loss: a few in a row would outlast a short lease. Without it all goes on, more slowly.
    let _as_before = sockopt::set_tcp_thin_linear_timeouts(stream, true);
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(sockopt::set_tcp_user_timeout(stream, SILENT_HOST_LIMIT.as_millis() as u32)?)
}

/// Connections to a `local:` listener that wait to be accepted, as a socket's backlog.
const LOCAL_BACKLOG: usize = 128;

struct LocalListener {
    queue: SyncSender<UnixStream>,
    wake: std::os::fd::OwnedFd,
}

impl LocalListener {
    fn wake(&self) {
        let _full_is_awake = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// The `local:` names of this process.
static LOCAL: LazyLock<Mutex<HashMap<String, LocalListener>>> = LazyLock::new(Mutex::default);

enum Socket {
    Tcp(TcpListener),
    /// With the file that goes when the listener does.
    Unix(UnixListener, #[allow(dead_code, reason = "it is there to be dropped")] SocketFile),
    Local(Mutex<Receiver<UnixStream>>, String),
}

/// Listens on an address until it is dropped.
pub struct Listener {
    socket: Socket,
    address: Address,
    wake: std::os::fd::OwnedFd,
    closed: OnceLock<()>,
    failures: Mutex<Failures>,
}

impl Listener {
    /// Listens. TCP port 0 takes a free one. A Unix socket whose process is gone is replaced;
    /// no other file is.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn bind(address: &Address, insecure: bool) -> Result<Listener, String> {
        if !address.is_loopback() && !insecure {
            return Err("it is reachable from other machines, and there is no encryption yet; allow that explicitly \
                        (`insecure`), or listen on 127.0.0.1"
                .into());
        }
        let in_use =
            || "the address is in use; stop the other process or choose another port (0 takes a free one)".to_string();
        let explain = |error: io::Error| match error.kind() {
            ErrorKind::AddrInUse => in_use(),
            _ => error.to_string(),
        };
        let flags = rustix::event::EventfdFlags::NONBLOCK | rustix::event::EventfdFlags::CLOEXEC;
        let wake = eventfd(0, flags).map_err(|error| error.to_string())?;
        let (socket, address) = match address {
            Address::Tcp { .. } => {
                let socket = TcpListener::bind(address.to_string()).map_err(explain)?;
                let real = Address::of_socket(socket.local_addr().map_err(explain)?);
                socket.set_nonblocking(true).map_err(explain)?;
                (Socket::Tcp(socket), real)
            }
            Address::Unix(path) => {
                let (socket, file) = unix::listen(path).map_err(explain)?;
                (Socket::Unix(socket, file), address.clone())
            }
            Address::Local(name) => {
                let (queue, receiver) = sync_channel(LOCAL_BACKLOG);
                let copy = rustix::io::dup(&wake).map_err(|error| error.to_string())?;
                let mut listeners = LOCAL.lock();
                if listeners.contains_key(name) {
                    return Err(in_use());
                }
                listeners.insert(name.clone(), LocalListener { queue, wake: copy });
                (Socket::Local(Mutex::new(receiver), name.clone()), address.clone())
            }
        };
        Ok(Listener { socket, address, wake, closed: OnceLock::new(), failures: Mutex::default() })
    }

    /// The address, with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for the next connection. `None` once the listener is closed.
    ///
    /// # Errors
    /// What the system says, and the log is told here; trying again may work, after a pause.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        self.accept_while(|| true)
    }

    /// The same, also `None` once that is not so any more and somebody has said so: [`Self::wake`].
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn accept_while(&self, is_wanted: impl Fn() -> bool) -> io::Result<Option<Stream>> {
        self.next_while(is_wanted).inspect_err(|error| self.failures.lock().failed(&self.address, error))
    }

    fn next_while(&self, is_wanted: impl Fn() -> bool) -> io::Result<Option<Stream>> {
        loop {
            if self.closed.get().is_some() || !is_wanted() {
                return Ok(None);
            }
            let accepted = match &self.socket {
                Socket::Tcp(socket) => socket.accept().and_then(|(stream, _)| {
                    tune(&stream)?;
                    stream.set_nonblocking(false)?;
                    Ok(Stream::Tcp(stream))
                }),
                Socket::Unix(socket, _) => socket.accept().and_then(|(stream, _)| {
                    stream.set_nonblocking(false)?;
                    Ok(Stream::Unix(stream))
                }),
                Socket::Local(queue, _) => {
                    let next = queue.lock().try_recv();
                    next.map(Stream::Unix).map_err(|_| ErrorKind::WouldBlock.into())
                }
            };
            // The system has what it takes for one, whether one is there or not.
            if !matches!(&accepted, Err(error) if error.kind() != ErrorKind::WouldBlock) {
                self.failures.lock().end(&self.address);
            }
            match accepted {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait()?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        match &self.socket {
            Socket::Tcp(socket) => fds.push(PollFd::new(socket, PollFlags::IN)),
            Socket::Unix(socket, _) => fds.push(PollFd::new(socket, PollFlags::IN)),
            Socket::Local(..) => {}
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut count = [0u8; 8];
        let _nothing_to_read = rustix::io::read(&self.wake, &mut count);
        Ok(())
    }

    /// Has whoever accepts look whether that is wanted still.
    pub fn wake(&self) {
        let _full_is_awake = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Ends `accept`, now and for ever.
    pub fn close(&self) {
        let _closed_before = self.closed.set(());
        self.wake();
        if let Socket::Local(_, name) = &self.socket {
            LOCAL.lock().remove(name);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of a TCP connection notice a host that is gone without a word, in seconds.
    #[test]
    fn tcp_notices_a_host_that_is_gone() {
        let listener = Listener::bind(&Address::loopback(), false).expect("a free port");
        let dialled = dial(listener.address(), Duration::from_secs(10)).expect("it listens");
        let accepted = listener.accept().expect("somebody has dialled").expect("it is open");
        for stream in [&dialled, &accepted] {
            assert!(sockopt::socket_keepalive(stream).expect("a TCP socket"));
            let (idle, interval) = (sockopt::tcp_keepidle(stream), sockopt::tcp_keepintvl(stream));
            let probes = sockopt::tcp_keepcnt(stream).expect("a TCP socket");
            let noticed = idle.expect("a TCP socket") + interval.expect("a TCP socket") * probes;
            assert!(noticed <= Duration::from_secs(15), "{noticed:?}");
            let limit_ms = sockopt::tcp_user_timeout(stream).expect("a TCP socket");
            assert!((1..=15_000).contains(&limit_ms), "{limit_ms}");
            stream.end_soon_in_silence().expect("a TCP socket");
            let limit_ms = sockopt::tcp_user_timeout(stream).expect("a TCP socket");
            let idle = sockopt::tcp_keepidle(stream).expect("a TCP socket");
            assert!(limit_ms <= 2_000 && idle <= Duration::from_secs(1), "{limit_ms} ms, {idle:?}");
        }
    }
}
