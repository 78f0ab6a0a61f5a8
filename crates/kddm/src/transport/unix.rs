//! Unix sockets by their path: which file may make way for a socket, which one is ours to remove, and
//! a dial that ends.

use std::fs::symlink_metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// How long a socket that is in the way is asked whether anybody listens there. Who does answers at
/// once, or has a full backlog.
const PROBE_LIMIT: Duration = Duration::from_millis(100);

/// The shortest limit that the system can keep: it takes zero for none.
const LEAST_LIMIT: Duration = Duration::from_millis(1);

/// The file of a listening socket, told apart from whatever else may take its name.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode; none if it was gone as soon as it was made.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn at(path: &Path) -> SocketFile {
        SocketFile { path: path.into(), identity: identity(path) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have put its own file there meanwhile.
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _already_gone = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Listens at a path. A socket whose process is gone makes way, nothing else does.
///
/// # Errors
/// `AddrInUse` if somebody listens there, `AlreadyExists` if it is no socket, and the system's.
pub(super) fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_abandoned(path, error)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok((listener, SocketFile::at(path)))
}

fn remove_abandoned(path: &Path, in_use: io::Error) -> io::Result<()> {
    let found = symlink_metadata(path)?;
    if !found.file_type().is_socket() {
        let reason = "a file that is no socket has this name; remove it, or choose another path";
        return Err(io::Error::new(ErrorKind::AlreadyExists, reason));
    }
    match dial(path, PROBE_LIMIT) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            // Whoever was faster may have replaced it already: that one is not abandoned.
            drop(SocketFile { path: path.into(), identity: Some((found.dev(), found.ino())) });
            Ok(())
        }
        _ => Err(in_use),
    }
}

/// Connects within a limit, also to a socket whose backlog is full.
///
/// # Errors
/// `WouldBlock` at the limit, and the system's.
pub(super) fn dial(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + limit;
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        // The limit of sends is also that of a connect, which else waits for room in the backlog.
        let left = deadline.saturating_duration_since(Instant::now()).max(LEAST_LIMIT);
        set_socket_timeout(&socket, Timeout::Send, Some(left))?;
        match connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::INTR) if Instant::now() < deadline => {}
            Err(Errno::INTR) => return Err(ErrorKind::WouldBlock.into()),
            Err(error) => return Err(error.into()),
        }
    }
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket.into())
}
