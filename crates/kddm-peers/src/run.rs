//! One comparison: the systems in turns, round after round.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::Failure;
use crate::case::{Case, GROUPS, Group};
use crate::report::{Report, Row, Slice, Stale};
use crate::servers::Servers;
use crate::system::System;
use crate::worker::{self, Answer, Order, Worker};
use crate::workload::Done;

/// Nodes of a cluster with replicas at least: as many as peers need that survive the loss of one.
const LEAST_REPLICATED: usize = 3;

/// Reads in which stale ones are looked for, of a system that caches and of one that asks its server each time.
const STALE_READS: u64 = 1_000_000;
const STALE_READS_OVER_NETWORK: u64 = 100_000;

/// What the caller chose.
pub struct Options {
    /// How long each slice is.
    pub slice: Duration,
    /// Slices of each system in each case.
    pub rounds: u32,
    /// Only systems whose name contains this, or, if none does, only such groups, or such cases.
    pub only: Option<String>,
}

impl Options {
    fn wants_system(&self, system: System) -> bool {
        let Some(only) = &self.only else { return true };
        system.name().contains(only.as_str()) || !System::ALL.iter().any(|any| any.name().contains(only.as_str()))
    }

    /// Whether it is measured what kills cost: it is a case like any other.
    fn wants_kills(&self) -> bool {
        self.only.as_ref().is_none_or(|only| "kill".contains(only.as_str()))
    }

    /// All, if what was chosen names none.
    fn wants_group(&self, name: &str) -> bool {
        name_of_group(self.only.as_deref()).is_none_or(|only| name.contains(only))
    }

    fn wants_case(&self, name: &str) -> bool {
        let Some(only) = &self.only else { return true };
        name.contains(only.as_str())
            || name_of_group(Some(only)).is_some()
            || System::ALL.iter().any(|any| any.name().contains(only.as_str()))
    }
}

/// What was chosen, if it is in the name of a group.
fn name_of_group(only: Option<&str>) -> Option<&str> {
    only.filter(|only| GROUPS.iter().any(|group| group.name.contains(only)))
}

/// Measures everything that is there.
///
/// # Errors
/// A system that had come up failed.
pub fn run(options: &Options, groups: &[Group]) -> Result<Report, Failure> {
    let mut report = Report::new(options.slice, options.rounds);
    for group in groups.iter().filter(|group| options.wants_group(group.name)) {
        measure(options, group, &mut report)?;
    }
    if options.wants_kills() {
        report.losses = crate::loss::measure(&mut report.missing)?;
    }
    Ok(report)
}

fn measure(options: &Options, group: &Group, report: &mut Report) -> Result<(), Failure> {
    let cases: Vec<&Case> = group.cases.iter().filter(|case| options.wants_case(case.name)).collect();
    let stale = group.stale_reads && options.wants_case("stale_reads");
    if cases.is_empty() && !stale {
        return Ok(());
    }
    let mut servers = Servers::new(&group.name.replace(' ', "-"))?;
    let mut addresses = vec![(group.systems[0], String::new())];
    for peer in group.systems[1..].iter().filter(|system| options.wants_system(**system)) {
        match servers.address(*peer) {
            Ok(address) => addresses.push((*peer, address)),
            Err(error) => report.missing.push(format!("{}: {error}", peer.name())),
        }
    }
    if addresses.len() == 1 {
        return Ok(());
    }
    for (system, address) in &addresses[1..] {
        let mut filler = Worker::start(*system, address)?;
        filler.order(&Order::Fill)?;
        filler.done()?;
    }
    for case in cases {
        eprintln!("peers: {}, {}", group.name, case.name);
        report.rows.extend(compare(options, group, case, &addresses)?);
    }
    if stale {
        eprintln!("peers: {}, stale_reads", group.name);
        for (system, address) in &addresses {
            report.stale.push(stale_reads(*system, address, servers.folder())?);
        }
    }
    Ok(())
}

/// Clients of one system, of which the first so many work.
struct Clients {
    system: System,
    working: usize,
    all: Vec<Worker>,
}

impl Clients {
    /// Starts them, and one more where somebody else has to do something before.
    fn start(system: System, address: &str, case: &Case) -> Result<Clients, Failure> {
        let wanted = case.clients + usize::from(case.before.is_some());
        let wanted = if system == System::KddmReplicated { wanted.max(LEAST_REPLICATED) } else { wanted };
        // One node alone would have no network at all; nobody needs KDDM for that.
        let wanted = if system == System::Kddm { wanted.max(2) } else { wanted };
        let mut all: Vec<Worker> = Vec::new();
        for _ in 0..wanted {
            let address = all.first().filter(|_| system.is_ours()).map_or(address, |first| &first.address);
            let worker = Worker::start(system, address)?;
            all.push(worker);
        }
        if system.is_ours() {
            all[0].order(&Order::Fill)?;
            all[0].done()?;
        }
        Ok(Clients { system, working: case.clients, all })
    }

    fn slice(&mut self, options: &Options, case: &Case, seed: u64) -> Result<Slice, Failure> {
        let limit_ms = options.slice.as_millis() as u64;
        if let Some(workload) = case.before.filter(|_| self.system.moves_values())
            && let Some(other) = self.all.last_mut()
        {
            // It takes as long as it takes.
            other.order(&Order::Run { workload, limit_ms: u64::from(u32::MAX), seed })?;
            other.done()?;
        }
        let load = crate::report::load_average();
        for (number, worker) in self.all[..self.working].iter_mut().enumerate() {
            worker.order(&Order::Run { workload: case.workload, limit_ms, seed: seed * 64 + number as u64 })?;
        }
        let done: Result<Vec<Done>, Failure> = self.all[..self.working].iter_mut().map(Worker::done).collect();
        Ok(Slice { load, done: done? })
    }

    fn count(&mut self) -> Result<u64, Failure> {
        self.all[0].order(&Order::Count)?;
        match self.all[0].answer()? {
            Answer::Count(count) => Ok(count),
            other => Err(format!("a client said {other:?}").into()),
        }
    }
}

/// One case: a slice of each system in turn, so often as was asked for; the first ones only warm up.
fn compare(options: &Options, group: &Group, case: &Case, addresses: &[(System, String)]) -> Result<Vec<Row>, Failure> {
    let mut clients = Vec::new();
    for (system, address) in addresses {
        clients.push(Clients::start(*system, address, case)?);
    }
    let mut slices: HashMap<&'static str, Vec<Slice>> = HashMap::new();
    for round in 0..=options.rounds {
        for clients in &mut clients {
            let before = if is_counter(case) { clients.count()? } else { 0 };
            let slice = clients.slice(options, case, u64::from(round))?;
            if is_counter(case) {
                let (counted, done) = (clients.count()? - before, slice.operations());
                if counted != done {
                    let name = clients.system.name();
                    return Err(format!("{name}: {done} increments were acknowledged, and it counted {counted}").into());
                }
            }
            if round > 0 {
                slices.entry(clients.system.name()).or_default().push(slice);
            }
        }
    }
    let ours = slices.get(group.systems[0].name()).cloned().unwrap_or_default();
    let mut row = |(system, _): &(System, String)| {
        let slices = slices.remove(system.name()).unwrap_or_default();
        Row::new(group.name, case, *system, &slices, &ours)
    };
    Ok(addresses.iter().map(&mut row).collect())
}

fn is_counter(case: &Case) -> bool {
    case.workload == crate::workload::Workload::Increment
}

/// Reads while another client writes the same keys.
fn stale_reads(system: System, address: &str, folder: &Path) -> Result<Stale, Failure> {
    let file = folder.join(format!("stale-{}", system.name()));
    worker::stale_file(&file)?;
    let mut writer = Worker::start(system, address)?;
    let contact = if system.is_ours() { writer.address.clone() } else { address.to_owned() };
    let mut reader = Worker::start(system, &contact)?;
    if system.is_ours() {
        writer.order(&Order::Fill)?;
        writer.done()?;
    }
    writer.order(&Order::WriteForStale { file: file.clone() })?;
    let reads = if system.moves_values() { STALE_READS } else { STALE_READS_OVER_NETWORK };
    reader.order(&Order::ReadForStale { file, reads })?;
    let (reads, stale) = match reader.answer()? {
        Answer::Stale { reads, stale } => (reads, stale),
        other => return Err(format!("a client said {other:?}").into()),
    };
    Ok(Stale { system: system.name().into(), reads, stale, writes: writer.done()?.operations })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_is_a_system_a_group_or_a_case() {
        let only = |only: &str| Options { slice: Duration::ZERO, rounds: 1, only: Some(only.into()) };
        let (system, group, case) = (only("zookeeper"), only("survives"), only("lock_2"));
        assert!(system.wants_system(System::ZooKeeper) && !system.wants_system(System::Etcd));
        assert!(system.wants_case("lock_2") && system.wants_group("one copy"));
        assert!(group.wants_system(System::Etcd) && group.wants_case("lock_2"));
        assert!(group.wants_group("survives one of three") && !group.wants_group("one copy"));
        assert!(case.wants_system(System::Etcd) && case.wants_case("lock_2") && !case.wants_case("lock_1"));
        assert!([system, group, case].iter().all(|options| !options.wants_kills()) && only("kill").wants_kills());
    }
}
