use std::collections::BTreeMap;
use std::path::PathBuf;

use kddm_core::id::Time;
use proptest::prelude::*;

use super::disk::RedbDisk;
use super::memory::MemoryDisk;
use super::storage::{Batch, Kept, Nowhere};
use super::*;
use crate::identity::{ClusterId, Identity, SessionId};

fn empty() -> State {
    State::new(Identity { cluster: ClusterId(1), session: SessionId::DEFAULT }, NodeId(1))
}

fn join(nonce: u64) -> Change {
    Change::Join { node: None, address: "a:1".into(), nonce, site: Default::default() }
}

/// Logs that hear each other at once, but for those that are away.
struct World {
    logs: BTreeMap<NodeId, Voters>,
    away: BTreeSet<NodeId>,
    now: Time,
}

impl World {
    /// One that votes, and others that follow it.
    fn new(count: u16) -> World {
        let first = Voters::found(NodeId(1), 1, empty(), Box::new(Nowhere)).unwrap();
        let mut logs = BTreeMap::from([(NodeId(1), first)]);
        for id in 2..=count {
            let log = Voters::follow(NodeId(id), u64::from(id), empty(), Box::new(Nowhere)).unwrap();
            logs.insert(NodeId(id), log);
        }
        let mut world = World { logs, away: BTreeSet::new(), now: Time(0) };
        world.run(3);
        world
    }

    fn log(&mut self, id: u16) -> &mut Voters {
        self.logs.get_mut(&NodeId(id)).unwrap()
    }

    fn settle(&mut self) {
        loop {
            let mut said = Vec::new();
            for (id, log) in &mut self.logs {
                said.extend(log.take_outgoing().into_iter().map(|out| (*id, out)));
            }
            if said.is_empty() {
                return;
            }
            for (from, out) in said {
                if !self.away.contains(&from) && !self.away.contains(&out.to) {
                    self.log(out.to.0).step(from, &out.message).unwrap();
                }
            }
        }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.now = self.now.after_ns(100_000_000);
            let now = self.now;
            let up: Vec<NodeId> = self.logs.keys().copied().filter(|id| !self.away.contains(id)).collect();
            for id in up {
                self.log(id.0).tick(now);
            }
            self.settle();
        }
    }

    fn state(&mut self, id: u16) -> State {
        let log = self.log(id);
        let mut state = log.base().clone();
        for entry in log.decided_since(state.applied()).unwrap() {
            state.apply(&entry).unwrap();
        }
        state
    }

    fn leader(&self) -> u16 {
        let leads = |(id, log): (&NodeId, &Voters)| (log.is_leader() && !self.away.contains(id)).then_some(id.0);
        self.logs.iter().find_map(leads).unwrap()
    }
}

fn three() -> Vec<NodeId> {
    vec![NodeId(1), NodeId(2), NodeId(3)]
}

#[test]
fn one_voter_decides_at_once_and_all_follow() {
    let mut world = World::new(3);
    world.log(2).propose(join(7)).unwrap();
    world.run(1);
    for id in 1..=3 {
        assert_eq!(world.state(id).member_by_nonce(7), Some(NodeId(1)), "node {id}");
    }
    assert_eq!(world.log(1).known_by(NodeId(3)), world.log(1).book.decided());
}

#[test]
fn two_of_three_go_on_without_the_leader_and_it_learns_of_that() {
    let mut world = World::new(4);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    assert_eq!(world.state(4).voters(), three());
    let old = world.leader();
    world.away.insert(NodeId(old));
    world.run(10);
    let new = world.leader();
    assert_ne!(new, old);
    let through = (2..=3).find(|id| *id != new).unwrap_or(new);
    world.log(through).propose(join(9)).unwrap();
    world.run(3);
    assert!(world.state(4).member_by_nonce(9).is_some());
    assert_eq!(world.state(4).voter(), NodeId(new));
    world.away.clear();
    world.run(5);
    assert!(world.state(old).member_by_nonce(9).is_some());
    assert!(!world.log(old).is_leader());
}

#[test]
fn one_of_three_decides_nothing() {
    let mut world = World::new(3);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    world.away.extend([NodeId(2), NodeId(3)]);
    world.log(1).propose(join(9)).unwrap();
    world.run(10);
    assert_eq!(world.state(1).member_by_nonce(9), None);
    assert!(!world.log(1).is_leader());
    world.away.clear();
    world.run(10);
    assert!(world.state(2).member_by_nonce(9).is_some());
}

#[test]
fn who_has_too_much_to_ask_says_so_and_takes_more_once_some_is_decided() {
    let mut world = World::new(3);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    world.away.extend([NodeId(2), NodeId(3)]);
    world.run(10);
    let most = PROPOSALS as u64;
    for nonce in 0..most {
        world.log(1).propose(join(nonce)).unwrap();
    }
    assert_eq!(world.log(1).propose(join(most)), Err(LogError::TooManyProposals { waiting: PROPOSALS }));
    world.away.clear();
    world.run(20);
    world.log(1).propose(join(most)).unwrap();
    world.run(3);
    let state = world.state(2);
    assert_eq!((0..=most).find(|nonce| state.member_by_nonce(*nonce).is_none()), None);
}

#[test]
fn voters_are_replaced_and_the_old_ones_follow() {
    let mut world = World::new(5);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    let next = vec![NodeId(3), NodeId(4), NodeId(5)];
    world.log(2).reconfigure(&next).unwrap();
    world.run(10);
    world.away.extend([NodeId(1), NodeId(2)]);
    world.run(5);
    world.log(3).propose(join(9)).unwrap();
    world.run(3);
    world.away.clear();
    world.run(5);
    for id in 1..=5 {
        let state = world.state(id);
        assert_eq!((state.voters(), state.member_by_nonce(9).is_some()), (&next[..], true), "node {id}");
    }
}

#[test]
fn a_voter_without_its_log_does_not_count_until_it_is_named_again() {
    let mut world = World::new(3);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    let state = world.state(1);
    let reborn = Voters::follow(NodeId(3), 33, state, Box::new(Nowhere)).unwrap();
    world.logs.insert(NodeId(3), reborn);
    assert!(!world.log(3).may_vote());
    let leader = world.leader();
    let other = 3 - leader;
    world.away.insert(NodeId(other));
    world.log(leader).propose(join(9)).unwrap();
    world.settle();
    assert_eq!(world.log(3).book.last(), world.log(leader).book.last());
    assert_eq!(world.state(leader).member_by_nonce(9), None, "its word does not count");
    // Once it has all entries the leader names it again by itself.
    world.away.clear();
    world.run(10);
    assert!(world.log(3).may_vote());
    let state = world.state(3);
    assert!(state.voters() == three() && state.member_by_nonce(9).is_some());
    let leader = world.leader();
    world.away.insert(NodeId(if leader == 1 { 2 } else { 1 }));
    world.log(leader).propose(join(10)).unwrap();
    world.run(10);
    assert!(world.state(3).member_by_nonce(10).is_some(), "now it does count");
}

#[test]
fn a_disk_that_fails_ends_all_talk() {
    let disk = MemoryDisk::default();
    let mut log = Voters::found(NodeId(1), 1, empty(), Box::new(disk.clone())).unwrap();
    disk.fail_after(0);
    let failed = log.propose(join(1));
    assert!(matches!(failed, Err(LogError::Storage(StorageError::Failed { .. }))));
    assert_eq!(log.propose(join(2)), failed);
    assert_eq!(log.decided_since(0).map(|_| ()), failed);
    assert_eq!(log.take_outgoing(), []);
    // What was torn is not there, and what was before is.
    disk.crash(|unsynced| unsynced - 1);
    let log = Voters::restart(NodeId(1), 2, Box::new(disk)).unwrap().unwrap();
    assert_eq!(log.decided_since(0).unwrap().len(), 2, "a leader's entry for each life");
}

#[test]
fn a_follower_that_is_far_behind_takes_a_state() {
    let mut world = World::new(3);
    world.away.insert(NodeId(3));
    for id in 1..=3 {
        world.log(id).entries_kept = 8;
    }
    for nonce in 0..100 {
        world.log(1).propose(join(nonce)).unwrap();
        world.settle();
    }
    world.away.clear();
    world.run(3);
    assert!(matches!(world.log(3).decided_since(0), Err(LogError::Forgotten { .. })));
    assert_eq!(world.state(3), world.state(1));
}

#[test]
fn a_cluster_that_was_stopped_as_a_whole_goes_on_in_an_epoch_of_its_own() {
    let disks: Vec<MemoryDisk> = (0..3).map(|_| MemoryDisk::default()).collect();
    let mut world = World::new(3);
    for (id, disk) in (1..=3).zip(&disks) {
        let log = match id {
            1 => Voters::found(NodeId(1), 1, empty(), Box::new(disk.clone())),
            _ => Voters::follow(NodeId(id), u64::from(id), empty(), Box::new(disk.clone())),
        };
        world.logs.insert(NodeId(id), log.unwrap());
    }
    world.run(2);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    let mut epochs = vec![world.state(1).view().epoch.0];
    for life in 1..4_u64 {
        for nonce in 1..=3 {
            world.log(1).propose(join(life * 10 + nonce)).unwrap();
        }
        world.run(3);
        let before = world.state(2);
        assert_eq!(before.members().count(), 3);
        for (id, disk) in (1..=3).zip(&disks) {
            disk.crash(|_| 0);
            let origin = life * 100 + u64::from(id);
            let log = Voters::restart(NodeId(id), origin, Box::new(disk.clone())).unwrap().unwrap();
            world.logs.insert(NodeId(id), log);
        }
        world.run(10);
        let leader = world.leader();
        let after = world.state(leader);
        assert_eq!((after.view(), after.voters()), (before.view(), before.voters()));
        // All lives of before are over, that of the leader too.
        for (node, entry) in before.members() {
            let (incarnation, cause) = (entry.incarnation, crate::Cause::Lease);
            world.log(leader).propose(Change::Expel { node, incarnation, cause }).unwrap();
        }
        world.run(3);
        let state = world.state(3);
        assert_eq!((state.members().count(), state.last_life()), (0, before.last_life()));
        epochs.push(state.view().epoch.0);
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}

/// A directory of its own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("kddm-view-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}

fn some_entries(path: &std::path::Path) -> State {
    let mut log =
        Voters::found(NodeId(1), 1, empty(), Box::new(RedbDisk::open(path).unwrap())).unwrap().with_entries_kept(8);
    for nonce in 1..=20 {
        log.propose(join(nonce)).unwrap();
    }
    let member = log.base().member_by_nonce(1).unwrap();
    let incarnation = log.base().member(member).unwrap().incarnation;
    let expel =
        Change::Expel { node: NodeId(9), incarnation: kddm_core::id::Incarnation(9), cause: crate::Cause::Proof };
    assert!(incarnation.0 > 0);
    log.propose(expel).unwrap();
    let mut state = log.base().clone();
    for entry in log.decided_since(state.applied()).unwrap() {
        state.apply(&entry).unwrap();
    }
    state
}

#[test]
fn a_file_keeps_the_last_view_and_its_epoch_over_restarts() {
    let directory = Directory::new("keeps");
    let path = directory.0.join("view.log");
    let before = some_entries(&path);
    assert_eq!(before.view().epoch, kddm_core::id::Epoch(2));
    for (life, origin) in (1..).zip(2..5) {
        let log = Voters::restart(NodeId(1), origin, Box::new(RedbDisk::open(&path).unwrap())).unwrap().unwrap();
        let mut state = log.base().clone();
        for entry in log.decided_since(state.applied()).unwrap() {
            state.apply(&entry).unwrap();
        }
        assert_eq!(state.view(), before.view());
        assert_eq!(state.term(), before.term() + life, "each life leads in a term of its own");
        let second = RedbDisk::open(&path).map(|_| ()).unwrap_err();
        assert!(second.to_string().contains("another process has"), "{second}");
    }
}

#[test]
fn a_damaged_file_is_an_error_that_says_what_to_do() {
    let directory = Directory::new("damaged");
    let path = directory.0.join("view.log");
    let before = some_entries(&path);
    let whole = std::fs::read(&path).unwrap();
    let (mut refused, mut same) = (0, 0);
    for length in [0, 1, 320, 4096, whole.len() / 2] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = RedbDisk::open(&path).map(|_| ()).unwrap_err();
        assert!(matches!(&error, StorageError::Damaged { what } if what.contains("view.log")), "{length}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), &whole[..length], "it is left as it is");
    }
    for round in 0..60_usize {
        let mut bytes = whole.clone();
        let at = (round * 7919 * 13 + 1) % bytes.len();
        match round % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 0x55,
            _ => bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
        }
        std::fs::write(&path, &bytes).unwrap();
        let opened = RedbDisk::open(&path).map_err(LogError::from);
        match opened.and_then(|disk| Voters::restart(NodeId(1), 2, Box::new(disk))) {
            Ok(Some(log)) => {
                let mut state = log.base().clone();
                for entry in log.decided_since(state.applied()).unwrap() {
                    state.apply(&entry).unwrap();
                }
                assert_eq!(state.view(), before.view(), "round {round}");
                same += 1;
            }
            Ok(None) => panic!("round {round}: a log that was there is taken for none"),
            Err(error) => {
                assert!(error.to_string().contains("start"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10 && same > 0, "{refused} refused, {same} the same");
}

#[test]
fn a_log_names_its_node_and_is_that_of_no_other() {
    let directory = Directory::new("names");
    let path = directory.0.join("view.log");
    some_entries(&path);
    let error = Voters::restart(NodeId(2), 2, Box::new(RedbDisk::open(&path).unwrap())).map(|_| ()).unwrap_err();
    let other = StorageError::OtherNode { kept: NodeId(1), wanted: NodeId(2) };
    assert_eq!(error, LogError::Storage(other));
    assert!(error.to_string().contains("a file of its own"), "{error}");
    assert!(Voters::restart(NodeId(1), 3, Box::new(RedbDisk::open(&path).unwrap())).unwrap().is_some());
    // A file in which nothing was ever kept is none that this program has left behind.
    drop(redb::Database::create(directory.0.join("empty")).unwrap());
    let empty = RedbDisk::open(&directory.0.join("empty")).unwrap().load().map(|_| ());
    assert!(matches!(empty, Err(StorageError::Damaged { .. })), "{empty:?}");
}

/// A node that is stopped while it makes its first file has promised nothing, and begins anew.
#[test]
fn a_file_has_its_name_only_once_it_is_a_log() {
    let directory = Directory::new("begins");
    let (path, new) = (directory.0.join("view.log"), directory.0.join("view.log.new"));
    drop(RedbDisk::open(&path).unwrap());
    assert!(new.exists() && !path.exists());
    std::fs::write(&new, [0x5a; 5000]).unwrap();
    let mut disk = RedbDisk::open(&path).unwrap();
    assert_eq!(disk.load().unwrap(), None);
    let second = RedbDisk::open(&path).map(|_| ()).unwrap_err();
    assert!(second.to_string().contains("another process has"), "{second}");
    drop(Voters::found(NodeId(1), 1, empty(), Box::new(disk)).unwrap());
    assert!(path.exists() && !new.exists());
    // As if it had been stopped between the first batch and the name: nobody has heard of it.
    std::fs::rename(&path, &new).unwrap();
    assert_eq!(RedbDisk::open(&path).unwrap().load().unwrap(), None);
}

/// A record in the place of another one is no more that one than a damaged one is.
#[test]
fn a_damaged_record_is_named() {
    use redb::ReadableTable as _;
    let directory = Directory::new("record");
    let path = directory.0.join("view.log");
    let entries: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("entries");
    let rest: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("rest");
    let with = |change: &dyn Fn(&redb::WriteTransaction)| {
        let _fresh = std::fs::remove_file(&path);
        some_entries(&path);
        let file = redb::Database::open(&path).unwrap();
        let write = file.begin_write().unwrap();
        change(&write);
        write.commit().unwrap();
        drop(file);
        RedbDisk::open(&path).unwrap().load().unwrap_err().to_string()
    };
    let said = with(&|write| {
        let mut entries = write.open_table(entries).unwrap();
        let other = entries.get(19).unwrap().unwrap().value().to_vec();
        entries.insert(20, &other[..]).unwrap();
    });
    assert!(said.contains("entry 20 has another checksum"), "{said}");
    let said = with(&|write| {
        let mut rest = write.open_table(rest).unwrap();
        let term = rest.get("term").unwrap().unwrap().value().to_vec();
        rest.insert("vote", &term[..]).unwrap();
    });
    assert!(said.contains("vote has another checksum"), "{said}");
    let said = with(&|write| {
        write.open_table(rest).unwrap().remove("node").unwrap();
    });
    assert!(said.contains("node is missing"), "{said}");
}

#[test]
fn what_is_missing_from_a_kept_log_is_noticed() {
    let mut kept = Kept::default();
    let mut log = Voters::found(NodeId(1), 1, empty(), Box::new(Nowhere)).unwrap();
    let mut whole = Batch { base: Some((0, Base::of(empty()).encode())), ..Batch::default() };
    for nonce in 1..4 {
        log.propose(join(nonce)).unwrap();
    }
    whole.append = log.book.after(0).map(|(index, entry)| (index, message::entry_bytes(entry))).collect();
    kept.apply(&whole);
    assert_eq!(Book::read(&kept).unwrap().last(), 4);
    let missing = |what: &str| Err(StorageError::Damaged { what: what.into() });
    let mut gap = kept.clone();
    gap.entries.remove(1);
    assert_eq!(Book::read(&gap).map(|_| ()), missing("an entry is missing"));
    kept.decided = 9;
    assert_eq!(Book::read(&kept).map(|_| ()), missing("a decided entry is missing"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_message_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..64), kind in 0..10_u8) {
        let mut world = World::new(3);
        world.log(1).reconfigure(&three()).unwrap();
        world.run(2);
        bytes.insert(0, kind);
        bytes.insert(0, 3);
        for id in 1..=3 {
            let _read_or_refused = world.log(id).step(NodeId(4), &bytes);
            let _nor_one_of_a_voter = world.log(id).step(NodeId(id % 3 + 1), &bytes);
            world.log(id).tick(Time(u64::MAX / 2));
        }
    }

    /// What voters say, with one byte of it changed, to any of them and from any.
    #[test]
    fn no_garbled_message_makes_it_panic(
        which in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        from in 1..5_u16,
    ) {
        let mut world = World::new(4);
        for id in 1..=4 {
            world.log(id).entries_kept = 4;
        }
        let mut said = Vec::new();
        world.log(1).reconfigure(&three()).unwrap();
        for round in 0..40_u64 {
            world.now = world.now.after_ns(300_000_000);
            let now = world.now;
            // The fourth is far away at first, so that there are whole states, too.
            for id in (1..=4).filter(|id| *id < 4 || round > 20) {
                world.log(id).tick(now);
                let _taken_or_busy = world.log(id).propose(join(round << 8 | u64::from(id)));
                for out in world.log(id).take_outgoing() {
                    if out.to != NodeId(4) || round > 20 {
                        let _read = world.log(out.to.0).step(NodeId(id), &out.message);
                    }
                    said.push(out.message);
                }
            }
        }
        let mut message = which.get(&said).clone();
        let place = at.index(message.len());
        message[place] = byte;
        for id in (1..=4).filter(|id| *id != from) {
            let _read_or_refused = world.log(id).step(NodeId(from), &message);
            world.log(id).tick(Time(u64::MAX / 2));
            let decided = world.log(id).decided_since(u64::from(byte));
            let is_told = matches!(decided, Ok(_) | Err(LogError::Forgotten { .. }));
            prop_assert!(is_told);
        }
    }
}

#[test]
fn the_bytes_of_messages_are_fixed() {
    let vote = Wire::Vote { pre: true, asked: false, term: 7, last: 300, last_term: 6 };
    assert_eq!(vote.encode(), [3, 0, 1, 0, 7, 0xac, 2, 6]);
    assert_eq!(Wire::LeadYou { term: 7 }.encode(), [3, 7, 7]);
    assert_eq!(Wire::Follow { decided: 300, fails: true }.encode(), [3, 5, 0xac, 2, 1]);
    assert_eq!(Wire::Voted { pre: true, term: 7, granted: false }.encode(), [3, 1, 1, 7, 0]);
    assert_eq!(
        Wire::Propose { known: 300, origin: 1, ticket: 2, change: vec![1, 3] }.encode(),
        [3, 8, 0xac, 2, 1, 2, 2, 1, 3]
    );
    let entry = book::Entry { term: 7, origin: 1, ticket: 2, change: Change::Seal };
    assert_eq!(message::entry_bytes(&entry), [3, 7, 1, 2, 2, 1, 3]);
    let entries = || vec![message::WireEntry::from(&entry)];
    let append = Wire::Append { term: 8, previous: 300, previous_term: 6, decided: 299, entries: entries() };
    assert_eq!(append.encode(), [3, 2, 8, 0xac, 2, 6, 0xab, 2, 1, 7, 1, 2, 2, 1, 3]);
    let appended = Wire::Appended { term: 8, refused: true, last: 300, decided: 299, counts: false, fails: true };
    assert_eq!(appended.encode(), [3, 3, 8, 1, 0xac, 2, 0xab, 2, 0, 1]);
    let appended = Wire::Appended { term: 8, refused: false, last: 300, decided: 299, counts: true, fails: false };
    assert_eq!(appended.encode(), [3, 3, 8, 0, 0xac, 2, 0xab, 2, 1, 0]);
    assert_eq!(Wire::Whole { term: 8, base: vec![3, 9] }.encode(), [3, 4, 8, 2, 3, 9]);
    let decided = Wire::Decided { term: 8, leader: 300, after: 5, entries: entries() };
    assert_eq!(decided.encode(), [3, 6, 8, 0xac, 2, 5, 1, 7, 1, 2, 2, 1, 3]);
    for said in [append, appended, decided] {
        assert_eq!(Wire::read(NodeId(1), &said.encode()), Ok(said));
    }
    assert_eq!(message::read_entry(&[3, 7, 1, 2, 2, 1, 3]), Ok(entry));
    assert_eq!(message::read_entry(&[3, 7, 1, 2, 3, 1, 5, 9]), Err("it has an entry that is never in a log of voters"));
    assert_eq!(message::read_entry(&[1]), Err("an entry was written by another version of the program"));
}

/// What [`Wire::Whole`] brings, and what stands on disk in the place of older entries. The bytes of its state are fixed
/// where they are made.
#[test]
fn the_bytes_of_a_whole_log_are_fixed() {
    let mut base = book::Base::of(empty());
    base.taken.extend([(300, 2, 5), (1, 4, 6)]);
    base.taken_after = 3;
    let state = base.state.encode();
    let mut bytes = vec![3, 2, 0xac, 2, 2, 5, 1, 4, 6, 3, u8::try_from(state.len()).unwrap()];
    bytes.extend(&state);
    assert_eq!(base.encode(), bytes);
    assert_eq!(book::Base::decode(&bytes), Ok(base));
}

#[test]
fn a_leader_that_is_replaced_has_another_one_lead_at_once() {
    let mut world = World::new(3);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    let leader = world.leader();
    let others: Vec<NodeId> = three().into_iter().filter(|id| id.0 != leader).collect();
    let term = world.log(leader).term();
    world.log(leader).reconfigure(&others[..1]).unwrap();
    world.settle();
    assert!(world.log(others[0].0).is_leader(), "no clock has moved");
    assert_eq!(world.log(others[0].0).term(), term + 1);
}

#[test]
fn what_a_leader_has_judged_is_not_said_again_once_it_leads_no_more() {
    let mut world = World::new(3);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    let old = world.leader();
    world.away.insert(NodeId(old));
    assert_eq!(world.log(old).write_as_leader(Change::Seal), Ok(true));
    world.run(10);
    let now = world.now;
    world.log(old).tick(now);
    assert_eq!(world.log(old).write_as_leader(Change::Seal), Ok(false), "it has heard nobody for long");
    world.away.clear();
    world.run(5);
    assert!(world.logs.values().all(|log| !log.has_undecided()));
    let sealed = |log: &Voters| log.decided_since(0).unwrap().iter().any(|entry| entry.change == Change::Seal);
    assert!(!world.logs.values().any(sealed), "it was judged in a term that is over");
    let leader = world.leader();
    assert_eq!(world.log(leader).write_as_leader(Change::Seal), Ok(true));
    world.run(1);
    assert!(world.logs.values().all(sealed));
}

#[test]
fn a_dead_leader_is_replaced_at_once_and_one_that_stands_back_too() {
    let mut world = World::new(4);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    let dead = world.leader();
    world.away.insert(NodeId(dead));
    (1..=4).for_each(|id| world.log(id).is_dead(NodeId(dead)));
    // A tenth of a second, where an election is waited for for a whole one.
    world.now = world.now.after_ns(100_000_000);
    let now = world.now;
    for id in (1..=4).filter(|id| *id != dead) {
        world.log(id).tick(now);
        world.settle();
    }
    let next = world.leader();
    assert_ne!(next, dead);
    world.away.clear();
    world.run(2);
    world.log(next).stand_back();
    world.settle();
    let third = world.leader();
    assert_ne!(third, next);
    // The members that only follow are told who leads.
    world.log(third).introduce(NodeId(4));
    world.settle();
    assert_eq!(world.log(4).leader(), Some(NodeId(third)));
    world.away.insert(NodeId(third));
    world.run(10);
    let last = world.leader();
    assert!(last != third && last != next, "one that stands back does not lead");
}

#[test]
fn a_voter_whose_disk_has_failed_follows_and_counts_for_nothing() {
    let mut world = World::new(3);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    assert_eq!(world.leader(), 1);
    assert!(world.log(2).promised().is_some());
    world.log(2).failed = Some(StorageError::Failed { reason: "no space".into() });
    world.log(2).retire();
    assert!(world.log(2).promised().is_none() && !world.log(2).votes() && world.log(2).failure().is_some());
    world.log(2).propose(join(5)).unwrap();
    world.run(3);
    assert!((1..=3).all(|id| world.state(id).member_by_nonce(5).is_some()), "it follows, and is heard");
    let last = world.log(1).book.last();
    world.run(5);
    assert_eq!(world.log(1).book.last(), last, "nobody names it again and again");
    world.away.insert(NodeId(3));
    world.log(1).propose(join(6)).unwrap();
    world.run(1);
    assert!(world.state(1).member_by_nonce(6).is_none(), "one of three, and one that keeps nothing");
    world.away = BTreeSet::from([NodeId(1)]);
    world.run(10);
    assert!(!world.log(3).is_leader() && !world.log(2).is_leader(), "it votes for nobody");
}

/// It has forgotten entries that its leader knows it had: it is told of them again, and not of what follows them for
/// ever.
#[test]
fn one_whose_disk_has_failed_follows_from_what_it_has_left() {
    let mut world = World::new(3);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    let say = |world: &mut World, from: u16, to: u16| {
        let said = world.log(from).take_outgoing().into_iter().filter(|out| out.to == NodeId(to));
        for out in said.collect::<Vec<_>>() {
            world.log(to).step(NodeId(from), &out.message).unwrap();
        }
    };
    world.away.insert(NodeId(2));
    world.log(1).propose(join(5)).unwrap();
    say(&mut world, 1, 3);
    say(&mut world, 3, 1);
    assert!(world.log(3).has_undecided());
    world.log(3).failed = Some(StorageError::Failed { reason: "no space".into() });
    world.log(3).retire();
    world.run(1);
    let last = world.log(1).book.last();
    assert_eq!((world.log(3).book.last(), world.log(1).fails(NodeId(3))), (last, true));
}

/// It would take for decided what nobody has kept, and what it says otherwise once its disk is seen to.
#[test]
fn what_one_voter_could_not_keep_it_has_not_decided() {
    let disk = MemoryDisk::default();
    let mut log = Voters::found(NodeId(1), 1, empty(), Box::new(disk.clone())).unwrap();
    log.propose(join(1)).unwrap();
    let before = log.decided_since(0).unwrap();
    disk.fail_after(0);
    assert!(log.propose(join(2)).is_err());
    log.retire();
    assert_eq!(log.decided_since(0).unwrap(), before);
    disk.crash(|_| 0);
    let log = Voters::restart(NodeId(1), 2, Box::new(disk)).unwrap().unwrap();
    assert_eq!(log.decided_since(0).unwrap()[..before.len()], before);
}

/// A disk that fails under its log, and is seen to before the node starts again.
#[test]
fn a_voter_says_that_its_disk_has_failed_until_it_is_started_again() {
    let disk = MemoryDisk::default();
    let mut world = World::new(4);
    let third = Voters::follow(NodeId(3), 3, empty(), Box::new(disk.clone())).unwrap();
    world.logs.insert(NodeId(3), third);
    world.log(1).reconfigure(&three()).unwrap();
    world.run(2);
    assert!(!world.log(1).fails(NodeId(3)));
    disk.fail_after(0);
    world.log(1).propose(join(5)).unwrap();
    let said = world.log(1).take_outgoing().into_iter().find(|out| out.to == NodeId(3)).unwrap();
    assert!(matches!(world.log(3).step(NodeId(1), &said.message), Err(LogError::Storage(_))));
    world.log(3).retire();
    world.run(1);
    assert!(world.log(1).fails(NodeId(3)) && !world.log(1).fails(NodeId(2)));
    let next = vec![NodeId(1), NodeId(2), NodeId(4)];
    world.log(1).reconfigure(&next).unwrap();
    world.run(3);
    assert_eq!(world.state(3).voters(), next, "it follows still");
    assert!(world.log(1).fails(NodeId(3)), "and says so still, or it would be named again");
    world.log(1).stand_back();
    world.run(2);
    let leader = world.leader();
    assert!(leader != 1 && world.log(leader).fails(NodeId(3)), "also to another leader");
    disk.crash(|_| 0);
    let again = Voters::restart(NodeId(3), 33, Box::new(disk)).unwrap().unwrap();
    world.logs.insert(NodeId(3), again);
    world.run(2);
    assert!(!world.log(leader).fails(NodeId(3)));
    world.log(leader).reconfigure(&[NodeId(2), NodeId(3), NodeId(4)]).unwrap();
    world.run(3);
    assert!(world.log(3).votes() && world.log(3).promised().is_some());
}
