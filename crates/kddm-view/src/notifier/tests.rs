use std::sync::Mutex;

use kddm_core::view::Member;
use kddm_core::view::NodeState::{Offline, Online, Possible};

use super::*;

type Heard = Arc<Mutex<Vec<String>>>;

/// A notifier that writes down what it hears.
fn listener(heard: &Heard, name: &'static str) -> Callback {
    let heard = Arc::clone(heard);
    Arc::new(move |event: &Event| {
        let Event { step, incarnation, .. } = event;
        heard.lock().unwrap().push(format!("{name}: {}.{} {:?}", step.node, incarnation.0, step.to));
    })
}

fn view(members: &[(u16, u32, NodeState)]) -> View {
    let member =
        |&(id, life, state)| Member { id: NodeId(id), incarnation: Incarnation(life), state, ..Member::default() };
    View { members: members.iter().map(member).collect(), ..View::default() }
}

/// Makes all calls that are due.
fn run(notifiers: &mut Notifiers) {
    while let Some(call) = notifiers.next_call(Time(0)) {
        (call.callback)(&call.event);
        notifiers.done();
    }
}

fn take(heard: &Heard) -> Vec<String> {
    std::mem::take(&mut *heard.lock().unwrap())
}

/// Notifiers `late` and `early` in both chains, registered in the wrong order.
fn two_in_both_chains(heard: &Heard) -> Notifiers {
    let mut notifiers = Notifiers::new(NOTIFIER_LIMIT_NS);
    for (priority, name) in [(Priority::APPLICATION, "late"), (Priority::LINK, "early")] {
        for chain in [Chain::Possible, Chain::Online] {
            notifiers.register(chain, priority, name, listener(heard, name)).unwrap();
        }
    }
    notifiers
}

#[test]
fn up_in_order_of_priority_and_down_in_reverse_level_by_level() {
    let heard = Heard::default();
    let mut notifiers = two_in_both_chains(&heard);
    notifiers.installed(view(&[(4, 1, Possible)]));
    run(&mut notifiers);
    assert_eq!(take(&heard), ["early: 4.1 Online", "late: 4.1 Online", "early: 4.1 Possible", "late: 4.1 Possible"]);
    notifiers.installed(view(&[]));
    run(&mut notifiers);
    assert_eq!(take(&heard), ["late: 4.1 Online", "early: 4.1 Online", "late: 4.1 Offline", "early: 4.1 Offline"]);
    assert!(notifiers.is_idle());
}

#[test]
fn each_chain_hears_of_its_own_level_only() {
    let heard = Heard::default();
    let mut notifiers = Notifiers::new(NOTIFIER_LIMIT_NS);
    notifiers.register(Chain::Possible, Priority::SETS, "p", listener(&heard, "p")).unwrap();
    notifiers.register(Chain::Online, Priority::SETS, "o", listener(&heard, "o")).unwrap();
    notifiers.installed(view(&[(4, 1, Possible)]));
    notifiers.installed(view(&[(4, 1, Online)]));
    notifiers.installed(view(&[]));
    run(&mut notifiers);
    assert_eq!(take(&heard), ["o: 4.1 Online", "p: 4.1 Possible", "p: 4.1 Online", "o: 4.1 Offline"]);
}

#[test]
fn views_are_told_of_in_order_while_a_notifier_runs() {
    let heard = Heard::default();
    let mut notifiers = Notifiers::new(NOTIFIER_LIMIT_NS);
    notifiers.register(Chain::Online, Priority::SETS, "o", listener(&heard, "o")).unwrap();
    notifiers.installed(view(&[(1, 1, Online)]));
    let call = notifiers.next_call(Time(0)).unwrap();
    notifiers.installed(view(&[(1, 1, Online), (2, 2, Online)]));
    notifiers.installed(view(&[(1, 1, Online), (2, 3, Online)]));
    assert!(notifiers.next_call(Time(0)).is_none(), "one at a time");
    assert_eq!(notifiers.told(NodeId(1), Incarnation(1)), Offline);
    (call.callback)(&call.event);
    notifiers.done();
    run(&mut notifiers);
    assert_eq!(take(&heard), ["o: 1.1 Online", "o: 2.2 Online", "o: 2.2 Offline", "o: 2.3 Online"]);
    assert_eq!(notifiers.told(NodeId(2), Incarnation(3)), Online);
    assert_eq!(notifiers.told(NodeId(2), Incarnation(2)), Offline);
}

#[test]
fn without_notifiers_all_is_told_at_once() {
    let mut notifiers = Notifiers::new(NOTIFIER_LIMIT_NS);
    notifiers.installed(view(&[(1, 1, Possible)]));
    assert!(notifiers.next_call(Time(0)).is_none());
    assert_eq!(notifiers.told(NodeId(1), Incarnation(1)), Possible);
}

#[test]
fn an_overrun_is_reported_once_and_waited_for() {
    let heard = Heard::default();
    let mut notifiers = Notifiers::new(100);
    let slow = notifiers.register(Chain::Online, Priority::SETS, "slow", listener(&heard, "slow")).unwrap();
    notifiers.register(Chain::Online, Priority::LOCKS, "next", listener(&heard, "next")).unwrap();
    notifiers.installed(view(&[(1, 1, Online)]));
    assert_eq!(&*notifiers.next_call(Time(1000)).unwrap().name, "slow");
    assert_eq!(notifiers.overrun_at(), Some(Time(1100)));
    assert_eq!(notifiers.overrun(Time(1099)), None);
    let overrun = notifiers.overrun(Time(1100)).unwrap();
    assert_eq!((&*overrun.name, overrun.running_ns), ("slow", 100));
    assert!(overrun.to_string().contains("`slow`"), "{overrun}");
    assert_eq!(notifiers.overrun_at(), None);
    assert_eq!(notifiers.overrun(Time(2000)), None);
    assert!(notifiers.next_call(Time(2000)).is_none(), "order comes before speed");
    assert!(notifiers.is_running(slow));
    notifiers.done();
    assert!(!notifiers.is_running(slow));
    assert_eq!(&*notifiers.next_call(Time(2000)).unwrap().name, "next");
    assert_eq!(notifiers.overrun(Time(2050)), None, "each call has the whole limit");
}

#[test]
fn who_unregisters_hears_no_more_not_even_of_the_event_under_way() {
    let heard = Heard::default();
    let mut notifiers = two_in_both_chains(&heard);
    let last = notifiers.register(Chain::Online, Priority(u16::MAX), "last", listener(&heard, "last")).unwrap();
    notifiers.installed(view(&[(1, 1, Online)]));
    notifiers.next_call(Time(0)).unwrap();
    assert!(notifiers.unregister(last));
    assert!(!notifiers.unregister(last));
    notifiers.done();
    run(&mut notifiers);
    assert_eq!(take(&heard), ["late: 1.1 Online"]);
}

#[test]
fn who_comes_late_hears_of_what_comes_later() {
    let heard = Heard::default();
    let mut notifiers = Notifiers::new(NOTIFIER_LIMIT_NS);
    notifiers.installed(view(&[(1, 1, Online)]));
    run(&mut notifiers);
    notifiers.register(Chain::Online, Priority::SETS, "o", listener(&heard, "o")).unwrap();
    notifiers.installed(view(&[(1, 1, Online), (2, 2, Online)]));
    run(&mut notifiers);
    assert_eq!(take(&heard), ["o: 2.2 Online"]);
}

#[test]
fn too_many_waiting_views_are_told_of_together() {
    let heard = Heard::default();
    let mut notifiers = Notifiers::new(NOTIFIER_LIMIT_NS);
    notifiers.register(Chain::Online, Priority::SETS, "o", listener(&heard, "o")).unwrap();
    for life in 1..=VIEWS_WAITING as u32 + 5 {
        notifiers.installed(view(&[(1, life, Online)]));
    }
    run(&mut notifiers);
    let heard = take(&heard);
    assert_eq!(heard.len(), 2 * VIEWS_WAITING - 1);
    assert_eq!(heard.last().unwrap(), &format!("o: 1.{} Online", VIEWS_WAITING + 5));
}

#[test]
fn names_and_numbers_have_limits() {
    let nothing: Callback = Arc::new(|_| {});
    let mut notifiers = Notifiers::new(NOTIFIER_LIMIT_NS);
    for name in ["", "two\nlines", &"x".repeat(65)] {
        let refused = notifiers.register(Chain::Online, Priority::SETS, name, Arc::clone(&nothing));
        assert_eq!(refused, Err(RegistryError::Name));
    }
    for _ in 0..NOTIFIERS {
        notifiers.register(Chain::Online, Priority::SETS, "n", Arc::clone(&nothing)).unwrap();
    }
    let refused = notifiers.register(Chain::Online, Priority::SETS, "n", nothing);
    assert_eq!(refused, Err(RegistryError::TooMany));
}
