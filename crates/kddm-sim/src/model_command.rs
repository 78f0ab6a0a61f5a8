//! `kddm-sim model`: searches cases, or goes through one step by step.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use kddm_sim::world::{Action, World};
use kddm_sim::{lease_model, model, trace};

#[derive(Args)]
pub struct Arguments {
    /// Cases by name (see `kddm_sim::model::case`); without any, the quick ones.
    cases: Vec<String>,
    /// All pairs and all named cases.
    #[arg(long)]
    full: bool,
    /// Limit for each case, in seconds.
    #[arg(long, default_value_t = 3_600)]
    limit_s: u64,
    /// One JSON object with a report for each case.
    #[arg(long)]
    json: bool,
    /// Goes through a case by hand: tells what can happen next, and does what is chosen.
    #[arg(long, value_name = "CASE")]
    explore: Option<String>,
    /// With --explore: takes these steps, by their numbers, instead of asking.
    #[arg(long, value_delimiter = ',')]
    choose: Vec<usize>,
}

/// The first cases of leases; the next one takes longer than the others together.
const LEASE_CASES_OF_QUICK: usize = 3;

/// Does what was asked for. A broken invariant is a failure, and so is a search that did not end.
pub fn run(arguments: &Arguments) -> ExitCode {
    if let Some(name) = &arguments.explore {
        return match model::case(name) {
            Some(case) => explore(&case, &arguments.choose),
            None => unknown(name),
        };
    }
    let mut cases =
        if arguments.full { [model::pairs(), model::named(), model::crash_pairs()].concat() } else { model::quick() };
    if !arguments.cases.is_empty() {
        cases.clear();
        for name in &arguments.cases {
            let Some(case) = model::case(name) else { return unknown(name) };
            cases.push(case);
        }
    }
    let limit = Duration::from_secs(arguments.limit_s);
    let of_objects = cases.iter().map(|case| model::search(case, limit));
    let quick = if arguments.full { lease_model::CASES.len() } else { LEASE_CASES_OF_QUICK };
    let leases: &[lease_model::Case] = if arguments.cases.is_empty() { &lease_model::CASES[..quick] } else { &[] };
    let large: &[lease_model::Case] =
        if arguments.full && arguments.cases.is_empty() { &lease_model::LARGE_CASES } else { &[] };
    let of_leases = leases.iter().chain(large).map(|case| lease_model::search(*case, None, arguments.full));
    search(of_objects.chain(of_leases), arguments.json)
}

fn unknown(name: &str) -> ExitCode {
    eprintln!("{name} is not a case; a case is like 3:wr,r,x+c (see the documentation of kddm_sim::model)");
    ExitCode::FAILURE
}

fn search(searches: impl Iterator<Item = model::Report>, json: bool) -> ExitCode {
    let mut reports = Vec::new();
    for report in searches {
        let word = if report.clean { "clean" } else { "NOT CLEAN" };
        eprintln!(
            "{:<20} {:>10} states, depth {:>3}, {:>6.1} s  {word}",
            report.name, report.states, report.depth, report.seconds
        );
        if !report.clean {
            for step in &report.trace {
                eprintln!("  {step}");
            }
            eprintln!("{}", report.broken.as_deref().unwrap_or("the limit was over before all was seen"));
        }
        if report.broken.is_some() && !report.choices.is_empty() {
            let choices: Vec<String> = report.choices.iter().map(usize::to_string).collect();
            eprintln!("step by step: cargo xtask model --explore '{}' --choose {}", report.name, choices.join(","));
        }
        let is_broken = report.broken.is_some();
        reports.push(report);
        if is_broken {
            break;
        }
    }
    let clean = reports.iter().all(|report| report.clean);
    let states: usize = reports.iter().map(|report| report.states).sum();
    let seconds: f64 = reports.iter().map(|report| report.seconds).sum();
    if json {
        let told = |report: &model::Report| {
            serde_json::json!({ "name": report.name, "states": report.states, "steps": report.steps, "depth": report.depth,
                "seconds": report.seconds, "complete": report.clean,
                "violations": report.broken.iter().collect::<Vec<_>>(), "trace": report.trace })
        };
        let models: Vec<_> = reports.iter().map(told).collect();
        println!("{}", serde_json::json!({ "models": models, "states": states, "seconds": seconds }));
    } else {
        println!("{} cases, {states} states, {seconds:.1} s", reports.len());
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Steps given beforehand, then those that a person chooses; `b` goes one back, `q` ends.
fn explore(case: &model::Case, given: &[usize]) -> ExitCode {
    let mut taken: Vec<Action> = Vec::new();
    let mut given = given.iter().copied();
    let asks = given.len() == 0;
    loop {
        let mut world = World::new(&case.plan);
        for action in &taken {
            world.apply(*action);
        }
        let mut actions = Vec::new();
        world.actions(&mut actions);
        if let Some(broken) = &world.broken {
            println!("BROKEN: {broken}");
        }
        for (number, action) in actions.iter().enumerate() {
            println!("  [{number}] {}", trace::foretell(&world, *action));
        }
        let choice = if asks { ask(taken.len()) } else { given.next().map_or(Choice::End, Choice::Step) };
        match choice {
            Choice::End => return if world.broken.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS },
            Choice::Back => {
                taken.pop();
            }
            Choice::Nothing => {}
            Choice::Step(number) => match actions.get(number).copied() {
                Some(action) => {
                    println!("{:>3}. {}", taken.len() + 1, trace::step(&mut world, action));
                    taken.push(action);
                }
                None if asks => println!("there is no step {number}"),
                None => {
                    eprintln!("there is no step {number}");
                    return ExitCode::FAILURE;
                }
            },
        }
    }
}

enum Choice {
    Step(usize),
    Back,
    Nothing,
    End,
}

fn ask(taken: usize) -> Choice {
    print!("step {}: number, b (back) or q (quit)? ", taken + 1);
    let flushed = std::io::stdout().flush();
    let mut line = String::new();
    match (flushed, std::io::stdin().read_line(&mut line)) {
        (Err(_), _) | (_, Err(_) | Ok(0)) => Choice::End,
        _ => match line.trim() {
            "q" => Choice::End,
            "b" => Choice::Back,
            number => number.parse().map_or(Choice::Nothing, Choice::Step),
        },
    }
}
