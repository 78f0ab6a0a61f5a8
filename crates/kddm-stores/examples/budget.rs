//! What a set that may keep a tenth of its data delivers beside the store behind it, asked for the same objects: by turns,
//! since a machine is fast now and slow a moment later. What is measured is reads; what does not fit goes all the time.
//!
//! `cargo run --release -p kddm-stores --example budget -- [--rounds N] [--threads N] [--bytes N] [--folder PATH] [--json]`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kddm::linker::{Durability, Stamp, Store};
use kddm::{Node, Raw, Set};
use kddm_stores::Redb;

type Failed = Box<dyn std::error::Error>;

/// All values of a run together: several times what redb keeps in its memory.
const DATA_BYTES: usize = 256 << 20;
const SIZES: [usize; 3] = [1 << 10, 4 << 10, 16 << 10];
/// Reads of a round, by all threads together.
const READS: usize = 40_000;
/// Written in one commit.
const BATCH: usize = 1024;
/// The exponent of Zipf's law in YCSB.
const SKEW: f64 = 0.99;
/// No read takes as long.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Picked {
    /// All objects alike.
    Uniform,
    /// Few of them mostly.
    Zipf,
}

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|word| word == name).and_then(|at| arguments.get(at + 1));
    let rounds: usize = value("--rounds").map_or(Ok(9), |rounds| rounds.parse())?;
    let threads: usize = value("--threads").map_or(Ok(16), |threads| threads.parse())?;
    let only: Option<usize> = value("--bytes").map(|bytes| bytes.parse()).transpose()?;
    let within = value("--folder").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = within.join(format!("kddm-budget-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let sizes = only.map_or(SIZES.to_vec(), |bytes| vec![bytes.max(1)]);
    let measured = measured(&folder, &sizes, rounds.max(1), threads.max(1));
    std::fs::remove_dir_all(&folder)?;
    let rows = measured?;
    if arguments.iter().any(|word| word == "--json") {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!(
        "{:<8} {:>6} {:>11} {:>11} {:>6}  lowest – highest   hits, estimated",
        "", "bytes", "set/s", "store/s", "ratio"
    );
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_default();
        print!("{:<8} {:>6}", row["picked"].as_str().unwrap_or_default(), row["bytes"]);
        print!(" {:>11.0} {:>11.0} {:>6.2}", number("set"), number("store"), number("ratio"));
        print!("  {:.2} – {:.2}       ", number("lowest"), number("highest"));
        println!("{:.2}, {:.2}", number("hits"), number("estimated"));
    }
    Ok(())
}

fn measured(folder: &Path, sizes: &[usize], rounds: usize, threads: usize) -> Result<Vec<serde_json::Value>, Failed> {
    let mut rows = Vec::new();
    for &size in sizes {
        let store = filled(&folder.join(format!("{size}.redb")), size)?;
        for picked in [Picked::Zipf, Picked::Uniform] {
            rows.push(beside(&store, size, picked, rounds, threads)?);
        }
        drop(store);
        std::fs::remove_file(folder.join(format!("{size}.redb")))?;
    }
    Ok(rows)
}

fn objects(size: usize) -> u64 {
    (DATA_BYTES / size) as u64
}

fn filled(path: &Path, size: usize) -> Result<Redb, Failed> {
    let store = Redb::with(path, Durability::OnSync)?;
    let value = vec![7; size];
    let all: Vec<u64> = (0..objects(size)).collect();
    for batch in all.chunks(BATCH) {
        let stamp = Stamp { term: 0, tenure: 1, version: 1 };
        let batch: Vec<(u64, Stamp, Option<&[u8]>)> =
            batch.iter().map(|object| (*object, stamp, Some(&*value))).collect();
        store.write_all(&batch)?;
    }
    store.sync()?;
    Ok(store)
}

fn beside(
    store: &Redb,
    size: usize,
    picked: Picked,
    rounds: usize,
    threads: usize,
) -> Result<serde_json::Value, Failed> {
    let node = Node::local_cluster(1)?.remove(0);
    let builder =
        node.set("rows").linker("redb", store.clone()).quick_linker().replicas(0).memory_budget(DATA_BYTES / 10);
    let set: Set<Raw> = builder.open().wait()?;
    let picks = Picks::of(objects(size), picked);
    let mut all = Vec::new();
    // The first rounds fill the set, and are not counted.
    let fill = (objects(size) as usize).div_ceil(READS) + 1;
    let mut missed = 0;
    for round in 0..fill + rounds {
        if round == fill {
            missed = set.budget().map_or(0, |budget| budget.misses);
        }
        let reads: Vec<Vec<u64>> = (0..threads).map(|_| picks.draw(READS / threads)).collect();
        let of_set = || rate(&reads, |object| Ok(set.get(object).wait_for(LIMIT)?.0.len()), size);
        let of_store = || rate(&reads, |object| bytes_of(store, object), size);
        // Whoever comes second finds in the store's memory what the first one has read there.
        let (of_set, of_store) = if round % 2 == 0 {
            let first = of_set()?;
            (first, of_store()?)
        } else {
            let first = of_store()?;
            (of_set()?, first)
        };
        if round >= fill {
            all.push([of_set, of_store]);
        }
    }
    let budget = set.budget().ok_or("it was opened with one")?;
    if budget.bytes > 2 * budget.limit_bytes || budget.evicted == 0 || budget.refused > 0 {
        return Err(format!("it did not keep to its budget: {budget:?}").into());
    }
    let reads = (rounds * (READS / threads) * threads) as f64;
    let ratios: Vec<f64> = all.iter().map(|[set, store]| set / store).collect();
    Ok(serde_json::json!({
        "picked": format!("{picked:?}").to_lowercase(), "bytes": size, "rounds": rounds, "threads": threads,
        "set": median(all.iter().map(|[set, _]| *set).collect()),
        "store": median(all.iter().map(|[_, store]| *store).collect()),
        "ratio": median(ratios.clone()),
        "lowest": ratios.iter().copied().fold(f64::INFINITY, f64::min),
        "highest": ratios.iter().copied().fold(0.0, f64::max),
        "hits": 1.0 - (budget.misses - missed) as f64 / reads,
        "estimated": budget.hit_ratio, "evicted": budget.evicted,
    }))
}

fn bytes_of(store: &Redb, object: u64) -> Result<usize, kddm::Error> {
    Ok(store.read(object)?.and_then(|stored| stored.bytes).map_or(0, |bytes| bytes.len()))
}

/// Reads a second, of all threads.
fn rate(
    reads: &[Vec<u64>],
    read: impl Fn(u64) -> Result<usize, kddm::Error> + Sync,
    size: usize,
) -> Result<f64, Failed> {
    let begin = Instant::now();
    let read = &read;
    let are_whole = std::thread::scope(|scope| {
        let all: Vec<_> = reads.iter().map(|reads| scope.spawn(move || all_whole(reads, read, size))).collect();
        all.into_iter().map(|thread| thread.join().unwrap_or(Ok(false))).collect::<Result<Vec<bool>, _>>()
    })?;
    if !are_whole.into_iter().all(|is_whole| is_whole) {
        return Err("an object is not there, or is another".into());
    }
    Ok(reads.iter().map(Vec::len).sum::<usize>() as f64 / begin.elapsed().as_secs_f64())
}

fn all_whole(
    reads: &[u64],
    read: &impl Fn(u64) -> Result<usize, kddm::Error>,
    size: usize,
) -> Result<bool, kddm::Error> {
    for object in reads {
        if read(*object)? != size {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Which objects are read.
struct Picks {
    objects: u64,
    /// How often one of the first so many is picked, of all; nothing where all are alike.
    upto: Vec<f64>,
}

impl Picks {
    fn of(objects: u64, picked: Picked) -> Picks {
        let mut sum = 0.0;
        let mut next = |rank: u64| {
            sum += 1.0 / (rank as f64).powf(SKEW);
            sum
        };
        let upto = if picked == Picked::Zipf { (1..=objects).map(&mut next).collect() } else { Vec::new() };
        Picks { objects, upto }
    }

    fn draw(&self, count: usize) -> Vec<u64> {
        let Some(all) = self.upto.last() else { return (0..count).map(|_| fastrand::u64(0..self.objects)).collect() };
        // Those that are read often are no neighbours: 7,919 is a prime, and no divisor of their number.
        let place = |rank: usize| rank as u64 * 7919 % self.objects;
        let pick = || {
            let point = fastrand::f64() * all;
            place(self.upto.partition_point(|upto| *upto < point))
        };
        (0..count).map(|_| pick()).collect()
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}
