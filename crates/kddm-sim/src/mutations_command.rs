//! `kddm-sim mutations`: what the searches find of each mutation.

use std::process::ExitCode;

use clap::Args;

#[derive(Args)]
#[cfg_attr(not(kddm_mutation), allow(dead_code))]
pub struct Arguments {
    /// Only these, by name.
    names: Vec<String>,
    /// Says the names of all, and does nothing.
    #[arg(long)]
    list: bool,
    /// Fewer seeds, and the exhaustive search only for what they do not find.
    #[arg(long)]
    quick: bool,
    /// Those that a story has found, by name: found by the stories alone, they are no survivors.
    #[arg(long, value_delimiter = ',')]
    stories: Vec<String>,
    /// One JSON object with the findings.
    #[arg(long)]
    json: bool,
    /// The table of docs/testing.md.
    #[arg(long)]
    table: bool,
}

/// Only a build of its own has mutations.
#[cfg(not(kddm_mutation))]
pub fn run(_: &Arguments) -> ExitCode {
    eprintln!("this build has no mutations; `cargo xtask mutations` makes one that has");
    ExitCode::FAILURE
}

#[cfg(kddm_mutation)]
pub use with_mutations::run;

#[cfg(kddm_mutation)]
mod with_mutations {
    use kddm_core::mutation::Mutation;
    use kddm_sim::mutations::{Effort, QUICK_SEEDS, Report, SEEDS, look_for, look_for_nothing};

    use super::{Arguments, ExitCode};

    /// Fails if one survives, or if something is found where nothing is done wrongly.
    pub fn run(arguments: &Arguments) -> ExitCode {
        if arguments.list {
            Mutation::ALL.iter().for_each(|(_, name, _)| println!("{name}"));
            return ExitCode::SUCCESS;
        }
        // A panic is reported as what was found; it need not be told twice.
        std::panic::set_hook(Box::new(|_| {}));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let seeds = if arguments.quick { QUICK_SEEDS } else { SEEDS };
        let effort = Effort { seeds, thorough: !arguments.quick, threads };
        if let Some(found) = look_for_nothing(effort) {
            eprintln!("without any mutation: {found}");
            return ExitCode::FAILURE;
        }
        let is_asked_for = |name: &str| arguments.names.is_empty() || arguments.names.iter().any(|asked| asked == name);
        let mut reports = Vec::new();
        for (mutation, name, what) in Mutation::ALL.iter().filter(|(_, name, _)| is_asked_for(name)) {
            let mut report = look_for(*mutation, name, what, effort);
            if arguments.stories.iter().any(|story| story == name) {
                report.caught_by.push("script");
            }
            eprintln!("{}", told(&report));
            reports.push(report);
        }
        let survivors: Vec<&str> = reports.iter().filter(|r| r.caught_by.is_empty()).map(|r| r.name).collect();
        if arguments.json {
            println!("{}", serde_json::json!({ "mutations": reports, "survivors": survivors, "seeds": seeds }));
        } else if arguments.table {
            println!("{}", table(&reports, seeds));
        } else {
            println!("{} mutations, {} survive: {}", reports.len(), survivors.len(), survivors.join(", "));
        }
        if survivors.is_empty() && !reports.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn told(report: &Report) -> String {
        let Report { name, applied, .. } = report;
        let caught = report.caught_by.join(" ");
        let seeds = report.seeds.map_or_else(|| "-".into(), |seeds| seeds.to_string());
        let what: String = report.broken.as_deref().unwrap_or_default().chars().take(80).collect();
        let case = report.case.as_deref().unwrap_or("-");
        if caught.is_empty() {
            return format!("{name:<26} SURVIVES, done {applied} times");
        }
        format!("{name:<26} {caught:<17} seed {seeds:>5}  case {case:<16} {what}")
    }

    fn table(reports: &[Report], seeds: u64) -> String {
        let mut lines = vec![
            format!("| mutation | what is done wrongly | simulator, of {seeds} seeds | exhaustive search | stories |"),
            "|---|---|---|---|---|".to_owned(),
        ];
        for report in reports {
            let seeds = report.seeds.map_or_else(|| "–".to_owned(), |seeds| format!("after {seeds}"));
            let case =
                report.case.as_ref().map_or_else(|| "–".to_owned(), |case| format!("`{case}`").replace('|', "\\|"));
            let story = if report.caught_by.contains(&"script") { "yes" } else { "–" };
            let what = report.what.trim();
            lines.push(format!("| `{}` | {what} | {seeds} | {case} | {story} |", report.name));
        }
        lines.join("\n")
    }
}
