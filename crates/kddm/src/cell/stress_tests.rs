//! Many threads against one driver. Nothing is timed: each test ends after so many rounds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use kddm_core::io::Access;

use super::*;
use crate::value::Pod;

/// Grants and revocations the driver makes.
const ROUNDS: u64 = if cfg!(miri) { 20 } else { 1_000 };
const READERS: usize = 3;
const ID: u64 = 42;

/// The lane of these tests: the driver sleeps until a release tells.
#[derive(Default)]
struct Lane {
    told: Mutex<bool>,
    changed: Condvar,
}

impl Lane {
    fn tell(&self) {
        *self.told.lock().expect("no panic under this lock") = true;
        self.changed.notify_all();
    }

    /// A wake-up that is lost hangs here, and the test with it.
    fn wait(&self) {
        let mut told = self.told.lock().expect("no panic under this lock");
        while !std::mem::take(&mut *told) {
            told = self.changed.wait(told).expect("no panic under this lock");
        }
    }
}

fn revoke(table: &dyn Store, cell: CellNumber, lane: &Lane) -> u64 {
    loop {
        match table.revoke(cell, Access::None) {
            RevokeResult::Done { version, .. } => return version,
            RevokeResult::Held => lane.wait(),
        }
    }
}

/// Readers hold while a driver revokes, changes the value, and grants again. `round` is odd while
/// access is revoked: no hold may exist then.
fn readers_against_revocations(reads_per_grant: u64) {
    let (table, lane) = (Table::<String>::new(), Lane::default());
    let (round, stop, reads) = (AtomicU64::new(1), AtomicBool::new(false), AtomicU64::new(0));
    let cell = table.find_or_insert(ID);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match table.try_read(ID) {
                        Ok(hold) => {
                            let now = round.load(Ordering::Relaxed);
                            assert_eq!(now % 2, 0, "a hold while access is revoked");
                            assert_eq!(*hold.value(), now.to_string(), "a value of another grant");
                            assert_eq!(round.load(Ordering::Relaxed), now, "revoked under a hold");
                            reads.fetch_add(1, Ordering::Relaxed);
                            if hold.release() {
                                lane.tell();
                            }
                        }
                        Err(Slow::Interrupted(id)) => {
                            assert_eq!(id, ID);
                            lane.tell();
                        }
                        Err(_) => std::thread::yield_now(),
                    }
                }
            });
        }
        for number in 1..=ROUNDS {
            let text = (number * 2).to_string();
            let bytes = [&[text.len() as u8], text.as_bytes()].concat();
            table.install(cell, number, Some(&bytes)).expect("nobody holds a revoked object");
            round.store(number * 2, Ordering::SeqCst);
            table.grant(cell, Access::Read);
            drop(table.adopt_read(table.take_read(cell).expect("just granted")).expect("it decodes"));
            let enough = reads.load(Ordering::Relaxed) + reads_per_grant;
            while reads.load(Ordering::Relaxed) < enough {
                std::thread::yield_now();
            }
            assert_eq!(revoke(&table, cell, &lane), number);
            round.store(number * 2 + 1, Ordering::SeqCst);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nobody_holds_what_is_revoked_counted() {
    readers_against_revocations(1);
}

#[test]
fn nobody_holds_what_is_revoked_biased() {
    readers_against_revocations(150);
}

/// Threads write by the fast path, others read without holds, the driver revokes in between.
#[test]
fn plain_old_data_is_never_torn() {
    let (table, lane) = (Table::<Pod<[u64; 8]>>::new(), Lane::default());
    let (stop, revoked) = (AtomicBool::new(false), AtomicBool::new(true));
    let cell = table.find_or_insert(ID);
    table.install(cell, 0, Some(&[0; 64])).expect("64 bytes");
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (table, lane, stop, revoked) = (&table, &lane, &stop, &revoked);
            scope.spawn(move || {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    if let Some(Pod(words)) = table.pod_read_at(cell, ID) {
                        assert_eq!(words, [words[0]; 8], "torn");
                        assert!(words[0] >= last, "older than what was read before");
                        last = words[0];
                    }
                    if reader > 0 {
                        continue;
                    }
                    match table.try_write(ID) {
                        Ok(mut hold) => {
                            assert!(!revoked.load(Ordering::Relaxed), "a hold while access is revoked");
                            let Pod(words) = *hold.value().expect("it has a value");
                            assert_eq!(words[0], hold.version());
                            hold.publish(Pod([words[0] + 1; 8]));
                            if hold.release() {
                                lane.tell();
                            }
                        }
                        Err(Slow::Interrupted(_)) => lane.tell(),
                        Err(_) => std::thread::yield_now(),
                    }
                }
            });
        }
        let mut version = 0;
        for _ in 0..ROUNDS {
            revoked.store(false, Ordering::SeqCst);
            table.grant(cell, Access::Write);
            while table.version(cell) < version + 3 {
                std::thread::yield_now();
            }
            version = revoke(&table, cell, &lane);
            revoked.store(true, Ordering::SeqCst);
            let mut bytes = Vec::new();
            assert_eq!(table.encode(cell, &mut bytes), Ok(true));
            assert_eq!(bytes, version.to_le_bytes().repeat(8));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Threads add to counters by hold, some through the fast path and some as queued waiters.
#[test]
fn writers_and_waiters_lose_no_count_and_no_wake_up() {
    const WRITERS: u64 = 3;
    let (table, lane) = (Table::<u64>::new(), Lane::default());
    let driver = Mutex::new(0u32);
    let cell = table.find_or_insert(ID);
    table.grant(cell, Access::Write);
    drop({
        let mut hold = table.try_write(ID).expect("writable");
        hold.initialize(0);
        hold
    });
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    if let Ok(hold) = table.try_read(ID)
                        && hold.release()
                    {
                        lane.tell();
                    }
                    let mut hold = match table.try_write(ID) {
                        Ok(hold) => hold,
                        Err(slow) => {
                            if matches!(slow, Slow::Interrupted(_)) {
                                lane.tell();
                            }
                            queued(&table, cell, &driver, &lane)
                        }
                    };
                    let count = *hold.value().expect("it has a value");
                    hold.publish(count + 1);
                    if hold.release() {
                        lane.tell();
                    }
                }
            });
        }
    });
    assert_eq!(table.try_read(ID).ok().map(|hold| *hold.value()), Some(WRITERS * ROUNDS));
    assert_eq!(table.version(cell), WRITERS * ROUNDS);
}

/// Waits as a queued thread does: told by releases, served under the driver's lock.
fn queued(table: &Table<u64>, cell: CellNumber, driver: &Mutex<u32>, lane: &Lane) -> WriteHold<u64> {
    let attempt = |first: bool| {
        let mut waiting = driver.lock().expect("no panic under this lock");
        if first {
            *waiting += 1;
            table.set_waiters(cell, true);
        }
        let hold = table.take_write(cell)?;
        *waiting -= 1;
        table.set_waiters(cell, *waiting > 0);
        Some(table.adopt_write(hold).expect("a number decodes"))
    };
    if let Some(hold) = attempt(true) {
        return hold;
    }
    loop {
        lane.wait();
        if let Some(hold) = attempt(false) {
            return hold;
        }
        // Somebody else was faster; his release tells again, and so does this one's failure.
    }
}

/// Cells are freed and reused under readers that remember them.
#[test]
fn a_reused_cell_is_never_taken_for_its_former_object() {
    let (table, lane) = (Table::<String>::new(), Lane::default());
    let stop = AtomicBool::new(false);
    let read = |result: Result<ReadHold<String>, Slow>, id: u64| match result {
        Ok(hold) => {
            assert_eq!(*hold.value(), id.to_string());
            if hold.release() {
                lane.tell();
            }
        }
        Err(Slow::Interrupted(_)) => lane.tell(),
        Err(_) => {}
    };
    std::thread::scope(|scope| {
        for id in 0..READERS as u64 {
            let (table, stop, read) = (&table, &stop, &read);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for cell in 0..4 {
                        read(table.try_read_at(cell, id), id);
                    }
                    read(table.try_read(id), id);
                }
            });
        }
        for round in 0..ROUNDS * 3 {
            let id = round % (READERS as u64);
            let cell = table.find_or_insert(id);
            let text = id.to_string();
            table.install(cell, 1, Some(&[&[text.len() as u8], text.as_bytes()].concat())).expect("new");
            table.grant(cell, Access::Read);
            drop(table.adopt_read(table.take_read(cell).expect("just granted")).expect("it decodes"));
            if round % 16 == 0 {
                std::thread::yield_now();
            }
            revoke(&table, cell, &lane);
            assert!(table.release_cell(cell));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// What is in the index and stays is found, whatever else comes and goes and grows.
#[test]
fn look_ups_never_miss_what_stays() {
    const STAYS: u64 = 200;
    let table = Table::<Pod<u64>>::new();
    let stop = AtomicBool::new(false);
    for id in 0..STAYS {
        table.find_or_insert(id);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for id in 0..STAYS {
                    assert!(table.find_cell(id).is_some(), "object {id} was missed");
                }
            }
        });
        for round in 0..ROUNDS {
            for id in 0..10 {
                table.find_or_insert(1_000 + round * 10 + id);
            }
            if round % 3 > 0 {
                for id in 0..10 {
                    let cell = table.find(1_000 + round * 10 + id).expect("just inserted");
                    assert!(table.release_cell(cell));
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
