//! The daemon's side of the admin socket. A connection has a thread for as long as its request takes;
//! who says nothing, says too much, or does not listen is let go.

use std::io::{self, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::answer::{Shown, Subject};
use super::events;
use super::protocol::{
    Command, Failure, LineError, REQUEST_LIMIT_BYTES, Request, Response, VERSION, read_line, write_line,
};

/// Connections at one time: a handful of people and tools.
const CONNECTIONS: usize = 16;

/// How long a client may take for its request, and for each answer that it is sent.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);

/// Bounds of the pause between the answers of a watch, in milliseconds.
const INTERVALS_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;

/// Listens on `path`, which must be in a directory that this process has for itself.
///
/// # Errors
/// The system's.
pub fn listen(path: &Path, shown: Shown) -> io::Result<()> {
    // The lock of the data directory says that whoever made an old socket is gone.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    std::thread::Builder::new().name("kddmd-admin".into()).spawn(move || accept_all(&listener, &shown))?;
    Ok(())
}

fn accept_all(listener: &UnixListener, shown: &Shown) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of file descriptors, most likely: not to be tried in a tight loop.
            std::thread::park_timeout(Duration::from_millis(100));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            let busy = Failure::new(format!("{CONNECTIONS} admin connections are open already; end one of them"));
            let _nobody_is_waited_for = stream.set_write_timeout(Some(Duration::from_millis(100)));
            let _it_may_be_gone = write_line(&stream, &Response::last(Err(busy)));
            continue;
        }
        let (subject, count) = (shown.now(), Arc::clone(&open));
        let serve = move || {
            if let Err(error) = serve(&stream, &subject) {
                tracing::debug!(%error, "an admin connection ended early");
            }
            count.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("kddmd-asked".into()).spawn(serve).is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Reads from a stream until a deadline, whatever the pace of the bytes.
struct UntilDeadline<'a> {
    stream: &'a UnixStream,
    deadline: std::time::Instant,
}

impl io::Read for UntilDeadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        (&mut &*self.stream).read(buffer)
    }
}

fn serve(stream: &UnixStream, subject: &Subject) -> Result<(), LineError> {
    let deadline = std::time::Instant::now() + CLIENT_LIMIT;
    stream.set_write_timeout(Some(CLIENT_LIMIT))?;
    let request = read_line::<Request>(&mut BufReader::new(UntilDeadline { stream, deadline }), REQUEST_LIMIT_BYTES);
    let command = match request {
        Ok(Request { version: VERSION, command }) => command,
        Ok(Request { version, .. }) => {
            let text = format!(
                "this daemon speaks version {VERSION} of the admin protocol, not {version}; \
                                use a kddmadm and a kddmd of one version"
            );
            return Ok(write_line(stream, &Response::last(Err(Failure::new(text))))?);
        }
        Err(LineError::Io(error)) => return Err(error.into()),
        Err(error) => return Ok(write_line(stream, &Response::last(Err(Failure::new(error.to_string()))))?),
    };
    match command {
        Command::Watch { interval_ms, count } => watch(stream, subject, interval_ms, count),
        Command::Events { set, object, from, count } => {
            events::serve(stream, &subject.node, &set, (object, from.as_deref()), count)
        }
        Command::Bench { operations, case_limit_ms } => {
            let mut told = |answer| write_line(stream, &Response::one_of_many(answer)).is_ok();
            let answer = subject.bench(operations, case_limit_ms, &mut told);
            Ok(write_line(stream, &Response::last(answer))?)
        }
        command => {
            // A client that does not listen changes nothing about what it has asked for.
            let mut told = |answer| {
                let _it_may_be_gone = write_line(stream, &Response::one_of_many(answer));
            };
            let answer = subject.answer(&command, &mut told);
            let ends = answer.is_ok() && command == Command::End { is_meant: true };
            let written = write_line(stream, &Response::last(answer));
            if ends {
                // The others have, so that this one does whether anybody listens or not.
                (subject.end)();
            }
            Ok(written?)
        }
    }
}

fn watch(stream: &UnixStream, subject: &Subject, interval_ms: u64, count: Option<u64>) -> Result<(), LineError> {
    if !INTERVALS_MS.contains(&interval_ms) || count == Some(0) {
        let text = "a watch has at least one answer, and 100 to 3600000 ms between two";
        return Ok(write_line(stream, &Response::last(Err(Failure::new(text))))?);
    }
    let mut left = count.unwrap_or(u64::MAX);
    loop {
        let answer = subject.statistics();
        left -= 1;
        if left == 0 {
            return Ok(write_line(stream, &Response::last(Ok(answer)))?);
        }
        write_line(stream, &Response::one_of_many(answer))?;
        // The client says nothing more: the pause is a wait for its end.
        stream.set_read_timeout(Some(Duration::from_millis(interval_ms)))?;
        match io::Read::read(&mut &*stream, &mut [0]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
