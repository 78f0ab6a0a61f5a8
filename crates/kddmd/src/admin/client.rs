//! The admin tool's side: one connection for each request.

use std::io::{BufReader, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value as Json;

use super::protocol::{ANSWER_LIMIT_BYTES, Command, Failure, Request, Response, VERSION, read_line, write_line};

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
    pub fn watch(&self, command: Command, mut each: impl FnMut(Json) -> bool) -> Result<(), ClientError> {
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
        // A daemon that refuses the connection may have closed it already: its reason is there to read.
        let _its_answer_tells = write_line(&stream, &Request { version: VERSION, command });
        let mut input = BufReader::new(&stream);
        loop {
            let response: Response =
                read_line(&mut input, ANSWER_LIMIT_BYTES).map_err(|error| broken(error.to_string()))?;
            match response {
                Response { error: Some(failure), .. } => return Err(ClientError::Refused(failure)),
                Response { ok: Some(answer), more, .. } => {
                    if !each(answer) || !more {
                        return Ok(());
                    }
                }
                _ => return Err(broken("an answer without content".into())),
            }
        }
    }
}
