//! Joining and opening by tasks: many of them on one thread, on no executor in particular.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use kddm::{Chain, Config, Error, MembershipError, Node, NodeState, Pending, Priority, Set, SetError};

use crate::{LIMIT, two};

/// Names a task that is to be polled.
struct Next(usize, Sender<usize>);

impl Wake for Next {
    fn wake(self: Arc<Self>) {
        let _nobody_listens_any_more = self.1.send(self.0);
    }
}

/// Runs all of them on this thread, and polls none that was not woken.
fn run<O>(mut tasks: Vec<Pin<Box<dyn Future<Output = O> + '_>>>) -> Vec<O> {
    let (sender, woken) = channel();
    (0..tasks.len()).for_each(|at| sender.send(at).expect("it is received below"));
    let mut results: Vec<Option<O>> = tasks.iter().map(|_| None).collect();
    while results.iter().any(Option::is_none) {
        let at = woken.recv_timeout(LIMIT).expect("a task that waits is woken");
        let waker = Waker::from(Arc::new(Next(at, sender.clone())));
        if results[at].is_none()
            && let Poll::Ready(result) = tasks[at].as_mut().poll(&mut Context::from_waker(&waker))
        {
            results[at] = Some(result);
        }
    }
    results.into_iter().flatten().collect()
}

#[test]
fn tasks_of_one_thread_join_open_the_same_new_set_and_write_in_it() {
    let first = run(vec![Box::pin(Node::join(crate::unhurried()))]).remove(0).expect("it begins a cluster");
    let contact = || Config::new().contact(first.address().clone());
    let joined = run(vec![Box::pin(Node::join(contact())), Box::pin(Node::join(contact()))]);
    let others: Vec<Node> = joined.into_iter().collect::<Result<_, _>>().expect("they are let in");
    // No set exists before: whoever is first has that decided.
    let count = |node: Node| -> Pin<Box<dyn Future<Output = Result<String, Error>>>> {
        Box::pin(async move {
            let set: Set<u64> = node.set("new").open().await?;
            for _ in 0..10 {
                let mut guard = set.grab(1).await?;
                *guard += 1;
                guard.put().await?;
            }
            Ok(format!("{set:?}"))
        })
    };
    let tasks = others.iter().chain([&first]).cycle().take(9).map(|node| count(node.clone())).collect();
    let names: Vec<String> = run(tasks).into_iter().collect::<Result<_, _>>().expect("all open it");
    assert!(names.iter().all(|name| *name == names[0]), "all have the same set: {names:?}");
    let set: Set<u64> = first.set("new").open_existing().wait().expect("it exists");
    assert_eq!(*set.get(1).wait().expect("it is here"), 90);
}

#[test]
fn a_join_that_nobody_waits_for_leaves_again() {
    let (sender, events) = channel();
    let config = crate::unhurried().notifier(Chain::Online, Priority::APPLICATION, "watch", move |event| {
        let _nobody_listens_any_more = sender.send((event.node, event.to));
    });
    let first = Node::join(config).wait().expect("it begins a cluster");
    drop(Node::join(Config::new().contact(first.address().clone())));
    let mut seen = Vec::new();
    while seen.iter().filter(|(node, _)| *node != first.id()).count() < 2 {
        seen.push(events.recv_timeout(LIMIT).expect("it comes, and goes again"));
    }
    let begin = Instant::now();
    while first.members().len() > 1 {
        assert!(begin.elapsed() < LIMIT, "nobody has it, and it stays: {seen:?}");
        std::thread::yield_now();
    }
}

#[test]
fn whether_a_set_is_open_can_be_asked_without_a_wait() {
    let (nodes, _sets) = two("asked");
    let pending: Pending<Set<u64>> = nodes[1].set("asked/other").open();
    let begin = Instant::now();
    while !pending.is_ready() {
        assert!(begin.elapsed() < LIMIT, "asking drives it on");
        std::thread::yield_now();
    }
    let set = pending.wait().expect("it is created");
    let missing = nodes[0].set::<u64>("asked/nothing").open_existing().wait();
    assert!(missing.expect_err("nobody has created it").to_string().contains("no set"));
    assert_eq!(*set.get(1).wait().expect("it is used like any other"), 0);
}

#[test]
fn tasks_stop_and_start_sharing_and_destroy_sets() {
    let (nodes, [here, there]) = two("operated");
    drop(there.grab(1).wait_for(LIMIT).expect("it is free"));
    let order = async {
        nodes[1].stop_sharing(LIMIT).await?;
        let moved = *here.get_existing(1).await?;
        nodes[1].start_sharing(LIMIT).await?;
        let held = there.get(1).await?;
        let unknown = nodes[0].destroy_set("operated/not", LIMIT).await;
        nodes[0].destroy_set("operated", std::time::Duration::ZERO).await?;
        Ok::<_, Error>((moved, held.check(), unknown))
    };
    let (moved, held, unknown) = run(vec![Box::pin(order)]).remove(0).expect("all of it goes on");
    assert_eq!(moved, 0, "it was handed over");
    assert!(matches!(held, Err(Error::Set(SetError::Destroyed))), "{held:?}");
    assert!(matches!(unknown, Err(Error::Set(SetError::Unknown { .. }))), "{unknown:?}");
}

#[test]
fn a_wait_may_be_shorter_than_the_work_which_goes_on() {
    let (nodes, [here, there]) = two("goes on");
    let held = there.grab(1).wait_for(LIMIT).expect("it is free");
    let error = nodes[1].stop_sharing(LIMIT).wait_for(std::time::Duration::from_millis(20)).expect_err("it is held");
    assert!(matches!(error, Error::Membership(MembershipError::DrainTimedOut { limit_ms: 20, .. })), "{error:?}");
    held.put().wait().expect("it is put");
    let begin = Instant::now();
    while nodes[1].members().iter().filter(|member| member.state == NodeState::Possible).count() > 1 {
        assert!(begin.elapsed() < LIMIT, "the drain goes on");
        std::thread::yield_now();
    }
    drop(here.grab_existing(1).wait_for(LIMIT).expect("it was handed over"));
}
