//! A table of SQLite, served by nodes as the objects of a set; one of them is killed in between, and one is held up for longer
//! than its lease.
//!
//!     cargo run --release -p kddm-stores --example accounts -- [SECONDS]
//!
//! Three processes pay into a hundred accounts, one at a time, and count what was done. Each account is a row; the set has no
//! replicas, because what is done is in the table. One process is killed (SIGKILL). Another one is stopped (SIGSTOP) until the
//! others have gone on without it, and goes on (SIGCONT): its lease has ended, and what it still writes is refused where others
//! have written since. At the end what the others see, and what is in the table, is what was done, and at most two payments
//! more: those that were under way.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kddm::linker::Store;
use kddm::{Config, Node, OnLoss, Set, Value};
use kddm_stores::Sqlite;
use rustix::process::{Pid, Signal, kill_process};

/// In it a process finds whom it is to ask, and where the database is.
const CLERK: &str = "KDDM_EXAMPLE_ACCOUNTS";
const ACCOUNTS: u64 = 100;
/// Nobody waits longer for anything here.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    if let Ok(told) = std::env::var(CLERK) {
        let (contact, folder) = told.split_once(' ').ok_or("a contact and a folder")?;
        return clerk(contact, Path::new(folder));
    }
    let seconds: f64 = std::env::args().nth(1).unwrap_or("4".into()).parse()?;
    let folder = std::env::temp_dir().join(format!("kddm-accounts-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = office(&folder, Duration::from_secs_f64(seconds));
    std::fs::remove_dir_all(&folder)?;
    done
}

fn table(folder: &Path) -> Result<Sqlite, Box<dyn Error>> {
    Ok(Sqlite::open(folder.join("bank.db"), "accounts")?)
}

/// The same at each node: what is lost with one is read from the table.
fn open(node: &Node, folder: &Path) -> Result<Set<u64>, Box<dyn Error>> {
    let set = node.set("accounts").replicas(0).on_loss(OnLoss::Linker).linker("accounts", table(folder)?);
    Ok(set.open().wait()?)
}

/// One payment after the other, until its input ends. Says after each how many were done.
fn clerk(contact: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let node = Node::join(Config::new().contact(contact.parse()?)).wait()?;
    let accounts = open(&node, folder)?;
    let ends = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let (mut random, mut done) = (fastrand::Rng::with_seed(node.id().into()), 0_u64);
    println!("{done}");
    while !ends.is_finished() {
        let pay = |balance: &mut u64| {
            *balance += 1;
            Ok(())
        };
        accounts.update(random.u64(0..ACCOUNTS), pay).wait_for(LIMIT)?;
        done += 1;
        println!("{done}");
    }
    Ok(())
}

struct Clerk {
    child: Child,
    /// What it has said last.
    done: std::thread::JoinHandle<u64>,
}

impl Clerk {
    fn start(node: &Node, folder: &Path) -> Result<Clerk, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(CLERK, format!("{} {}", node.address(), folder.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("its output is piped")?).lines();
        lines.next().ok_or("it has ended before it began")??;
        // The last line of one that is killed may be cut off: it is no number then, or one that is too small.
        let last = move || lines.map_while(Result::ok).filter_map(|line| line.parse().ok()).max().unwrap_or(0);
        Ok(Clerk { child, done: std::thread::spawn(last) })
    }

    /// Waits for its end. What it has done.
    fn end(mut self) -> Result<(u64, bool), Box<dyn Error>> {
        drop(self.child.stdin.take());
        let is_well = self.child.wait()?.success();
        Ok((self.done.join().map_err(|_| "its reader panicked")?, is_well))
    }
}

fn office(folder: &Path, time: Duration) -> Result<(), Box<dyn Error>> {
    let node = Node::join(Config::new()).wait()?;
    let accounts = open(&node, folder)?;
    let clerks = (0..3).map(|_| Clerk::start(&node, folder)).collect::<Result<Vec<_>, _>>()?;
    let mut clerks = clerks.into_iter();
    let mut killed = clerks.next().ok_or("there are three")?;
    std::thread::sleep(time / 2);
    killed.child.kill()?;
    let (mut done, _) = killed.end()?;
    println!("one of three clerks is killed after {done} payments");
    let begin = Instant::now();
    let balances =
        |all: &mut dyn FnMut(u64) -> Result<u64, Box<dyn Error>>| (0..ACCOUNTS).map(all).sum::<Result<u64, _>>();
    let seen = balances(&mut |account| Ok(*accounts.get(account).wait_for(LIMIT)?))?;
    println!("all {ACCOUNTS} accounts were read again {:?} later: {seen} payments at least", begin.elapsed());
    let held_up = clerks.next().ok_or("there are three")?;
    let process = Pid::from_raw(i32::try_from(held_up.child.id())?).ok_or("a process has a number")?;
    let expelled = || node.lease().counts.expulsions;
    let before = expelled();
    kill_process(process, Signal::STOP)?;
    while expelled() == before {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(time / 2);
    kill_process(process, Signal::CONT)?;
    let (of_one, is_well) = held_up.end()?;
    println!(
        "another one is held up, and expelled: after {of_one} payments it {}",
        if is_well { "is well" } else { "hears so" }
    );
    done += of_one;
    for clerk in clerks {
        let (of_one, is_well) = clerk.end()?;
        if !is_well {
            return Err("a clerk has met an error".into());
        }
        done += of_one;
    }
    let seen = balances(&mut |account| Ok(*accounts.get(account).wait_for(LIMIT)?))?;
    let store = table(folder)?;
    let kept = balances(&mut |account| {
        let bytes = store.read(account)?.and_then(|stored| stored.bytes);
        Ok(bytes.map_or(Ok(0), |bytes| u64::decode(&bytes))?)
    })?;
    println!("done: {done} payments; the nodes see {seen}, the table has {kept}");
    std::io::stdout().flush()?;
    // One that is under way at an end is in the table, or not; and the nodes need not have looked since.
    if [seen, kept].into_iter().any(|sum| sum < done || sum > done + 2) {
        return Err("that is not what was done, and at most what was under way".into());
    }
    let file: PathBuf = folder.join("bank.db");
    println!("{} bytes in {}", std::fs::metadata(&file)?.len(), file.display());
    Ok(())
}
