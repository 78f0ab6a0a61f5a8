//! What a benchmark has found, as data and as a table.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

/// A distribution of times in µs.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Times {
    /// Half of them are at most this.
    pub p50: f64,
    /// 99 % of them are.
    pub p99: f64,
    /// 99.9 % of them are.
    pub p999: f64,
    /// Their mean.
    pub mean: f64,
    /// How many were measured.
    pub count: usize,
}

/// Times as they are measured, in ns. Every one is kept, so that no percentile is an estimate.
#[derive(Clone, Default, Debug)]
pub(super) struct Samples(Vec<u64>);

impl Samples {
    pub fn push(&mut self, time: std::time::Duration) {
        self.0.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn append(&mut self, other: &Samples) {
        self.0.extend_from_slice(&other.0);
    }

    pub fn times(&self) -> Times {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |per_mille: usize| {
            let rank = (sorted.len() * per_mille).div_ceil(1000).max(1) - 1;
            sorted.get(rank).map_or(0.0, |time_ns| *time_ns as f64 / 1000.0)
        };
        let sum_us = sorted.iter().map(|time_ns| *time_ns as f64 / 1000.0).sum::<f64>();
        let mean = sum_us / sorted.len().max(1) as f64;
        Times { p50: at(500), p99: at(990), p999: at(999), mean, count: sorted.len() }
    }
}

/// One case in one set.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CaseReport {
    /// The set.
    pub set: String,
    /// The case.
    pub case: String,
    /// Operations that were measured.
    pub count: usize,
    /// Half of them took at most this, in µs.
    pub p50_us: f64,
    /// 99 % of them, in µs.
    pub p99_us: f64,
    /// 99.9 % of them, in µs.
    pub p999_us: f64,
    /// Their mean in µs.
    pub mean_us: f64,
    /// The put (of a get: the release) after it, in µs; none after a remove.
    pub put_p50_us: Option<f64>,
    /// 99 % of the puts, in µs.
    pub put_p99_us: Option<f64>,
    /// The median in round trips of the same minutes with as many bytes back.
    pub rtt_ratio: f64,
    /// Messages of one operation, sent by all nodes together.
    pub messages: f64,
    /// What the protocol allows.
    pub budget: u64,
    /// The messages by kind.
    pub messages_by_kind: BTreeMap<String, f64>,
    /// What the protocol allows, by kind.
    pub budget_by_kind: BTreeMap<String, u64>,
}

/// A case that was left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// The set.
    pub set: String,
    /// The case.
    pub case: String,
    /// Why.
    pub reason: String,
}

/// All that a benchmark has found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Nodes of the cluster that share objects.
    pub nodes: usize,
    /// The node that has measured.
    pub node: u16,
    /// The nodes that took part, the home of the objects "elsewhere" first.
    pub participants: Vec<u16>,
    /// Nodes without the benchmark's service: they took no part, and their messages are not counted.
    pub not_asked: Vec<u16>,
    /// How the round trips were made: `tcp`, or `rpc` where no connection of its own came about.
    pub rtt_by: String,
    /// Round trips to the first participant, by the bytes that came back.
    pub rtt_us: BTreeMap<String, Times>,
    /// What was measured.
    pub cases: Vec<CaseReport>,
    /// What was not.
    pub skipped: Vec<Skipped>,
}

impl Report {
    /// Cases whose messages are not those of the budget: something else went on, or it is a bug.
    pub fn off_budget(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| (case.messages - case.budget as f64).abs() > 1e-9)
    }

    /// A table for people, with what has to be said below it.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["set", "case", "p50 µs", "p99", "p99.9", "mean", "× rtt", "put p50", "messages", "budget"]);
        for case in &self.cases {
            let put = case.put_p50_us.map_or("-".into(), |put| format!("{put:.2}"));
            table.add_row([
                case.set.clone(),
                case.case.clone(),
                format!("{:.2}", case.p50_us),
                format!("{:.2}", case.p99_us),
                format!("{:.2}", case.p999_us),
                format!("{:.2}", case.mean_us),
                format!("{:.2}", case.rtt_ratio),
                put,
                format!("{:.4}", case.messages).trim_end_matches('0').trim_end_matches('.').into(),
                case.budget.to_string(),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{table}\n\n{} nodes, measured by node {}", self.nodes, self.node);
        // As texts, which they are for JSON, 4096 comes before 64.
        let mut trips: Vec<_> = self.rtt_us.iter().collect();
        trips.sort_by_key(|(bytes, _)| bytes.len());
        for (bytes, times) in trips {
            text += &format!("; round trip ({}, {bytes} B) {:.1} µs, p99 {:.1}", self.rtt_by, times.p50, times.p99);
        }
        for skipped in &self.skipped {
            text += &format!("\nleft out: {} in {}: {}", skipped.case, skipped.set, skipped.reason);
        }
        if !self.not_asked.is_empty() {
            text += &format!("\nnodes without the benchmark's service, not asked: {:?}", self.not_asked);
        }
        if self.off_budget().next().is_some() {
            text += "\nmessages differ from the budget: did something else use the cluster meanwhile?";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let mut samples = Samples::default();
        for time_us in (1..=1000).rev() {
            samples.push(Duration::from_micros(time_us));
        }
        let times = samples.times();
        assert_eq!((times.p50, times.p99, times.p999, times.mean, times.count), (500.0, 990.0, 999.0, 500.5, 1000));
        assert_eq!(Samples::default().times(), Times::default());
        let mut one = Samples::default();
        one.push(Duration::from_micros(7));
        assert_eq!((one.times().p50, one.times().p999), (7.0, 7.0));
    }
}
