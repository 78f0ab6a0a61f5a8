//! Owners that write late, twice, in another order, or never, and do not know that they are owners no more; a store that ends
//! in the middle. From one seed, and judged from outside: what is read is never older than what a store has said to keep.

mod books;
mod worlds;
mod wrong;

use std::collections::BTreeMap;

use fastrand::Rng;
use kddm::linker::{Durability, Memory, Stamp};

use self::books::Books;
use self::worlds::{DirectoryWorld, RedbWorld, SqliteWorld, Steady, World};
use self::wrong::{Slip, Wrong};
use crate::crash_disk::End;

/// What may go wrong more than once with one object goes wrong with few.
const OBJECTS: [u64; 3] = [1, 4_097, u64::MAX];
/// Steps of one run.
const STEPS: usize = 120;
/// Most writes on their way.
const IN_FLIGHT: usize = 40;

type Found = Result<(), String>;

/// Whoever owns an object, or thinks so.
#[derive(Clone, Copy, Debug)]
struct Owner {
    object: u64,
    term: u64,
    tenure: u64,
    version: u64,
}

/// One run.
struct Run<'a> {
    random: Rng,
    world: &'a mut dyn World,
    books: Books,
    owners: Vec<Owner>,
    /// The last tenure of each object in the newest term.
    tenures: BTreeMap<u64, u64>,
    flying: Vec<(u64, Stamp)>,
}

/// How often the store has ended, in the middle of something or not.
fn run(seed: u64, world: &mut dyn World) -> Result<usize, String> {
    let mut run = Run {
        random: Rng::with_seed(seed),
        world,
        books: Books::default(),
        owners: Vec::new(),
        tenures: BTreeMap::new(),
        flying: Vec::new(),
    };
    run.claim()?;
    let mut ends = 0;
    for _ in 0..STEPS {
        match run.random.u8(..100) {
            0..30 => run.write(),
            30..60 => run.deliver(1)?,
            60..70 => run.deliver(4)?,
            70..80 => run.own(),
            80..82 => run.claim()?,
            82..90 => run.sync()?,
            90..95 => run.look()?,
            _ => {
                run.end()?;
                ends += 1;
            }
        }
    }
    while !run.flying.is_empty() {
        run.deliver(3)?;
    }
    run.look()?;
    Ok(ends)
}

impl Run<'_> {
    /// Somebody becomes the owner of an object. Whoever it was before goes on.
    fn own(&mut self) {
        let object = OBJECTS[self.random.usize(..OBJECTS.len())];
        let tenure = self.tenures.entry(object).or_default();
        *tenure += 1;
        let owner = Owner { object, term: self.books.claimed, tenure: *tenure, version: 0 };
        self.owners.push(owner);
        if self.owners.len() > 6 {
            self.owners.remove(0);
        }
    }

    fn write(&mut self) {
        if self.owners.is_empty() || self.flying.len() >= IN_FLIGHT {
            return;
        }
        let owner = self.random.usize(..self.owners.len());
        let owner = &mut self.owners[owner];
        owner.version += 1;
        let stamp = Stamp { term: owner.term, tenure: owner.tenure, version: owner.version };
        let object = owner.object;
        self.books.sent(object, stamp, &mut self.random);
        // Some are lost.
        if self.random.u8(..10) > 0 {
            self.flying.push((object, stamp));
        }
    }

    /// The next few that arrive, in whatever order; some will come once more.
    fn taken(&mut self, most: usize) -> Vec<(u64, Stamp)> {
        let count = most.min(self.flying.len());
        let mut taken = Vec::new();
        for _ in 0..count {
            let at = self.random.usize(..self.flying.len());
            let write = self.flying.swap_remove(at);
            taken.push(write);
            if self.random.u8(..5) == 0 {
                self.flying.push(write);
            }
        }
        taken
    }

    fn deliver(&mut self, most: usize) -> Found {
        let taken = self.taken(most);
        let bytes: Vec<_> = taken.iter().map(|write| self.books.bytes(*write)).collect();
        let writes = together(&taken, &bytes);
        let answers = match writes[..] {
            [(object, stamp, bytes)] => vec![self.world.store().write(object, stamp, bytes)],
            _ => match self.world.store().write_all(&writes) {
                Ok(answers) if answers.len() == writes.len() => answers.into_iter().map(Ok).collect(),
                other => return Err(format!("{} writes: {other:?}", writes.len())),
            },
        };
        for ((object, stamp), answer) in taken.into_iter().zip(answers) {
            let answer = answer.map_err(|error| error.to_string())?;
            self.books.answered(object, stamp, answer)?;
        }
        if self.world.durability() == Durability::EachWrite {
            self.books.synced();
        }
        self.world.noted();
        Ok(())
    }

    /// The next life of the set: all that owned anything owns it in an older term.
    fn claim(&mut self) -> Found {
        let claimed = self.world.store().claim().map_err(|error| error.to_string())?;
        self.books.has_claimed(claimed)?;
        self.tenures.clear();
        Ok(())
    }

    fn sync(&mut self) -> Found {
        self.world.store().sync().map_err(|error| error.to_string())?;
        self.books.synced();
        self.world.synced();
        Ok(())
    }

    fn look(&mut self) -> Found {
        let store = self.world.store();
        let mut there = Vec::new();
        for object in OBJECTS {
            let seen = store.read(object).map_err(|error| error.to_string())?;
            there.extend(seen.as_ref().filter(|seen| seen.bytes.is_some()).map(|seen| (object, seen.stamp)));
            self.books.seen(object, seen)?;
        }
        let listed = store.objects(None, OBJECTS.len() + 1).map_err(|error| error.to_string())?;
        if listed == there { Ok(()) } else { Err(format!("{listed:?} are listed, {there:?} are there")) }
    }

    /// The store ends while it does something, of which nobody hears whether it was done.
    fn end(&mut self) -> Found {
        let what = self.random.u8(..4);
        let taken = self.taken(3);
        let bytes: Vec<_> = taken.iter().map(|write| self.books.bytes(*write)).collect();
        let writes = together(&taken, &bytes);
        let end = if self.random.bool() { End::Process } else { End::Machine };
        let end = self.world.end(end, &mut self.random, &mut |store| {
            let _nobody_hears = match what {
                0 => store.sync(),
                1 => store.write_all(&writes).map(|_| ()),
                2 => writes
                    .iter()
                    .try_for_each(|(object, stamp, bytes)| store.write(*object, *stamp, *bytes).map(|_| ())),
                _ => Ok(()),
            };
        })?;
        if end == End::Machine {
            self.books.machine_ended();
        }
        self.look()
    }
}

fn together<'a>(taken: &[(u64, Stamp)], bytes: &'a [Option<Vec<u8>>]) -> Vec<(u64, Stamp, Option<&'a [u8]>)> {
    taken.iter().zip(bytes).map(|((object, stamp), bytes)| (*object, *stamp, bytes.as_deref())).collect()
}

/// Seeds of each store that keeps its word.
const SEEDS: u64 = 60;

#[test]
fn memory_is_never_older_than_what_it_has_kept() {
    for seed in 0..4 * SEEDS {
        run(seed, &mut Steady(Memory::new())).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
    }
}

#[test]
fn redb_loses_nothing_that_was_synced_wherever_the_machine_ends() {
    let mut ends = 0;
    for seed in 0..SEEDS {
        let durability = if seed % 2 == 0 { Durability::EachWrite } else { Durability::OnSync };
        let mut world = RedbWorld::new(durability, durability);
        ends += run(seed, &mut world).unwrap_or_else(|found| panic!("seed {seed}, {durability:?}: {found}"));
    }
    assert!(ends >= 300, "only {ends} ends");
}

#[test]
fn a_directory_loses_nothing_that_was_synced_wherever_the_machine_ends() {
    let mut ends = 0;
    for seed in 0..SEEDS / 2 {
        let durability = if seed % 2 == 0 { Durability::EachWrite } else { Durability::OnSync };
        let mut world = DirectoryWorld::new(durability);
        ends += run(seed, &mut world).unwrap_or_else(|found| panic!("seed {seed}, {durability:?}: {found}"));
    }
    assert!(ends >= 100, "only {ends} ends");
}

#[test]
fn sqlite_is_never_older_than_what_it_has_kept() {
    for seed in 0..SEEDS / 4 {
        let durability = if seed % 2 == 0 { Durability::EachWrite } else { Durability::OnSync };
        let mut world = SqliteWorld::new(durability);
        run(seed, &mut world).unwrap_or_else(|found| panic!("seed {seed}, {durability:?}: {found}"));
    }
}

/// The first seed in which anything is seen of it.
fn found(world: impl Fn() -> Box<dyn World>) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| run(seed, &mut *world()).err().map(|found| (seed, found)))
}

#[test]
fn a_store_that_does_not_keep_its_word_is_found() {
    for (slip, sign) in [
        (Slip::IgnoreStamps, "older"),
        (Slip::ForgetRemoved, "older"),
        (Slip::IgnoreTerms, "term"),
        (Slip::RefuseAndKeep, ""),
        (Slip::KeepNothing, ""),
        (Slip::ClaimTwice, "claim"),
    ] {
        let (seed, found) =
            found(|| Box::new(Steady(Wrong::new(slip)))).unwrap_or_else(|| panic!("{slip:?}: not found"));
        println!("{slip:?}: seed {seed}: {found}");
        assert!(found.contains(sign), "{slip:?}: {found}");
    }
}

#[test]
fn a_store_that_says_too_early_that_something_lasts_is_found() {
    let early = || Box::new(RedbWorld::new(Durability::OnSync, Durability::EachWrite)) as Box<dyn World>;
    let (seed, found) = found(early).expect("a crash loses something");
    println!("seed {seed}: {found}");
    assert!(found.contains("older"), "{found}");
}
