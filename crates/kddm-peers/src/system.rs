//! Who is compared.

use serde::{Deserialize, Serialize};

/// One system, in the way it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum System {
    /// Nodes in the programs themselves, objects without a replica.
    Kddm,
    /// The same with one replica.
    KddmReplicated,
    /// One server, over TCP.
    Redis,
    /// One server, over a Unix socket.
    RedisSocket,
    /// One server, over a Unix socket, with client-side caching; each read looks first whether the server has said anything.
    RedisCached,
    /// The same, and a thread of the client hears what the server says.
    RedisCachedByThread,
    /// A server with one replica; a write is done when both have it.
    RedisWait,
    /// One server, over TCP.
    Memcached,
    /// Three members; clients ask the one that leads.
    Etcd,
    /// Three members; clients ask the one that leads, and read what it has.
    ZooKeeper,
    /// A server with two replicas, and a sentinel beside each; a write is done when one replica has it.
    RedisSentinel,
    /// The same, and a write is done when the server has it.
    RedisSentinelAsync,
}

impl System {
    /// All, in the order of their columns.
    pub const ALL: &[System] = &[
        System::Kddm,
        System::KddmReplicated,
        System::Redis,
        System::RedisSocket,
        System::RedisCached,
        System::RedisCachedByThread,
        System::RedisWait,
        System::Memcached,
        System::Etcd,
        System::ZooKeeper,
        System::RedisSentinel,
        System::RedisSentinelAsync,
    ];

    /// Its name in tables and arguments.
    pub fn name(self) -> &'static str {
        match self {
            System::Kddm => "kddm",
            System::KddmReplicated => "kddm-replica",
            System::Redis => "redis",
            System::RedisSocket => "redis-unix",
            System::RedisCached => "redis-cached",
            System::RedisCachedByThread => "redis-cached-thread",
            System::RedisWait => "redis-wait",
            System::Memcached => "memcached",
            System::Etcd => "etcd",
            System::ZooKeeper => "zookeeper",
            System::RedisSentinel => "redis-sentinel",
            System::RedisSentinelAsync => "redis-sentinel-async",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<System> {
        System::ALL.iter().copied().find(|system| system.name() == name)
    }

    /// Whether it is this project's.
    pub fn is_ours(self) -> bool {
        matches!(self, System::Kddm | System::KddmReplicated)
    }

    /// Whether a read or write of a key is another thing for the client that used it last.
    pub fn moves_values(self) -> bool {
        self.is_ours() || matches!(self, System::RedisCached | System::RedisCachedByThread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_is_found_by_its_name() {
        for system in System::ALL {
            assert_eq!(System::named(system.name()), Some(*system));
        }
        assert_eq!(System::named("none"), None);
    }
}
