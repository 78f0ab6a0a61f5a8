//! One run, from an empty network to a report.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use kddm_history::{BUDGET, Operation, Outcome};

use crate::client::{By, Client, Clock, OBJECTS};
use crate::cluster::{Host, Programs};
use crate::fault::{Drawn, Fault};
use crate::judge::{Last, judge};
use crate::network::{MOST_HOSTS, Network};
use crate::plan::Plan;
use crate::plot;
use crate::probe::{Probe, Recovery};
use crate::report::{Happened, Report};
use crate::residue::{Figures, Residue};
use crate::said;
use crate::world::Folder;

/// Clients of each daemon.
const CLIENTS: u64 = 2;

/// The limit of what must work before the first fault.
const CALM_LIMIT: Duration = Duration::from_secs(30);

/// How long clients work before the first fault and after the last.
const CALM: Duration = Duration::from_millis(1_500);

/// How often it is looked at what there is to do.
const LOOK: Duration = Duration::from_millis(10);

/// How long after its last start a daemon that has ended is started again.
const START_AGAIN: Duration = Duration::from_millis(500);

/// How long all daemons may take to be members again after the run.
const RETURN_LIMIT: Duration = Duration::from_secs(20);

/// The limit of a look at an object after the run, as long as there is time for that.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// How much time there is for all these looks at one host; then each gets little.
const LAST_LOOKS: Duration = Duration::from_secs(30);

/// The little.
const SHORT_LOOK: Duration = Duration::from_millis(50);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hosts, each with a daemon.
    pub nodes: u16,
    /// Decides everything that is drawn.
    pub seed: u64,
    /// How long faults are made.
    pub length: Duration,
    /// Not more kills than that; the run ends with them.
    pub kills: Option<u64>,
    /// The lease of the cluster.
    pub lease: Duration,
    /// Which faults.
    pub faults: Vec<Fault>,
    /// A host whose daemon no fault ends.
    pub spared: Option<u16>,
    /// Where the programs are.
    pub programs: PathBuf,
    /// Where logs, history, picture and report go.
    pub output: PathBuf,
}

/// Runs it.
///
/// # Errors
/// It could not be run, or was interrupted.
pub fn run(options: &Options, is_interrupted: &AtomicBool) -> Result<Report, String> {
    if !(2..=MOST_HOSTS).contains(&options.nodes) {
        return Err(format!("--nodes is {}; it must be from 2 to {MOST_HOSTS}", options.nodes));
    }
    let folder = Folder::make()?;
    let network = Network::make(options.nodes)?;
    let programs = Programs {
        folder: options.programs.clone(),
        logs: options.output.clone(),
        hosts: options.nodes,
        lease: options.lease,
    };
    let hosts = hosts(options, &network, &folder, &programs)?;
    let clock = Clock::default();
    let mut history = first_values(&clock, &hosts[0])?;
    let mut run = Run {
        options,
        network: &network,
        programs: &programs,
        clock: &clock,
        is_interrupted,
        started: vec![Instant::now(); hosts.len()],
        hosts,
        in_trouble: None,
        faults: Vec::new(),
        kills: 0,
        untaken: Vec::new(),
        dropped_packets: 0,
        residue: Residue::default(),
        bar: bar(options),
    };
    eprintln!("chaos: seed {}, {} daemons are members, faults begin", options.seed, options.nodes);
    let worked = run.work()?;
    history.extend(worked.history);
    run.bar.finish_and_clear();
    let end_ns = clock.now_ns();
    let processes = std::mem::take(&mut run.residue).judged();
    let mut notes = run.come_back();
    let (last, seen) = run.last_values(OBJECTS + worked.probes + 1);
    history.extend(seen);
    let returns = history.iter().filter(|operation| operation.outcome == Outcome::Ok);
    let throughput = plot::throughput(returns.filter_map(|operation| operation.return_ns), end_ns);
    let found = judge(&history, &last);
    let verdict = kddm_history::check(&history, BUDGET).verdict;
    notes.extend(keep(options, &history).into_iter().chain(run.not_measured()));
    let mut missing = run.missing();
    let returns = crate::judge::returns(&history, &run.faults, client_host(options.nodes));
    missing.extend(returns.iter().filter_map(|back| back.is_missed(end_ns)));
    Ok(Report {
        seed: options.seed,
        nodes: options.nodes,
        lease: options.lease,
        answered_alone: crate::judge::answered_alone(&history, &run.faults, options.lease, client_host(options.nodes)),
        returns,
        operations: history.len() as u64,
        errors: worked.errors,
        dropped_packets: run.dropped_packets,
        failed_starts: run.hosts.iter().map(|host| host.failed_starts).sum(),
        own_ends: run.hosts.iter().map(|host| host.own_ends).sum(),
        found,
        verdict,
        recoveries: worked.recoveries,
        throughput,
        processes,
        missing,
        notes,
        faults: run.faults,
    })
}

/// Gives all objects their first values.
fn first_values(clock: &Clock, host: &Host) -> Result<Vec<Operation>, String> {
    let mut first = Client::new(0, clock, &host.attach_socket());
    for object in 0..OBJECTS {
        first.update(object, CALM_LIMIT).map_err(|error| format!("nothing works before the first fault: {error}"))?;
    }
    Ok(first.history)
}

/// Writes the history down; what is to be said if it could not be.
fn keep(options: &Options, history: &[Operation]) -> Option<String> {
    let file = options.output.join("history.jsonl");
    let written =
        std::fs::File::create(&file).and_then(|out| kddm_history::write(history, std::io::BufWriter::new(out)));
    written.err().map(|error| format!("cannot write {}: {error}", file.display()))
}

/// On which host a client works, by its number; none for those that look for something else.
fn client_host(hosts: u16) -> impl Fn(u64) -> Option<u16> {
    let clients = CLIENTS * u64::from(hosts);
    move |number| (1..=clients).contains(&number).then(|| 1 + ((number - 1) % u64::from(hosts)) as u16)
}

/// All hosts, with daemons that are members.
fn hosts(options: &Options, network: &Network, folder: &Folder, programs: &Programs) -> Result<Vec<Host>, String> {
    let mut hosts = Vec::new();
    for number in 1..=options.nodes {
        let mut host = Host::make(number, network, folder, programs)?;
        host.start(programs)?;
        // The first begins the cluster.
        if number == 1 {
            host.wait_until_member()?;
        }
        hosts.push(host);
    }
    hosts.iter_mut().try_for_each(Host::wait_until_member)?;
    Ok(hosts)
}

fn bar(options: &Options) -> ProgressBar {
    let bar = ProgressBar::new(options.length.as_secs());
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What the threads of a run bring home.
#[derive(Default)]
struct Worked {
    history: Vec<Operation>,
    errors: u64,
    recoveries: Vec<Recovery>,
    /// The object behind theirs may have been taken for one that never began.
    probes: u64,
}

struct Run<'a> {
    options: &'a Options,
    network: &'a Network,
    programs: &'a Programs,
    clock: &'a Clock,
    is_interrupted: &'a AtomicBool,
    hosts: Vec<Host>,
    /// When each daemon was started last.
    started: Vec<Instant>,
    /// The host that has a fault now.
    in_trouble: Option<u16>,
    faults: Vec<Happened>,
    kills: u64,
    /// Why hosts could not take an object of their own before a fault.
    untaken: Vec<String>,
    dropped_packets: u64,
    residue: Residue,
    bar: ProgressBar,
}

type UnderWay<'scope> = ScopedJoinHandle<'scope, (Recovery, Vec<Operation>)>;

/// The probes of a run.
#[derive(Default)]
struct Probing<'scope> {
    under_way: Vec<UnderWay<'scope>>,
    over: Vec<(Recovery, Vec<Operation>)>,
    begun: u64,
}

impl Probing<'_> {
    /// Takes home what is over, or all of it: a thread that nobody has waited for keeps its stack.
    fn gather(&mut self, is_meant: fn(&UnderWay<'_>) -> bool) -> Result<(), String> {
        for probe in self.under_way.extract_if(.., |probe| is_meant(probe)) {
            self.over.push(probe.join().map_err(|_| "a probe has panicked")?);
        }
        Ok(())
    }
}

impl Run<'_> {
    fn work(&mut self) -> Result<Worked, String> {
        let clock = self.clock;
        let sockets: Vec<PathBuf> = self.hosts.iter().map(Host::attach_socket).collect();
        let mut seeds = fastrand::Rng::with_seed(self.options.seed);
        std::thread::scope(|scope| {
            let mut clients = Vec::new();
            for number in 0..CLIENTS * sockets.len() as u64 {
                let (socket, seed) = (&sockets[number as usize % sockets.len()], seeds.u64(..));
                let mut client = Client::new(1 + number, clock, socket);
                clients.push(scope.spawn(move || {
                    client.work(seed);
                    (client.history, client.errors)
                }));
            }
            let mut probing = Probing::default();
            let went = self.make_trouble(scope, &mut probing);
            clock.is_over.store(true, Ordering::Release);
            probing.gather(|_| true)?;
            let mut worked = Worked { probes: probing.begun, ..Worked::default() };
            for client in clients {
                let (history, errors) = client.join().map_err(|_| "a client has panicked")?;
                worked.history.extend(history);
                worked.errors += errors;
            }
            for (recovery, history) in probing.over {
                worked.recoveries.push(recovery);
                worked.history.extend(history);
            }
            worked.history.extend(went?);
            Ok(worked)
        })
    }

    /// One fault after the other until the run is over. What the hosts did for the probes.
    fn make_trouble<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        probing: &mut Probing<'scope>,
    ) -> Result<Vec<Operation>, String>
    where
        Self: 'scope,
    {
        let begun = Instant::now();
        let mut plan = Plan::new(self.options.seed, &self.options.faults, self.options.nodes, self.options.lease);
        let mut history = Vec::new();
        self.wait(CALM)?;
        while begun.elapsed() < self.options.length && self.options.kills.is_none_or(|kills| self.kills < kills) {
            let may_lose = self.leader_of_a_whole().is_some();
            let may = |fault: Fault, host: u16| {
                let is_spared = self.options.spared == Some(host) && fault.ends_daemon();
                !is_spared && self.hosts[usize::from(host) - 1].is_member() && (may_lose || !self.loses(fault))
            };
            let Some((pause, drawn)) = plan.next(may) else {
                self.wait(10 * LOOK)?;
                continue;
            };
            self.wait(pause)?;
            let leader = self.leader_of_a_whole();
            // A lease may have run out by itself meanwhile.
            if self.loses(drawn.fault) && leader.is_none() {
                continue;
            }
            self.do_one(&drawn, leader == Some(drawn.host), scope, probing, &mut history)?;
        }
        self.wait(CALM)?;
        Ok(history)
    }

    /// Whether a host that has that fault may be lost to the others.
    fn loses(&self, fault: Fault) -> bool {
        // The kernel tells of a cable that is back up to a second late.
        fault.ends_daemon() || fault.may_expel(self.options.lease) || fault == Fault::CutShort
    }

    /// Who leads those who decide, if all is whole and one host may be lost. What is promised holds for one loss at a
    /// time: objects have one replica.
    fn leader_of_a_whole(&self) -> Option<u16> {
        // Whoever could not be heard may still be on the way out.
        let lease_ns = self.options.lease.as_nanos() as u64;
        let settled_ns = self.clock.now_ns().saturating_sub(2 * lease_ns);
        let is_settled = |last: &Happened| last.fault.is_over_at_once() || last.to_ns < settled_ns;
        let may_lose = self.hosts.iter().all(Host::is_member) && self.faults.last().is_none_or(is_settled);
        may_lose.then(|| said::whole(&self.hosts, self.programs)).flatten().map(|said| said.leader)
    }

    fn do_one<'scope>(
        &mut self,
        drawn: &Drawn,
        led: bool,
        scope: &'scope Scope<'scope, '_>,
        probing: &mut Probing<'scope>,
        history: &mut Vec<Operation>,
    ) -> Result<(), String>
    where
        Self: 'scope,
    {
        let at = usize::from(drawn.host) - 1;
        let number = probing.begun;
        probing.gather(|probe| probe.is_finished())?;
        let mut owner = Client::new(crate::probe::PROBES * 2 + number, self.clock, &self.hosts[at].attach_socket());
        let probe = Probe::prepare(number, &mut owner);
        history.append(&mut owner.history);
        // While the program is attached the object would be the program's.
        drop(owner);
        if !self.hosts[at].has_daemon() {
            return Ok(()); // It has ended by itself meanwhile.
        }
        self.bar.set_message(format!("{} on host {}", drawn.fault.name(), drawn.host));
        let (from_ns, begun) = (self.clock.now_ns(), Instant::now());
        self.in_trouble = Some(drawn.host);
        drawn.begin(&mut self.hosts[at], self.network)?;
        let whole_from_ns = self.clock.now_ns();
        self.kills += u64::from(drawn.fault == Fault::Kill);
        let is_elsewhere = |host: &&Host| host.number() != drawn.host && !drawn.is_cut_off(host.number());
        let elsewhere = self.hosts.iter().filter(is_elsewhere).find(|host| host.is_member());
        let probe = probe.map_err(|error| self.untaken.push(error.to_string()));
        if let (Ok(probe), Some(elsewhere)) = (probe, elsewhere) {
            let of = Recovery { fault: drawn.fault, led, took: None };
            let (socket, clock) = (elsewhere.attach_socket(), self.clock);
            probing.begun += 1;
            probing.under_way.push(scope.spawn(move || probe.run(of, begun, clock, socket)));
        }
        let waited = self.wait(drawn.lasts);
        self.started[at] = Instant::now();
        let whole_ns = whole_from_ns..self.clock.now_ns();
        self.dropped_packets += drawn.end(&mut self.hosts[at], self.network, self.programs)?;
        self.in_trouble = None;
        let to_ns = self.clock.now_ns();
        let cut_off = (1..=self.options.nodes).filter(|host| drawn.is_cut_off(*host)).collect();
        let (fault, host) = (drawn.fault, drawn.host);
        let happened = Happened { fault, led, host, from_ns, to_ns, whole_ns, cut_off };
        self.note(&happened)?;
        self.faults.push(happened);
        self.bar.set_message("");
        waited
    }

    /// Writes it beside the logs at once: what a log says is understood by what was done then.
    fn note(&self, happened: &Happened) -> Result<(), String> {
        let path = self.options.output.join("faults.jsonl");
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let line = happened.line(SystemTime::now());
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Waits, and starts daemons again that have ended.
    fn wait(&mut self, length: Duration) -> Result<(), String> {
        let until = Instant::now() + length;
        loop {
            if self.is_interrupted.load(Ordering::Acquire) {
                return Err("interrupted".into());
            }
            self.start_again()?;
            self.look_at_processes();
            self.bar.set_position(self.clock.now_ns() / 1_000_000_000);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn start_again(&mut self) -> Result<(), String> {
        for (host, started) in self.hosts.iter_mut().zip(&mut self.started) {
            let is_due = self.in_trouble != Some(host.number()) && started.elapsed() >= START_AGAIN;
            if is_due && !host.has_daemon() {
                *started = Instant::now();
                host.start(self.programs)?;
            }
        }
        Ok(())
    }

    /// Of daemons only that which no fault ends.
    fn look_at_processes(&mut self) {
        let of_host = |host: &Host| {
            let (number, (guardian, daemon)) = (host.number(), host.processes());
            let daemon = daemon.filter(|_| self.options.spared == Some(number));
            let daemon = daemon.map(|pid| (format!("the daemon of host {number}"), pid, Figures::All));
            [Some((format!("the guardian of host {number}"), guardian, Figures::All)), daemon].into_iter().flatten()
        };
        let own = ("this program".to_string(), std::process::id(), Figures::WithoutMemory);
        self.residue.look(self.hosts.iter().flat_map(of_host).chain([own]));
    }

    /// Waits until all daemons are members again; what is to be said of those that are not.
    fn come_back(&mut self) -> Vec<String> {
        let begun = Instant::now();
        while begun.elapsed() < RETURN_LIMIT && !self.hosts.iter().all(Host::is_member) {
            if let Err(error) = self.wait(LOOK) {
                return vec![error];
            }
        }
        let away = self.hosts.iter().filter(|host| !host.is_member());
        away.map(|host| format!("the daemon of host {} did not come back; its log says why", host.number())).collect()
    }

    /// Looks at all objects from all hosts that are members: the value of each, by the first that has one.
    fn last_values(&self, objects: u64) -> (HashMap<u64, Last>, Vec<Operation>) {
        let look = |host: &Host| {
            let mut client =
                Client::new(crate::probe::PROBES * 3 + u64::from(host.number()), self.clock, &host.attach_socket());
            let begun = Instant::now();
            let mut values = Vec::new();
            for object in 0..objects {
                let limit = if begun.elapsed() < LAST_LOOKS { LAST_LOOK } else { SHORT_LOOK };
                values.push((object, client.read(object, By::Get, limit).ok()));
            }
            (values, client.history)
        };
        let mut last: HashMap<u64, Last> = HashMap::new();
        let mut history = Vec::new();
        std::thread::scope(|scope| {
            let members = self.hosts.iter().filter(|host| host.is_member());
            let looks: Vec<_> = members.map(|host| scope.spawn(move || look(host))).collect();
            for (values, seen) in looks.into_iter().filter_map(|look| look.join().ok()) {
                for (object, value) in values {
                    let known = last.entry(object).or_default();
                    *known = known.or(value);
                }
                history.extend(seen);
            }
        });
        (last, history)
    }

    /// Of how many faults it is not known how long an object of the host was away.
    fn not_measured(&self) -> Option<String> {
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        self.untaken.iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
        let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
        let said = format!("objects that hosts could not take before their faults: {}", reasons.join("; "));
        (!reasons.is_empty()).then_some(said)
    }

    /// What was asked for and did not happen.
    fn missing(&self) -> Vec<String> {
        let has = |fault: &Fault| self.faults.iter().any(|happened| happened.fault == *fault);
        let never = self.options.faults.iter().filter(|fault| !has(fault)).map(|fault| fault.name().to_string());
        let mut missing: Vec<String> = never.collect();
        let loses = [Fault::Split, Fault::RandomLoss, Fault::OneWay, Fault::OneWayShort];
        if loses.iter().any(has) && self.dropped_packets == 0 {
            missing.push("no packet was lost".into());
        }
        missing
    }
}
