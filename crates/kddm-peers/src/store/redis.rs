//! A client of Redis, plain, waiting for one replica, or with a cache of its own.

use std::collections::HashMap;

use crate::Failure;

use super::resp::{Reply, command, receive};
use super::stream::Stream;
use super::{Store, bytes_of, number_of};

/// How long whoever has the lock may have it: what its documentation calls a lock needs some limit.
const LOCK_MS: &[u8] = b"30000";

/// Lets go of the lock if it is still one's own, as its documentation says.
const UNLOCK: &[u8] = b"if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";

/// One connection, without pipelining but for `WAIT`, which travels with its write.
pub struct Redis {
    stream: Stream,
    request: Vec<u8>,
    token: Vec<u8>,
    /// A write is done when one replica has it.
    waits: bool,
    /// Keys that others have written, as the server says by itself.
    invalid: Vec<Vec<u8>>,
}

impl Redis {
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: &str) -> Result<Redis, Failure> {
        let token = format!("{:016x}", fastrand::u64(..)).into_bytes();
        let stream = Stream::connect(address)?;
        Ok(Redis { stream, request: Vec::new(), token, waits: false, invalid: Vec::new() })
    }

    /// The same, and each write waits for a replica.
    pub fn waiting(mut self) -> Redis {
        self.waits = true;
        self
    }

    /// What this connection reads is remembered by the server, which tells that other one when it changes.
    ///
    /// # Errors
    /// The server does not know how.
    pub fn track(&mut self, other: i64) -> Result<(), Failure> {
        let other = other.to_string();
        expect(self.ask(&[b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", other.as_bytes()])?, &ok())
    }

    pub(super) fn ask(&mut self, words: &[&[u8]]) -> Result<Reply, Failure> {
        self.request.clear();
        command(&mut self.request, words);
        self.stream.send(&self.request)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Reply, Failure> {
        loop {
            match receive(&mut self.stream)? {
                Reply::Push(told) => self.heard(told),
                reply => return Ok(reply),
            }
        }
    }

    fn heard(&mut self, told: Vec<Reply>) {
        if let [Reply::Text(what), Reply::List(keys)] = &told[..]
            && what == b"invalidate"
        {
            let keys = keys.iter().filter_map(|key| if let Reply::Text(key) = key { Some(key.clone()) } else { None });
            self.invalid.extend(keys);
        }
    }

    /// A command that writes.
    fn change(&mut self, words: &[&[u8]]) -> Result<Reply, Failure> {
        if !self.waits {
            return self.ask(words);
        }
        self.request.clear();
        command(&mut self.request, words);
        command(&mut self.request, &[b"WAIT", b"1", b"0"]);
        self.stream.send(&self.request)?;
        let reply = self.answer()?;
        match self.answer()? {
            Reply::Number(1..) => Ok(reply),
            other => Err(format!("no replica has it: {other:?}").into()),
        }
    }
}

fn expect(reply: Reply, wanted: &Reply) -> Result<(), Failure> {
    if reply == *wanted { Ok(()) } else { Err(format!("{reply:?} instead of {wanted:?}").into()) }
}

fn ok() -> Reply {
    Reply::Text(b"OK".to_vec())
}

impl Store for Redis {
    fn read(&mut self, key: u64) -> Result<u64, Failure> {
        match self.ask(&[b"GET", key.to_string().as_bytes()])? {
            Reply::Text(bytes) => number_of(&bytes),
            other => Err(format!("key {key} is {other:?}").into()),
        }
    }

    fn write(&mut self, key: u64, number: u64) -> Result<(), Failure> {
        let reply = self.change(&[b"SET", key.to_string().as_bytes(), &bytes_of(number)])?;
        expect(reply, &ok())
    }

    fn increment(&mut self) -> Result<(), Failure> {
        match self.change(&[b"INCR", b"counter"])? {
            Reply::Number(1..) => Ok(()),
            other => Err(format!("the counter is {other:?}").into()),
        }
    }

    fn count(&mut self) -> Result<u64, Failure> {
        match self.ask(&[b"GET", b"counter"])? {
            Reply::Text(digits) => Ok(String::from_utf8_lossy(&digits).parse()?),
            Reply::Nothing => Ok(0),
            other => Err(format!("the counter is {other:?}").into()),
        }
    }

    fn lock(&mut self) -> Result<(), Failure> {
        let token = self.token.clone();
        loop {
            match self.change(&[b"SET", b"lock", &token, b"NX", b"PX", LOCK_MS])? {
                Reply::Nothing => {}
                reply => return expect(reply, &ok()),
            }
        }
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        let token = self.token.clone();
        let reply = self.change(&[b"EVAL", UNLOCK, b"1", b"lock", &token])?;
        expect(reply, &Reply::Number(1))
    }
}

/// The same with client-side caching: RESP3, one connection, so that what the server says of other keys is in order
/// with its answers. Before each read from the cache it is looked whether the server has said anything.
pub struct Cached {
    redis: Redis,
    values: HashMap<u64, u64>,
}

impl Cached {
    /// # Errors
    /// Nobody listens there, or the server is older than RESP3.
    pub fn connect(address: &str) -> Result<Cached, Failure> {
        let mut redis = Redis::connect(address)?;
        redis.ask(&[b"HELLO", b"3"])?;
        expect(redis.ask(&[b"CLIENT", b"TRACKING", b"ON"])?, &ok())?;
        Ok(Cached { redis, values: HashMap::new() })
    }

    /// Drops what the server has called invalid.
    fn hear(&mut self) -> Result<(), Failure> {
        self.redis.stream.take_what_is_there()?;
        while let Some((reply, used)) = super::resp::parse(self.redis.stream.rest())? {
            self.redis.stream.consume(used);
            match reply {
                Reply::Push(told) => self.redis.heard(told),
                other => return Err(format!("nobody asked for {other:?}").into()),
            }
        }
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        for key in self.redis.invalid.drain(..) {
            if let Ok(key) = String::from_utf8_lossy(&key).parse() {
                self.values.remove(&key);
            }
        }
    }
}

impl Store for Cached {
    fn read(&mut self, key: u64) -> Result<u64, Failure> {
        self.hear()?;
        if let Some(number) = self.values.get(&key) {
            return Ok(*number);
        }
        let number = self.redis.read(key)?;
        // What was said before the answer is older than the answer.
        self.forget();
        self.values.insert(key, number);
        Ok(number)
    }

    fn write(&mut self, key: u64, number: u64) -> Result<(), Failure> {
        self.values.remove(&key);
        self.redis.write(key, number)?;
        self.forget();
        Ok(())
    }

    fn increment(&mut self) -> Result<(), Failure> {
        self.redis.increment()
    }

    fn count(&mut self) -> Result<u64, Failure> {
        self.redis.count()
    }

    fn lock(&mut self) -> Result<(), Failure> {
        self.redis.lock()
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        self.redis.unlock()
    }
}
