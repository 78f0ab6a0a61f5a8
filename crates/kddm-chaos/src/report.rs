//! What a run came to.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use kddm_history::Verdict;
use serde_json::{Value as Json, json};

use crate::fault::Fault;
use crate::judge::{Found, Return};
use crate::plot;
use crate::probe::Recovery;
use crate::residue::Watched;

/// A fault that was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Happened {
    /// Which.
    pub fault: Fault,
    /// The host led those who decide who is a member, as all of them said just before. Not known while something was
    /// missing.
    pub led: bool,
    /// Where.
    pub host: u16,
    /// From when, in nanoseconds of the run.
    pub from_ns: u64,
    /// Until when.
    pub to_ns: u64,
    /// From when until when it was there as a whole: to bring it about on several hosts takes long on a busy machine, and so
    /// does to undo it.
    pub whole_ns: Range<u64>,
    /// The hosts that were cut off together, if the network was split.
    pub cut_off: Vec<u16>,
}

impl Happened {
    /// A line of `faults.jsonl`, which stands beside the logs of the daemons: so with the time of day, too.
    pub fn line(&self, wall: SystemTime) -> String {
        let wall_ms = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let ms = |ns: u64| ns / 1_000_000;
        json!({
            "fault": self.fault.name(), "host": self.host, "led": self.led, "cut_off": self.cut_off,
            "from_ms": ms(self.from_ns), "whole_from_ms": ms(self.whole_ns.start),
            "whole_to_ms": ms(self.whole_ns.end), "to_ms": ms(self.to_ns), "ended_at_unix_ms": wall_ms,
        })
        .to_string()
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// What decided it.
    pub seed: u64,
    /// How many hosts.
    pub nodes: u16,
    /// The lease of the cluster.
    pub lease: Duration,
    /// Operations that were begun on the smaller side of a split when no lease could last any more, and answered.
    pub answered_alone: u64,
    /// When the clients of a host could work again after a fault was over.
    pub returns: Vec<Return>,
    /// What went wrong, in order.
    pub faults: Vec<Happened>,
    /// Operations that were completed, or may have been.
    pub operations: u64,
    /// Operations that ended with an error.
    pub errors: u64,
    /// Packets that did not arrive.
    pub dropped_packets: u64,
    /// Daemons that could not become members again, so often.
    pub failed_starts: u64,
    /// Daemons that were members and ended though nobody made them.
    pub own_ends: u64,
    /// Lost and stale.
    pub found: Found,
    /// Whether it is linearizable.
    pub verdict: Verdict,
    /// How long objects were away.
    pub recoveries: Vec<Recovery>,
    /// Completed operations in each tenth of a second.
    pub throughput: Vec<u64>,
    /// Those that lived long enough to be judged by what they have of the system.
    pub processes: Vec<Watched>,
    /// What was asked for and did not happen.
    pub missing: Vec<String>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether all is as it must be.
    pub fn is_clean(&self) -> bool {
        let Found { lost, stale, .. } = self.found;
        lost == 0
            && stale == 0
            && self.answered_alone == 0
            && self.verdict == Verdict::Linearizable
            && self.processes.iter().all(|process| process.grew().is_none())
            && self.missing.is_empty()
    }

    fn count(&self, kinds: &[Fault]) -> usize {
        self.faults.iter().filter(|happened| kinds.contains(&happened.fault)).count()
    }

    fn leader_kills(&self) -> usize {
        self.faults.iter().filter(|happened| happened.fault == Fault::Kill && happened.led).count()
    }

    /// Of those that are meant: the times in milliseconds, sorted, and how often never.
    fn recovered(&self, is_meant: impl Fn(&Recovery) -> bool) -> (Vec<f64>, usize) {
        let meant: Vec<&Recovery> = self.recoveries.iter().filter(|recovery| is_meant(recovery)).collect();
        let took = meant.iter().filter_map(|recovery| recovery.took);
        let mut times: Vec<f64> = took.map(|took: Duration| took.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let never = meant.len() - times.len();
        (times, never)
    }

    /// How long after such a fault was over a client of its host could work again, in milliseconds, sorted.
    fn back(&self, fault: Fault) -> Vec<f64> {
        let of_fault = self.returns.iter().filter(|back| back.fault == fault);
        let mut times: Vec<f64> =
            of_fault.filter_map(|back| back.after).map(|after| after.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    /// As `--json` prints it.
    pub fn json(&self) -> Json {
        let (kills, never) = self.recovered(|of| of.fault == Fault::Kill);
        let (led, led_never) = self.recovered(|of| of.fault == Fault::Kill && of.led);
        let mut by_fault = BTreeMap::new();
        for (fault, name) in Fault::ALL {
            let (times, never) = self.recovered(|of| of.fault == fault);
            let count = self.count(&[fault]);
            let limit = fault.limit(self.lease).map(|limit| limit.as_secs_f64() * 1e3);
            let within = limit.map(|limit| times.iter().filter(|time| **time <= limit).count());
            let back = self.back(fault);
            let each = json!({"count": count, "p50_ms": at(&times, 0.5), "p99_ms": at(&times, 0.99),
                              "recovered": times.len(), "never": never, "limit_ms": limit, "within": within,
                              "back": {"p50_ms": at(&back, 0.5), "p99_ms": at(&back, 0.99), "count": back.len()}});
            by_fault.insert(name, each);
        }
        let linearizable = match &self.verdict {
            Verdict::Linearizable => Json::Bool(true),
            Verdict::NotLinearizable(_) => Json::Bool(false),
            Verdict::Unknown(_) => Json::Null,
        };
        json!({
            "kills": self.count(&[Fault::Kill]),
            "leader_kills": {"count": self.leader_kills(), "p50_ms": at(&led, 0.5), "p99_ms": at(&led, 0.99),
                             "recovered": led.len(), "never": led_never},
            "pauses": self.count(&[Fault::Pause, Fault::PauseShort]),
            "cuts": self.count(&[Fault::Cut, Fault::CutShort, Fault::OneWay, Fault::OneWayShort]),
            "operations": self.operations,
            "lost": self.found.lost,
            "stale": self.found.stale,
            "linearizable": linearizable,
            "recovery_ms": {"p50": at(&kills, 0.5), "p99": at(&kills, 0.99), "never": never},
            "seed": self.seed,
            "nodes": self.nodes,
            "errors": self.errors,
            "unreadable": self.found.unreadable,
            "dropped_packets": self.dropped_packets,
            "failed_starts": self.failed_starts,
            "own_ends": self.own_ends,
            "lease_ms": self.lease.as_millis() as u64,
            "answered_alone": self.answered_alone,
            "faults": by_fault,
            "processes": self.processes.iter().map(Watched::json).collect::<Vec<_>>(),
            "missing": self.missing,
            "notes": self.notes,
        })
    }

    /// A line for each fault, with what became of the object of its host.
    pub fn each_fault(&self) -> String {
        let line = |happened: &Happened| {
            let (from, lasted) = (happened.from_ns as f64 / 1e9, (happened.to_ns - happened.from_ns) as f64 / 1e9);
            let led = if happened.led { ", which led" } else { "" };
            format!("{from:>8.2} s  {:<14} host {}{led}  for {lasted:.2} s\n", happened.fault.name(), happened.host)
        };
        self.faults.iter().map(line).collect()
    }
}

/// The value at that share of sorted ones.
fn at(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let value = sorted.get((last as f64 * share).round() as usize)?;
    Some((value * 10.0).round() / 10.0)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, nodes, operations, errors, .. } = self;
        writeln!(f, "{}", plot::sparkline(&self.throughput, &self.faults))?;
        writeln!(f, "seed {seed}, {nodes} nodes: {operations} operations, {errors} errors on the way")?;
        for (fault, name) in Fault::ALL {
            let (times, never) = self.recovered(|of| of.fault == fault);
            let count = self.count(&[fault]);
            if count == 0 {
                continue;
            }
            write!(f, "  {count:>4} × {name:<14}")?;
            if let (Some(p50), Some(p99)) = (at(&times, 0.5), at(&times, 0.99)) {
                let count = times.len();
                write!(f, " {count} objects of its hosts elsewhere after {p50} ms (p50), {p99} ms (p99)")?;
            }
            if let Some(limit) = fault.limit(self.lease) {
                let within = times.iter().filter(|time| **time <= limit.as_secs_f64() * 1e3).count();
                write!(f, ", {within} within {} ms", limit.as_millis())?;
            }
            let back = self.back(fault);
            if let (Some(p50), Some(p99)) = (at(&back, 0.5), at(&back, 0.99)) {
                write!(f, "; {} back {p50} ms (p50), {p99} ms (p99) after its end", back.len())?;
            }
            writeln!(f, "{}", if never > 0 { format!("; {never} never") } else { String::new() })?;
        }
        if self.leader_kills() > 0 {
            let (led, never) = self.recovered(|of| of.fault == Fault::Kill && of.led);
            write!(
                f,
                "  {:>4} of these kills hit the leader of those who decide: {} objects",
                self.leader_kills(),
                led.len()
            )?;
            if let (Some(p50), Some(p99)) = (at(&led, 0.5), at(&led, 0.99)) {
                write!(f, " elsewhere after {p50} ms (p50), {p99} ms (p99)")?;
            }
            writeln!(f, "{}", if never > 0 { format!("; {never} never") } else { String::new() })?;
        }
        let Found { lost, stale, unreadable } = self.found;
        write!(f, "lost {lost} (objects that cannot be read: {unreadable}), stale {stale}, ")?;
        if self.answered_alone > 0 {
            write!(f, "answered by a minority {}, ", self.answered_alone)?;
        }
        match &self.verdict {
            Verdict::Linearizable => writeln!(f, "linearizable")?,
            Verdict::Unknown(object) => {
                writeln!(f, "linearizable: unknown, the budget was used up at object {object}")?
            }
            Verdict::NotLinearizable(offence) => writeln!(f, "NOT linearizable: {offence}")?,
        }
        if self.failed_starts + self.own_ends > 0 {
            let (failed, own) = (self.failed_starts, self.own_ends);
            writeln!(f, "daemons that could not become members: {failed}; that ended by themselves: {own}")?;
        }
        for process in &self.processes {
            writeln!(f, "{}", process.line())?;
        }
        for grew in self.processes.iter().filter_map(Watched::grew) {
            writeln!(f, "{grew}")?;
        }
        for missing in &self.missing {
            writeln!(f, "asked for and did not happen: {missing}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        write!(f, "{}", if self.is_clean() { "clean" } else { "NOT clean" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(recoveries: Vec<Recovery>) -> Report {
        Report {
            seed: 1,
            nodes: 3,
            lease: Duration::from_secs(1),
            answered_alone: 0,
            returns: Vec::new(),
            faults: vec![Happened {
                fault: Fault::Kill,
                led: true,
                host: 2,
                from_ns: 5,
                to_ns: 9,
                whole_ns: 6..8,
                cut_off: Vec::new(),
            }],
            operations: 7,
            errors: 0,
            dropped_packets: 0,
            failed_starts: 0,
            own_ends: 0,
            found: Found::default(),
            verdict: Verdict::Linearizable,
            recoveries,
            throughput: vec![1, 2],
            processes: Vec::new(),
            missing: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn what_never_came_back_is_no_time() {
        let of = |took| Recovery { fault: Fault::Kill, led: took == Some(Duration::from_millis(30)), took };
        let times = [10, 20, 30].map(|ms| of(Some(Duration::from_millis(ms))));
        let json = report([&times[..], &[of(None)]].concat()).json();
        assert_eq!(json["recovery_ms"], json!({"p50": 20.0, "p99": 30.0, "never": 1}));
        assert_eq!(
            json["leader_kills"],
            json!({"count": 1, "p50_ms": 30.0, "p99_ms": 30.0, "recovered": 1, "never": 0})
        );
        assert_eq!((&json["kills"], &json["linearizable"]), (&json!(1), &json!(true)));
        assert_eq!(
            (&json["faults"]["kill"]["limit_ms"], &json["faults"]["kill"]["within"]),
            (&json!(1110.0), &json!(3))
        );
        let nothing = report(Vec::new()).json();
        assert_eq!(nothing["recovery_ms"]["p50"], Json::Null);
    }

    #[test]
    fn only_what_is_as_it_must_be_is_clean() {
        assert!(report(Vec::new()).is_clean());
        let broken: [fn(&mut Report); 5] = [
            |report| report.answered_alone = 1,
            |report| report.found.lost = 1,
            |report| report.found.stale = 1,
            |report| report.verdict = Verdict::Unknown(kddm_history::Word::Number(1)),
            |report| report.missing.push("kill".into()),
        ];
        for change in broken {
            let mut report = report(Vec::new());
            change(&mut report);
            assert!(!report.is_clean());
            assert!(report.to_string().ends_with("NOT clean"));
        }
    }
}
