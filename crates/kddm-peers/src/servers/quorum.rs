//! Servers of three hosts, of which one may fail.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::store::{Etcd, START_LIMIT, TRY_AGAIN, sentinel, zookeeper};
use crate::system::System;

use super::{Servers, await_answer, free_port};

/// Hosts of each.
const HOSTS: usize = 3;

/// Where Debian's package has ZooKeeper.
const ZOOKEEPER: &str = "/usr/share/java/zookeeper.jar";

/// A sentinel calls a server dead that has been silent for so long. Its own choice is 30 s; so long is a lease of ours,
/// and what etcd waits for at least.
const SILENCE_MS: u64 = 1000;

/// After so long sentinels try once more where they could not agree. Their own choice is 3 minutes, longer than
/// anything here may take.
const NEXT_TRY_MS: u64 = 5000;

/// What to do to lose a host, and what is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quorum {
    /// The processes of the host that leads.
    pub leader: Vec<usize>,
    /// Where the others are asked.
    pub others: Vec<String>,
}

impl Servers {
    /// Three members of etcd; the address of the one that leads.
    pub(super) fn etcd(&mut self) -> Result<String, Failure> {
        let mut members = Vec::new();
        for name in ["a", "b", "c"] {
            members.push((name, format!("127.0.0.1:{}", free_port()?), format!("http://127.0.0.1:{}", free_port()?)));
        }
        let cluster: Vec<String> = members.iter().map(|(name, _, peer)| format!("{name}={peer}")).collect();
        let cluster = cluster.join(",");
        let mut children = Vec::new();
        for (name, client, peer) in &members {
            let client = format!("http://{client}");
            let words = ["--name", name, "--data-dir", name, "--initial-cluster", &cluster];
            let peers = ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer];
            let clients = ["--listen-client-urls", &client, "--advertise-client-urls", &client];
            children.push(self.start("etcd", &[&words[..], &peers, &clients].concat())?);
        }
        let members = members.into_iter().map(|(_, client, _)| client).zip(children).collect();
        self.led(System::Etcd, members, |address| Etcd::connect(address)?.leads())
    }

    /// Waits for all members, whose addresses and processes these are; the address of the one that leads.
    fn led(
        &mut self,
        system: System,
        members: Vec<(String, usize)>,
        leads: impl Fn(&str) -> Result<bool, Failure>,
    ) -> Result<String, Failure> {
        for (address, _) in &members {
            await_answer(system, address)?;
        }
        for (leader, process) in &members {
            if leads(leader)? {
                let others = members.iter().map(|(address, _)| address).filter(|address| *address != leader);
                self.quorum = Some(Quorum { leader: vec![*process], others: others.cloned().collect() });
                return Ok(leader.clone());
            }
        }
        Err(format!("no member of {} leads", system.name()).into())
    }

    /// Three members of ZooKeeper, as its example of a configuration has them; the address of the one that leads.
    pub(super) fn zookeeper(&mut self) -> Result<String, Failure> {
        let java = super::program("java")?;
        if !Path::new(ZOOKEEPER).is_file() {
            return Err("ZooKeeper is not here; apt-get install zookeeper".into());
        }
        let mut ensemble = String::new();
        for member in 1..=HOSTS {
            ensemble += &format!("server.{member}=127.0.0.1:{}:{}\n", free_port()?, free_port()?);
        }
        let mut members = Vec::new();
        for member in 1..=HOSTS {
            let (name, port) = (format!("zookeeper-{member}"), free_port()?);
            let folder = self.folder().join(&name);
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("myid"), member.to_string())?;
            let settings = format!(
                "tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxSessionTimeout={}\nadmin.enableServer=false\n\
                 dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n{ensemble}",
                zookeeper::SESSION_MS,
                folder.display()
            );
            let file = folder.join("zoo.cfg");
            std::fs::write(&file, settings)?;
            let main = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
            let child = self.start_at(&java, &["-Xmx512m", "-cp", ZOOKEEPER, main, &file.display().to_string()])?;
            members.push((format!("127.0.0.1:{port}"), child));
        }
        self.led(System::ZooKeeper, members, zookeeper::leads)
    }

    /// Redis with two replicas, and a sentinel beside each of the three; the address of the sentinel beside the first.
    pub(super) fn redis_with_sentinels(&mut self, system: System) -> Result<String, Failure> {
        let first = free_port()?;
        let mut leader = vec![self.redis_at(first, &["--repl-diskless-sync-delay", "0"])?];
        for _ in 1..HOSTS {
            let followed = first.to_string();
            let more = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &followed];
            self.redis_at(free_port()?, &more)?;
        }
        // A sentinel looks for replicas at once, and then only after ten seconds.
        let replicas = HOSTS - 1;
        within(START_LIMIT, || sentinel::has_replicas(&format!("127.0.0.1:{first}"), replicas))?;
        let mut addresses = Vec::new();
        for number in 0..HOSTS {
            let (port, name) = (free_port()?, sentinel::NAME);
            let settings = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor {name} 127.0.0.1 {first} 2\n\
                 sentinel down-after-milliseconds {name} {SILENCE_MS}\nsentinel failover-timeout {name} {NEXT_TRY_MS}\n"
            );
            // It writes there what it learns.
            let file = self.folder().join(format!("sentinel-{number}.conf"));
            std::fs::write(&file, settings)?;
            let child = self.start("redis-server", &[&file.display().to_string(), "--sentinel"])?;
            if number == 0 {
                leader.push(child);
            }
            addresses.push(format!("127.0.0.1:{port}"));
        }
        for address in &addresses {
            within(START_LIMIT, || sentinel::knows(address, replicas))?;
        }
        let first = addresses.remove(0);
        await_answer(system, &first)?;
        self.quorum = Some(Quorum { leader, others: addresses });
        Ok(first)
    }
}

/// Waits until that is so.
fn within(limit: Duration, is_so: impl Fn() -> Result<bool, Failure>) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match is_so() {
            Ok(true) => return Ok(()),
            Ok(false) if start.elapsed() > limit => return Err(format!("not there after {limit:?}").into()),
            Err(error) if start.elapsed() > limit => return Err(error),
            _ => std::thread::sleep(TRY_AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_is_awaited_no_longer_than_the_limit() {
        let tries = std::cell::Cell::new(0);
        let third = || {
            tries.set(tries.get() + 1);
            Ok(tries.get() == 3)
        };
        within(START_LIMIT, third).unwrap();
        assert_eq!(tries.get(), 3);
        assert!(within(Duration::ZERO, || Ok(false)).is_err());
        assert_eq!(within(Duration::ZERO, || Err("why".into())).unwrap_err().to_string(), "why");
    }
}
