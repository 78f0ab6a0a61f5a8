//! Values that do not fit: too large, not decodable, not encodable; and names that are none.

use std::sync::atomic::{AtomicBool, Ordering};

use kddm::value::{DecodeError, EncodeError};
use kddm::{AccessError, Config, Error, Fate, Node, Pod, Raw, Set, SetError, Value};

fn pair(object_limit_bytes: usize) -> [Node; 2] {
    let config = || crate::unhurried().object_limit_bytes(object_limit_bytes);
    let first = Node::join(config()).wait().expect("a free port");
    let second = Node::join(config().contact(first.address().clone())).wait().expect("a live contact");
    [first, second]
}

/// A value beyond the limit is refused at `put`, with both sizes; the old one stays, everywhere.
#[test]
fn a_value_that_is_too_large_is_not_put() {
    let nodes = pair(1000);
    let sets: [Set<String>; 2] = [0, 1].map(|at| nodes[at].set("texts").open().wait().expect("the set opens"));
    for (set, other) in [(&sets[0], &sets[1]), (&sets[1], &sets[0])] {
        set.update(1, |text| {
            *text = "short".into();
            Ok(())
        })
        .wait()
        .expect("it fits");
        let mut text = set.grab(1).wait().expect("the object");
        *text = "x".repeat(5000);
        let error = text.put().wait().expect_err("it does not fit");
        assert_eq!(error.fate(), Fate::NothingHappened);
        assert!(
            matches!(error, Error::Access(AccessError::TooLarge { bytes, limit_bytes: 1000 }) if bytes > 1000),
            "{error:?}"
        );
        for reader in [set, other] {
            assert_eq!(*reader.get(1).wait().expect("the old value"), "short");
        }
    }
    let large: Set<String> =
        nodes[1].set("large").first_touch(|_| "y".repeat(2000)).open().wait().expect("the set opens");
    let error = large.get(1).wait().expect_err("its first value does not fit");
    assert!(matches!(error, Error::Access(AccessError::TooLarge { .. })), "{error:?}");
    let small = large.grab_or_insert_with(1, || "fits".into()).wait().expect("another first value");
    small.put().wait().expect("it fits");
    assert_eq!(*large.get(1).wait().expect("the value"), "fits");
}

/// A node may have a smaller limit than another: it is a limit for what is put there. What others have
/// put is taken, whole, and the link goes on.
#[test]
fn what_a_node_with_a_larger_limit_has_put_is_taken() {
    let first = Node::join(crate::unhurried()).wait().expect("a free port");
    let small = Config::new().contact(first.address().clone()).object_limit_bytes(1000);
    let second = Node::join(small).wait().expect("a live contact");
    let here: Set<Raw> = first.set("raw").open().wait().expect("the set opens");
    let there: Set<Raw> = second.set("raw").open().wait().expect("the set opens");
    let value = Raw(vec![7; 300_000]);
    let mut guard = here.grab(1).wait().expect("the object");
    *guard = value.clone();
    guard.put().wait().expect("it fits here");
    assert!(*there.get(1).wait().expect("a copy") == value);
    there.grab(1).wait().expect("the object").put().wait().expect("as it was, it is small enough to stay");
    assert!(*here.get(1).wait().expect("a copy") == value);
    assert_eq!((first.statistics().malformed, second.statistics().malformed), (0, 0));
}

/// Two types that claim to be one: what the first writes the second cannot read.
#[derive(Clone, Default, PartialEq, Debug)]
struct Writes(u8);
#[derive(Clone, Default, PartialEq, Debug)]
struct Reads(u8);

const NAME: &str = "one name for two types";

impl Value for Writes {
    const CODEC: &'static str = "own";

    fn type_name() -> &'static str {
        NAME
    }

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        bytes.extend_from_slice(&[self.0; 3]);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Writes, DecodeError> {
        Ok(Writes(bytes[0]))
    }

    fn encoded_len(&self, _limit_bytes: usize) -> Result<usize, EncodeError> {
        Ok(3)
    }
}

impl Value for Reads {
    const CODEC: &'static str = "own";

    fn type_name() -> &'static str {
        NAME
    }

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self.0 {
            0 => Err(EncodeError::new("zero cannot be written")),
            number => {
                bytes.push(number);
                Ok(())
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Reads, DecodeError> {
        match bytes {
            [9, ..] => panic!("nine is more than this type can bear"),
            [number] => Ok(Reads(*number)),
            _ => Err(DecodeError::new(format!("{} bytes instead of one", bytes.len()))),
        }
    }

    fn encoded_len(&self, _limit_bytes: usize) -> Result<usize, EncodeError> {
        self.encode(&mut Vec::new()).map(|()| 1)
    }
}

/// Bytes that do not decode, or whose decoding panics: an error for whoever reads them there, each
/// time, counted; the bytes stay as they are, and others can read, write and remove the object.
#[test]
fn a_value_that_does_not_decode_is_an_error_of_its_readers_alone() {
    let nodes = Node::local_cluster(2).expect("no ports");
    let writer: Set<Writes> = nodes[0].set("values").open().wait().expect("the set opens");
    let reader: Set<Reads> = nodes[1].set("values").open().wait().expect("names are all that is compared");
    for (object, number) in [(1, 4), (2, 9)] {
        let put = |number| {
            let mut guard = writer.grab(object).wait().expect("the object");
            guard.0 = number;
            guard.put().wait().expect("it fits");
        };
        put(number);
        for round in 1..=3 {
            let error = reader.get(object).wait().expect_err("it does not decode");
            let decode = matches!(error, Error::Access(AccessError::Decode { type_name: NAME, .. }));
            assert!(decode, "round {round}: {error:?}");
            assert!(reader.find(object).is_none());
            assert!(reader.snapshot(object).wait().is_err());
        }
        assert!(nodes[1].statistics().undecodable > 0, "it is counted");
        assert_eq!(writer.get(object).wait().expect("its own value").0, number, "the bytes are as they were");
        let error = reader.grab(object).wait().expect_err("it does not decode");
        assert!(matches!(error, Error::Access(AccessError::Decode { .. })), "{error:?}");
        // The ownership has moved there, with the bytes: they come back unharmed.
        assert_eq!(writer.get(object).wait().expect("its own value").0, number);
        put(number + 1);
        reader.remove(object).wait().expect("who cannot read may remove");
        assert!(writer.get_existing(object).wait().is_err());
    }
    assert_eq!(nodes[0].statistics().faults + nodes[1].statistics().faults, 0);
}

/// A value that does not encode: the put fails, the old value stays.
#[test]
fn a_value_that_does_not_encode_is_not_put() {
    let nodes = Node::local_cluster(2).expect("no ports");
    let sets: [Set<Reads>; 2] = [0, 1].map(|at| {
        nodes[at].set("values").first_touch(|_| Reads(1)).open_without_default().wait().expect("the set opens")
    });
    let mut guard = sets[0].grab(1).wait().expect("the object");
    guard.0 = 0;
    let error = guard.put().wait().expect_err("zero cannot be written");
    assert!(matches!(error, Error::Access(AccessError::Encode { .. })), "{error:?}");
    assert!(error.to_string().contains("zero cannot be written"), "{error}");
    for set in &sets {
        assert_eq!(set.get(1).wait().expect("the old value").0, 1);
    }
}

/// Plain old data of another size: refused when the set is opened, or counted when it arrives.
#[test]
fn plain_data_of_another_size_is_refused() {
    let nodes = Node::local_cluster(2).expect("no ports");
    let here: Set<Pod<u64>> = nodes[0].set("pods").open().wait().expect("the set opens");
    here.grab(1).wait().expect("the object").put().wait().expect("it fits");
    let error = nodes[1].set::<Pod<u32>>("pods").open().wait().expect_err("another type");
    assert!(matches!(error, Error::Set(SetError::SettingsDiffer { setting: "type", .. })), "{error:?}");
    let error = nodes[1].set::<Raw>("pods").open().wait().expect_err("another codec");
    assert!(matches!(error, Error::Set(SetError::SettingsDiffer { setting: "codec", .. })), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("pod") && text.contains("raw"), "{text}");
}

/// Names of sets have a rule, and the error says it.
#[test]
fn names_that_are_none_are_refused() {
    let nodes = Node::local_cluster(1).expect("no ports");
    for name in ["", "/", "a//b", "/a", "a/", &"x".repeat(65)] {
        let error = nodes[0].set::<u64>(name).open().wait().expect_err("no name");
        assert!(matches!(error, Error::Set(SetError::BadName { .. })), "{name:?}: {error:?}");
        let error = nodes[0].destroy_set(name, std::time::Duration::ZERO).wait().expect_err("no name");
        assert!(matches!(error, Error::Set(SetError::BadName { .. })), "{name:?}: {error:?}");
    }
    nodes[0].set::<u64>(&"x".repeat(64)).open().wait().expect("the longest name");
}

/// Object 0 and the largest, a set's name with every byte, one object twice in one call.
#[test]
fn ids_at_the_ends_of_their_range_are_objects_like_others() {
    let nodes = Node::local_cluster(2).expect("no ports");
    let sets: [Set<u64>; 2] = [0, 1].map(|at| nodes[at].set("\u{0}\u{7f}é").open().wait().expect("the set opens"));
    for object in [0, 1, u64::MAX - 1, u64::MAX] {
        let mut guard = sets[0].grab(object).wait().expect("the object");
        *guard = object;
        guard.put().wait().expect("it fits");
        assert_eq!(*sets[1].get(object).wait().expect("a copy"), object);
    }
    let error = sets[1].grab_many(&[1, 0, 1]).wait().expect_err("one is named twice");
    assert!(matches!(error, Error::Access(AccessError::NamedTwice { object: 1 })), "{error:?}");
    let guards = sets[1].grab_many(&[u64::MAX, 0]).wait().expect("nothing is held after the error");
    assert_eq!(guards.iter().map(|guard| **guard).collect::<Vec<_>>(), [u64::MAX, 0]);
}

/// After a stop nothing pretends to work: reads of local copies, puts of guards that are left.
#[test]
fn a_stopped_node_says_so() {
    let nodes = Node::local_cluster(1).expect("no ports");
    let set: Set<u64> = nodes[0].set("numbers").open().wait().expect("the set opens");
    set.get(1).wait().map(drop).expect("a first touch");
    let mut guard = set.grab(2).wait().expect("the object");
    *guard = 5;
    nodes[0].stop();
    let stopped = |error: Error| {
        assert_eq!(error.to_string(), "the node has been stopped", "{error:?}");
    };
    stopped(guard.put().wait().expect_err("nobody could ever see it"));
    stopped(set.get(1).wait().expect_err("no copy is valid any more"));
    stopped(set.grab(1).wait().expect_err("nothing can be held"));
    stopped(set.remove(1).wait().expect_err("nothing can be removed"));
    stopped(nodes[0].set::<u64>("others").open().wait().expect_err("no set can be opened"));
    assert!(set.find(1).is_none());
}

/// Encodes until it is told not to.
#[derive(Clone, Default, PartialEq, Debug)]
struct Moody(u8);

static MOOD: AtomicBool = AtomicBool::new(true);

impl Value for Moody {
    const CODEC: &'static str = "moody";

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        assert!(MOOD.load(Ordering::Relaxed), "not now");
        bytes.push(self.0);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Moody, DecodeError> {
        bytes.first().map(|byte| Moody(*byte)).ok_or_else(|| DecodeError::new("no byte"))
    }

    fn encoded_len(&self, _limit_bytes: usize) -> Result<usize, EncodeError> {
        self.encode(&mut Vec::new()).map(|()| 1)
    }
}

/// The thread that sends the value is the node's own: a type whose encoding panics there, after it had
/// been encoded at the put, costs its object and nothing else.
#[test]
fn a_value_that_panics_when_it_is_sent_does_not_end_the_node() {
    let nodes = pair(1000);
    let sets: [Set<Moody>; 2] = [0, 1].map(|at| nodes[at].set("moods").open().wait().expect("the set opens"));
    let (ill, well) = (1, 2);
    for id in [ill, well] {
        sets[0].grab(id).wait().expect("nobody else has it").put().wait().expect("it encodes");
    }
    MOOD.store(false, Ordering::Relaxed);
    let error = sets[1].get(ill).wait().expect_err("its bytes did not come");
    MOOD.store(true, Ordering::Relaxed);
    assert!(matches!(error, Error::Access(AccessError::Decode { .. })), "{error:?}");
    assert_eq!(*sets[1].get(well).wait().expect("the node goes on"), Moody(0));
    assert_eq!(nodes[0].statistics().undecodable, 1);
    assert_eq!(nodes[0].statistics().fences, 0);
}
