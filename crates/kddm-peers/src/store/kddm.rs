//! A program that is a node of a cluster, as its users' programs are.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kddm::{Config, Node, Pod, Set, WriteGuard};

use crate::Failure;
use crate::system::System;

use super::{START_LIMIT, Store, TRY_AGAIN};

type Value = Pod<[u64; 8]>;

/// What a node may be told besides whom to ask for admission.
#[derive(Default)]
pub struct Survival {
    /// Where its log of who is a member lies.
    pub view_log: PathBuf,
    /// The socket of the guardian that proves its end.
    pub guardian: Option<PathBuf>,
}

/// A node, and the three sets of the workloads.
pub struct Kddm {
    node: Node,
    values: Set<Value>,
    counters: Set<Pod<u64>>,
    locks: Set<Pod<u64>>,
    held: Option<WriteGuard<Pod<u64>>>,
}

impl Kddm {
    /// Joins the cluster of that contact, or begins one if there is none.
    ///
    /// # Errors
    /// It is not let in.
    pub fn join(system: System, contact: &str, survival: Option<Survival>) -> Result<Kddm, Failure> {
        // What is left at the end is of no use to anybody.
        let mut config = Config::new().drain_limit(Duration::ZERO);
        config.guardian = None;
        if !contact.is_empty() {
            config = config.contact(contact.parse()?);
        }
        if let Some(survival) = survival {
            config = config.view_log(survival.view_log);
            config.guardian = survival.guardian;
        }
        let replicas = u8::from(system == System::KddmReplicated);
        let node = Node::join(config).wait()?;
        let values = node.set("peers/values").replicas(replicas).open().wait()?;
        let counters = node.set("peers/counters").replicas(replicas).open().wait()?;
        let locks = node.set("peers/locks").replicas(replicas).open().wait()?;
        Ok(Kddm { node, values, counters, locks, held: None })
    }

    /// Waits until three nodes decide who is a member.
    ///
    /// # Errors
    /// They never do.
    pub fn await_voters(&self) -> Result<(), Failure> {
        let start = Instant::now();
        while self.node.voting().voters.len() < 3 {
            if start.elapsed() > START_LIMIT {
                return Err(format!("only these decide: {:?}", self.node.voting().voters).into());
            }
            std::thread::sleep(TRY_AGAIN);
        }
        Ok(())
    }

    /// Where others find this node.
    pub fn address(&self) -> String {
        self.node.address().to_string()
    }
}

impl Store for Kddm {
    fn read(&mut self, key: u64) -> Result<u64, Failure> {
        Ok(self.values.get(key).wait()?.0[0])
    }

    fn write(&mut self, key: u64, number: u64) -> Result<(), Failure> {
        let mut value = self.values.grab(key).wait()?;
        value.0 = [number; 8];
        Ok(value.put().wait()?)
    }

    fn increment(&mut self) -> Result<(), Failure> {
        let mut count = self.counters.grab(0).wait()?;
        count.0 += 1;
        Ok(count.put().wait()?)
    }

    fn count(&mut self) -> Result<u64, Failure> {
        Ok(self.counters.get(0).wait()?.0)
    }

    fn lock(&mut self) -> Result<(), Failure> {
        self.held = Some(self.locks.grab(0).wait()?);
        Ok(())
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        match self.held.take() {
            Some(lock) => Ok(lock.put().wait()?),
            None => Err("the lock was not held".into()),
        }
    }
}
