//! Telling the members of a cluster that the process of one of them has ended: all at once, and those
//! that cannot be reached again and again for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kddm::Address;
use kddm::guardian::{Life, Told, tell_of_death};
use parking_lot::Mutex;

/// Members that are told at one time. One that does not answer keeps its thread for [`TRIAL`].
const TELLERS: usize = 32;

/// How long one member may take to answer.
const TRIAL: Duration = Duration::from_secs(2);

/// The pause before a member that was not reached is told again, at first. It doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// After that long nobody is told any more: leases have long run out.
const ENOUGH: Duration = Duration::from_secs(60);

/// A member that is to be told.
struct Task {
    member: Address,
    due: Instant,
    pause: Duration,
}

/// Tells them all. Returns when all know, or when it has gone on for long enough.
pub fn all(life: &Life, members: &[Address]) {
    let begun = Instant::now();
    let task = |member: &Address| Task { member: member.clone(), due: begun, pause: FIRST_PAUSE };
    let tasks: Mutex<VecDeque<Task>> = Mutex::new(members.iter().map(task).collect());
    let missed = Mutex::new(Vec::new());
    let work = || {
        loop {
            // The one that is due first.
            let mut waiting = tasks.lock();
            let at = waiting.iter().enumerate().min_by_key(|(_, task)| task.due).map(|(at, _)| at);
            let Some(mut task) = at.and_then(|at| waiting.remove(at)) else { return };
            drop(waiting);
            let pause = task.due.saturating_duration_since(Instant::now());
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            if is_told(life, &task.member) {
                continue;
            }
            if begun.elapsed() >= ENOUGH {
                missed.lock().push(task.member);
                continue;
            }
            task.due = Instant::now() + task.pause;
            task.pause = (task.pause * 2).min(LONGEST_PAUSE);
            tasks.lock().push_back(task);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..members.len().min(TELLERS) {
            let spawned = std::thread::Builder::new().name("guardian-tell".into()).spawn_scoped(scope, work);
            if let Err(error) = spawned {
                tracing::warn!(%error, "fewer threads than wanted tell of the end of a process");
                break;
            }
        }
        work();
    });
    let missed = missed.into_inner();
    if missed.is_empty() {
        let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
        tracing::info!(node = life.node, members = members.len(), milliseconds, "all members have been told");
    } else {
        let missed = missed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::warn!(node = life.node, %missed, "members could not be told within {ENOUGH:?}");
    }
}

/// Whether that member need not be told again.
fn is_told(life: &Life, member: &Address) -> bool {
    match tell_of_death(member, life, TRIAL) {
        Ok(Told::Known | Told::NoMember) => true,
        Ok(Told::NotYet) => false,
        Ok(Told::Refused(reason)) => {
            tracing::warn!(node = life.node, %member, %reason, "a member does not take the word of this guardian");
            true
        }
        Err(error) => {
            tracing::debug!(node = life.node, %error, "a member could not be told yet");
            false
        }
    }
}
