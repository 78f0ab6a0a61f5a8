//! What a client does again and again, and how long it takes.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::store::{KEYS, Store};

/// The exponent of Zipf's law, as in YCSB.
const ZIPF: f64 = 0.99;

/// Operations drawn before the clock runs, used again and again: a draw costs more than a hit.
const DRAWN: usize = 1 << 16;

/// Single operations that are timed in one slice: at most so many, spread over all of it.
const SAMPLES: usize = 4096;

/// One kind of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Workload {
    /// Reads one key.
    ReadOne,
    /// Writes one key.
    WriteOne,
    /// Reads each of so many keys once, from the first on.
    ReadEach(u64),
    /// Writes each of so many keys once, from the first on.
    WriteEach(u64),
    /// Adds one to the counter.
    Increment,
    /// Takes the lock and lets go.
    Lock,
    /// Keys by Zipf's law; so many operations of a hundred read, the others write.
    Mix(u8),
}

/// What one client did in one slice.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Done {
    pub operations: u64,
    pub elapsed_ns: u64,
    /// Nanoseconds of some of them.
    pub samples_ns: Vec<u32>,
}

impl Done {
    /// Operations a second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 * 1e9 / (self.elapsed_ns.max(1)) as f64
    }
}

/// Does it until the time is over or there is no more to do.
///
/// # Errors
/// The first operation that fails ends it.
pub fn run(store: &mut dyn Store, workload: Workload, limit: Duration, seed: u64) -> Result<Done, Failure> {
    let (drawn, most) = match workload {
        Workload::Mix(reads) => (draw(reads, seed), u64::MAX),
        Workload::ReadEach(count) | Workload::WriteEach(count) => (Vec::new(), count),
        _ => (Vec::new(), u64::MAX),
    };
    let (mut number, mut samples, mut stride, mut next_sample) = (0, Vec::with_capacity(SAMPLES), 1, 0);
    let start = Instant::now();
    loop {
        if number < next_sample {
            operate(store, workload, &drawn, number)?;
        } else {
            // The clock is read for these alone: where it is, it costs more than a hit.
            let begin = Instant::now();
            operate(store, workload, &drawn, number)?;
            let end = Instant::now();
            samples.push(u32::try_from((end - begin).as_nanos()).unwrap_or(u32::MAX));
            if samples.len() == SAMPLES {
                thin(&mut samples);
                stride *= 2;
            }
            next_sample = number + stride;
            if end - start >= limit || number + 1 >= most {
                number += 1;
                break;
            }
        }
        number += 1;
        if number >= most {
            break;
        }
    }
    let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Done { operations: number, elapsed_ns, samples_ns: samples })
}

/// Every second one goes.
fn thin(samples: &mut Vec<u32>) {
    let mut keeps = false;
    samples.retain(|_| {
        keeps = !keeps;
        keeps
    });
}

fn operate(store: &mut dyn Store, workload: Workload, drawn: &[(u32, bool)], number: u64) -> Result<(), Failure> {
    match workload {
        Workload::ReadOne => store.read(0).map(|_| ()),
        Workload::WriteOne => store.write(0, number),
        Workload::ReadEach(_) => store.read(number % KEYS).map(|_| ()),
        Workload::WriteEach(_) => store.write(number % KEYS, number),
        Workload::Increment => store.increment(),
        Workload::Lock => store.lock().and_then(|()| store.unlock()),
        Workload::Mix(_) => match drawn[number as usize % DRAWN] {
            (key, true) => store.read(key.into()).map(|_| ()),
            (key, false) => store.write(key.into(), number),
        },
    }
}

/// Keys, and whether they are read.
fn draw(reads_of_100: u8, seed: u64) -> Vec<(u32, bool)> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sums = Vec::with_capacity(KEYS as usize);
    let mut sum = 0.0;
    for rank in 1..=KEYS {
        sum += 1.0 / (rank as f64).powf(ZIPF);
        sums.push(sum);
    }
    let key = |at: f64| sums.partition_point(|sum| *sum < at).min(sums.len() - 1) as u32;
    (0..DRAWN).map(|_| (key(random.f64() * sum), random.u8(..100) < reads_of_100)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what it is asked for.
    #[derive(Default)]
    struct Counting {
        reads: u64,
        writes: u64,
        highest: u64,
    }

    impl Store for Counting {
        fn read(&mut self, key: u64) -> Result<u64, Failure> {
            self.reads += 1;
            self.highest = self.highest.max(key);
            Ok(0)
        }

        fn write(&mut self, key: u64, _number: u64) -> Result<(), Failure> {
            self.writes += 1;
            self.highest = self.highest.max(key);
            Ok(())
        }

        fn increment(&mut self) -> Result<(), Failure> {
            Err("full".into())
        }

        fn count(&mut self) -> Result<u64, Failure> {
            Ok(0)
        }

        fn lock(&mut self) -> Result<(), Failure> {
            Ok(())
        }

        fn unlock(&mut self) -> Result<(), Failure> {
            Ok(())
        }
    }

    #[test]
    fn each_is_done_once_and_counted() {
        let mut store = Counting::default();
        let done = run(&mut store, Workload::WriteEach(9000), Duration::from_secs(60), 0).unwrap();
        assert_eq!((done.operations, store.writes, store.highest), (9000, 9000, 8999));
        assert!((SAMPLES / 2..SAMPLES).contains(&done.samples_ns.len()), "{} samples", done.samples_ns.len());
        assert!(run(&mut store, Workload::Increment, Duration::from_secs(60), 0).is_err());
    }

    #[test]
    fn a_mix_has_its_share_of_writes_and_its_favourite_keys() {
        let drawn = draw(95, 3);
        let reads = drawn.iter().filter(|(_, reads)| *reads).count() as f64 / DRAWN as f64;
        assert!((0.945..0.955).contains(&reads), "{reads}");
        // One over the sum of all: 10.2 % of the operations are on the first key, and all keys are ones.
        let first = drawn.iter().filter(|(key, _)| *key == 0).count() as f64 / DRAWN as f64;
        assert!((0.095..0.11).contains(&first), "{first}");
        assert!(drawn.iter().all(|(key, _)| u64::from(*key) < KEYS));
        assert_ne!(drawn, draw(95, 4));
    }
}
