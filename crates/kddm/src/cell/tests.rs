//! One test for each rule.

use std::sync::Arc;

use kddm_core::io::Access;

use super::*;
use crate::value::{Pod, Raw};

type Words = Pod<[u64; 8]>;

const COLD_READS: usize = 100;

fn bytes_of<T: crate::Value>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes).expect("the values of these tests encode");
    bytes
}

fn with<T: crate::Value>(id: u64, value: &T, access: Access) -> (Table<T>, CellNumber) {
    let table = Table::new();
    let cell = table.find_or_insert(id);
    table.install(cell, 1, Some(&bytes_of(value))).expect("it decodes");
    table.grant(cell, access);
    // The first use decodes.
    if let Some(hold) = table.take_read(cell) {
        assert!(!hold.release());
    }
    (table, cell)
}

fn text(access: Access) -> (Table<String>, CellNumber) {
    with(7, &String::from("seven"), access)
}

/// Reads until the cell is biased.
fn warm<T: crate::Value>(table: &Table<T>, id: u64) {
    for _ in 0..COLD_READS {
        assert!(!table.try_read(id).expect("readable").release());
    }
}

#[test]
fn access_decides_what_the_fast_path_does() {
    let (table, _) = text(Access::None);
    assert_eq!(table.try_read(7).err(), Some(Slow::NoAccess));
    assert_eq!(table.try_read(8).err(), Some(Slow::NoAccess), "an unknown object");
    let (table, cell) = text(Access::Read);
    assert_eq!(table.try_read(7).expect("readable").value(), "seven");
    assert_eq!(table.try_read_at(cell, 8).err(), Some(Slow::NoAccess), "the cell of another object");
    assert_eq!(table.try_read_at(cell + 1, 7).err(), Some(Slow::NoAccess), "no such cell");
    assert_eq!(table.try_write(7).err(), Some(Slow::NoAccess));
    let (table, cell) = text(Access::Write);
    assert!(table.may_read(7));
    assert_eq!(table.try_write_at(cell, 7).expect("writable").value().map(String::as_str), Some("seven"));
}

#[test]
fn readers_and_writers_exclude_each_other_counted_and_by_slots() {
    for is_warm in [false, true] {
        let (table, cell) = text(Access::Write);
        if is_warm {
            warm(&table, 7);
        }
        let (one, two) = (table.try_read(7).expect("readable"), table.try_read(7).expect("readable"));
        assert!(table.is_held(cell));
        assert_eq!(table.try_write(7).err(), Some(Slow::Held));
        assert!(table.take_write(cell).is_none());
        assert!(!one.release() && !two.release());
        assert!(!table.is_held(cell));
        let hold = table.try_write(7).expect("writable");
        assert_eq!(table.try_read(7).err(), Some(Slow::Held));
        assert_eq!(table.try_write(7).err(), Some(Slow::Held));
        assert!(table.take_read(cell).is_none() && table.is_held(cell));
        assert!(!hold.release());
    }
}

#[test]
fn publish_counts_a_version_and_dropping_changes_nothing() {
    let (table, cell) = text(Access::Write);
    drop(table.try_write(7).expect("writable"));
    assert_eq!((table.version(cell), table.try_read(7).expect("readable").value().as_str()), (1, "seven"));
    let mut hold = table.try_write(7).expect("writable");
    hold.publish("eight".into());
    assert_eq!((hold.version(), hold.value().map(String::as_str)), (2, Some("eight")));
    assert!(!hold.release());
    let mut hold = table.try_write(7).expect("writable");
    hold.touch();
    drop(hold);
    let hold = table.try_read(7).expect("readable");
    assert_eq!((hold.version(), hold.value().as_str()), (3, "eight"));
}

#[test]
fn a_snapshot_outlives_publish_revocation_and_table() {
    let (table, cell) = text(Access::Write);
    let hold = table.try_read(7).expect("readable");
    let old = hold.snapshot();
    drop(hold);
    let mut hold = table.try_write(7).expect("writable");
    hold.publish("eight".into());
    drop(hold);
    assert_eq!(table.revoke(cell, Access::None), RevokeResult::Done { version: 2, has_value: true });
    assert!(table.discard(cell));
    drop(table);
    assert_eq!((old.as_str(), Arc::strong_count(&old)), ("seven", 1));
}

#[test]
fn bytes_that_are_shared_stay_as_they_are() {
    const BYTES: usize = 1000;
    let (table, cell) = with(7, &Raw(vec![1; BYTES]), Access::Write);
    assert!(table.share(cell, BYTES + 1).is_none(), "a small value is better copied");
    let shared = table.share(cell, BYTES).expect("it is large enough");
    let mut hold = table.try_write(7).expect("sharing holds nothing");
    assert!(table.share(cell, BYTES).is_none(), "a local thread is writing");
    hold.publish(Raw(vec![2; BYTES]));
    assert!(!hold.release());
    assert_eq!(shared.as_ref(), [1; BYTES]);
    let newer = table.share(cell, BYTES).expect("nobody writes");
    assert_eq!(table.revoke(cell, Access::None), RevokeResult::Done { version: 2, has_value: true });
    assert!(table.discard(cell));
    drop(table);
    assert_eq!((shared.as_ref(), newer.as_ref()), (&[1; BYTES][..], &[2; BYTES][..]));
    let (table, cell) = text(Access::Read);
    assert!(table.share(cell, 0).is_none(), "a text is encoded otherwise than it lies");
}

#[test]
fn bytes_that_are_handed_over_are_not_copied() {
    let table: Table<Raw> = Table::new();
    let cell = table.find_or_insert(7);
    let bytes = vec![3; 1000];
    let at = bytes.as_ptr();
    table.install_bytes(cell, 1, Some(bytes.into())).expect("nobody holds it");
    table.grant(cell, Access::Read);
    let hold = table.adopt_read(table.take_read(cell).expect("readable")).expect("any bytes will do");
    assert_eq!((hold.value().0.as_ptr(), hold.value().0.len()), (at, 1000));
    assert!(!hold.release());
}

#[test]
fn revocation_waits_for_holds_and_their_release_tells() {
    for is_warm in [false, true] {
        let (table, cell) = text(Access::Read);
        if is_warm {
            warm(&table, 7);
        }
        let hold = table.try_read(7).expect("readable");
        assert_eq!(table.try_revoke(cell), RevokeResult::Held);
        assert!(table.may_read(7), "all is as it was");
        assert_eq!(table.revoke(cell, Access::None), RevokeResult::Held);
        assert_eq!(table.try_read(7).err(), Some(Slow::NoAccess));
        assert_eq!(table.access(cell), Access::None);
        assert!(table.take_read(cell).is_none());
        assert_eq!(hold.value(), "seven", "it stays as long as it is held");
        assert!(!table.discard(cell) && !table.release_cell(cell));
        assert_eq!(table.install(cell, 9, None), Err(InstallError::Held));
        assert_eq!(table.revoke(cell, Access::None), RevokeResult::Held);
        assert!(hold.release(), "the driver waits");
        assert_eq!(table.revoke(cell, Access::None), RevokeResult::Done { version: 1, has_value: true });
        table.grant(cell, Access::Read);
        assert!(!table.try_read(7).expect("readable again").release());
    }
}

#[test]
fn lowering_to_read_waits_for_the_writer_only() {
    let (table, cell) = text(Access::Write);
    let reader = table.try_read(7).expect("readable");
    assert_eq!(table.revoke(cell, Access::Read), RevokeResult::Done { version: 1, has_value: true });
    assert!(table.may_read(7));
    assert_eq!(table.revoke(cell, Access::None), RevokeResult::Held);
    assert_eq!(table.revoke(cell, Access::Read), RevokeResult::Held, "the deeper one is pending");
    assert!(reader.release());
    assert_eq!(table.revoke(cell, Access::None), RevokeResult::Done { version: 1, has_value: true });
    table.grant(cell, Access::Write);
    let writer = table.try_write(7).expect("writable");
    assert_eq!(table.revoke(cell, Access::Read), RevokeResult::Held);
    assert!(writer.release());
}

#[test]
fn waiters_come_first_and_are_told() {
    let (table, cell) = text(Access::Write);
    let reader = table.try_read(7).expect("readable");
    table.set_waiters(cell, true);
    assert_eq!(table.try_read(7).err(), Some(Slow::Held));
    assert_eq!(table.try_write(7).err(), Some(Slow::Held));
    assert!(table.take_write(cell).is_none());
    let waiting_reader = table.take_read(cell).expect("readers do not exclude each other");
    assert!(reader.release() && table.adopt_read(waiting_reader).expect("decoded").release());
    let writer = table.adopt_write(table.take_write(cell).expect("nobody holds it")).expect("decoded");
    table.set_waiters(cell, false);
    assert!(!writer.release());
}

#[test]
fn a_first_touch_makes_the_value_under_the_write_hold() {
    fn check<T: crate::Value + PartialEq + std::fmt::Debug>(value: T) {
        let table: Table<T> = Table::new();
        let cell = table.find_or_insert(1);
        table.grant(cell, Access::Write);
        assert_eq!(table.try_read(1).err(), Some(Slow::NoValue));
        assert!(table.take_read(cell).is_none() && !table.has_value(cell) && table.pod_read(1).is_none());
        let mut hold = table.try_write(1).expect("writable without a value");
        assert!(hold.value().is_none());
        hold.initialize(value.clone());
        assert_eq!((hold.value(), hold.version()), (Some(&value), 0));
        drop(hold);
        assert!(table.has_value(cell));
        assert_eq!(table.try_read(1).expect("readable").value(), &value);
        assert_eq!((table.value_count(), table.cells()), (1, vec![(1, cell)]));
    }
    check(String::from("first"));
    check(Pod([1u64, 2, 3]));
    check(Raw(vec![1, 2]));
    check(Pod([7u8; 4000]));
}

#[test]
fn plain_old_data_is_read_without_a_hold() {
    let (table, cell) = with(3, &Pod([5u64; 8]), Access::Write);
    assert_eq!(table.pod_read(3), Some(Pod([5; 8])));
    assert_eq!(table.pod_read_at(cell, 4), None, "the cell of another object");
    let mut hold = table.try_write(3).expect("a reader without a hold keeps nobody out");
    assert_eq!(table.pod_read(3), None, "somebody writes");
    hold.publish(Pod([6; 8]));
    drop(hold);
    assert_eq!(table.pod_read(3), Some(Pod([6; 8])));
    table.set_waiters(cell, true);
    assert_eq!(table.pod_read(3), Some(Pod([6; 8])), "it stands in nobody's way");
    assert_eq!(table.revoke(cell, Access::None), RevokeResult::Done { version: 2, has_value: true });
    assert_eq!(table.pod_read(3), None);
}

#[test]
fn bytes_are_decoded_at_first_use() {
    let table: Table<String> = Table::new();
    let cell = table.find_or_insert(1);
    table.install(cell, 4, Some(&[1, b'a'])).expect("nobody holds it");
    table.grant(cell, Access::Write);
    assert_eq!(table.try_read(1).err(), Some(Slow::Undecoded));
    assert_eq!(table.try_write(1).err(), Some(Slow::Undecoded));
    let mut bytes = vec![9];
    assert_eq!(table.encode(cell, &mut bytes), Ok(true));
    assert_eq!(bytes, [9, 1, b'a']);
    let hold = table.adopt_read(table.take_read(cell).expect("readable")).expect("it decodes");
    assert_eq!((hold.value().as_str(), hold.version()), ("a", 4));
    drop(hold);
    assert_eq!(table.try_read(1).expect("decoded").value(), "a");
    bytes.clear();
    assert_eq!(table.encode(cell, &mut bytes), Ok(true));
    assert_eq!(bytes, [1, b'a']);
}

#[test]
fn bytes_that_do_not_decode_are_an_error_and_stay() {
    let table: Table<String> = Table::new();
    let cell = table.find_or_insert(1);
    let bad = [1, b'a', b'b'];
    table.install(cell, 4, Some(&bad)).expect("they are not looked at yet");
    table.grant(cell, Access::Write);
    for _ in 0..2 {
        assert!(table.adopt_read(table.take_read(cell).expect("readable")).is_err());
        assert!(table.adopt_write(table.take_write(cell).expect("writable")).is_err());
        assert!(!table.is_held(cell), "the hold has ended");
    }
    let mut bytes = Vec::new();
    assert_eq!((table.encode(cell, &mut bytes), bytes.as_slice()), (Ok(true), &bad[..]));

    let table: Table<Words> = Table::new();
    let cell = table.find_or_insert(1);
    assert!(matches!(table.install(cell, 1, Some(&bad)), Err(InstallError::Undecodable(_))));
    table.grant(cell, Access::Write);
    assert!(table.has_value(cell) && table.pod_read(1).is_none());
    assert!(table.adopt_read(table.take_read(cell).expect("readable")).is_err());
    assert_eq!((table.encode(cell, &mut Vec::new()), table.try_write(1).err()), (Ok(true), Some(Slow::Undecoded)));
    assert!(table.discard(cell));
    assert!(!table.try_write(1).expect("a fresh first touch").release());
}

#[test]
fn a_type_that_panics_while_decoding_is_an_error() {
    #[derive(Clone, Debug, serde::Serialize)]
    struct Panics;
    impl<'a> serde::Deserialize<'a> for Panics {
        fn deserialize<D: serde::Deserializer<'a>>(_: D) -> Result<Panics, D::Error> {
            panic!("this type's own mistake")
        }
    }
    let table: Table<Panics> = Table::new();
    let cell = table.find_or_insert(1);
    table.install(cell, 1, Some(&[])).expect("not looked at yet");
    table.grant(cell, Access::Read);
    let error = table.adopt_read(table.take_read(cell).expect("readable")).err().expect("it panicked");
    assert!(error.to_string().contains("panicked"));
}

#[test]
fn install_keeps_a_value_of_the_same_version_for_those_who_read_it() {
    let (table, cell) = text(Access::Read);
    let hold = table.try_read(7).expect("readable");
    table.install(cell, 1, Some(b"whatever")).expect("it is kept");
    assert_eq!(hold.value(), "seven");
    drop(hold);
    table.install(cell, 2, Some(&bytes_of(&String::from("eight")))).expect("nobody holds it");
    assert_eq!((table.version(cell), table.access(cell)), (2, Access::Read));
    let hold = table.adopt_read(table.take_read(cell).expect("readable")).expect("it decodes");
    assert_eq!(hold.value(), "eight");
    drop(hold);
    table.install(cell, 3, None).expect("nobody holds it");
    assert!(!table.has_value(cell));
}

#[test]
fn encoding_excludes_writers_and_nobody_else() {
    let (table, cell) = text(Access::Write);
    let reader = table.try_read(7).expect("readable");
    assert_eq!(table.encode(cell, &mut Vec::new()), Ok(true));
    assert!(!reader.release());
    let writer = table.try_write(7).expect("the encoder has gone");
    assert!(table.encode(cell, &mut Vec::new()).is_err());
    drop(writer);
    assert!(table.discard(cell));
    assert_eq!(table.encode(cell, &mut Vec::new()), Ok(false));
}

#[test]
fn a_freed_cell_serves_another_object_and_old_handles_notice() {
    let (table, cell) = text(Access::Read);
    assert!(!table.release_cell(cell), "access is granted");
    table.revoke(cell, Access::None);
    assert!(!table.release_cell_if_empty(cell), "there is a value");
    table.discard(cell);
    table.set_waiters(cell, true);
    assert!(!table.release_cell_if_empty(cell), "somebody waits");
    table.set_waiters(cell, false);
    assert!(table.release_cell_if_empty(cell));
    assert_eq!((table.find(7), table.try_read_at(cell, 7).err()), (None, Some(Slow::NoAccess)));
    assert!(!table.release_cell(cell), "it is free");
    let again = table.find_or_insert(8);
    assert_eq!((again, table.version(again), table.access(again)), (cell, 0, Access::None));
    table.install(again, 5, Some(&bytes_of(&String::from("other")))).expect("it decodes");
    table.grant(again, Access::Write);
    assert_eq!(table.try_read_at(cell, 7).err(), Some(Slow::NoAccess));
    assert_eq!(table.try_write_at(cell, 7).err(), Some(Slow::NoAccess));
}

#[test]
fn a_thread_knows_what_it_holds() {
    let (table, cell) = text(Access::Write);
    let table = Arc::new(table);
    assert_eq!(table.held_by_this_thread(7), None);
    let hold = table.try_write(7).expect("writable");
    assert_eq!(table.held_by_this_thread(7), Some("write"));
    let other = Arc::clone(&table);
    std::thread::spawn(move || {
        assert_eq!(other.held_by_this_thread(7), None);
        drop(hold);
    })
    .join()
    .expect("the other thread may end the hold");
    assert_eq!(table.held_by_this_thread(7), None);
    for _ in 0..COLD_READS {
        let hold = table.try_read(7).expect("readable");
        assert_eq!(table.held_by_this_thread(7), Some("read"));
        drop(hold);
    }
    let hold = table.adopt_write(table.take_write(cell).expect("nobody holds it")).expect("decoded");
    assert_eq!(table.held_by_this_thread(7), Some("write"));
    drop(hold);
}

#[test]
fn more_holds_than_slots_are_counted() {
    let (table, cell) = text(Access::Read);
    warm(&table, 7);
    let mut holds: Vec<_> = (0..COLD_READS).map(|_| table.try_read(7).expect("readable")).collect();
    assert_eq!(table.revoke(cell, Access::None), RevokeResult::Held);
    let last = holds.pop().expect("there are many");
    assert!(holds.into_iter().all(ReadHold::release));
    assert_eq!(table.revoke(cell, Access::None), RevokeResult::Held);
    assert!(last.release());
    assert!(matches!(table.revoke(cell, Access::None), RevokeResult::Done { .. }));
}

#[test]
fn a_guard_that_outlives_its_table_keeps_its_value() {
    for is_warm in [false, true] {
        let (table, _) = text(Access::Read);
        if is_warm {
            warm(&table, 7);
        }
        let hold = table.try_read(7).expect("readable");
        drop(table);
        assert_eq!((hold.value().as_str(), hold.version()), ("seven", 1));
        assert!(!hold.release());
    }
}

#[test]
fn a_table_of_bytes_becomes_a_table_of_values() {
    let raw: Table<Raw> = Table::new();
    let named = |id: u64| raw.find_or_insert(id);
    raw.install(named(1), 3, Some(&[1, b'x'])).expect("bytes fit");
    raw.grant(named(1), Access::Read);
    raw.grant(named(2), Access::Write);
    raw.set_waiters(named(2), true);
    raw.install(named(3), 1, Some(&[9])).expect("bytes fit");
    let hold = raw.take_write(named(2)).expect("nobody holds it");
    assert!(Table::<String>::adopt(&raw).is_none(), "somebody holds an object");
    assert_eq!((raw.access(named(1)), raw.access(named(2))), (Access::Read, Access::Write));
    drop(hold);
    let table = Table::<String>::adopt(&raw).expect("nobody holds anything");
    let find = |id: u64| table.find(id).expect("it was moved");
    assert_eq!((table.access(find(1)), table.version(find(1)), table.value_count()), (Access::Read, 3, 2));
    let hold = table.adopt_read(table.take_read(find(1)).expect("readable")).expect("it decodes");
    assert_eq!(hold.value(), "x");
    assert!(!hold.release());
    assert!(table.adopt_write(table.take_write(find(2)).expect("writable")).expect("no value").release());
    assert_eq!((table.access(find(3)), raw.cells().len()), (Access::None, 0));
    assert!(Table::<u64>::adopt(&table).is_none(), "not a table of bytes");
    let store: Arc<dyn Store> = Arc::new(table);
    assert!(Table::<String>::from_store(&store).is_some() && Table::<u64>::from_store(&store).is_none());
}

/// Who walks through the cells meanwhile misses none, whoever watches is told of the next put, and what nobody uses is no
/// younger for it.
#[test]
fn a_table_of_bytes_keeps_its_marks_and_the_numbers_of_its_cells() {
    let raw: Table<Raw> = Table::new();
    for id in 1..=2_000 {
        let cell = raw.find_or_insert(id);
        raw.install(cell, 1, Some(&[1, b'x'])).expect("bytes fit");
    }
    (1..=1_999).filter(|id| id % 3 > 0).for_each(|id| assert!(raw.release_cell(raw.find(id).expect("it is there"))));
    let cells = raw.cells();
    let (watched, cold) = (raw.find(999).expect("it is there"), Marks::Yes);
    raw.set_watched(watched, true);
    assert!(raw.look(0, 3_000, cold).0.iter().all(|looked| looked.is_used), "they have just come");
    let table = Table::<String>::adopt(&raw).expect("nobody holds anything");
    assert_eq!(table.cells(), cells);
    assert!(table.look(0, 3_000, cold).0.iter().all(|looked| !looked.is_used));
    for (id, is_told) in [(999, true), (996, false)] {
        table.grant(table.find(id).expect("it is there"), Access::Write);
        let hold = table.take_write(table.find(id).expect("it is there")).expect("nobody holds it");
        assert_eq!(table.adopt_write(hold).expect("it decodes").release(), is_told, "{id}");
    }
    let numbers: Vec<_> = cells.iter().map(|(_, number)| *number).collect();
    (5_000..5_100).for_each(|id| assert!(!numbers.contains(&table.find_or_insert(id)), "the others are free"));
    assert_eq!(table.cells().len(), cells.len() + 100);
}

#[test]
fn ten_thousand_objects_come_and_go() {
    const OBJECTS: u64 = 10_000;
    let table: Table<Pod<u64>> = Table::new();
    let id = |at: u64| at << 40 | at;
    for round in 0..3u64 {
        for at in 0..OBJECTS {
            let cell = table.find_or_insert(id(at));
            table.install(cell, round + 1, Some(&bytes_of(&Pod(at)))).expect("it fits");
            table.grant(cell, Access::Read);
        }
        assert_eq!(table.value_count() as u64, OBJECTS);
        assert!((0..OBJECTS).all(|at| table.pod_read(id(at)) == Some(Pod(at))));
        for at in (0..OBJECTS).filter(|at| round == 2 || at % 3 == round) {
            let cell = table.find(id(at)).expect("it is here");
            table.revoke(cell, Access::None);
            assert!(table.release_cell(cell));
            assert_eq!(table.pod_read(id(at)), None);
        }
    }
    assert!(table.cells().is_empty());
    assert!(
        table.metadata_bytes() as u64 / OBJECTS <= 56,
        "{} bytes an object",
        table.metadata_bytes() as u64 / OBJECTS
    );
}

#[test]
fn the_lease_ends_at_its_deadline() {
    let lease = Lease::default();
    assert!(lease.is_valid());
    lease.set_deadline_ns(Lease::now_ns() + 3_600_000_000_000);
    assert!(lease.is_valid());
    lease.set_deadline_ns(0);
    assert!(!lease.is_valid());
}

/// A driver that holds an object for somebody outside takes its bytes out and in, and keeps it to read
/// afterwards whatever access is left.
#[test]
fn a_hold_of_the_driver_takes_bytes_and_can_be_lowered() {
    let table: Table<String> = Table::new();
    let other: Table<String> = Table::new();
    let cell = table.find_or_insert(1);
    table.install(cell, 4, Some(&[1, b'a'])).expect("a string");
    table.grant(cell, Access::Write);
    let hold = table.take_write(cell).expect("nobody holds it");
    let mut bytes = Vec::new();
    assert_eq!(table.encode_held(&hold, &mut bytes), Ok(true));
    assert_eq!(bytes, [1, b'a']);
    assert!(table.encode(cell, &mut bytes).is_err(), "somebody writes");
    assert!(other.encode_held(&hold, &mut bytes).is_err() && other.put_held(&hold, 5, &[0]).is_err());
    table.put_held(&hold, 5, &[2, b'b', b'c']).expect("a string");
    assert!(matches!(table.revoke(cell, Access::None), RevokeResult::Held));
    let hold = hold.downgraded();
    assert!(matches!(table.revoke(cell, Access::None), RevokeResult::Held), "it is held to read");
    assert!(table.put_held(&hold, 6, &[0]).is_err(), "it is not held to write any more");
    assert!(hold.release(), "the driver waits");
    assert_eq!(table.revoke(cell, Access::None), RevokeResult::Done { version: 5, has_value: true });
    table.grant(cell, Access::Read);
    let read = table.adopt_read(table.take_read(cell).expect("nobody writes")).expect("it decodes");
    assert_eq!((read.value().as_str(), read.version()), ("bc", 5));
    assert!(!read.release());
}

/// As above, for a value that lies in its cell: readers without a hold see the old one or the new one.
#[test]
fn plain_old_data_is_replaced_under_a_hold() {
    let table: Table<Pod<u64>> = Table::new();
    let cell = table.find_or_insert(1);
    table.install(cell, 1, Some(&7u64.to_le_bytes())).expect("eight bytes");
    table.grant(cell, Access::Write);
    let hold = table.take_write(cell).expect("nobody holds it");
    table.put_held(&hold, 2, &8u64.to_le_bytes()).expect("eight bytes");
    assert!(table.put_held(&hold, 3, &[1, 2]).is_err(), "they do not decode");
    assert_eq!(table.pod_read(1), None);
    table.put_held(&hold, 3, &9u64.to_le_bytes()).expect("eight bytes");
    assert!(!hold.release());
    assert_eq!(table.pod_read(1), Some(Pod(9)));
}

fn with_account<T: crate::Value>(value: &T, ids: std::ops::Range<u64>) -> Table<T> {
    let table = Table::new();
    table.set_account(Arc::new(Account::new(1 << 20, || ())));
    for id in ids {
        let cell = table.find_or_insert(id);
        table.install(cell, 1, Some(&bytes_of(value))).expect("it decodes");
        table.grant(cell, Access::Write);
        assert!(!table.take_read(cell).expect("it decodes").release());
    }
    table
}

/// What the hand finds, when it passes that object.
fn pass<T: crate::Value>(table: &Table<T>, id: u64) -> Swept {
    table.sweep(table.find_cell(id).expect("it is there"), id)
}

#[test]
fn a_hand_finds_what_nobody_has_used_since_it_was_there_last() {
    type Use = fn(&Table<String>, u64);
    const IDS: u64 = 500;
    let read = |table: &Table<String>, id| assert!(!table.try_read(id).expect("readable").release());
    let table = with_account(&String::from("seven"), 0..IDS);
    let uses: [(&str, Use); 4] = [
        ("a read", |table, id| assert!(!table.try_read(id).expect("readable").release())),
        ("a read of a holder", |table, id| {
            let holder = Notes::of("a holder".into());
            assert!(!table.try_read_by(id, &holder).expect("readable").release());
        }),
        ("reads by slots", |table, id| warm(table, id)),
        ("a put", |table, id| {
            let mut hold = table.try_write(id).expect("writable");
            hold.publish("eight".into());
            assert!(!hold.release());
        }),
    ];
    for id in 0..IDS {
        assert_eq!(pass(&table, id), Swept::Used, "it is new: {id}");
        assert_eq!(pass(&table, id), Swept::Unused, "{id}");
        for (what, used) in uses {
            used(&table, id);
            assert_eq!((pass(&table, id), pass(&table, id)), (Swept::Used, Swept::Spared), "{what} of {id}");
        }
        assert_eq!(pass(&table, id), Swept::Unused, "{id}");
        assert!(table.may_read(id), "whoever comes next gets it");
    }
    let (hold, cell) = (table.try_read(3).expect("readable"), table.find_cell(3).expect("it is there"));
    assert_eq!((pass(&table, 3), table.is_held(cell)), (Swept::Used, true));
    drop(hold);
    assert!(table.discard(cell));
    assert_eq!(pass(&table, 3), Swept::Nothing);
    read(&table, 4);
    assert_eq!(table.sweep(cell, 4), Swept::Nothing, "the cell of another object");
}

#[test]
fn what_was_used_in_several_rounds_stays_for_as_many_more_and_what_was_only_brought_goes_in_the_first() {
    const IDS: u64 = 500;
    let table = with_account(&String::from("seven"), 0..IDS);
    let read = |id| assert!(!table.try_read(id).expect("readable").release());
    for id in 0..IDS {
        table.was_missed(id);
        let cell = table.find_cell(id).expect("it is there");
        assert!(table.is_used(cell), "ages count from there: {id}");
        if id % 2 == 0 {
            assert_eq!(pass(&table, id), Swept::Unused, "nobody has read it again: {id}");
            continue;
        }
        for rounds in 1..=5 {
            read(id);
            assert_eq!(pass(&table, id), Swept::Used, "{id}");
            if rounds == 2 {
                assert_eq!([0; 3].map(|_| pass(&table, id)), [Swept::Spared, Swept::Spared, Swept::Unused], "{id}");
            }
        }
        let spared = (0..10).take_while(|_| pass(&table, id) == Swept::Spared).count();
        assert_eq!(spared, 3, "that is enough, however often it was used: {id}");
        table.was_missed(id);
        read(id);
        assert_eq!((pass(&table, id), pass(&table, id)), (Swept::Used, Swept::Spared), "it is as it was");
    }
}

#[test]
fn what_one_hand_has_found_the_other_hears_whatever_is_counted_meanwhile() {
    const IDS: u64 = 200;
    let table = with_account(&String::from("seven"), 0..IDS);
    let account = table.account().expect("it has one");
    let look = || table.look(0, 2 * IDS as u32, Marks::Yes).0;
    assert!(look().iter().all(|looked| looked.is_used) && look().iter().all(|looked| !looked.is_used));
    for id in 0..IDS {
        let cell = table.find_cell(id).expect("it is there");
        assert_eq!((pass(&table, id), pass(&table, id)), (Swept::Used, Swept::Unused), "{id}");
        assert!(!table.is_used(cell));
        assert!(!table.try_read(id).expect("readable").release());
        assert_eq!(pass(&table, id), Swept::Used);
        account.note(cell, 100, 1);
        assert!(table.is_used(cell), "the hand of the budget has taken the mark: {id}");
    }
    assert!(look().iter().all(|looked| looked.is_used) && look().iter().all(|looked| !looked.is_used));
    for id in 0..IDS {
        table.uses(table.find_cell(id).expect("it is there"));
    }
    assert!(look().iter().all(|looked| looked.is_used), "whoever has waited for it");
    let written = table.try_write(7).expect("writable");
    assert!(
        look().iter().all(|looked| looked.is_written == (looked.object == 7) && looked.is_held == looked.is_written)
    );
    assert!(!written.release());
}

#[test]
fn copies_that_leave_no_trace_are_seen_by_the_hand_too() {
    const IDS: u64 = 500;
    let table = with_account(&Pod([7u64; 8]), 0..IDS);
    for id in 0..IDS {
        assert_eq!((pass(&table, id), pass(&table, id)), (Swept::Used, Swept::Unused));
        assert_eq!(table.pod_glance(id), None, "whoever copies it out says so first: {id}");
        assert_eq!(table.pod_read(id), Some(Pod([7; 8])));
        let is_sample = table.account().expect("it has one").samples(id);
        assert_eq!(table.pod_glance(id).is_some(), !is_sample, "all reads of a sample are counted: {id}");
        assert_eq!((pass(&table, id), pass(&table, id)), (Swept::Used, Swept::Spared));
    }
}

#[test]
fn a_table_counts_what_is_here_and_a_sample_what_is_found() {
    const IDS: u64 = 640;
    let table = with_account(&String::from("seven"), 0..IDS);
    let account = Arc::clone(table.account().expect("it has one"));
    let each = account.bytes() / IDS as usize;
    assert_eq!((account.bytes(), each), (each * IDS as usize, 6 + 120), "the text, its length, and what is besides");
    let samples = (0..IDS).filter(|id| account.samples(*id)).count() as u64;
    assert!((2..40).contains(&samples), "{samples}");
    for id in 0..IDS {
        account.missed(id);
        for _ in 0..3 {
            assert!(!table.try_read(id).expect("readable").release());
        }
        table.was_missed(id);
    }
    assert_eq!(account.found(), (IDS, 2 * samples, samples));
    let mut hold = table.try_write(7).expect("writable");
    hold.publish("seven".repeat(10));
    assert!(!hold.release());
    assert_eq!(pass(&table, 7), Swept::Used);
    assert_eq!(account.bytes(), each * IDS as usize + 45, "it has grown");
    let cell = table.find_cell(7).expect("it is there");
    account.keep(cell);
    assert_eq!((account.bytes(), account.bytes_of(cell)), (each * (IDS as usize - 1), 0));
    assert_eq!((pass(&table, 7), account.bytes_of(cell)), (Swept::Spared, 0), "it does not count again");
    for (_, cell) in table.cells() {
        assert_ne!(table.revoke(cell, Access::None), RevokeResult::Held);
        assert!(table.discard(cell) && table.release_cell(cell));
    }
    assert_eq!(account.bytes(), 0);
}

#[test]
fn whoever_is_to_make_room_is_told_when_there_is_too_much() {
    let told = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let tells = Arc::clone(&told);
    let account = Account::new(1_000, move || _ = tells.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let told = || told.load(std::sync::atomic::Ordering::Relaxed);
    account.note(0, 500, 1);
    account.note(2_000, 260, 1);
    assert_eq!((account.bytes(), told()), (1_000, 0), "as much as may be");
    account.note(2_000, 261, 2);
    assert_eq!((account.bytes(), told()), (1_001, 1));
    account.note(2_000, 200, 3);
    account.forget(0);
    assert_eq!((account.bytes(), told()), (320, 1), "less is no news");
    account.note(5_000, usize::MAX, 1);
    assert!(account.bytes() > 1 << 33 && told() == 2, "whatever a type says of itself");
    account.forget(5_000);
    assert_eq!(account.bytes(), 320);
}

/// A hand for a budget and one for the age of objects: what one finds the other hears of.
#[test]
fn two_hands_see_each_use_once() {
    use super::{Aged, Marks};
    let ages: Table<Pod<u64>> = Table::new();
    for id in 0..200 {
        let cell = ages.find_or_insert(id);
        ages.install(cell, 1, Some(&bytes_of(&Pod(7u64)))).expect("it decodes");
        ages.grant(cell, Access::Write);
        assert!(!ages.take_read(cell).expect("it decodes").release());
    }
    for table in [&with_account(&Pod(7u64), 0..200), &ages] {
        let has_budget = table.account().is_some();
        let looked = |id: u64| {
            let (found, _) = table.look(0, 1000, Marks::Yes);
            found.into_iter().find(|found| found.object == id).expect("it has a value").is_used
        };
        let swept = |id: u64| has_budget && pass(table, id) == Swept::Used;
        for id in 0..200 {
            _ = (looked(id), swept(id), looked(id));
            assert!(!looked(id) && !swept(id), "nobody has used {id}");
            assert!(!table.try_read(id).expect("marks are in no reader's way").release());
            let first = if id % 2 == 0 { swept(id) } else { looked(id) };
            let second = if id % 2 == 0 { looked(id) } else { swept(id) };
            assert_eq!((first, second), (has_budget || id % 2 == 1, has_budget || id % 2 == 0), "a read of {id}");
            assert!(!looked(id) && !swept(id), "that of {id} is known already");
            assert_eq!(table.pod_read(id), Some(Pod(7)));
            assert!(looked(id), "a copy of {id} leaves a trace then");
        }
    }
}
