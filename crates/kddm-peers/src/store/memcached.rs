//! A client of memcached, in its text protocol.

use crate::Failure;

use super::stream::Stream;
use super::{Store, VALUE_BYTES, bytes_of, number_of};

/// A line of an answer: longer than any that is expected.
const LINE_LIMIT_BYTES: usize = 512;

/// One connection, without pipelining.
pub struct Memcached {
    stream: Stream,
    request: Vec<u8>,
}

impl Memcached {
    /// # Errors
    /// Nobody listens there, or it is none.
    pub fn connect(address: &str) -> Result<Memcached, Failure> {
        let mut memcached = Memcached { stream: Stream::connect(address)?, request: Vec::new() };
        // If it is there already, this changes nothing.
        memcached.ask(&[b"add counter 0 0 1\r\n0\r\n"])?;
        Ok(memcached)
    }

    fn ask(&mut self, parts: &[&[u8]]) -> Result<String, Failure> {
        self.request.clear();
        parts.iter().for_each(|part| self.request.extend_from_slice(part));
        self.stream.send(&self.request)?;
        self.line()
    }

    fn line(&mut self) -> Result<String, Failure> {
        loop {
            let rest = self.stream.rest();
            if let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.stream.consume(end + 2);
                return Ok(line);
            }
            if rest.len() > LINE_LIMIT_BYTES {
                return Err("a line without an end".into());
            }
            self.stream.wait()?;
        }
    }

    fn expect(&mut self, parts: &[&[u8]], wanted: &str) -> Result<(), Failure> {
        let line = self.ask(parts)?;
        if line == wanted { Ok(()) } else { Err(format!("{line:?} instead of {wanted:?}").into()) }
    }

    /// The bytes of a key, which are as many as the server says, and no more than a value has.
    fn get(&mut self, key: &str) -> Result<Vec<u8>, Failure> {
        let line = self.ask(&[b"get ", key.as_bytes(), b"\r\n"])?;
        let length = line.strip_prefix("VALUE ").and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        let Some(length) = length.filter(|length| *length <= VALUE_BYTES) else {
            return Err(format!("key {key} is {line:?}").into());
        };
        while self.stream.rest().len() < length + 2 {
            self.stream.wait()?;
        }
        let bytes = self.stream.rest()[..length].to_vec();
        self.stream.consume(length + 2);
        match self.line()?.as_str() {
            "END" => Ok(bytes),
            other => Err(format!("{other:?} instead of END").into()),
        }
    }
}

impl Store for Memcached {
    fn read(&mut self, key: u64) -> Result<u64, Failure> {
        number_of(&self.get(&key.to_string())?)
    }

    fn write(&mut self, key: u64, number: u64) -> Result<(), Failure> {
        let head = format!("set {key} 0 0 {VALUE_BYTES}\r\n");
        self.expect(&[head.as_bytes(), &bytes_of(number), b"\r\n"], "STORED")
    }

    fn increment(&mut self) -> Result<(), Failure> {
        let line = self.ask(&[b"incr counter 1\r\n"])?;
        line.parse::<u64>().map(|_| ()).map_err(|_| format!("the counter is {line:?}").into())
    }

    fn count(&mut self) -> Result<u64, Failure> {
        Ok(String::from_utf8_lossy(&self.get("counter")?).trim().parse()?)
    }

    fn lock(&mut self) -> Result<(), Failure> {
        loop {
            match self.ask(&[b"add lock 0 30 1\r\n1\r\n"])?.as_str() {
                "STORED" => return Ok(()),
                "NOT_STORED" => {}
                other => return Err(format!("the lock is {other:?}").into()),
            }
        }
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        self.expect(&[b"delete lock\r\n"], "DELETED")
    }
}
