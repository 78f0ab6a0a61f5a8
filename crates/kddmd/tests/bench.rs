//! T28: the cases of the benchmark, and that nothing of it stays behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kddm::{Address, Config, Node, Raw, SetError};
use kddmd::bench::{self, CASES, Error, Guard, Options, Progress, Report, SETS};

/// Nodes with these numbers, connected without ports, that serve the benchmark.
fn cluster(name: &str, ids: &[u16]) -> Vec<(Node, Guard)> {
    let mut nodes: Vec<(Node, Guard)> = Vec::new();
    for id in ids {
        let listen = Address::local(&format!("bench-{name}-{}-{id}", std::process::id()));
        // Nobody is taken for lost because the machine is busy.
        let mut config = Config::new().listen(listen).node_id(*id).lease(Duration::from_secs(60));
        if let Some((first, _)) = nodes.first() {
            config = config.contact(first.address().clone());
        }
        let node = Node::join(config).wait().expect("it joins");
        let guard = bench::serve(&node).expect("it serves");
        nodes.push((node, guard));
    }
    nodes
}

fn quick(name: &str) -> Options {
    Options { operations: 60, warm_up: 20, batch: 30, name: Some(name.into()), ..Options::default() }
}

#[track_caller]
fn run(nodes: &[(Node, Guard)], at: usize, name: &str) -> Report {
    let report = bench::run(&nodes[at].0, &quick(name), &mut |_| {}).expect("the cluster is whole");
    assert_gone(nodes, name);
    report
}

/// No temporary set is left, as every node sees it, and none of the bytes.
#[track_caller]
fn assert_gone(nodes: &[(Node, Guard)], name: &str) {
    for (node, _) in nodes {
        for set in SETS {
            let found = node.set::<Raw>(&format!("{name}/{}", set.name)).open_existing().wait();
            let is_gone = matches!(found, Err(kddm::Error::Set(SetError::Unknown { .. })));
            assert!(is_gone, "{} at node {}: {found:?}", set.name, node.id());
        }
    }
}

#[track_caller]
fn assert_budget(report: &Report) {
    for case in &report.cases {
        let budget = case.budget_by_kind.iter().map(|(kind, count)| (kind.clone(), *count as f64));
        let what = format!("{} in {}", case.case, case.set);
        assert_eq!(case.messages_by_kind, budget.collect(), "{what}");
        assert_eq!(case.messages, case.budget as f64, "{what}");
    }
    assert_eq!(report.off_budget().count(), 0);
}

/// All 13 cases in all three sets, on any node ids, from any node.
#[test]
fn t28_every_case_on_four_nodes_costs_its_budget() {
    let nodes = cluster("four", &[3, 17, 40, 900]);
    for (at, participants) in [(0, [17, 40, 900]), (2, [3, 17, 900])] {
        let report = run(&nodes, at, &format!("t28-{at}"));
        assert_budget(&report);
        assert_eq!((report.nodes, report.node), (4, nodes[at].0.id()));
        assert_eq!(report.participants, participants);
        assert_eq!((report.skipped, report.not_asked), (Vec::new(), Vec::new()));
        let measured: Vec<_> = report.cases.iter().map(|case| (case.set.as_str(), case.case.as_str())).collect();
        let all: Vec<_> = SETS.iter().flat_map(|set| CASES.map(|case| (set.name, case.name))).collect();
        assert_eq!(measured, all);
        assert_eq!(report.rtt_by, "tcp");
        for case in &report.cases {
            assert_eq!(case.count, 60, "{}", case.case);
            let ordered = 0.0 < case.p50_us && case.p50_us <= case.p99_us && case.p99_us <= case.p999_us;
            assert!(ordered && case.mean_us > 0.0 && case.rtt_ratio > 0.0, "{case:?}");
            assert_eq!(case.put_p50_us.is_none(), case.case.starts_with("remove"), "{case:?}");
        }
        for bytes in ["64", "4096"] {
            assert!(report.rtt_us[bytes].count >= 39 * 6 && report.rtt_us[bytes].p50 > 0.0);
        }
    }
}

/// The original hung with more than four nodes.
#[test]
fn t28_more_than_four_nodes_do_not_hang() {
    let nodes = cluster("six", &[5, 6, 7, 1000, 2000, 65_535]);
    let report = run(&nodes, 5, "t28-six");
    assert_budget(&report);
    assert_eq!((report.nodes, report.cases.len()), (6, 39));
}

#[test]
fn t28_two_nodes_do_what_two_can_and_the_rest_is_left_out_by_name() {
    let nodes = cluster("two", &[8, 2]);
    let report = run(&nodes, 0, "t28-two");
    assert_budget(&report);
    assert_eq!((report.cases.len(), report.skipped.len()), (8 + 7 + 7, 5 + 6 + 6));
    let left_out =
        |set: &str, case: &str| report.skipped.iter().find(|skipped| skipped.set == set && skipped.case == case);
    let reason = &left_out("4_home_elsewhere", "get_owner_is_not_home").expect("it needs a third node").reason;
    assert_eq!(reason, "needs 3 nodes, there are 2");
    assert!(left_out("4_home_here", "get_owner_is_not_home").is_none());
    // The shape that other programs read.
    let json = serde_json::to_value(&report).expect("plain data");
    assert_eq!(json["nodes"], 2);
    assert!(json["rtt_us"]["64"]["p50"].is_f64() && json["rtt_us"]["4096"]["p99"].is_f64());
    for key in ["set", "case", "count", "p50_us", "p99_us", "mean_us", "rtt_ratio", "messages"] {
        assert!(!json["cases"][0][key].is_null(), "{key}");
    }
    assert!(report.table().contains("left out: get_owner_is_not_home in 4_home_elsewhere: needs 3 nodes"));
}

/// The original left its sets behind. A participant that goes away in the middle is named.
#[test]
fn t28_the_sets_are_gone_after_a_failure() {
    let mut nodes = cluster("fails", &[1, 2, 3]);
    let (first, mut guards): (Vec<Node>, Vec<Option<Guard>>) =
        nodes.drain(..).map(|(node, guard)| (node, Some(guard))).unzip();
    let mut served = guards.remove(1);
    let error = bench::run(&first[0], &quick("t28-fails"), &mut |progress: &Progress| {
        if progress.case == "grab_1_remote" {
            drop(served.take());
        }
    });
    let error = error.expect_err("node 2 does not serve any more");
    assert_eq!(error.to_string(), "node 2 has no service \"kddm.bench\"; it is there once the node has registered it");
    let guard = bench::serve(&first[1]).expect("it can serve again");
    guards.insert(1, Some(guard));
    let nodes: Vec<_> = first.into_iter().zip(guards.into_iter().flatten()).collect();
    assert_gone(&nodes, "t28-fails");
    // Nothing of it is in the way of the next.
    assert_budget(&run(&nodes, 0, "t28-fails"));
}

#[test]
fn t28_the_sets_are_gone_after_it_was_stopped_or_panicked() {
    let nodes = cluster("stopped", &[9, 4]);
    let cancel = Arc::new(AtomicBool::new(false));
    let options = Options { cancel: Arc::clone(&cancel), ..quick("t28-stopped") };
    let stopped = bench::run(&nodes[0].0, &options, &mut |progress| {
        cancel.store(progress.case == "get_owner_is_home", Ordering::Release);
    });
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    assert_gone(&nodes, "t28-stopped");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _unreachable = bench::run(&nodes[0].0, &quick("t28-panicked"), &mut |progress| {
            assert_ne!(progress.case, "grab_1_local", "on purpose");
        });
    }));
    assert!(panicked.is_err());
    assert_gone(&nodes, "t28-panicked");
}

#[test]
fn t28_a_case_ends_at_its_limit() {
    let nodes = cluster("limit", &[1, 2]);
    let options = Options { operations: 1_000_000, case_limit: Duration::ZERO, ..quick("t28-limit") };
    let report = bench::run(&nodes[0].0, &options, &mut |_| {}).expect("the cluster is whole");
    assert!(report.cases.iter().all(|case| case.count == 30), "one batch is always done");
    assert_budget(&report);
}

#[test]
fn a_benchmark_needs_somebody_else() {
    let nodes = cluster("alone", &[1]);
    let alone = bench::run(&nodes[0].0, &quick("alone"), &mut |_| {}).expect_err("there is nobody");
    assert!(matches!(alone, Error::TooFewNodes { others: 0, without: 0 }), "{alone}");
    let silent = Node::join(Config::new().contact(nodes[0].0.address().clone())).wait().expect("it joins");
    let alone = bench::run(&nodes[0].0, &quick("alone"), &mut |_| {}).expect_err("nobody else serves");
    assert!(matches!(alone, Error::TooFewNodes { others: 1, without: 1 }), "{alone}");
    // A third one serves: then the silent one is left in peace.
    let config = Config::new().contact(nodes[0].0.address().clone());
    let third = Node::join(config).wait().expect("it joins");
    let _guard = bench::serve(&third).expect("it serves");
    let report = bench::run(&nodes[0].0, &quick("alone"), &mut |_| {}).expect("two serve");
    assert_eq!((report.nodes, report.not_asked.clone()), (3, vec![silent.id()]));
    assert_budget(&report);
    for bad in [Options { batch: 0, ..quick("bad") }, Options { operations: 0, ..quick("bad") }] {
        assert!(matches!(bench::run(&nodes[0].0, &bad, &mut |_| {}), Err(Error::OutOfRange { .. })));
    }
}

/// The program, on processes of its own, over TCP.
#[test]
fn t28_the_program_measures_processes() {
    let run = |arguments: &[&str]| {
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_kddmadm")).arg("bench").args(arguments).output();
        program.expect("it starts")
    };
    let output = run(&["--local", "3", "--operations", "40", "--json"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let report: Report = serde_json::from_slice(&output.stdout).expect("it prints its report and nothing else");
    assert_budget(&report);
    assert_eq!((report.nodes, report.cases.len(), report.skipped.len()), (3, 30, 9));
    assert!(report.cases.iter().all(|case| case.count == 40));
    let alone = run(&["--local", "1"]);
    assert!(!alone.status.success() && alone.stdout.is_empty());
}
