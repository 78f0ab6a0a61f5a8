//! Linkers that hear of the copies of their nodes: before anybody else has what comes after them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kddm::linker::{Access, Hears, Linker, WritePolicy};
use kddm::{Incident, LinkerError, Node, Set};

use crate::{LIMIT, append, counts, is_not_found};

/// Long enough for a busy machine, short enough to be waited for in vain.
const SHORT: Duration = Duration::from_millis(200);

/// What a linker has heard, and which hooks wait or fail.
#[derive(Default)]
struct Heard {
    all: Vec<(u64, String)>,
    stops: bool,
    stopped: usize,
    panics: bool,
    fails: bool,
}

/// Has nothing behind it, and keeps in mind what it hears.
#[derive(Clone)]
struct Page {
    hears: Hears,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

impl Page {
    fn new(hears: Hears) -> Page {
        Page { hears, heard: Arc::default() }
    }

    fn set(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.heard.0.lock().expect("no panic"));
        self.heard.1.notify_all();
    }

    fn hear(&self, object: u64, what: String) -> Result<(), LinkerError> {
        let (heard, news) = &*self.heard;
        let mut heard = heard.lock().expect("no panic");
        heard.stopped += 1;
        news.notify_all();
        while heard.stops {
            heard = news.wait(heard).expect("no panic");
        }
        heard.stopped -= 1;
        heard.all.push((object, what));
        news.notify_all();
        let (panics, fails) = (heard.panics, heard.fails);
        drop(heard);
        assert!(!panics, "the test has it panic");
        if fails { Err(LinkerError::Store { kind: "page", reason: "the test has it fail".into() }) } else { Ok(()) }
    }

    /// Waits for that, of whatever was heard.
    fn wait_until(&self, is_so: impl Fn(&Heard) -> bool) {
        let heard = self.heard.0.lock().expect("no panic");
        let (heard, _) = self.heard.1.wait_timeout_while(heard, LIMIT, |heard| !is_so(heard)).expect("no panic");
        assert!(is_so(&heard), "{:?}", heard.all);
    }

    fn of(&self, object: u64) -> Vec<String> {
        let heard = self.heard.0.lock().expect("no panic");
        heard.all.iter().filter(|(of, _)| *of == object).map(|(_, what)| what.clone()).collect()
    }

    /// Waits until that is all that was heard of an object.
    fn wait_for(&self, object: u64, all: &[&str]) {
        let deadline = Instant::now() + LIMIT;
        while self.of(object) != all {
            assert!(Instant::now() < deadline, "{:?}, not {all:?}", self.of(object));
            std::thread::yield_now();
        }
    }
}

impl Linker<String> for Page {
    fn first_touch(&self, object: u64) -> Result<Option<String>, LinkerError> {
        Ok((object < 100).then(|| "first".into()))
    }

    fn hears(&self) -> Hears {
        self.hears
    }

    fn insert(&self, object: u64, version: u64, value: &String) -> Result<(), LinkerError> {
        self.hear(object, format!("+{value}.{version}"))
    }

    fn invalidate(&self, object: u64) -> Result<(), LinkerError> {
        self.hear(object, "-".into())
    }

    fn change_state(&self, object: u64, from: Access, to: Access) -> Result<(), LinkerError> {
        self.hear(object, format!("{from:?}>{to:?}"))
    }
}

fn open(node: &Node, page: &Page, limit: Duration) -> Set<String> {
    let builder = node.set("pages").linker("page", page.clone()).linker_limit(limit).replicas(0).wait_limit(LIMIT);
    builder.write_policy(WritePolicy::Around).open().wait_for(LIMIT).expect("the set opens")
}

fn two(hears: Hears) -> (Vec<Node>, [Page; 2], [Set<String>; 2]) {
    let (nodes, pages) = (crate::cluster(2), [0, 1].map(|_| Page::new(hears)));
    let sets = [0, 1].map(|at: usize| open(&nodes[at], &pages[at], LIMIT));
    (nodes, pages, sets)
}

#[test]
fn a_linker_hears_of_each_copy_and_of_its_end() {
    let (nodes, pages, sets) = two(Hears::Copies);
    drop(sets[0].get(7).wait_for(LIMIT).expect("it is read"));
    pages[0].wait_for(7, &["+first.0"]);
    sets[1].update(7, append('!')).wait_for(LIMIT).expect("it is put");
    assert_eq!(pages[0].of(7), ["+first.0", "-"], "before the other one has it");
    pages[1].wait_for(7, &["+first.0"]);
    assert_eq!(*sets[0].get(7).wait_for(LIMIT).expect("a copy"), "first!");
    pages[0].wait_for(7, &["+first.0", "-", "+first!.1"]);
    sets[0].remove(7).wait_for(LIMIT).expect("it is removed");
    assert_eq!(pages[0].of(7), ["+first.0", "-", "+first!.1", "-"]);
    assert_eq!(pages[1].of(7), ["+first.0", "-"]);
    assert!(is_not_found(&sets[0].get_existing(700).wait_for(LIMIT)));
    drop(sets[0].grab(701).wait_for(LIMIT).expect("it is made"));
    pages[0].wait_for(701, &["+.0"]);
    assert!(pages[0].of(700).is_empty(), "there is no copy of what is not there");
    assert_eq!((counts(&nodes[0]).hooks, counts(&nodes[0]).hooks_failed, counts(&nodes[0]).hooks_late), (5, 0, 0));
}

/// Who is in the way of whoever wants object 7, as the node says that is waited for.
fn in_the_way(node: &Node) -> Vec<(String, bool)> {
    let of = |holding: kddm::Holding| {
        assert!(
            holding.object == 7 && holding.wanted_elsewhere && !holding.is_held && holding.in_the_way_for.is_some()
        );
        holding.holders.into_iter().map(|by| (by.who.to_string(), by.is_write))
    };
    node.holdings(10).objects.into_iter().filter(|holding| holding.wanted_elsewhere).flat_map(of).collect()
}

const TELLS: &str = "linker page, which is still to hear that it goes";

#[test]
fn a_copy_is_gone_before_another_node_writes() {
    let (nodes, pages, sets) = two(Hears::Copies);
    drop(sets[0].get(7).wait_for(LIMIT).expect("it is read"));
    pages[0].wait_for(7, &["+first.0"]);
    pages[0].set(|heard| heard.stops = true);
    let grab = sets[1].grab(7);
    pages[0].wait_until(|heard| heard.stopped == 1);
    let tried = sets[1].try_grab(8);
    drop(tried.wait_for(LIMIT).expect("it is another object"));
    assert!(!grab.is_ready());
    assert_eq!(in_the_way(&nodes[0]), [(TELLS.to_string(), false)]);
    grab.wait_for(SHORT).expect_err("the linker of the other has not let go");
    assert!(sets[0].find(7).is_none(), "nobody uses it there meanwhile");
    let again = sets[0].get(7);
    pages[0].set(|heard| heard.stops = false);
    assert_eq!(*again.wait_for(LIMIT).expect("it goes on"), "first");
    drop(sets[1].grab(7).wait_for(LIMIT).expect("it is free now"));
    assert_eq!(in_the_way(&nodes[0]), [], "nobody is waited for any more");
    let all = pages[0].of(7);
    let gone = all.iter().filter(|what| *what == "-").count();
    assert!(gone >= 1 && all.len() - gone <= gone + 1, "{all:?}");
}

#[test]
fn a_trial_waits_for_the_linker_and_succeeds() {
    let (_nodes, pages, sets) = two(Hears::Access);
    drop(sets[0].grab(7).wait_for(LIMIT).expect("it is read"));
    pages[0].wait_for(7, &["+first.0", "None>Write"]);
    pages[0].set(|heard| heard.stops = true);
    std::thread::scope(|scope| {
        let tried = scope.spawn(|| drop(sets[1].try_grab(7).wait_for(LIMIT).expect("nobody holds it")));
        pages[0].wait_until(|heard| heard.stopped == 1);
        // Somebody here wants it too, behind the one who tries.
        let here = sets[0].grab(7);
        assert!(!tried.is_finished() && !here.is_ready());
        pages[0].set(|heard| heard.stops = false);
        tried.join().expect("no panic");
        drop(here.wait_for(LIMIT).expect("nor now"));
    });
    pages[0].wait_for(7, &["+first.0", "None>Write", "Write>None", "-", "+first.0", "None>Write"]);
}

#[test]
fn what_may_be_done_is_told_before_others_read() {
    let (nodes, pages, sets) = two(Hears::Access);
    drop(sets[0].grab(7).wait_for(LIMIT).expect("it is read"));
    pages[0].wait_for(7, &["+first.0", "None>Write"]);
    pages[0].set(|heard| heard.stops = true);
    let read = sets[1].get(7);
    pages[0].wait_until(|heard| heard.stopped == 1);
    assert!(!read.is_ready());
    assert_eq!(in_the_way(&nodes[0]), [(TELLS.to_string(), true)]);
    let said = nodes[1].object_of("pages", 7).expect("it is there").at_owner.expect("its owner is there");
    assert!(said.in_the_way_for.is_some() && said.holders.iter().any(|by| &*by.who == TELLS), "{said:?}");
    assert_eq!(*sets[0].get(7).wait_for(LIMIT).expect("it may be read here"), "first");
    pages[0].set(|heard| heard.stops = false);
    drop(read.wait_for(LIMIT).expect("a copy"));
    assert_eq!(pages[0].of(7), ["+first.0", "None>Write", "Write>Read"]);
    pages[1].wait_for(7, &["+first.0", "None>Read"]);
    drop(sets[0].grab(7).wait_for(LIMIT).expect("it is owned here"));
    assert_eq!(pages[1].of(7), ["+first.0", "None>Read", "Read>None", "-"]);
    // Whoever reads here is kept out before, as anywhere.
    let all = ["+first.0", "None>Write", "Write>Read", "Read>None", "-", "+first.0", "None>Write"];
    pages[0].wait_for(7, &all);
}

#[test]
fn a_hook_that_hangs_keeps_others_for_its_limit_alone() {
    let (nodes, pages) = (crate::cluster(2), [0, 1].map(|_| Page::new(Hears::Copies)));
    let sets = [0, 1].map(|at: usize| open(&nodes[at], &pages[at], SHORT));
    for object in [7, 8] {
        drop(sets[0].get(object).wait_for(LIMIT).expect("it is read"));
        pages[0].wait_for(object, &["+first.0"]);
    }
    pages[0].set(|heard| heard.stops = true);
    let begun = Instant::now();
    sets[1].update(7, append('!')).wait_for(LIMIT).expect("after the limit");
    sets[1].update(8, append('!')).wait_for(LIMIT).expect("this one waits behind the first");
    assert!(begun.elapsed() >= SHORT && counts(&nodes[0]).hooks_late == 2);
    assert_eq!(*sets[0].get(7).wait_for(LIMIT).expect("a copy"), "first!");
    pages[0].set(|heard| heard.stops = false);
    pages[0].wait_for(7, &["+first.0", "-", "+first!.1"]);
    pages[0].wait_for(8, &["+first.0", "-"]);
}

#[test]
fn a_hook_that_fails_or_panics_is_told_and_changes_nothing() {
    for panics in [true, false] {
        let (nodes, pages, sets) = two(Hears::Access);
        let (sender, incidents) = std::sync::mpsc::channel();
        let tell = move |incident: &Incident| _ = sender.send(incident.clone());
        nodes[0].on_incident(tell).expect("there is room");
        pages[0].set(|heard| (heard.panics, heard.fails) = (panics, !panics));
        drop(sets[0].grab(7).wait_for(LIMIT).expect("it is read"));
        // Of a copy that has gone before anything was told of it nothing is told.
        pages[0].wait_for(7, &["+first.0", "None>Write"]);
        sets[1].update(7, append('!')).wait_for(LIMIT).expect("it goes on");
        pages[0].wait_for(7, &["+first.0", "None>Write", "Write>None", "-"]);
        // Others may be told of the new cluster, which has few replicas at first.
        let is_of_hook = |incident: &Incident| matches!(incident, Incident::HookFailed { .. });
        let told = std::iter::repeat_with(|| incidents.recv_timeout(LIMIT).expect("it is told"));
        let failed = told.into_iter().find(is_of_hook).expect("it is waited for");
        let is_meant = matches!(&failed, Incident::HookFailed { set, linker, object: 7, hook: "insert", failures: 1, .. }
            if set == "pages" && linker == "page");
        assert!(is_meant, "{failed:?}");
        let deadline = Instant::now() + LIMIT;
        while counts(&nodes[0]).hooks_failed < 4 {
            assert!(Instant::now() < deadline, "{:?}", counts(&nodes[0]));
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_a_node_keeps_for_others_is_told_when_it_is_used_there() {
    let (nodes, pages) = (crate::cluster(2), [0, 1].map(|_| Page::new(Hears::Copies)));
    let first = open(&nodes[0], &pages[0], LIMIT);
    for object in 0..20 {
        first.update(object, append('!')).wait_for(LIMIT).expect("it is put");
        pages[0].wait_for(object, &["+first.0"]);
        first.flush(object, Some(nodes[1].id())).wait_for(LIMIT).expect("it goes");
        assert_eq!(pages[0].of(object), ["+first.0", "-"]);
    }
    let second = open(&nodes[1], &pages[1], LIMIT);
    for object in 0..20 {
        assert_eq!(*second.get(object).wait_for(LIMIT).expect("it is here"), "first!");
        pages[1].wait_for(object, &["+first!.1"]);
    }
}

#[test]
fn nothing_is_left_when_a_node_goes_or_a_set_ends() {
    for how in 0..4 {
        let (nodes, pages, sets) = two(Hears::Copies);
        for object in 0..10 {
            drop(sets[0].get(object).wait_for(LIMIT).expect("it is read"));
            pages[0].wait_for(object, &["+first.0"]);
        }
        match how {
            0 => nodes[0].stop(),
            1 => nodes[0].stop_within(Duration::ZERO),
            2 => nodes[0].stop_sharing(LIMIT).wait_for(LIMIT).expect("it hands over"),
            _ => nodes[1].destroy_set("pages", Duration::ZERO).wait_for(LIMIT).expect("it goes"),
        }
        (0..10).for_each(|object| pages[0].wait_for(object, &["+first.0", "-"]));
    }
}

/// Which nodes have something mapped, as their linkers have heard.
#[derive(Clone)]
struct Maps {
    node: usize,
    mapped: Arc<Mutex<BTreeMap<u64, BTreeSet<usize>>>>,
    wrong: Arc<AtomicUsize>,
}

impl Linker<u64> for Maps {
    fn first_touch(&self, _: u64) -> Result<Option<u64>, LinkerError> {
        Ok(None)
    }

    fn hears(&self) -> Hears {
        Hears::Copies
    }

    fn insert(&self, object: u64, _: u64, _: &u64) -> Result<(), LinkerError> {
        let is_new = self.mapped.lock().expect("no panic").entry(object).or_default().insert(self.node);
        self.wrong.fetch_add(usize::from(!is_new), Ordering::Relaxed);
        Ok(())
    }

    fn invalidate(&self, object: u64) -> Result<(), LinkerError> {
        let was_there = self.mapped.lock().expect("no panic").entry(object).or_default().remove(&self.node);
        self.wrong.fetch_add(usize::from(!was_there), Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn whoever_writes_finds_nothing_mapped_elsewhere_whatever_happens() {
    const OBJECTS: u64 = 4;
    const TURNS: u64 = 150;
    let nodes = crate::cluster(3);
    let all = Maps { node: 0, mapped: Arc::default(), wrong: Arc::default() };
    let open = |at: usize| -> Set<u64> {
        let builder = nodes[at].set("maps").linker("maps", Maps { node: at, ..all.clone() }).linker_limit(LIMIT);
        builder.replicas(1).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
    };
    let sets = [0, 1, 2].map(open);
    std::thread::scope(|scope| {
        for (at, set) in sets.iter().enumerate() {
            let all = &all;
            scope.spawn(move || {
                for turn in 0..TURNS {
                    let object = turn % OBJECTS;
                    match (turn / OBJECTS + at as u64) % 4 {
                        0 => drop(set.get(object).wait_for(LIMIT).expect("a copy")),
                        1 => set.flush(object, None).wait_for(LIMIT).expect("it goes"),
                        2 if turn % 7 == 0 => set.remove(object).wait_for(LIMIT).expect("it is removed"),
                        _ => {
                            let mut guard = set.grab(object).wait_for(LIMIT).expect("it can be had");
                            let mapped = all.mapped.lock().expect("no panic");
                            let elsewhere =
                                mapped.get(&object).is_some_and(|nodes| nodes.iter().any(|node| *node != at));
                            drop(mapped);
                            assert!(!elsewhere, "turn {turn} at node {at}");
                            *guard += 1;
                            guard.put().wait_for(LIMIT).expect("it is put");
                        }
                    }
                }
            });
        }
    });
    assert_eq!(all.wrong.load(Ordering::Relaxed), 0, "each copy comes once and goes once");
    nodes.iter().for_each(Node::stop);
    let mapped = all.mapped.lock().expect("no panic");
    assert!(mapped.values().all(BTreeSet::is_empty), "{mapped:?}");
}
