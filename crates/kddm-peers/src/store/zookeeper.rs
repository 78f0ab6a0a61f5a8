//! A client of ZooKeeper, in its own protocol.

use std::time::{Duration, Instant};

use crate::Failure;

use super::jute::{Fields, Message, receive};
use super::stream::{Stream, is_silence};
use super::{Store, bytes_of, number_of};

/// What may be asked.
const CREATE: i32 = 1;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const GET_CHILDREN: i32 = 8;
const PING: i32 = 11;

/// How a node of the tree is made: to stay, or to go with its session and be numbered by the server.
const PERSISTENT: i32 = 0;
const EPHEMERAL_SEQUENTIAL: i32 = 3;

/// Everybody may do everything with what is made here.
const ALL_RIGHTS: i32 = 31;

/// The version that every node of the tree has.
const ANY_VERSION: i32 = -1;

/// Answers with this number are events that a watch has asked for.
const EVENT: i32 = -1;

/// Answers with this number are to pings.
const PONG: i32 = -2;

/// When an answer has not come for so long the server is asked whether it lives. ZooKeeper 3.8.0 forgets now and then
/// to go on with what one client alone has asked for, until something else is asked (ZOOKEEPER-4537). Its own
/// client would do so after seconds.
const PING_AFTER: Duration = Duration::from_millis(100);

/// Pings in vain, one after the other, until it is given up: 30 seconds.
const PINGS_LIMIT: u32 = 300;

/// The longest wait for one answer of a server that lives, as where others have the lock for long.
const WAIT_LIMIT: Duration = Duration::from_secs(300);

/// A session may be silent for so long: longer than any run, so that nobody has to say that he lives.
pub const SESSION_MS: i32 = 3_600_000;

/// Events that nobody has waited for: there is one watch at a time.
const EVENTS_LIMIT: usize = 16;

const COUNTER: &str = "/counter";
const LOCK: &str = "/lock";

/// What the server says that it could not do; a user's program would have to tell these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    NoNode,
    BadVersion,
    NodeExists,
    Other(i32),
}

impl Refusal {
    fn of(code: i32) -> Option<Refusal> {
        match code {
            0 => None,
            -101 => Some(Refusal::NoNode),
            -103 => Some(Refusal::BadVersion),
            -110 => Some(Refusal::NodeExists),
            other => Some(Refusal::Other(other)),
        }
    }
}

/// The body of an answer, or why there is none.
type Outcome = Result<Vec<u8>, Refusal>;

/// How long a server is waited for.
struct Patience {
    begin: Instant,
    /// Pings that it has not answered.
    pings: u32,
}

impl Patience {
    fn new() -> Patience {
        Patience { begin: Instant::now(), pings: 0 }
    }

    /// It answers pings.
    fn lives(&mut self) {
        self.pings = 0;
    }

    /// Whether it is asked once more whether it lives.
    fn goes_on(&mut self, now: Instant) -> bool {
        self.pings += 1;
        self.pings <= PINGS_LIMIT && now.duration_since(self.begin) < WAIT_LIMIT
    }
}

/// One session with one member.
pub struct ZooKeeper {
    stream: Stream,
    last: i32,
    /// The counter as it was seen last, and the version of that.
    counter: (u64, i32),
    /// Nodes of the tree that have changed, as the server says by itself.
    events: Vec<Vec<u8>>,
    held: Option<String>,
}

impl ZooKeeper {
    /// # Errors
    /// Nobody listens there, or it is none, or has no leader.
    pub fn connect(address: &str) -> Result<ZooKeeper, Failure> {
        let mut stream = Stream::connect(address)?;
        let hello = Message::default().int(0).long(0).int(SESSION_MS).long(0).bytes(&[0; 16]).flag(false);
        hello.send(&mut stream)?;
        let welcome = receive(&mut stream)?;
        let mut fields = Fields::of(&welcome);
        let (_version, timeout_ms) = (fields.int()?, fields.int()?);
        if timeout_ms < SESSION_MS {
            return Err(format!("a session of {timeout_ms} ms").into());
        }
        stream.set_limit(PING_AFTER)?;
        let mut zookeeper = ZooKeeper { stream, last: 0, counter: (0, 0), events: Vec::new(), held: None };
        // Whoever comes later finds them there.
        for (path, value) in [(COUNTER, &bytes_of(0)[..]), (LOCK, b"")] {
            match zookeeper.create(path, value, PERSISTENT)? {
                Ok(_) | Err(Refusal::NodeExists) => {}
                Err(refusal) => return Err(refused("create", path, refusal)),
            }
        }
        Ok(zookeeper)
    }

    fn ask(&mut self, what: i32, fill: impl FnOnce(Message) -> Message) -> Result<Outcome, Failure> {
        self.last = self.last.checked_add(1).ok_or("a session with too many requests")?;
        fill(Message::default().int(self.last).int(what)).send(&mut self.stream)?;
        loop {
            let (number, outcome) = self.next()?;
            if number == EVENT {
                self.heard(outcome)?;
            } else if number == self.last {
                return Ok(outcome);
            } else {
                return Err(format!("an answer to request {number} instead of {}", self.last).into());
            }
        }
    }

    /// The next answer or event.
    fn next(&mut self) -> Result<(i32, Outcome), Failure> {
        let mut patience = Patience::new();
        loop {
            match receive(&mut self.stream) {
                Ok(message) => {
                    let (number, outcome) = answer(&message)?;
                    if number != PONG {
                        return Ok((number, outcome));
                    }
                    patience.lives();
                }
                Err(failure) if is_silence(&failure) && patience.goes_on(Instant::now()) => {
                    Message::default().int(PONG).int(PING).send(&mut self.stream)?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// An event: its kind, the state of the session, and where.
    fn heard(&mut self, event: Outcome) -> Result<(), Failure> {
        let event = event.map_err(|refusal| format!("an event that is {refusal:?}"))?;
        let mut fields = Fields::of(&event);
        let (_kind, _state, path) = (fields.int()?, fields.int()?, fields.bytes()?);
        if self.events.len() == EVENTS_LIMIT {
            return Err("events that nobody has asked for".into());
        }
        self.events.push(path.to_vec());
        Ok(())
    }

    fn create(&mut self, path: &str, value: &[u8], how: i32) -> Result<Outcome, Failure> {
        self.ask(CREATE, |message| {
            let message = message.bytes(path.as_bytes()).bytes(value);
            message.int(1).int(ALL_RIGHTS).bytes(b"world").bytes(b"anyone").int(how)
        })
    }

    /// Sets what is there, if it has that version.
    fn set(&mut self, path: &str, value: &[u8], version: i32) -> Result<Outcome, Failure> {
        self.ask(SET_DATA, |message| message.bytes(path.as_bytes()).bytes(value).int(version))
    }

    /// What is there, and its version.
    fn get(&mut self, path: &str) -> Result<(u64, i32), Failure> {
        let outcome = self.ask(GET_DATA, |message| message.bytes(path.as_bytes()).flag(false))?;
        let answer = outcome.map_err(|refusal| refused("get", path, refusal))?;
        let mut fields = Fields::of(&answer);
        let number = number_of(fields.bytes()?)?;
        Ok((number, version_of(&mut fields)?))
    }

    /// Waits until that node of the tree is gone.
    fn await_end(&mut self, path: &str) -> Result<(), Failure> {
        match self.ask(EXISTS, |message| message.bytes(path.as_bytes()).flag(true))? {
            Err(Refusal::NoNode) => return Ok(()),
            Err(refusal) => return Err(refused("watch", path, refusal)),
            Ok(_) => {}
        }
        // It is told once, which may have been before the answer.
        while !self.events.iter().any(|event| event == path.as_bytes()) {
            match self.next()? {
                (EVENT, event) => self.heard(event)?,
                (number, _) => return Err(format!("nobody asked for answer {number}").into()),
            }
        }
        self.events.retain(|event| event != path.as_bytes());
        Ok(())
    }

    /// Who has come to the lock before that one and is the last of these, if anybody has.
    fn before(&mut self, mine: &str) -> Result<Option<String>, Failure> {
        let outcome = self.ask(GET_CHILDREN, |message| message.bytes(LOCK.as_bytes()).flag(false))?;
        let answer = outcome.map_err(|refusal| refused("list", LOCK, refusal))?;
        let children = Fields::of(&answer).list()?;
        let paths = children.into_iter().map(|child| format!("{LOCK}/{}", String::from_utf8_lossy(child)));
        Ok(paths.filter(|path| path.as_str() < mine).max())
    }
}

/// Whether that member leads: what it says in words to whoever asks in words.
///
/// # Errors
/// It says nothing of that.
pub fn leads(address: &str) -> Result<bool, Failure> {
    let mut stream = Stream::connect(address)?;
    stream.send(b"srvr")?;
    loop {
        let text = String::from_utf8_lossy(stream.rest());
        if let Some((mode, _)) = text.split_once("Mode: ").and_then(|(_, rest)| rest.split_once('\n')) {
            return Ok(mode == "leader");
        }
        stream.wait()?;
    }
}

fn refused(what: &str, path: &str, refusal: Refusal) -> Failure {
    format!("{what} {path}: the server says {refusal:?}").into()
}

/// The number of an answer, and what it says.
fn answer(message: &[u8]) -> Result<(i32, Outcome), Failure> {
    const HEADER_BYTES: usize = 16;
    let mut fields = Fields::of(message);
    let (number, _transaction, code) = (fields.int()?, fields.long()?, fields.int()?);
    let body = &message[HEADER_BYTES..];
    Ok((number, Refusal::of(code).map_or_else(|| Ok(body.to_vec()), Err)))
}

/// The version in what the server says of a node of the tree: it comes after four other numbers.
fn version_of(fields: &mut Fields<'_>) -> Result<i32, Failure> {
    for _ in 0..4 {
        fields.long()?;
    }
    fields.int()
}

impl Store for ZooKeeper {
    fn read(&mut self, key: u64) -> Result<u64, Failure> {
        self.get(&format!("/{key}")).map(|(number, _)| number)
    }

    fn write(&mut self, key: u64, number: u64) -> Result<(), Failure> {
        let (path, value) = (format!("/{key}"), bytes_of(number));
        let mut outcome = self.set(&path, &value, ANY_VERSION)?;
        if outcome == Err(Refusal::NoNode) {
            outcome = self.create(&path, &value, PERSISTENT)?;
        }
        if outcome == Err(Refusal::NodeExists) {
            outcome = self.set(&path, &value, ANY_VERSION)?;
        }
        outcome.map(|_| ()).map_err(|refusal| refused("set", &path, refusal))
    }

    fn increment(&mut self) -> Result<(), Failure> {
        loop {
            let (count, version) = self.counter;
            match self.set(COUNTER, &bytes_of(count + 1), version)? {
                Ok(stat) => {
                    self.counter = (count + 1, version_of(&mut Fields::of(&stat))?);
                    return Ok(());
                }
                Err(Refusal::BadVersion) => self.counter = self.get(COUNTER)?,
                Err(refusal) => return Err(refused("set", COUNTER, refusal)),
            }
        }
    }

    fn count(&mut self) -> Result<u64, Failure> {
        self.get(COUNTER).map(|(count, _)| count)
    }

    fn lock(&mut self) -> Result<(), Failure> {
        let path = format!("{LOCK}/n-");
        let outcome = self.create(&path, b"", EPHEMERAL_SEQUENTIAL)?;
        let created = outcome.map_err(|refusal| refused("create", &path, refusal))?;
        let mine = String::from_utf8(Fields::of(&created).bytes()?.to_vec())?;
        // As its documentation says: each waits for the one before, so that the end of one wakes one.
        while let Some(before) = self.before(&mine)? {
            self.await_end(&before)?;
        }
        self.held = Some(mine);
        Ok(())
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        let mine = self.held.take().ok_or("the lock was not held")?;
        let outcome = self.ask(DELETE, |message| message.bytes(mine.as_bytes()).int(ANY_VERSION))?;
        outcome.map(|_| ()).map_err(|refusal| refused("delete", &mine, refusal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_number_and_what_the_server_says() {
        let header = |number: i32, code: i32| [&number.to_be_bytes()[..], &[0; 8], &code.to_be_bytes()].concat();
        assert_eq!(answer(&[&header(3, 0)[..], b"body"].concat()).unwrap(), (3, Ok(b"body".to_vec())));
        assert_eq!(answer(&header(4, -101)).unwrap(), (4, Err(Refusal::NoNode)));
        assert_eq!(answer(&header(5, -4)).unwrap(), (5, Err(Refusal::Other(-4))));
        for end in 0..header(3, 0).len() {
            assert!(answer(&header(3, 0)[..end]).is_err(), "after {end} bytes");
        }
    }

    #[test]
    fn a_server_that_lives_is_waited_for_longer_and_not_for_ever() {
        let mut patience = Patience::new();
        let begin = patience.begin;
        for _ in 0..3 {
            assert!((0..PINGS_LIMIT).all(|_| patience.goes_on(begin)));
            patience.lives();
        }
        assert!((0..PINGS_LIMIT).all(|_| patience.goes_on(begin)) && !patience.goes_on(begin), "it is silent");
        patience.lives();
        assert!(!patience.goes_on(begin + WAIT_LIMIT), "it lives, and that is all");
    }

    #[test]
    fn the_version_is_the_fifth_number_of_what_is_said_of_a_node() {
        let stat = [&[0xFF; 32][..], &9_i32.to_be_bytes(), &[0xFF; 32]].concat();
        assert_eq!(version_of(&mut Fields::of(&stat)).unwrap(), 9);
        assert!(version_of(&mut Fields::of(&stat[..35])).is_err());
    }
}
