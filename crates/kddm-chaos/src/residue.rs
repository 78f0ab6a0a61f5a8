//! What processes that live through a run have of the system at its begin and at its end: memory, descriptors and
//! threads must not grow (I9).

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);

/// Whoever lived less is not judged: that long everything grows that has a limit.
const LEAST_LIFE: Duration = Duration::from_secs(600);

/// Of a life so much is left out at its begin, and as much at its end is its end.
const PART: usize = 6;

/// What is no growth: an allocator gives memory back when it likes, and connections come and go.
const SPARE_MEMORY_KIB: u64 = 4 << 10;
const SPARE_MEMORY_SHARE: f64 = 0.1;
const SPARE_DESCRIPTORS: u64 = 4;
const SPARE_THREADS: u64 = 2;

/// What a process has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Has {
    /// Memory in KiB. None: it is no leak if it grows.
    pub memory_kib: Option<u64>,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// One process.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What it is.
    pub name: String,
    pid: u32,
    samples: Vec<Has>,
}

/// All of them.
#[derive(Default)]
pub struct Residue {
    watched: Vec<Watched>,
    looked: Option<Instant>,
}

/// Which of its figures are watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Figures {
    /// All.
    All,
    /// Memory not: it keeps what it has seen on purpose.
    WithoutMemory,
}

impl Residue {
    /// Looks at these processes, if it is time to.
    pub fn look<'a>(&mut self, processes: impl Iterator<Item = (String, u32, Figures)> + 'a) {
        if self.looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        for (name, pid, figures) in processes {
            // It may have ended meanwhile.
            let Some(has) = has(pid, figures) else { continue };
            match self.watched.iter_mut().find(|watched| watched.pid == pid) {
                Some(watched) => watched.samples.push(has),
                None => self.watched.push(Watched { name, pid, samples: vec![has] }),
            }
        }
    }

    /// Those that lived long enough to be judged.
    pub fn judged(self) -> Vec<Watched> {
        let least = (LEAST_LIFE.as_secs() / EVERY.as_secs()) as usize;
        self.watched.into_iter().filter(|watched| watched.samples.len() >= least).collect()
    }
}

impl Watched {
    /// What it had, by the medians of its second sixth and its last. Of descriptors and threads the begin is the most of
    /// the medians of two sixths: they follow the faults that there happen to be, and what leaks grows on after them.
    pub fn begin_and_end(&self) -> (Has, Has) {
        let part = self.samples.len() / PART;
        let of = |nth: usize| median(&self.samples[nth * part..(nth + 1) * part]);
        let (begin, next, end) = (of(1), of(2), median(&self.samples[self.samples.len() - part..]));
        let (descriptors, threads) = (begin.descriptors.max(next.descriptors), begin.threads.max(next.threads));
        (Has { descriptors, threads, ..begin }, end)
    }

    /// What of it grew, in words.
    pub fn grew(&self) -> Option<String> {
        let (begin, end) = self.begin_and_end();
        let memory_limit = |kib: u64| kib + (kib as f64 * SPARE_MEMORY_SHARE) as u64 + SPARE_MEMORY_KIB;
        let memory = begin.memory_kib.zip(end.memory_kib).filter(|(begin, end)| *end > memory_limit(*begin));
        let figures = [
            ("memory in KiB", memory),
            ("descriptors", grown(begin.descriptors, end.descriptors, SPARE_DESCRIPTORS)),
            ("threads", grown(begin.threads, end.threads, SPARE_THREADS)),
        ];
        let said = figures.iter().filter_map(|(what, grew)| grew.map(|(from, to)| format!("{what} {from} → {to}")));
        let said: Vec<String> = said.collect();
        (!said.is_empty()).then(|| format!("{} grew: {}", self.name, said.join(", ")))
    }

    /// As `--json` prints it.
    pub fn json(&self) -> Json {
        let (begin, end) = self.begin_and_end();
        json!({
            "process": self.name,
            "lived_s": self.samples.len() as u64 * EVERY.as_secs(),
            "memory_kib": {"begin": begin.memory_kib, "end": end.memory_kib},
            "descriptors": {"begin": begin.descriptors, "end": end.descriptors},
            "threads": {"begin": begin.threads, "end": end.threads},
            "flat": self.grew().is_none(),
        })
    }

    /// A line of the report.
    pub fn line(&self) -> String {
        let (begin, end) = self.begin_and_end();
        let memory = begin.memory_kib.zip(end.memory_kib);
        let memory = memory.map_or(String::new(), |(begin, end)| format!("{begin} → {end} KiB, "));
        format!(
            "  {}, {} s: {memory}{} → {} descriptors, {} → {} threads",
            self.name,
            self.samples.len() as u64 * EVERY.as_secs(),
            begin.descriptors,
            end.descriptors,
            begin.threads,
            end.threads
        )
    }
}

fn grown(begin: u64, end: u64, spare: u64) -> Option<(u64, u64)> {
    (end > begin + spare).then_some((begin, end))
}

/// Of each figure the median.
fn median(samples: &[Has]) -> Has {
    let middle = |figure: fn(&Has) -> u64| {
        let mut values: Vec<u64> = samples.iter().map(figure).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    };
    let has_memory = samples.iter().all(|has| has.memory_kib.is_some());
    Has {
        memory_kib: has_memory.then(|| middle(|has| has.memory_kib.unwrap_or(0))),
        descriptors: middle(|has| has.descriptors),
        threads: middle(|has| has.threads),
    }
}

/// What the kernel says that a process has.
fn has(pid: u32, figures: Figures) -> Option<Has> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let memory_kib = match figures {
        Figures::All => Some(field("VmRSS:")?),
        Figures::WithoutMemory => None,
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    Some(Has { memory_kib, descriptors, threads: field("Threads:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(samples: impl Iterator<Item = (u64, u64)>) -> Watched {
        let samples = samples.map(|(memory, descriptors)| Has { memory_kib: Some(memory), descriptors, threads: 3 });
        Watched { name: "one".into(), pid: 1, samples: samples.collect() }
    }

    #[test]
    fn what_grows_all_the_time_is_found_and_what_settles_is_not() {
        assert_eq!(watched((0..600).map(|at| (20_000 + 1000 * at.min(50), 9 + at % 3))).grew(), None);
        let leak = watched((0..600).map(|at| (20_000 + 20 * at, 9 + at / 20))).grew().expect("both");
        let of_faults = |at: u64| if (150..300).contains(&at) { 13 } else { 9 };
        let with_faults =
            |end: u64| watched((0..600).map(|at| (20_000, of_faults(at) + if at > 480 { end } else { 0 })));
        assert_eq!(with_faults(4).grew(), None, "as many as there were before");
        assert_eq!(with_faults(9).grew().as_deref(), Some("one grew: descriptors 13 → 18"));
        assert_eq!(leak, "one grew: memory in KiB 23000 → 31000, descriptors 21 → 36");
    }

    #[test]
    fn it_says_of_this_process_what_it_has() {
        let mut residue = Residue::default();
        residue.look([("this".into(), std::process::id(), Figures::All)].into_iter());
        residue.look([("this".into(), std::process::id(), Figures::All)].into_iter());
        assert_eq!(residue.watched[0].samples.len(), 1, "it is too early for the second look");
        let before = residue.watched[0].samples[0];
        let more: Vec<fs::File> = (0..5).map(|_| fs::File::open("/proc/self/status").expect("it is there")).collect();
        let after = has(std::process::id(), Figures::WithoutMemory).expect("it lives");
        assert!(before.memory_kib > Some(100) && before.threads > 0);
        assert!(after.memory_kib.is_none() && after.descriptors >= more.len() as u64);
        assert!(residue.judged().is_empty(), "it is too young");
    }
}
