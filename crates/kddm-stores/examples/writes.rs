//! What a durable write through a store costs beside what stands below it: the same number of bytes, kept for certain by one
//! commit of redb, one of SQLite, or one new file with its name. By turns, since a disk is fast now and slow a moment later.
//!
//! `cargo run --release -p kddm-stores --example writes -- [--rounds N] [--folder PATH] [--json]`

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
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
const TABLE: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("rows");

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|word| word == name).and_then(|at| arguments.get(at + 1));
    let rounds: u64 = value("--rounds").map_or(Ok(15), |rounds| rounds.parse())?;
    let within = value("--folder").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = within.join(format!("kddm-writes-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = measured(&folder, rounds.max(1));
    std::fs::remove_dir_all(&folder)?;
    let rows = measured?;
    if arguments.iter().any(|word| word == "--json") {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("{:<10} {:>6} {:>12} {:>12} {:>7}  of {rounds} rounds", "", "bytes", "store µs", "below µs", "ratio");
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| row[name].as_f64().unwrap_or_default();
        print!("{:<10} {:>6} {:>12.1} {:>12.1}", text("store"), row["bytes"], number("store_us"), number("below_us"));
        println!(" {:>7.2}  {:.2} – {:.2}", number("ratio"), number("lowest_ratio"), number("highest_ratio"));
    }
    Ok(())
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
            let ratios: Vec<f64> = all.iter().map(|[store, below]| store / below).collect();
            let column = |index: usize| median(all.iter().map(|round| round[index]).collect());
            rows.push(serde_json::json!({
                "store": kind, "bytes": size, "rounds": rounds, "store_us": column(0), "below_us": column(1),
                "ratio": median(ratios.clone()),
                "lowest_ratio": ratios.iter().copied().fold(f64::INFINITY, f64::min),
                "highest_ratio": ratios.iter().copied().fold(0.0, f64::max),
            }));
        }
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
