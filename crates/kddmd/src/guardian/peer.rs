//! Which process is at the other end of a Unix socket, as a descriptor of it: that names no other process
//! later, when its number has been given out again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

/// What to ask the kernel for; since Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// The process that has connected, and its number.
///
/// # Errors
/// The kernel does not say, or the process is gone already.
pub fn process_of(socket: impl AsFd) -> io::Result<(OwnedFd, i32)> {
    let number = socket_peercred(&socket)?.pid;
    let process = match peer_pidfd(&socket) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            // The number may be that of another process by now; then the one that has connected is gone,
            // and nobody holds the other end of this socket.
            let process = pidfd_open(number, PidfdFlags::empty())?;
            if has_hung_up(&socket)? {
                return Err(Errno::SRCH.into());
            }
            process
        }
        process => process?,
    };
    if has_ended(&process)? { Err(Errno::SRCH.into()) } else { Ok((process, number.as_raw_nonzero().get())) }
}

/// Whether the process is gone.
pub fn has_ended(process: &OwnedFd) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&Timespec::default()))? > 0)
}

fn has_hung_up(socket: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec::default()))?;
    Ok(fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR))
}

fn peer_pidfd(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut descriptor: RawFd = -1;
    let mut length = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel writes at most `length`
    // bytes to `descriptor`, which has as many.
    let result = unsafe {
        let socket = socket.as_fd().as_raw_fd();
        let to = std::ptr::from_mut(&mut descriptor).cast();
        libc::getsockopt(socket, libc::SOL_SOCKET, SO_PEERPIDFD, to, &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if descriptor < 0 || length as usize != size_of::<RawFd>() {
        return Err(Errno::SRCH.into());
    }
    // SAFETY: the kernel has made it for this call, and nobody else knows it.
    let process = unsafe { OwnedFd::from_raw_fd(descriptor) };
    fcntl_setfd(&process, FdFlags::CLOEXEC)?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn both_ways_find_the_process_that_has_connected() {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        let (process, number) = process_of(&ours).expect("it is this process");
        assert_eq!(number, std::process::id() as i32);
        assert!(!has_ended(&process).expect("it can be asked"));
        assert!(!has_hung_up(&ours).expect("it can be asked"));
        drop(theirs);
        assert!(has_hung_up(&ours).expect("it can be asked"), "without `SO_PEERPIDFD` that is what is looked at");
    }

    #[test]
    fn a_process_that_ends_is_seen() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let id = rustix::process::Pid::from_child(&child);
        let process = pidfd_open(id, PidfdFlags::empty()).expect("it is our child");
        assert!(!has_ended(&process).expect("it can be asked"));
        child.kill().expect("it is our child");
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None).expect("it ends");
        assert!(has_ended(&process).expect("it can be asked"));
        child.wait().expect("it has ended");
    }
}
