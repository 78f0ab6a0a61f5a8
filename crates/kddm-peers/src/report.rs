//! What came of it: medians, how far they are apart, and what else the machine did.

use serde::Serialize;

use crate::case::Case;
use crate::system::System;
use crate::workload::Done;

/// Processes that want to run, over the last minute, as the system counts them; those of this comparison are among them.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// What the clients of one system did in one slice.
#[derive(Clone, Debug)]
pub struct Slice {
    pub load: f64,
    pub done: Vec<Done>,
}

impl Slice {
    fn rate(&self) -> f64 {
        self.done.iter().map(Done::rate).sum()
    }

    pub fn operations(&self) -> u64 {
        self.done.iter().map(|done| done.operations).sum()
    }
}

/// A median with its lowest and highest.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// Of these figures.
    pub fn of(mut figures: Vec<f64>) -> Spread {
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        Spread { median: at(figures.len() / 2), low: at(0), high: at(figures.len().saturating_sub(1)) }
    }
}

/// One system in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub group: &'static str,
    pub case: &'static str,
    pub clients: usize,
    pub system: &'static str,
    /// Of all clients together.
    pub operations_per_s: Spread,
    /// Of single operations.
    pub p50_us: f64,
    pub p99_us: f64,
    /// How many times as fast ours is, in the same round.
    pub ours_is_faster: Spread,
    pub load_average: Spread,
}

impl Row {
    /// From the slices of one system, and those of ours in the same rounds.
    pub fn new(group: &'static str, case: &Case, system: System, slices: &[Slice], ours: &[Slice]) -> Row {
        let mut samples: Vec<u32> =
            slices.iter().flat_map(|slice| &slice.done).flat_map(|done| &done.samples_ns).copied().collect();
        samples.sort_unstable();
        let at = |share: f64| {
            let index = (samples.len().saturating_sub(1) as f64 * share) as usize;
            samples.get(index).map_or(f64::NAN, |sample| f64::from(*sample) / 1e3)
        };
        let ratios = slices.iter().zip(ours).map(|(slice, ours)| ours.rate() / slice.rate()).collect();
        Row {
            group,
            case: case.name,
            clients: case.clients,
            system: system.name(),
            operations_per_s: Spread::of(slices.iter().map(Slice::rate).collect()),
            p50_us: at(0.5),
            p99_us: at(0.99),
            ours_is_faster: Spread::of(ratios),
            load_average: Spread::of(slices.iter().map(|slice| slice.load).collect()),
        }
    }
}

/// Reads that saw less than what was complete before.
#[derive(Clone, Debug, Serialize)]
pub struct Stale {
    pub system: String,
    pub reads: u64,
    pub stale: u64,
    /// Writes meanwhile.
    pub writes: u64,
}

/// What kills of one kind came to.
#[derive(Clone, Debug, Serialize)]
pub struct Loss {
    pub victim: String,
    pub kills: usize,
    /// From the kill until another client had read and written the value.
    pub until_ms: Spread,
    /// Acknowledged writes that were not there then, of all kills.
    pub lost: u64,
    pub load: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub slice_ms: u64,
    pub rounds: u32,
    pub processors: usize,
    pub one_processor: bool,
    pub rows: Vec<Row>,
    pub stale: Vec<Stale>,
    pub losses: Vec<Loss>,
    /// What could not be measured here, and why.
    pub missing: Vec<String>,
}

impl Report {
    /// Nothing yet.
    pub fn new(slice: std::time::Duration, rounds: u32) -> Report {
        Report {
            slice_ms: slice.as_millis() as u64,
            rounds,
            processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            one_processor: false,
            rows: Vec::new(),
            stale: Vec::new(),
            losses: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Tables, as they stand in documents.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        let (slice_ms, rounds, processors) = (self.slice_ms, self.rounds, self.processors);
        let place = if self.one_processor { "all on one processor".into() } else { format!("{processors} processors") };
        line(format!("{rounds} rounds of {slice_ms} ms for each system, in turns; {place}."));
        let loads = Spread::of(self.rows.iter().map(|row| row.load_average.median).collect());
        line(format!("Load average {} to {}.", short(loads.low), short(loads.high)));
        line(
            "Thousands of operations a second; how many times as fast KDDM is (lowest – highest of all rounds).".into(),
        );
        for table in self.rows.chunk_by(|row, next| row.group == next.group) {
            let cases: Vec<&[Row]> = table.chunk_by(|row, next| row.case == next.case).collect();
            let names: Vec<&str> = cases[0].iter().map(|row| row.system).collect();
            line(format!("\n| {} | {} |", table[0].group, names.join(" | ")));
            line(format!("|---{}|", "|---".repeat(names.len())));
            for case in cases {
                let cells: Vec<String> = case.iter().map(cell).collect();
                line(format!("| `{}` | {} |", case[0].case, cells.join(" | ")));
            }
        }
        if !self.stale.is_empty() {
            line("\n| stale reads | of | while so many writes |\n|---|---|---|".into());
        }
        for Stale { system, reads, stale, writes } in &self.stale {
            line(format!("| {system}: {stale} | {reads} | {writes} |"));
        }
        if !self.losses.is_empty() {
            let head = "\n| kill -9 of | kills | until another client had read and written it | acknowledged writes lost | load |";
            line(format!("{head}\n|---|---|---|---|---|"));
        }
        for Loss { victim, kills, until_ms: Spread { median, low, high }, lost, load } in &self.losses {
            let [median, low, high] = [median, low, high].map(|figure| short(*figure));
            line(format!("| {victim} | {kills} | {median} ms ({low} – {high}) | {lost} | {load:.1} |"));
        }
        for missing in &self.missing {
            line(format!("\nSkipped: {missing}"));
        }
        out
    }
}

fn cell(row: &Row) -> String {
    let (rate, ratio) = (short(row.operations_per_s.median / 1e3), row.ours_is_faster);
    if row.system.starts_with("kddm") {
        return rate;
    }
    format!("{rate}; {} × ({} – {}){}", short(ratio.median), short(ratio.low), short(ratio.high), verdict(ratio))
}

/// Said only where all rounds agree.
fn verdict(ratio: Spread) -> &'static str {
    if ratio.high < 1.0 { " **slower**" } else { "" }
}

/// Three digits.
pub fn short(figure: f64) -> String {
    match figure.abs() {
        size if size >= 99.5 => format!("{figure:.0}"),
        size if size >= 9.95 => format!("{figure:.1}"),
        size if size >= 0.0995 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::GROUPS;

    fn slice(operations: u64, nanoseconds: &[u32]) -> Slice {
        let done = Done { operations, elapsed_ns: 1_000_000_000, samples_ns: nanoseconds.to_vec() };
        Slice { load: 1.0, done: vec![done.clone(), done] }
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let ours = [slice(100, &[]), slice(1000, &[]), slice(300, &[])];
        let peer = [slice(200, &[1000]), slice(100, &[2000]), slice(300, &[9000])];
        let row = Row::new("one copy", &GROUPS[0].cases[0], System::Redis, &peer, &ours);
        assert_eq!(row.ours_is_faster, Spread { median: 1.0, low: 0.5, high: 10.0 });
        assert_eq!(row.operations_per_s, Spread { median: 400.0, low: 200.0, high: 600.0 });
        assert_eq!((row.p50_us, row.load_average.high), (2.0, 1.0));
    }

    #[test]
    fn where_a_peer_wins_it_is_said_and_what_is_missing_too() {
        let mut report = Report::new(std::time::Duration::from_millis(300), 1);
        let (ours, peer) = ([slice(100, &[5])], [slice(4000, &[5])]);
        report.rows.push(Row::new("one copy", &GROUPS[0].cases[0], System::Kddm, &ours, &ours));
        report.rows.push(Row::new("one copy", &GROUPS[0].cases[0], System::Redis, &peer, &ours));
        report.stale.push(Stale { system: "redis-cached".into(), reads: 10, stale: 2, writes: 5 });
        report.missing.push("memcached is not here; apt-get install memcached".into());
        let until_ms = Spread::of(vec![30.0, 20.0, 400.0]);
        report.losses.push(Loss { victim: "the owner".into(), kills: 3, until_ms, lost: 0, load: 1.0 });
        let text = report.markdown();
        assert!(text.contains("| the owner | 3 | 30.0 ms (20.0 – 400) | 0 | 1.0 |"), "{text}");
        let row = "| `read_again` | 0.20 | 8.00; 0.025 × (0.025 – 0.025) **slower** |";
        assert!(text.contains("| one copy | kddm | redis |\n|---|---|---|") && text.contains(row), "{text}");
        assert!(text.contains("| redis-cached: 2 | 10 | 5 |") && text.contains("Skipped: memcached"), "{text}");
    }
}
