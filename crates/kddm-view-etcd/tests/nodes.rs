//! Nodes that share objects and keep their log on three real etcd servers. Servers are killed, and nodes.

mod etcd;
mod sharer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use etcd::{Etcd, until};
use kddm::{Config, Node};
use kddm_view_etcd::Etcd as Source;
use sharer::{LEASE, SHARED, Said, Sharer};

const CASES: &[(&str, fn())] = &[
    (
        "nodes_go_on_whoever_is_killed_and_come_back_after_all_were",
        nodes_go_on_whoever_is_killed_and_come_back_after_all_were,
    ),
    (
        "a_node_that_leads_and_is_stopped_uses_nothing_when_it_goes_on",
        a_node_that_leads_and_is_stopped_uses_nothing_when_it_goes_on,
    ),
    ("nodes_without_etcd_use_nothing_and_come_back_with_it", nodes_without_etcd_use_nothing_and_come_back_with_it),
    ("what_cannot_be_meant_is_refused", what_cannot_be_meant_is_refused),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == "sharer"
    {
        return sharer::run(rest);
    }
    etcd::run(CASES, &arguments, |_, case| case());
}

fn all_put(nodes: &BTreeMap<u16, Sharer>, count: usize) {
    nodes.values().for_each(|node| node.puts_more(count));
}

/// Each value of an object is put once, by one node, and the last ones are there still.
fn check(said: &[Said]) -> BTreeMap<u64, u64> {
    let mut greatest = BTreeMap::new();
    for object in 0..SHARED {
        let values: Vec<u64> =
            said.iter().flat_map(|said| said.put.get(&object).into_iter().flatten().copied()).collect();
        let there: BTreeSet<u64> = values.iter().copied().collect();
        assert_eq!(there.len(), values.len(), "a value of object {object} was put twice");
        let last = there.last().copied().unwrap_or(0);
        // What a node has put that was killed before it could say so.
        let unsaid = last - there.len() as u64;
        assert!(unsaid <= 2, "{unsaid} values of object {object} were put by nobody");
        greatest.insert(object, last);
    }
    let errors: Vec<&String> = said.iter().flat_map(|said| &said.errors).collect();
    assert!(errors.is_empty(), "{errors:?}");
    greatest
}

/// Three nodes that know nothing of each other but where etcd is.
fn nodes_go_on_whoever_is_killed_and_come_back_after_all_were() {
    let mut etcd = Etcd::start(3);
    let endpoints = etcd.endpoints();
    let start = |node: u16| (node, Sharer::start(&endpoints, node));
    let mut nodes: BTreeMap<u16, Sharer> = (1..=3).map(start).collect();
    let clusters: BTreeSet<u64> = nodes.values().map(|node| node.joined().0).collect();
    assert_eq!(clusters.len(), 1, "each has begun a cluster of its own");
    until("all are members", || nodes.values().all(|node| node.said().members == 3).then_some(()));
    all_put(&nodes, 20);
    etcd.kill_leader();
    all_put(&nodes, 50);
    etcd.start_killed();
    // The node that leads is killed: the others wait until its lease is over.
    let leader = until("somebody leads", || nodes[&1].said().leader);
    let mut said = vec![nodes.remove(&leader).expect("it runs").kill()];
    until("it is expelled", || nodes.values().all(|node| node.said().members == 2).then_some(()));
    all_put(&nodes, 20);
    nodes.extend([start(leader)]);
    all_put(&nodes, 20);
    // One that leads leaves: another one leads at once, and nobody waits for a lease.
    let leader = until("somebody leads", || nodes[&leader].said().leader);
    let asked = Instant::now();
    said.push(nodes.remove(&leader).expect("it runs").end());
    assert!(said[1].has_stopped && asked.elapsed() < LEASE, "it left after {:?}", asked.elapsed());
    etcd.kill_leader();
    all_put(&nodes, 20);
    etcd.start_killed();
    nodes.extend([start(leader)]);
    all_put(&nodes, 20);
    said.extend(nodes.into_values().map(Sharer::kill));
    check(&said);
    let fenced = said.iter().filter(|said| said.joined.len() > 1).count();
    assert_eq!(fenced, 0, "a node lost its lease because servers or others were killed");
    let before = said.iter().flat_map(|said| said.joined.iter().copied()).max_by_key(|(_, epoch, _)| *epoch);
    let (cluster, epoch, _) = before.expect("they were members");
    let life = said.iter().flat_map(|said| &said.joined).map(|(_, _, life)| *life).max();
    // All were stopped. Whoever comes first goes on.
    let mut nodes: BTreeMap<u16, Sharer> = [start(2)].into();
    let back = nodes[&2].joined();
    assert!(back.0 == cluster && back.1 > epoch && Some(back.2) > life, "{back:?} after {before:?} and life {life:?}");
    nodes[&2].puts_more(20);
    nodes.extend([start(1), start(3)]);
    all_put(&nodes, 20);
    // All leave at one time, and one begins again that was not the last.
    nodes.values_mut().for_each(Sharer::ask_to_end);
    let said: Vec<Said> = nodes.into_values().map(Sharer::end).collect();
    assert!(said.iter().all(|said| said.has_stopped), "{said:?}");
    check(&said);
    let again = Sharer::start(&endpoints, 1);
    let third = again.joined();
    assert!(third.0 == cluster && third.1 > back.1 && third.2 > back.2, "{third:?} after {back:?}");
    again.puts_more(20);
    assert!(again.end().has_stopped);
}

/// By then another one leads, has expelled it, and others have put what it had.
fn a_node_that_leads_and_is_stopped_uses_nothing_when_it_goes_on() {
    let etcd = Etcd::start(3);
    let endpoints = etcd.endpoints();
    let nodes: BTreeMap<u16, Sharer> = (1..=3).map(|node| (node, Sharer::start(&endpoints, node))).collect();
    until("all are members", || nodes.values().all(|node| node.said().members == 3).then_some(()));
    all_put(&nodes, 20);
    let stopped = until("somebody leads", || nodes[&1].said().leader);
    nodes[&stopped].signal("-STOP");
    let others = || nodes.iter().filter(|(node, _)| **node != stopped).map(|(_, node)| node);
    until("it is expelled", || others().all(|node| node.said().members == 2).then_some(()));
    others().for_each(|node| node.puts_more(20));
    nodes[&stopped].signal("-CONT");
    until("it is back as a new life", || (nodes[&stopped].said().joined.len() == 2).then_some(()));
    all_put(&nodes, 20);
    let said: Vec<Said> = nodes.into_values().map(Sharer::end).collect();
    assert_eq!(said.iter().map(|said| said.joined.len()).sum::<usize>(), 4, "only one was fenced");
    check(&said);
}

/// Without a majority of its servers nobody leads, and no lease lasts.
fn nodes_without_etcd_use_nothing_and_come_back_with_it() {
    let mut etcd = Etcd::start(3);
    let endpoints = etcd.endpoints();
    let nodes: BTreeMap<u16, Sharer> = (1..=2).map(|node| (node, Sharer::start(&endpoints, node))).collect();
    all_put(&nodes, 20);
    etcd.kill(0);
    etcd.kill(1);
    until("they are fenced", || nodes.values().all(|node| node.said().is_fenced).then_some(()));
    let puts = |node: &Sharer| node.said().puts();
    let before: Vec<usize> = nodes.values().map(puts).collect();
    etcd.start_killed();
    nodes.values().for_each(|node| {
        until("it is back", || (node.said().joined.len() > 1).then_some(()));
    });
    all_put(&nodes, 20);
    let said: Vec<Said> = nodes.into_values().map(Sharer::end).collect();
    assert!(said.iter().zip(before).all(|(said, before)| said.puts() > before && said.has_stopped));
    for said in said {
        assert!(said.errors.is_empty(), "{:?}", said.errors);
        // What was in memory may be gone, as all lives have ended: the cluster, its epoch and its lives go on.
        let (first, last) = (said.joined[0], said.joined[said.joined.len() - 1]);
        assert!(first.0 == last.0 && first.1 < last.1 && first.2 < last.2, "{first:?}, then {last:?}");
    }
}

fn what_cannot_be_meant_is_refused() {
    let etcd = Etcd::start(1);
    let source = || Source::new(etcd.endpoints());
    let error = |config: Config| Node::join(config).wait_for(etcd::LIMIT).err().expect("it is refused").to_string();
    let short = until("etcd answers", || {
        let said = error(Config::new().node_id(1).view_log_in(source()));
        (!said.contains("no etcd server answers")).then_some(said)
    });
    assert!(short.contains("found the cluster with a lease of 5000 ms at least"), "{short}");
    let nameless = error(Config::new().view_log_in(source()));
    assert!(nameless.contains("node_id is none"), "{nameless}");
    let twice = error(Config::new().node_id(1).view_log("/nowhere/view.redb").view_log_in(source()));
    assert!(twice.contains("view_log is /nowhere/view.redb"), "{twice}");
    let config = Config::new().node_id(1).lease(LEASE).view_log_in(source());
    let first = Node::join(config).wait_for(etcd::LIMIT).expect("it begins a cluster");
    assert_eq!((first.voting().kept_in.as_deref(), first.voting().voters.len()), (Some("etcd"), 0));
    let strange = error(Config::new().contact(first.address().clone()));
    assert!(strange.contains("in etcd, and not with its members"), "{strange}");
    let taken = error(Config::new().node_id(1).lease(LEASE).join_limit(LEASE / 8).view_log_in(source()));
    // That its number is taken, or, by the last attempt, that there was no time left to ask.
    assert!(taken.contains("no member lets it in ("), "{taken}");
    assert_eq!(first.members().len(), 1, "it is the one that was there first");
    assert!(first.sets().expect("the log answers").is_empty());
}
