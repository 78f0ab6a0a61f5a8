//! A connection over TCP or a Unix socket, with what has been read of it and not been used yet.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::Failure;

/// More than any answer here has. Who sends more is not who we think.
const LIMIT_BYTES: usize = 1 << 20;

/// How long an answer may take: longer than any system here is without a leader.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One connection. Nothing is sent before [`send`](Stream::send) is called, so that a request is one write.
pub struct Stream {
    socket: Socket,
    received: Vec<u8>,
    used: usize,
}

impl Stream {
    /// Connects to `HOST:PORT`, or to the Unix socket of that path.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: &str) -> Result<Stream, Failure> {
        let socket = if address.starts_with('/') {
            let socket = UnixStream::connect(address)?;
            socket.set_read_timeout(Some(ANSWER_LIMIT))?;
            Socket::Unix(socket)
        } else {
            let socket = TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(ANSWER_LIMIT))?;
            Socket::Tcp(socket)
        };
        Ok(Stream { socket, received: Vec::with_capacity(4096), used: 0 })
    }

    /// [`wait`](Stream::wait) waits no longer than that; what it says then [`is_silence`].
    ///
    /// # Errors
    /// The system's.
    pub fn set_limit(&self, limit: Duration) -> Result<(), Failure> {
        match &self.socket {
            Socket::Tcp(socket) => socket.set_read_timeout(Some(limit))?,
            Socket::Unix(socket) => socket.set_read_timeout(Some(limit))?,
        }
        Ok(())
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.write_all(bytes)?,
            Socket::Unix(socket) => socket.write_all(bytes)?,
        }
        Ok(())
    }

    /// What has come and was not used.
    pub fn rest(&self) -> &[u8] {
        &self.received[self.used..]
    }

    /// So many bytes of the rest are done with.
    pub fn consume(&mut self, bytes: usize) {
        self.used = (self.used + bytes).min(self.received.len());
        if self.used == self.received.len() {
            self.received.clear();
            self.used = 0;
        }
    }

    /// Waits for more.
    ///
    /// # Errors
    /// The connection is gone, nothing came for too long, or an answer has no end.
    pub fn wait(&mut self) -> Result<(), Failure> {
        let mut chunk = [0; 4096];
        let read = match &mut self.socket {
            Socket::Tcp(socket) => socket.read(&mut chunk)?,
            Socket::Unix(socket) => socket.read(&mut chunk)?,
        };
        self.keep(&chunk[..read])
    }

    /// Takes what is there already.
    ///
    /// # Errors
    /// As [`wait`](Stream::wait).
    pub fn take_what_is_there(&mut self) -> Result<(), Failure> {
        let mut chunk = [0; 4096];
        match rustix::net::recv(self.as_fd(), &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((read, _)) => self.keep(&chunk[..read.min(4096)]),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Err("the server has closed the connection".into());
        }
        if self.rest().len() + bytes.len() > LIMIT_BYTES {
            return Err(format!("an answer of more than {LIMIT_BYTES} bytes").into());
        }
        self.received.drain(..self.used);
        self.used = 0;
        self.received.extend_from_slice(bytes);
        Ok(())
    }
}

/// Whether nothing came for too long, and nothing else is wrong.
pub fn is_silence(failure: &Failure) -> bool {
    failure.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_from_an_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream { socket: Socket::Unix(ours), received: Vec::new(), used: 0 };
        stream.set_limit(Duration::from_millis(1)).unwrap();
        assert!(is_silence(&stream.wait().unwrap_err()));
        (&theirs).write_all(b"more").unwrap();
        stream.wait().unwrap();
        assert_eq!(stream.rest(), b"more");
        drop(theirs);
        assert!(!is_silence(&stream.wait().unwrap_err()));
    }
}
