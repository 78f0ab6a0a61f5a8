//! What a durable write through a store costs beside what stands below it: the same number of bytes, kept for certain by one
//! commit of redb, one of SQLite, or one new file with its name. By turns, since a disk is fast now and slow a moment later.
//!
//! `cargo run --release -p kddm-stores --example writes -- [--rounds N] [--folder PATH] [--json]`

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use kddm::linker::{Directory, Stamp, Store, Written};
use kddm_stores::{Redb, Sqlite};
use redb::{Database, TableDefinition};
use rusqlite::{Connection, params};

type Failed = Box<dyn std::error::Error>;
/// Writes that many bytes as that object, for the so-many-th time.
type Writer = Box<dyn FnMut(u64, u64, &[u8]) -> Result<(), Failed>>;

const SIZES: [usize; 2] = [64, 4096];
/// Objects that are written in turn.
const OBJECTS: u64 = 500;
/// Writes of each in a round, of which the median counts.
const WRITES: u64 = 40;
/// Threads that write at one time where they share commits: as many as a linker has.
const THREADS: u64 = 4;
const TABLE: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("rows");

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|word| word == name).and_then(|at| arguments.get(at + 1));
    let rounds: u64 = value("--rounds").map_or(Ok(15), |rounds| rounds.parse())?;
    let within = value("--folder").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = within.join(format!("kddm-writes-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = measured(&folder, rounds.max(1)).and_then(|rows| Ok((rows, shared(&folder, rounds.max(1))?)));
    std::fs::remove_dir_all(&folder)?;
    let (rows, shared) = measured?;
    if arguments.iter().any(|word| word == "--json") {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "writes": rows, "shared": shared }))?);
        return Ok(());
    }
    show(&rows, ["store_us", "below_us"]);
    println!("a write of {THREADS} threads at one time, beside one of a thread alone");
    show(&shared, ["shared_us", "alone_us"]);
    Ok(())
}

fn show(rows: &[serde_json::Value], [first, second]: [&str; 2]) {
    println!("{:<10} {:>6} {first:>10} {second:>10} {:>7}  lowest – highest", "", "bytes", "ratio");
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_default();
        print!("{:<10} {:>6}", row["store"].as_str().unwrap_or_default(), row["bytes"]);
        print!(" {:>10.1} {:>10.1} {:>7.2}", number(first), number(second), number("ratio"));
        println!("  {:.2} – {:.2}", number("lowest_ratio"), number("highest_ratio"));
    }
}

/// What came of rounds, of each the time of the one and of the other.
fn row(kind: &str, bytes: usize, [first, second]: [&str; 2], all: &[[f64; 2]]) -> serde_json::Value {
    let ratios: Vec<f64> = all.iter().map(|[first, second]| first / second).collect();
    let column = |index: usize| median(all.iter().map(|round| round[index]).collect());
    let (lowest, highest) =
        ratios.iter().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), ratio| (low.min(*ratio), high.max(*ratio)));
    serde_json::json!({
        "store": kind, "bytes": bytes, "rounds": all.len(), first: column(0), second: column(1),
        "ratio": median(ratios), "lowest_ratio": lowest, "highest_ratio": highest,
    })
}

fn measured(folder: &Path, rounds: u64) -> Result<Vec<serde_json::Value>, Failed> {
    let mut rows = Vec::new();
    for (kind, mut store, mut below) in pairs(folder)? {
        for size in SIZES {
            let bytes = vec![7; size];
            let mut all: Vec<[f64; 2]> = Vec::new();
            // The first round is for files to grow, and is not counted.
            for round in 0..=rounds {
                let mut taken = [Vec::new(), Vec::new()];
                for turn in 0..WRITES {
                    let count = round * WRITES + turn;
                    let object = count * 7919 % OBJECTS;
                    for (writer, taken) in [&mut store, &mut below].into_iter().zip(&mut taken) {
                        let begin = Instant::now();
                        writer(object, count + size as u64 * 1_000_000, &bytes)?;
                        taken.push(begin.elapsed().as_secs_f64() * 1e6);
                    }
                }
                if round > 0 {
                    all.push(taken.map(median));
                }
            }
            rows.push(row(kind, size, ["store_us", "below_us"], &all));
        }
    }
    Ok(rows)
}

/// How long a write takes that threads share the time of, beside one of a thread alone, by turns: they share commits.
fn shared(folder: &Path, rounds: u64) -> Result<Vec<serde_json::Value>, Failed> {
    let stores: [(&str, Box<dyn Store>); 3] = [
        ("redb", Box::new(Redb::open(folder.join("shared.redb"))?)),
        ("sqlite", Box::new(Sqlite::open(folder.join("shared.db"), "notes")?)),
        ("directory", Box::new(Directory::open(folder.join("shared"))?)),
    ];
    let mut rows = Vec::new();
    for (kind, store) in stores {
        let version = AtomicU64::new(0);
        let write = |object: u64| {
            let stamp = Stamp { term: 0, tenure: 1, version: 1 + version.fetch_add(1, Ordering::Relaxed) };
            matches!(store.write(object, stamp, Some(&[7; 64])), Ok(Written::Kept))
        };
        let taken = |threads: u64| {
            let begin = Instant::now();
            let are_kept = std::thread::scope(|scope| {
                let all: Vec<_> = (0..threads)
                    .map(|thread| scope.spawn(move || (0..WRITES / threads).all(|turn| write(turn * threads + thread))))
                    .collect();
                all.into_iter().all(|thread| thread.join().unwrap_or(false))
            });
            if are_kept { Ok(begin.elapsed().as_secs_f64() * 1e6 / WRITES as f64) } else { Err("a write was not kept") }
        };
        let all: Result<Vec<[f64; 2]>, Failed> = (0..=rounds).map(|_| Ok([taken(THREADS)?, taken(1)?])).collect();
        rows.push(row(kind, 64, ["shared_us", "alone_us"], &all?[1..]));
    }
    Ok(rows)
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Each store, and what stands below it, in files of the same folder.
fn pairs(folder: &Path) -> Result<Vec<(&'static str, Writer, Writer)>, Failed> {
    let redb = Redb::open(folder.join("store.redb"))?;
    let sqlite = Sqlite::open(folder.join("store.db"), "notes")?;
    let directory = Directory::open(folder.join("store"))?;
    Ok(vec![
        ("redb", through(redb), below_redb(folder)?),
        ("sqlite", through(sqlite), below_sqlite(folder)?),
        ("directory", through(directory), below_directory(folder)?),
    ])
}

fn through(store: impl Store) -> Writer {
    Box::new(move |object, version, bytes| {
        let written = store.write(object, Stamp { term: 0, tenure: 1, version }, Some(bytes))?;
        if written == Written::Kept { Ok(()) } else { Err(format!("{written:?}").into()) }
    })
}

fn below_redb(folder: &Path) -> Result<Writer, Failed> {
    let database = Database::create(folder.join("below.redb"))?;
    Ok(Box::new(move |object, _, bytes| {
        let write = database.begin_write()?;
        write.open_table(TABLE)?.insert(object, bytes)?;
        Ok(write.commit()?)
    }))
}

fn below_sqlite(folder: &Path) -> Result<Writer, Failed> {
    let database = Connection::open(folder.join("below.db"))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.execute_batch("CREATE TABLE rows (object INTEGER PRIMARY KEY, bytes BLOB)")?;
    Ok(Box::new(move |object, version, bytes| {
        // As many bytes, but not the same: SQLite writes no page that stays as it is.
        let bytes = [&version.to_le_bytes(), &bytes[8..]].concat();
        let put = "INSERT INTO rows VALUES (?1, ?2) ON CONFLICT (object) DO UPDATE SET bytes = ?2";
        database.prepare_cached(put)?.execute(params![object.cast_signed(), bytes])?;
        Ok(())
    }))
}

fn below_directory(folder: &Path) -> Result<Writer, Failed> {
    let folder = folder.join("below");
    std::fs::create_dir(&folder)?;
    let names = File::open(&folder)?;
    Ok(Box::new(move |object, _, bytes| {
        let new = folder.join("new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, folder.join(object.to_string()))?;
        Ok(names.sync_all()?)
    }))
}
