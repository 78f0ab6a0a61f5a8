//! The admin tool's side: one connection for each request.

use std::io::{BufReader, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;

use super::protocol::{
    ANSWER_LIMIT_BYTES, Command, Failure, LineError, Request, Response, VERSION, read_line, write_line,
};

/// How long a daemon may think about what it only has to look up: twice the limit of a wait, and for longer only if
/// its process does not run. What changes something has limits of its own.
const LOOK_LIMIT: Duration = Duration::from_secs(20);

/// Where a daemon is to be asked.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error(
        "no daemon answers at {socket} ({reason}); start one with `kddmd`, or name the one you mean with \
         --data-dir or --admin"
    )]
    NoDaemon {
        /// Where.
        socket: String,
        /// What the system says.
        reason: String,
    },
    /// It ended in the middle.
    #[error("the daemon at {socket} ended the connection: {reason}")]
    Broken {
        /// Where.
        socket: String,
        /// What happened.
        reason: String,
    },
    /// It says nothing.
    #[error(
        "the daemon at {socket} has not answered within {limit:?}: is its process stopped (SIGSTOP), or its host \
         overloaded?"
    )]
    Silent {
        /// Where.
        socket: String,
        /// How long was waited.
        limit: Duration,
    },
    /// It said no.
    #[error("{}", .0.message)]
    Refused(Failure),
}

impl Client {
    /// Asks the daemon behind that socket.
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    /// One request and its last answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask(&self, command: Command) -> Result<Json, ClientError> {
        let mut last = Json::Null;
        self.watch(command, |answer| {
            last = answer;
            true
        })?;
        Ok(last)
    }

    /// One request; `each` sees every answer and says whether it wants more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn watch(&self, command: Command, each: impl FnMut(Json) -> bool) -> Result<(), ClientError> {
        let only_looks = matches!(
            command,
            Command::Status
                | Command::Sets
                | Command::Set { .. }
                | Command::ObjectShow { .. }
                | Command::ObjectHistory { .. }
                | Command::Holders
                | Command::Stats
                | Command::Doctor
                | Command::End { is_meant: false }
                | Command::Destroy { meant: None, .. }
        );
        // What goes on for as long as it likes begins soon.
        let begins = matches!(command, Command::Events { .. });
        self.watch_within(command, (only_looks || begins).then_some(LOOK_LIMIT), begins, each)
    }

    /// The limit is that of the first answer alone, or of each.
    fn watch_within(
        &self,
        command: Command,
        mut limit: Option<Duration>,
        is_of_first: bool,
        mut each: impl FnMut(Json) -> bool,
    ) -> Result<(), ClientError> {
        let socket = || self.socket.display().to_string();
        let stream = UnixStream::connect(&self.socket).map_err(|error| {
            let reason = match error.kind() {
                ErrorKind::NotFound => "there is no such socket".into(),
                ErrorKind::ConnectionRefused => "nobody listens on it any more".into(),
                _ => error.to_string(),
            };
            ClientError::NoDaemon { socket: socket(), reason }
        })?;
        let broken = |reason: String| ClientError::Broken { socket: socket(), reason };
        let limited = stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit));
        limited.map_err(|error| broken(error.to_string()))?;
        // A daemon that refuses the connection may have closed it already: its reason is there to read.
        let _its_answer_tells = write_line(&stream, &Request { version: VERSION, command });
        let mut input = BufReader::new(&stream);
        loop {
            let response: Response =
                read_line(&mut input, ANSWER_LIMIT_BYTES).map_err(|error| match (&error, limit) {
                    (LineError::Io(error), Some(limit)) if error.kind() == ErrorKind::WouldBlock => {
                        ClientError::Silent { socket: socket(), limit }
                    }
                    _ => broken(error.to_string()),
                })?;
            match response {
                Response { error: Some(failure), .. } => return Err(ClientError::Refused(failure)),
                Response { ok: Some(answer), more, .. } => {
                    if !each(answer) || !more {
                        return Ok(());
                    }
                    if is_of_first && limit.take().is_some() {
                        stream.set_read_timeout(None).map_err(|error| broken(error.to_string()))?;
                    }
                }
                _ => return Err(broken("an answer without content".into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_daemon_that_says_nothing_is_not_waited_for_without_an_end() {
        let socket = std::env::temp_dir().join(format!("kddm-client-{}.sock", std::process::id()));
        let _stopped = UnixListener::bind(&socket).expect("a socket");
        let limit = Duration::from_millis(20);
        let events = Command::Events { set: "notes".into(), object: None, from: None, count: None };
        let client = Client::new(socket.clone());
        let answers = [(Command::Status, false), (events, true)]
            .map(|(command, begins)| client.watch_within(command, Some(limit), begins, |_| true));
        let _left_behind = std::fs::remove_file(&socket);
        for silent in answers {
            let error = silent.expect_err("nobody answers");
            assert!(matches!(error, ClientError::Silent { .. }), "{error}");
            assert!(error.to_string().contains("SIGSTOP"), "{error}");
        }
    }
}
