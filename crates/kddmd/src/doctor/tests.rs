use super::*;

/// Three healthy daemons in three zones, one set with one replica.
fn healthy() -> Case {
    let facts = |node: u16| Facts {
        node,
        version: "1.0".into(),
        shares: true,
        lease_ms: 1000,
        lease_left_ms: Some(900),
        least_lease_ms: 200,
        voters: vec![1, 2, 3],
        votes: true,
        keeps_view_log: true,
        is_guarded: true,
        memory_limit_bytes: Some(1000),
        descriptor_limit: Some(1000),
        sets: [(7, SetFacts { objects: 10, ..SetFacts::default() })].into(),
        ..Facts::default()
    };
    let member = |node: u16| Member { shares: true, zone: Some(format!("rack {node}")), is_witness: false };
    Case {
        asked: 1,
        members: (1..=3).map(|node| (node, member(node))).collect(),
        facts: (1..=3).map(|node| (node, facts(node))).collect(),
        sets: [(7, NamedSet { name: "notes".into(), replicas: 1, forgives_loss: false })].into(),
        ..Case::default()
    }
}

/// What is found, and nothing else.
#[track_caller]
fn finds(code: &str, level: Level, change: impl FnOnce(&mut Case)) -> Finding {
    let mut case = healthy();
    change(&mut case);
    let found = findings(&case);
    assert_eq!(
        found.iter().map(|finding| (finding.code, finding.level)).collect::<Vec<_>>(),
        [(code, level)],
        "{found:?}"
    );
    assert!(!found[0].why.is_empty() && !found[0].to_do.is_empty(), "{found:?}");
    found[0].clone()
}

fn of(case: &mut Case, node: u16) -> &mut Facts {
    case.facts.get_mut(&node).expect("it answers")
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(findings(&healthy()), []);
}

#[test]
fn what_is_lost_is_summed_over_all_homes_and_the_command_is_named() {
    let lost = finds("lost", Level::Error, |case| {
        of(case, 1).sets.insert(7, SetFacts { lost: 2, ..SetFacts::default() });
        of(case, 2).sets.insert(7, SetFacts { lost: 3, ..SetFacts::default() });
    });
    assert_eq!(lost.set.as_deref(), Some("notes"));
    assert!(lost.what.contains("5 objects of set \"notes\" are lost"), "{lost:?}");
    assert!(lost.to_do.contains("kddmadm sets accept-loss notes --yes"), "{lost:?}");
    let doubt = finds("in_doubt", Level::Error, |case| {
        of(case, 1).sets.insert(7, SetFacts { in_doubt: 1, ..SetFacts::default() });
    });
    assert!(doubt.what.contains("1 shard of 1024"), "{doubt:?}");
}

#[test]
fn what_has_never_existed_when_it_is_lost_is_no_finding() {
    let mut case = healthy();
    of(&mut case, 1).sets.insert(7, SetFacts { lost: 2, in_doubt: 3, ..SetFacts::default() });
    case.sets.insert(7, NamedSet { name: "cache".into(), replicas: 0, forgives_loss: true });
    assert_eq!(findings(&case), []);
}

#[test]
fn names_are_written_as_a_shell_takes_them() {
    for (name, quoted) in [("a/b", "a/b"), ("it's", "'it'\\''s'"), ("$(rm)", "'$(rm)'"), ("-x", "'-x'")] {
        assert_eq!(super::findings::quoted(name), quoted);
    }
}

#[test]
fn too_few_replicas_have_one_of_two_reasons() {
    let short = |case: &mut Case| {
        of(case, 1).sets.insert(7, SetFacts { short: 4, ..SetFacts::default() });
    };
    let made = finds("few_replicas", Level::Warning, |case| {
        short(case);
        of(case, 1).missing = Some("replicas are being made".into());
    });
    assert!(made.why.contains("replicas are being made"), "{made:?}");
    let few = finds("few_replicas", Level::Warning, |case| {
        short(case);
        case.sets.insert(7, NamedSet { name: "notes".into(), replicas: 3, forgives_loss: false });
    });
    assert!(few.why.contains("only 3 members share") && few.to_do.contains("kddmd --contact"), "{few:?}");
}

#[test]
fn who_is_silent_or_gone_or_idle_is_named() {
    let silent = finds("silent", Level::Error, |case| {
        case.facts.remove(&3);
        case.silent.insert(3, Unsaid::Silent("node 3 did not answer".into()));
    });
    assert_eq!(silent.nodes, [3]);
    let program = finds("not_asked", Level::Note, |case| {
        case.facts.remove(&3);
        case.silent.insert(3, Unsaid::NotADaemon);
    });
    assert_eq!(program.nodes, [3]);
    let gone = finds("expelled", Level::Note, |case| of(case, 1).lost_members = vec![2, 9]);
    assert_eq!(gone.nodes, [9], "node 2 is back");
    finds("expelled", Level::Warning, |case| {
        (of(case, 1).lost_members, of(case, 2).missing) = (vec![9], Some("replicas are being made".into()));
    });
    let idle = finds("not_sharing", Level::Warning, |case| case.members.get_mut(&2).expect("it is in").shares = false);
    assert_eq!(idle.to_do, "kddmadm cluster start -n 2");
    finds("unreachable", Level::Error, |case| of(case, 1).unreachable = vec![2]);
    finds("fault", Level::Error, |case| of(case, 1).faults = 1);
}

#[test]
fn leases_are_judged_by_their_length() {
    finds("fenced", Level::Error, |case| of(case, 2).lease_left_ms = Some(0));
    finds("lease_ends", Level::Error, |case| of(case, 2).lease_left_ms = Some(150));
    finds("short_lease", Level::Warning, |case| {
        (of(case, 2).lease_ms, of(case, 2).lease_left_ms) = (100, Some(90));
    });
}

#[test]
fn who_decides_is_judged() {
    let alone = finds("one_voter", Level::Warning, |case| of(case, 1).voters = vec![2]);
    assert!(
        alone.why.contains("while node 2 is gone all others stop") && alone.to_do.contains("--witness"),
        "{alone:?}"
    );
    finds("even_voters", Level::Warning, |case| of(case, 1).voters = vec![1, 2]);
    let disk = finds("no_vote", Level::Error, |case| of(case, 2).voting_failure = Some("no space left".into()));
    assert!(disk.what.contains("no space left"), "{disk:?}");
    finds("no_view_log", Level::Note, |case| of(case, 2).keeps_view_log = false);
}

#[test]
fn places_versions_and_limits_are_judged() {
    finds("one_zone", Level::Warning, |case| {
        case.members.values_mut().for_each(|member| member.zone = Some("here".into()));
    });
    finds("versions", Level::Warning, |case| of(case, 2).version = "1.1".into());
    finds("memory", Level::Warning, |case| of(case, 2).resident_bytes = 950);
    finds("descriptors", Level::Warning, |case| of(case, 2).descriptors = 900);
    let guardian = finds("no_guardian", Level::Note, |case| of(case, 2).is_guarded = false);
    assert_eq!(guardian.nodes, [2]);
}

#[test]
fn the_worst_comes_first_and_is_shown_with_what_to_do() {
    let mut case = healthy();
    of(&mut case, 2).is_guarded = false;
    of(&mut case, 2).faults = 1;
    let found = findings(&case);
    assert_eq!(found.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Error, Level::Note]);
    let shown = show(&json!({"healthy": false, "answered_by": 1, "findings": found}));
    assert!(
        shown.contains("error: node 2 has found a broken invariant\n    why: ") && shown.contains("    do:  "),
        "{shown}"
    );
    let well = show(&json!({"healthy": true, "members": 3, "sharing": 3, "sets": 1, "findings": []}));
    assert_eq!(well, "healthy: 3 members, 3 of them share objects, 1 sets");
}

#[test]
fn a_daemon_of_another_version_may_say_more_and_less() {
    let facts: Facts = serde_json::from_str(r#"{"node": 3, "faults": 2, "weather": "fine"}"#).expect("it is read");
    assert_eq!(facts, Facts { node: 3, faults: 2, ..Facts::default() });
}

#[test]
fn a_lonely_node_is_examined() {
    let node = Node::local_cluster(1).expect("a node").remove(0);
    let _set: kddm::Set<u64> = node.set("notes").replicas(0).open().wait().expect("a set");
    let answer = examine(&node).expect("it answers itself");
    let codes: Vec<&str> =
        answer["findings"].as_array().expect("a list").iter().filter_map(|f| f["code"].as_str()).collect();
    assert_eq!((codes, &answer["healthy"]), (vec!["no_view_log"], &json!(true)), "{answer}");
}
