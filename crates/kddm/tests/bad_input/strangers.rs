//! Whoever is no member: other programs, other clusters, other configurations.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use kddm::transport::greeting::{Hello, PROTOCOL, Purpose, call};
use kddm::{Address, Config, ConfigurationError, Error, MembershipError, Node, Set};
use kddm_core::id::{PlacementPolicy, SetId};
use serde::{Deserialize, Serialize};

use crate::seat::process::Start;
use crate::seat::{Cluster, LIMIT, Place, Seat, until};

fn refusal(config: Config) -> Error {
    match Node::join(config).wait() {
        Ok(node) => panic!("node {} was admitted", node.id()),
        Err(error) => error,
    }
}

fn socket(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.address().to_string()).expect("the node listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// Two members that share an object.
struct Pair {
    nodes: [Node; 2],
    sets: [Set<u64>; 2],
}

impl Pair {
    fn new() -> Pair {
        let first = Node::join(crate::unhurried()).wait().expect("a free port");
        let second = Node::join(crate::unhurried().contact(first.address().clone())).wait().expect("a live contact");
        let sets = [&first, &second].map(|node| node.set("shared").open().wait().expect("the set opens"));
        Pair { nodes: [first, second], sets }
    }

    /// Both nodes still work, with each other.
    fn goes_on(&self) {
        let before = *self.sets[0].get(1).wait().expect("a copy");
        for set in &self.sets {
            let add = |number: &mut u64| {
                *number += 1;
                Ok(())
            };
            set.update(1, add).wait().expect("members go on");
        }
        for (set, node) in self.sets.iter().zip(&self.nodes) {
            assert_eq!(*set.get(1).wait().expect("a copy"), before + 2);
            assert_eq!(node.statistics().faults, 0);
            assert_eq!(node.members().len(), 2);
        }
    }
}

/// Bytes of other protocols and broken greetings: the connection ends, it is counted, members go on.
#[test]
fn malformed_greetings_end_their_connection_and_are_counted() {
    let pair = Pair::new();
    let mut huge = b"KDDM".to_vec();
    huge.extend_from_slice(&u32::MAX.to_le_bytes());
    let mut nonsense = b"KDDM".to_vec();
    nonsense.extend_from_slice(&64u32.to_le_bytes());
    nonsense.extend_from_slice(&[0xff; 64]);
    let mut too_long = b"KDDM".to_vec();
    too_long.extend_from_slice(&200u32.to_le_bytes());
    too_long.extend_from_slice(&[0; 200]);
    let greetings: [&[u8]; 5] = [b"GET / HTTP/1.1\r\nHost: kddm\r\n\r\n", &[0; 4096], &huge, &nonsense, &too_long];
    for node in &pair.nodes {
        for greeting in greetings {
            let before = node.statistics().malformed;
            let mut stream = socket(node);
            stream.write_all(greeting).expect("it listens");
            let mut answer = Vec::new();
            // The end of the connection, or its reset, and nothing before.
            let _reset = stream.read_to_end(&mut answer);
            assert!(answer.is_empty(), "an answer to {greeting:?}: {answer:?}");
            until("it is counted", || node.statistics().malformed == before + 1);
        }
    }
    pair.goes_on();
}

/// Connections that say nothing, stop in the middle of a word, or vanish, many at one time: members
/// are served meanwhile.
#[test]
fn silent_strangers_keep_nobody_waiting() {
    let pair = Pair::new();
    let silent: Vec<TcpStream> = (0..40).map(|_| socket(&pair.nodes[0])).collect();
    for stream in silent.iter().take(20) {
        (&mut &*stream).write_all(b"KDDM\x40").expect("it listens");
    }
    for stream in silent.iter().take(10) {
        stream.shutdown(Shutdown::Both).expect("still open");
    }
    let third =
        Node::join(crate::unhurried().contact(pair.nodes[0].address().clone())).wait().expect("a newcomer is admitted");
    assert_eq!(third.members().len(), 3);
    let set: Set<u64> = third.set("shared").open().wait().expect("the set opens");
    assert_eq!(*set.get(1).wait().expect("a copy"), 0);
    for stream in &silent[10..] {
        let mut byte = [0];
        let ended = (&mut &*stream).read(&mut byte);
        assert!(matches!(ended, Ok(0) | Err(_)), "the node ends what stays silent");
    }
}

/// Another session: refused, with both numbers.
#[test]
fn another_session_is_refused_by_number() {
    let pair = Pair::new();
    let refused = || pair.nodes[1].statistics().refused_greetings;
    let before = refused();
    let error = refusal(crate::unhurried().contact(pair.nodes[1].address().clone()).session(4712));
    assert!(refused() > before, "it is counted");
    assert!(matches!(error, Error::Membership(MembershipError::Refused { .. })), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("4711") && text.contains("4712"), "{text}");
    pair.goes_on();
}

/// Two processes with one node id: the second is refused, and told who has it.
#[test]
fn a_node_id_is_given_once() {
    let cluster = Cluster::with_home(Place::Processes, 2, 1);
    for (contact, id) in [(0, 2), (1, 1)] {
        let contact = Some(cluster[contact].address.clone());
        let start = Start { contact, node_id: Some(id), ..Start::default() };
        let failure = Seat::there(&start, id).err().expect("the id is taken");
        let owner = &cluster[usize::from(id) - 1].address;
        assert!(failure.text.contains(&format!("node id {id}")) && failure.text.contains(owner), "{failure:?}");
    }
    let contact = Some(cluster[1].address.clone());
    let third = Seat::there(&Start { contact, node_id: Some(77), ..Start::default() }, 77).expect("it is free");
    third.hand(0).open(None).expect("the set opens");
    third.hand(0).write(1, 1);
    assert_eq!(cluster[1].hand(0).read(1).note.number, 1);
    cluster.check();
}

/// Somebody who has learnt the session of a cluster, and is no member, can neither end its sets nor
/// read who is in.
#[test]
fn only_members_may_end_sets_and_see_the_state() {
    let pair = Pair::new();
    let before = *pair.sets[0].get(1).wait().expect("a copy");
    let stranger = |node, incarnation, nonce| Hello {
        protocol: PROTOCOL,
        session: 4711,
        cluster: 0,
        node,
        incarnation,
        nonce,
        purpose: Purpose::Control,
    };
    for node in &pair.nodes {
        // The numbers of a member are public; its nonce is not.
        for hello in [stranger(0, 0, 0), stranger(2, 2, 7), stranger(77, u32::MAX, 7)] {
            let destroy = |set: SetId| Question::Destroy { set: set.0, limit_ms: 0 };
            let shared = SetId::new(PlacementPolicy::default(), SetId::FIRST_COUNTER);
            for question in [Question::State, destroy(shared), destroy(SetId::SYSTEM)] {
                let answer = call::<_, Answer>(node.address(), &hello, &question, LIMIT);
                assert!(matches!(answer, Ok(Answer::NotAMember)), "{question:?}: {answer:?}");
            }
        }
    }
    assert_eq!(*pair.sets[0].get(1).wait().expect("the set is still there"), before);
    pair.nodes[1].set::<u64>("another").open().wait().expect("and so is the set of sets");
    pair.goes_on();
}

/// What the control exchange carries, as far as strangers may try it: the order is that of the wire.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Join { wanted: Option<u16>, address: String, nonce: u64 },
    Log(Vec<u8>),
    State,
    Destroy { set: u64, limit_ms: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Admitted { node: u16, state: Vec<u8> },
    Ask(String),
    Log(Vec<Vec<u8>>),
    State(Vec<u8>),
    NotAMember,
    Done,
    No(String),
}

/// A port that is in use, on TCP, as a Unix socket, and inside the process.
#[test]
fn an_address_in_use_is_named() {
    let local = Node::local_cluster(1).expect("no ports");
    let tcp = Node::join(crate::unhurried()).wait().expect("a free port");
    for node in [&tcp, &local[0]] {
        let error = refusal(crate::unhurried().listen(node.address().clone()));
        assert!(matches!(error, Error::Configuration(ConfigurationError::Listen { .. })), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&node.address().to_string()) && text.contains("in use"), "{text}");
    }
}

/// A contact that is not there, that speaks another protocol, that ends the connection: the error
/// names it. One that is silent costs no more than the limit of an exchange.
#[test]
fn contacts_that_are_none_are_named() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let error = refusal(crate::unhurried().contact(Address::of_socket(free)));
    assert!(matches!(error, Error::Membership(MembershipError::NoContact { .. })), "{error:?}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut wrong, _) = listener.accept().expect("the first caller");
        wrong.write_all(b"220 mail.example ESMTP\r\n").expect("it listens");
        let (ends, _) = listener.accept().expect("the second caller");
        drop(ends);
        let (silent, _) = listener.accept().expect("the third caller");
        (wrong, silent)
    });
    let texts = [0; 3].map(|_| refusal(crate::unhurried().contact(Address::of_socket(address))).to_string());
    assert!(texts.iter().all(|text| text.contains(&address.to_string())), "{texts:?}");
    assert!(texts[0].contains("does not speak this protocol"), "{texts:?}");
    assert!(texts[2].contains("no answer in time"), "{texts:?}");
    drop(server.join().expect("three callers came"));
}

/// With several contacts, the first that is a member counts.
#[test]
fn a_dead_contact_before_a_live_one_does_no_harm() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let pair = Pair::new();
    let contacts = crate::unhurried().contact(Address::of_socket(free)).contact(pair.nodes[0].address().clone());
    let third = Node::join(contacts).wait().expect("the second contact is alive");
    assert_eq!(third.members().len(), 3);
}

/// Settings out of their range are named with the range.
#[test]
fn settings_out_of_range_are_named() {
    let all = "0.0.0.0:0".parse::<Address>().expect("an address");
    let mut no_buffer = crate::unhurried();
    no_buffer.peer_buffer_limit_bytes = 0;
    for (config, word) in [
        (Config::new().session(0), "session is 0"),
        (Config::new().session(10_000), "session is 10000"),
        (Config::new().node_id(0), "node_id is 0"),
        (Config::new().object_limit_bytes(0), "object_limit_bytes is 0"),
        (Config::new().object_limit_bytes(usize::MAX), "1 GiB"),
        (Config::new().outstanding_limit(0), "outstanding_limit is 0"),
        (Config::new().wait_limit(Duration::ZERO), "wait_limit is 0"),
        (no_buffer, "peer_buffer_limit_bytes is 0"),
        (Config::new().listen(all), "insecure"),
    ] {
        let error = refusal(config);
        assert!(matches!(error, Error::Configuration(_)), "{error:?}");
        assert!(error.to_string().contains(word), "{error} should say {word:?}");
    }
}
