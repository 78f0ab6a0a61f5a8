//! What is measured: a store of small values, a counter and a lock, whoever keeps them.

mod etcd;
mod grpc;
mod jute;
mod kddm;
mod memcached;
mod protobuf;
mod redis;
mod redis_thread;
mod resp;
pub mod sentinel;
mod stream;
pub mod zookeeper;

use std::time::Duration;

use crate::Failure;
use crate::system::System;

pub use self::etcd::Etcd;
pub use self::kddm::{Kddm, Survival};

/// Bytes of each value.
pub const VALUE_BYTES: usize = 64;

/// How long anything may take until it is there.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether it is.
pub const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Keys of all workloads.
pub const KEYS: u64 = 10_000;

/// A client of one system. A value is a number and as many bytes more as make it [`VALUE_BYTES`].
pub trait Store {
    /// The number of that key, as this client's next operation would see it.
    ///
    /// # Errors
    /// What the system says, or that its answer makes no sense.
    fn read(&mut self, key: u64) -> Result<u64, Failure>;

    /// Done when the system says so.
    ///
    /// # Errors
    /// As `read`.
    fn write(&mut self, key: u64, number: u64) -> Result<(), Failure>;

    /// Adds one to the counter that all clients share.
    ///
    /// # Errors
    /// As `read`.
    fn increment(&mut self) -> Result<(), Failure>;

    /// What the counter says.
    ///
    /// # Errors
    /// As `read`.
    fn count(&mut self) -> Result<u64, Failure>;

    /// Waits for the lock that all clients share.
    ///
    /// # Errors
    /// As `read`.
    fn lock(&mut self) -> Result<(), Failure>;

    /// Lets the next one have it.
    ///
    /// # Errors
    /// As `read`.
    fn unlock(&mut self) -> Result<(), Failure>;
}

/// A client of that system, whose server listens there.
///
/// # Errors
/// Nobody answers, or not in a way that is understood.
pub fn connect(system: System, address: &str) -> Result<Box<dyn Store>, Failure> {
    Ok(match system {
        System::Kddm | System::KddmReplicated => Box::new(Kddm::join(system, address, None)?),
        System::Redis | System::RedisSocket => Box::new(redis::Redis::connect(address)?),
        System::RedisWait => Box::new(redis::Redis::connect(address)?.waiting()),
        System::RedisCached => Box::new(redis::Cached::connect(address)?),
        System::RedisSentinel => Box::new(sentinel::connect(address)?.waiting()),
        System::RedisSentinelAsync => Box::new(sentinel::connect(address)?),
        System::Etcd => Box::new(Etcd::connect(address)?),
        System::ZooKeeper => Box::new(zookeeper::ZooKeeper::connect(address)?),
        System::RedisCachedByThread => Box::new(redis_thread::Threaded::connect(address)?),
        System::Memcached => Box::new(memcached::Memcached::connect(address)?),
    })
}

/// The bytes of a value.
fn bytes_of(number: u64) -> [u8; VALUE_BYTES] {
    let mut bytes = [b'.'; VALUE_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The number of a value that came from outside.
fn number_of(bytes: &[u8]) -> Result<u64, Failure> {
    match bytes.first_chunk() {
        Some(number) if bytes.len() == VALUE_BYTES => Ok(u64::from_le_bytes(*number)),
        _ => Err(format!("a value of {} bytes, not {VALUE_BYTES}", bytes.len()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_its_number_and_nothing_shorter() {
        assert_eq!(number_of(&bytes_of(u64::MAX - 7)).unwrap(), u64::MAX - 7);
        assert!(number_of(&bytes_of(1)[..VALUE_BYTES - 1]).is_err());
        assert!(number_of(b"").is_err());
    }
}
