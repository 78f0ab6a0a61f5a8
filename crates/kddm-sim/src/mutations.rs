//! Whether the searches find what is done wrongly on purpose. Only in a build with
//! `--cfg kddm_mutation`; `cargo xtask mutations` makes it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kddm_core::mutation::{Mutation, applied, choose};
use serde::Serialize;

use crate::model::Case;
use crate::{model, run, search};

/// Seeds that the simulator has for each mutation: ten times what the rarest that it finds needs.
pub const SEEDS: u64 = 3_000;
/// Seeds at every change: most of them show in a few.
pub const QUICK_SEEDS: u64 = 250;
/// Worlds that the exhaustive search looks at in one case: more than any of these cases has, but some
/// mutations never come to an end.
const STATES: usize = 100_000;
/// Time for one case; a mutation that gets there is not found by it.
const CASE_LIMIT: Duration = Duration::from_secs(60);

/// How hard to look.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seeds for the simulator.
    pub seeds: u64,
    /// Also with the second search what the first one has found.
    pub thorough: bool,
    /// Threads for each search. What is found does not depend on it.
    pub threads: usize,
}

/// What was found of one mutation.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Who found it: `sim`, `model`.
    pub caught_by: Vec<&'static str>,
    /// How many seeds the simulator ran until it found it.
    pub seeds: Option<u64>,
    /// What it found.
    pub broken: Option<String>,
    /// The case in which the exhaustive search found it.
    pub case: Option<String>,
    /// How often the mutation was done in all of these runs.
    pub applied: u64,
}

/// Looks for one mutation with both searches.
pub fn look_for(mutation: Mutation, name: &'static str, what: &'static str, effort: Effort) -> Report {
    choose(Some(mutation));
    let found = first_broken(0..effort.seeds, effort.threads);
    let looks_on = effort.thorough || found.is_none();
    let case = if looks_on { broken_case(mutation, effort) } else { None };
    let applied = applied();
    choose(None);
    let caught_by = [found.is_some().then_some("sim"), case.is_some().then_some("model")];
    Report {
        name,
        what,
        caught_by: caught_by.into_iter().flatten().collect(),
        seeds: found.as_ref().map(|(seed, _)| seed + 1),
        broken: found.map(|(_, broken)| broken),
        case,
        applied,
    }
}

/// What both searches find where nothing is done wrongly: it must be nothing.
pub fn look_for_nothing(effort: Effort) -> Option<String> {
    choose(None);
    let seed = first_broken(0..effort.seeds, effort.threads).map(|(seed, broken)| format!("seed {seed}: {broken}"));
    seed.or_else(|| first_broken_case(&cases(effort), effort.threads).map(|case| format!("case {case}")))
}

/// The smallest cases that find all that the exhaustive search finds.
const FEW: &[&str] = &[
    "1:w,r,r",
    "1:w,r,x",
    "1:w,r,t",
    "3:ww,rr,",
    "3:wx,rr,",
    "1:ww,rfr,w",
    "2:wx,r+J2",
    "1:wx,w+L1",
    "1:w,w,+k+R1",
    "2:w,r,+k",
];

/// What takes more to be seen than any small case has, and a case in which it is. They are looked for in no other, with
/// as many worlds as that takes; without the mutation the case is one of [`model::named`] or [`model::quick`].
const AIMED: &[(Mutation, &str)] = &[
    (Mutation::EndUnheard, "3:wx,,w+k+k+R1"),
    (Mutation::RemoveAgain, "1:w,x,w+k+R1"),
    (Mutation::ForgetRevalidated, "1:w,r+e"),
    (Mutation::RevalidateUnderWriter, "1:ww,rr+e"),
    (Mutation::RemoveWithAcksOwed, "1:r,wwx,+c"),
];
/// Worlds that the search looks at in such a case, and its time.
const AIMED_STATES: usize = 2_000_000;
const AIMED_LIMIT: Duration = Duration::from_secs(600);

/// The cases in which a mutation is looked for, small ones first.
fn cases(effort: Effort) -> Vec<Case> {
    let mut cases = FEW.iter().filter_map(|name| model::case(name)).collect();
    if effort.thorough {
        cases = model::quick();
        cases.sort_by_key(|case| case.name.len());
    }
    cases
}

/// The first seed that breaks something, and what. The threads take one seed after the other, and none
/// below one that broke something is left out, so that the answer does not depend on them.
fn first_broken(seeds: Range<u64>, threads: usize) -> Option<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let first: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let work = || {
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && seed < seeds.end
        {
            let Some(broken) = broken(seed) else { continue };
            next.fetch_max(seeds.end, Ordering::Relaxed);
            let mut first = first.lock().expect("nobody panics who holds it");
            if first.as_ref().is_none_or(|(known, _)| seed < *known) {
                *first = Some((seed, broken));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    first.into_inner().expect("nobody panics who holds it")
}

/// A panic is a find, too.
fn broken(seed: u64) -> Option<String> {
    catch_unwind(|| run::broken(seed)).unwrap_or_else(|_| Some("a panic".into()))
}

fn broken_case(mutation: Mutation, effort: Effort) -> Option<String> {
    let aimed = AIMED.iter().filter(|(of, _)| *of == mutation).filter_map(|(_, name)| model::case(name));
    let aimed: Vec<Case> = aimed.collect();
    if aimed.is_empty() {
        return first_broken_case(&cases(effort), effort.threads);
    }
    let limits = search::Limits { time: AIMED_LIMIT, states: AIMED_STATES, takes_all_steps: false };
    first_broken_of(&aimed, effort.threads, limits)
}

fn first_broken_case(cases: &[Case], threads: usize) -> Option<String> {
    let limits = search::Limits { time: CASE_LIMIT, states: STATES, takes_all_steps: false };
    first_broken_of(cases, threads, limits)
}

fn first_broken_of(cases: &[Case], threads: usize, limits: search::Limits) -> Option<String> {
    let is_broken = |case: &&Case| {
        let found = catch_unwind(AssertUnwindSafe(|| search::search(&case.plan, threads, limits)));
        found.map_or(true, |found| found.broken.is_some())
    };
    cases.iter().find(is_broken).map(|case| case.name.clone())
}
