//! A client process: does what the first one says, a line at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::servers;
use crate::store::{self, KEYS, Kddm, Store, Survival};
use crate::system::System;
use crate::workload::{self, Done, Workload};

/// The first argument that makes this program a client.
pub const WORKER: &str = "worker";

/// Keys that are written and read where it is looked for stale reads.
pub const STALE_KEYS: u64 = 16;

/// What a client is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Write every key.
    Fill,
    /// Do that for so long.
    Run { workload: Workload, limit_ms: u64, seed: u64 },
    /// What does the counter say?
    Count,
    /// Write the keys of stale reads in turn until the file says so, and write there what is done.
    WriteForStale { file: PathBuf },
    /// Read them so often.
    ReadForStale { file: PathBuf, reads: u64 },
    /// Wait until three members decide.
    AwaitVoters,
    /// Write one key until that fails, and write to the file what was acknowledged.
    WriteForKill { file: PathBuf },
    /// Read and write that key, at any of these servers, until both has succeeded.
    TakeOver { addresses: Vec<String> },
}

/// What a client answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is there; where, if others have to know.
    Ready {
        address: String,
    },
    Done(Done),
    Count(u64),
    Stale {
        reads: u64,
        stale: u64,
    },
    /// What the key said.
    TookOver {
        number: u64,
    },
}

/// `worker SYSTEM ADDRESS`.
///
/// # Errors
/// Whatever goes wrong; whoever started it is told by the end of the answers.
pub fn main(words: &[String]) -> Result<(), Failure> {
    let [system, address, more @ ..] = words else { return Err("a client needs a system and an address".into()) };
    let system = System::named(system).ok_or("no such system")?;
    if !system.is_ours() {
        let mut store = store::connect(system, address)?;
        say(&Answer::Ready { address: String::new() })?;
        return listen(|order| match order {
            Order::TakeOver { addresses } => take_over(|said, number| {
                at_any(&addresses, |address| read_and_write(&mut *store::connect(system, address)?, said, number))
            }),
            order => obey(&mut *store, order),
        });
    }
    let survival = match more {
        [view_log, guardian] => Some(Survival {
            view_log: view_log.into(),
            guardian: Some(guardian).filter(|guardian| !guardian.is_empty()).map(PathBuf::from),
        }),
        _ => None,
    };
    let mut node = Kddm::join(system, address, survival)?;
    say(&Answer::Ready { address: node.address() })?;
    listen(|order| match order {
        Order::AwaitVoters => node.await_voters().map(|()| Answer::Done(Done::default())),
        Order::TakeOver { .. } => take_over(|said, number| read_and_write(&mut node, said, number)),
        order => obey(&mut node, order),
    })
}

/// Obeys until nobody orders anything any more.
fn listen(mut obey: impl FnMut(Order) -> Result<Answer, Failure>) -> Result<(), Failure> {
    for line in std::io::stdin().lock().lines() {
        say(&obey(serde_json::from_str(&line?)?)?)?;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<(), Failure> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(std::io::stdout().flush()?)
}

fn obey(store: &mut dyn Store, order: Order) -> Result<Answer, Failure> {
    Ok(match order {
        Order::Fill => {
            (0..KEYS).try_for_each(|key| store.write(key, 0))?;
            Answer::Done(Done { operations: KEYS, ..Done::default() })
        }
        Order::Run { workload, limit_ms, seed } => {
            Answer::Done(workload::run(store, workload, Duration::from_millis(limit_ms), seed)?)
        }
        Order::Count => Answer::Count(store.count()?),
        Order::WriteForStale { file } => Answer::Done(write_for_stale(store, &file)?),
        Order::ReadForStale { file, reads } => read_for_stale(store, &file, reads)?,
        Order::WriteForKill { file } => Answer::Done(write_for_kill(store, &file)?),
        Order::AwaitVoters | Order::TakeOver { .. } => return Err("that depends on the system".into()),
    })
}

/// The word of that file that says that the reader has enough; those before it say what each key was written last.
const ENOUGH_AT: u64 = STALE_KEYS * 8;

/// A file of zeros for a writer and a reader.
///
/// # Errors
/// It cannot be made.
pub fn stale_file(file: &Path) -> Result<(), Failure> {
    Ok(std::fs::write(file, [0; ENOUGH_AT as usize + 8])?)
}

fn word(file: &File, at: u64) -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A write is completed when the system says so, and known to everybody once it stands in the file.
fn write_for_stale(store: &mut dyn Store, file: &Path) -> Result<Done, Failure> {
    let file = File::options().read(true).write(true).open(file)?;
    let mut operations = 0;
    while word(&file, ENOUGH_AT)? == 0 {
        let (key, number) = (operations % STALE_KEYS, operations + 1);
        store.write(key, number)?;
        file.write_all_at(&number.to_le_bytes(), key * 8)?;
        operations += 1;
    }
    Ok(Done { operations, ..Done::default() })
}

/// A read that began after a write was completed and sees an older value is stale.
fn read_for_stale(store: &mut dyn Store, file: &Path, reads: u64) -> Result<Answer, Failure> {
    let file = File::options().read(true).write(true).open(file)?;
    let mut stale = 0;
    for number in 0..reads {
        let key = number % STALE_KEYS;
        let complete = word(&file, key * 8)?;
        stale += u64::from(store.read(key)? < complete);
    }
    file.write_all_at(&1_u64.to_le_bytes(), ENOUGH_AT)?;
    Ok(Answer::Stale { reads, stale })
}

/// The last number that was acknowledged before a kill.
///
/// # Errors
/// The file is gone.
pub fn acknowledged(file: &Path) -> Result<u64, Failure> {
    word(&File::open(file)?, 0)
}

/// The end of this is the end of the server, or of this process.
fn write_for_kill(store: &mut dyn Store, file: &Path) -> Result<Done, Failure> {
    let file = File::options().write(true).open(file)?;
    let mut operations = 0;
    while store.write(0, operations + 1).is_ok() {
        operations += 1;
        file.write_all_at(&operations.to_le_bytes(), 0)?;
    }
    Ok(Done { operations, ..Done::default() })
}

/// Tries until it has succeeded. What the key said first counts: a write that failed may have been done, and is not to
/// be read back as what was there.
fn take_over(mut attempt: impl FnMut(&mut Option<u64>, u64) -> Result<(), Failure>) -> Result<Answer, Failure> {
    let start = std::time::Instant::now();
    let mut said = None;
    loop {
        match (attempt(&mut said, u64::MAX), said) {
            (Ok(()), Some(number)) => return Ok(Answer::TookOver { number }),
            (Ok(()), None) => return Err("nothing was read".into()),
            (Err(error), _) if start.elapsed() > store::START_LIMIT => return Err(error),
            (Err(_), _) => {}
        }
    }
}

/// What the key says, unless it has been read already; then it is that number.
fn read_and_write(store: &mut dyn Store, said: &mut Option<u64>, number: u64) -> Result<(), Failure> {
    if said.is_none() {
        *said = Some(store.read(0)?);
    }
    store.write(0, number)
}

/// At the first of these servers where it succeeds.
fn at_any(addresses: &[String], mut attempt: impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut outcome = Err("no address was given".into());
    for address in addresses {
        outcome = attempt(address);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// A client process, from outside. It ends with this.
pub struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Where others find it, if they have to.
    pub address: String,
}

impl Worker {
    /// Starts one, and waits until it is ready.
    ///
    /// # Errors
    /// It is not; what it says about that goes to the standard error.
    pub fn start(system: System, address: &str) -> Result<Worker, Failure> {
        Worker::start_with(system, address, &[])
    }

    /// The same, of a node that is told where its log and its guardian are.
    ///
    /// # Errors
    /// As [`start`](Worker::start).
    pub fn start_with(system: System, address: &str, more: &[&str]) -> Result<Worker, Failure> {
        let mut command = servers::mortal(&std::env::current_exe()?);
        command.args([WORKER, system.name(), address]).args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("its output is piped")?);
        let mut worker = Worker { child, orders, answers, address: String::new() };
        match worker.answer()? {
            Answer::Ready { address } => worker.address = address,
            other => return Err(format!("a client began with {other:?}").into()),
        }
        Ok(worker)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_is_ours = self.child.wait();
    }

    /// Tells it what to do next.
    ///
    /// # Errors
    /// It has ended.
    pub fn order(&mut self, order: &Order) -> Result<(), Failure> {
        let orders = self.orders.as_mut().ok_or("it was told to end")?;
        Ok(writeln!(orders, "{}", serde_json::to_string(order)?)?)
    }

    /// What it says.
    ///
    /// # Errors
    /// It has ended, and said why.
    pub fn answer(&mut self) -> Result<Answer, Failure> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("a client has ended".into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Both, for an order whose answer is of that kind.
    ///
    /// # Errors
    /// As both.
    pub fn done(&mut self) -> Result<Done, Failure> {
        match self.answer()? {
            Answer::Done(done) => Ok(done),
            other => Err(format!("a client said {other:?}").into()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with what it was given last, or with what that was before, every third time.
    struct Forgetful {
        value: u64,
        reads: u64,
    }

    impl Store for Forgetful {
        fn read(&mut self, _key: u64) -> Result<u64, Failure> {
            self.reads += 1;
            Ok(if self.reads.is_multiple_of(3) { self.value - 1 } else { self.value })
        }

        fn write(&mut self, _key: u64, _number: u64) -> Result<(), Failure> {
            Ok(())
        }

        fn increment(&mut self) -> Result<(), Failure> {
            Ok(())
        }

        fn count(&mut self) -> Result<u64, Failure> {
            Ok(5)
        }

        fn lock(&mut self) -> Result<(), Failure> {
            Ok(())
        }

        fn unlock(&mut self) -> Result<(), Failure> {
            Ok(())
        }
    }

    /// Does what it is told, and says a few times that it has not.
    struct Unheard {
        value: u64,
        failures: u32,
    }

    impl Store for Unheard {
        fn read(&mut self, _key: u64) -> Result<u64, Failure> {
            Ok(self.value)
        }

        fn write(&mut self, _key: u64, number: u64) -> Result<(), Failure> {
            self.value = number;
            if self.failures == 0 {
                return Ok(());
            }
            self.failures -= 1;
            Err("no answer".into())
        }

        fn increment(&mut self) -> Result<(), Failure> {
            Err("nobody asks for that".into())
        }

        fn count(&mut self) -> Result<u64, Failure> {
            Err("nobody asks for that".into())
        }

        fn lock(&mut self) -> Result<(), Failure> {
            Err("nobody asks for that".into())
        }

        fn unlock(&mut self) -> Result<(), Failure> {
            Err("nobody asks for that".into())
        }
    }

    #[test]
    fn a_read_of_less_than_what_is_complete_is_stale() {
        let file = std::env::temp_dir().join(format!("kddm-peers-stale-{}", std::process::id()));
        stale_file(&file).unwrap();
        let open = File::options().write(true).open(&file).unwrap();
        for key in 0..STALE_KEYS {
            open.write_all_at(&7_u64.to_le_bytes(), key * 8).unwrap();
        }
        let mut store = Forgetful { value: 7, reads: 0 };
        let read = obey(&mut store, Order::ReadForStale { file: file.clone(), reads: 30 }).unwrap();
        assert_eq!(read, Answer::Stale { reads: 30, stale: 10 });
        // The reader has said that it has enough.
        let written = obey(&mut store, Order::WriteForStale { file: file.clone() }).unwrap();
        assert_eq!(written, Answer::Done(Done::default()));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn whoever_takes_over_tries_again_and_says_what_it_found() {
        let mut failures = 3;
        let answer = take_over(|said, _| {
            failures -= 1;
            *said = Some(17);
            if failures > 0 { Err("not yet".into()) } else { Ok(()) }
        });
        assert_eq!((answer.unwrap(), failures), (Answer::TookOver { number: 17 }, 0));
        assert!(at_any(&[], |_| Ok(())).is_err());
    }

    /// As where the server is lost between the write and its answer.
    #[test]
    fn a_write_that_is_done_without_an_answer_is_not_read_back() {
        let mut unheard = Unheard { value: 9, failures: 2 };
        let answer = take_over(|said, number| {
            at_any(&["first".into(), "second".into()], |_| read_and_write(&mut unheard, said, number))
        });
        assert_eq!((answer.unwrap(), unheard.value), (Answer::TookOver { number: 9 }, u64::MAX));
    }

    #[test]
    fn orders_and_answers_survive_the_way() {
        let order = Order::Run { workload: Workload::Mix(95), limit_ms: 300, seed: 1 };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
        assert!(serde_json::from_str::<Order>("{\"Run\":{}}").is_err());
        let mut store = Forgetful { value: 1, reads: 0 };
        assert_eq!(obey(&mut store, Order::Count).unwrap(), Answer::Count(5));
    }
}
