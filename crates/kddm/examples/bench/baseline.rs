//! What the figures were: stored with the code, so that a change shows what it costs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Instructions differ by so much from run to run, of a hundred: where threads meet, by which comes first.
const NOISE_OF_COUNTS: f64 = 1.0;

/// Instructions of one operation, by figure, and of which compiler's code.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Counts {
    pub compiler: String,
    pub figures: BTreeMap<String, f64>,
}

/// The lowest and highest of several runs.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Range {
    pub low: f64,
    pub high: f64,
}

impl Range {
    /// Of these figures.
    pub fn of(figures: &[f64]) -> Range {
        let (low, high) = figures
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), figure| (low.min(*figure), high.max(*figure)));
        Range { low, high }
    }
}

/// Ratios to floors of the same run, by figure, of so many runs.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ratios {
    pub runs: usize,
    pub figures: BTreeMap<String, Range>,
}

/// `benches/baseline.json`.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Baseline {
    #[serde(default)]
    pub instructions: Counts,
    #[serde(default)]
    pub ratios: Ratios,
}

impl Baseline {
    fn file() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../benches/baseline.json")
    }

    /// What is stored; nothing, if there is no file yet.
    pub fn load() -> Result<Baseline, Box<dyn std::error::Error>> {
        match std::fs::read(Baseline::file()) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Baseline::default()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn save(&self) -> Result<(), Box<dyn std::error::Error>> {
        let file = Baseline::file();
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(file, serde_json::to_string_pretty(self)? + "\n")?)
    }
}

/// The compiler that is used here.
pub fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What has become of one figure. Less is better, always.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Verdict {
    Same,
    Better,
    Worse,
    /// It has no baseline.
    New,
}

/// One figure now and then.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub now: Range,
    pub before: Option<Range>,
    pub verdict: Verdict,
}

/// All of them.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Judged {
    pub figures: Vec<Figure>,
    /// Why the figures cannot be compared as they are.
    pub note: Option<String>,
}

impl Judged {
    /// Counts differ if they do so by more than noise.
    pub fn counts(before: &Counts, now: &Counts) -> Judged {
        let within = |figure: &f64| Range { low: *figure, high: *figure };
        let widened = |figure: &f64| {
            let noise = (figure * NOISE_OF_COUNTS / 100.0).max(1.0);
            Range { low: figure - noise, high: figure + noise }
        };
        let figures = now.figures.iter().map(|(name, count)| {
            let stored = before.figures.get(name);
            let verdict = judge(stored.map(widened), within(count));
            Figure { name: name.clone(), now: within(count), before: stored.map(within), verdict }
        });
        let figures = figures.collect();
        let other = !before.compiler.is_empty() && before.compiler != now.compiler;
        Judged { figures, note: other.then(|| format!("the baseline is of {}", before.compiler)) }
    }

    /// Ratios differ if no run now is among those of then.
    pub fn ratios(before: &Ratios, now: &Ratios) -> Judged {
        let figures = now.figures.iter().map(|(name, range)| {
            let stored = before.figures.get(name).copied();
            Figure { name: name.clone(), now: *range, before: stored, verdict: judge(stored, *range) }
        });
        let few = now.runs < 3 || before.runs < 3;
        let note = || format!("{} runs against {}: with fewer than three, noise is not known", now.runs, before.runs);
        Judged { figures: figures.collect(), note: few.then(note) }
    }

    /// Whether anything is dearer than it was, with the same compiler.
    pub fn is_dearer(&self) -> bool {
        self.note.is_none() && self.figures.iter().any(|figure| figure.verdict == Verdict::Worse)
    }

    pub fn table(&self, unit: &str) -> String {
        let mut out = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _a_string_takes_all = writeln!(out, "{text}");
        };
        line(format_args!("{:<26} {:>18} {:>18}  change", unit, "now", "baseline"));
        for Figure { name, now, before, verdict } in &self.figures {
            let before = before.map_or("-".into(), shown);
            let verdict = match verdict {
                Verdict::Same => "",
                Verdict::Better => "better",
                Verdict::Worse => "WORSE",
                Verdict::New => "new",
            };
            line(format_args!("{name:<26} {:>18} {before:>18}  {verdict}", shown(*now)));
        }
        if let Some(note) = &self.note {
            line(format_args!("{note}"));
        }
        out
    }
}

fn judge(before: Option<Range>, now: Range) -> Verdict {
    match before {
        None => Verdict::New,
        Some(before) if now.low > before.high => Verdict::Worse,
        Some(before) if now.high < before.low => Verdict::Better,
        Some(_) => Verdict::Same,
    }
}

fn shown(Range { low, high }: Range) -> String {
    if low == high { format!("{low:.2}") } else { format!("{low:.2} - {high:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(compiler: &str, get: f64) -> Counts {
        Counts { compiler: compiler.into(), figures: BTreeMap::from([("get".into(), get)]) }
    }

    #[test]
    fn a_count_is_worse_when_it_is_more_than_noise_away() {
        let verdict = |now| Judged::counts(&counts("a", 400.0), &counts("a", now)).figures[0].verdict;
        assert_eq!([verdict(404.0), verdict(404.1), verdict(395.0)], [Verdict::Same, Verdict::Worse, Verdict::Better]);
        assert!(Judged::counts(&counts("a", 400.0), &counts("a", 500.0)).is_dearer());
        let other = Judged::counts(&counts("a", 400.0), &counts("b", 500.0));
        assert!(!other.is_dearer() && other.table("instructions").contains("the baseline is of a"));
        assert_eq!(Judged::counts(&Counts::default(), &counts("a", 1.0)).figures[0].verdict, Verdict::New);
    }

    #[test]
    fn ratios_are_the_same_while_their_runs_overlap() {
        let ratios = |low, high| Ratios { runs: 3, figures: BTreeMap::from([("get".into(), Range { low, high })]) };
        let verdict = |now: &Ratios| Judged::ratios(&ratios(1.0, 1.2), now).figures[0].verdict;
        assert_eq!(verdict(&ratios(1.2, 1.5)), Verdict::Same);
        assert_eq!(verdict(&ratios(1.21, 1.5)), Verdict::Worse);
        assert_eq!(verdict(&ratios(0.5, 0.99)), Verdict::Better);
        assert_eq!(Range::of(&[2.0, 1.0, 3.0]), Range { low: 1.0, high: 3.0 });
        let one = Ratios { runs: 1, ..ratios(9.0, 9.0) };
        assert!(!Judged::ratios(&ratios(1.0, 1.2), &one).is_dearer(), "one run says nothing of noise");
    }
}
