//! What a lane waits on: its sockets, a wake-up, a timer. Several threads may wait at once; the
//! kernel wakes the one that came last, so a thread that waits for an answer gets it itself.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use crate::sync::{AtomicU64, Ordering, now, something_has_happened};

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose.
    pub token: u64,
    /// There is something to read, or the end.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other side has ended it; what it had sent before may still be to read.
    pub ended: bool,
}

/// Events taken at once.
const EVENTS: usize = 64;

/// See the module. Edge-triggered: whoever gets an event reads until nothing is left.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    wake: OwnedFd,
    timer: OwnedFd,
    origin: Instant,
    /// When the timer will fire, in nanoseconds since `origin`; zero if it is not armed.
    armed: AtomicU64,
    /// When the modelled timer fires.
    #[cfg(shuttle)]
    fires: crate::sync::Mutex<Option<Instant>>,
}

/// Token of a wake-up.
pub const WAKE: u64 = u64::MAX;
/// Token of the timer.
pub const TIMER: u64 = u64::MAX - 1;

impl Poller {
    /// A poller that watches nothing yet.
    ///
    /// # Errors
    /// The system's, when it is out of file descriptors.
    pub fn new() -> std::io::Result<Poller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), edge)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), edge)?;
        Ok(Poller {
            epoll,
            wake,
            timer,
            origin: now(),
            armed: AtomicU64::new(0),
            #[cfg(shuttle)]
            fires: Default::default(),
        })
    }

    /// Watches a socket for both directions.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&self, socket: impl AsFd, token: u64) -> std::io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), flags)?)
    }

    /// Tells nobody any more that there is something to read: one thread waits for that by itself.
    /// When it is `told` again, what has come meanwhile is told at once.
    pub fn tell_readable(&self, socket: impl AsFd, token: u64, told: bool) {
        let readable = if told { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        let flags = readable | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let _already_closed = epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(token), flags);
    }

    /// Watches it no more.
    pub fn remove(&self, socket: impl AsFd) {
        let _already_closed = epoll::delete(&self.epoll, socket);
    }

    /// Waits at most `limit` and hands each event to `handle`.
    ///
    /// # Errors
    /// The system's; an interruption is not one.
    #[cfg(not(shuttle))]
    pub fn wait(&self, limit: Option<Duration>, handle: impl FnMut(Event)) -> std::io::Result<()> {
        self.take_events(limit, handle).map(|_| ())
    }

    /// As [`Self::wait`], and how many events there were.
    fn take_events(&self, limit: Option<Duration>, mut handle: impl FnMut(Event)) -> std::io::Result<usize> {
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let events = match epoll::wait(&self.epoll, &mut room[..], limit.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let count = events.len();
        for event in events {
            let token = event.data.u64();
            if token == TIMER {
                self.armed.store(0, Ordering::Release);
            }
            let flags = event.flags;
            let end = epoll::EventFlags::HUP | epoll::EventFlags::ERR | epoll::EventFlags::RDHUP;
            let readable = flags.intersects(epoll::EventFlags::IN | end);
            let writable = flags.contains(epoll::EventFlags::OUT);
            handle(Event { token, readable, writable, ended: flags.intersects(end) });
        }
        Ok(count)
    }

    /// Wakes one thread that waits.
    pub fn wake(&self) {
        let _full_is_awake = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        something_has_happened();
    }

    /// Makes the timer fire at that time, unless it fires earlier anyway.
    pub fn arm_at(&self, at: Instant) {
        let at_ns = (at.saturating_duration_since(self.origin).as_nanos() as u64).max(1);
        let armed = self.armed.load(Ordering::Acquire);
        if armed != 0 && armed <= at_ns {
            return;
        }
        self.armed.store(at_ns, Ordering::Release);
        self.set_timer(at);
    }

    #[cfg(not(shuttle))]
    fn set_timer(&self, at: Instant) {
        let left = at.saturating_duration_since(now()).max(Duration::from_nanos(1));
        let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let _valid_times =
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value });
    }
}

/// In the model the sockets and the wake-up are real, the timer is not, and nothing but other threads of
/// the model is waited for.
#[cfg(shuttle)]
impl Poller {
    /// As otherwise.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self, limit: Option<Duration>, mut handle: impl FnMut(Event)) -> std::io::Result<()> {
        let deadline = limit.map(|limit| now() + limit);
        loop {
            let seen = crate::sync::modelled::happened();
            if self.has_fired() {
                self.armed.store(0, Ordering::Release);
                handle(Event { token: TIMER, readable: true, writable: false, ended: false });
                return Ok(());
            }
            if self.take_events(Some(Duration::ZERO), &mut handle)? > 0 {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| now() >= deadline) {
                return Ok(());
            }
            let fires = *self.fires.lock();
            crate::sync::modelled::wait_for_more(seen, deadline.into_iter().chain(fires).min());
        }
    }

    fn has_fired(&self) -> bool {
        let mut fires = self.fires.lock();
        fires.take_if(|at| *at <= now()).is_some()
    }

    fn set_timer(&self, at: Instant) {
        *self.fires.lock() = Some(at);
        something_has_happened();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    #[test]
    fn an_event_wakes_one_thread() {
        let poller = Arc::new(Poller::new().expect("a poller"));
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        poller.add(&theirs, 7).expect("added");
        poller.wait(Some(Duration::ZERO), |_| {}).expect("the first writable edge");
        let (sender, receiver) = channel();
        let waiting = Arc::clone(&poller);
        let thread = std::thread::spawn(move || {
            waiting.wait(Some(Duration::from_secs(10)), |event| sender.send(event).expect("heard")).expect("waits");
        });
        ours.write_all(b"x").expect("written");
        let event = receiver.recv_timeout(Duration::from_secs(10)).expect("an event");
        assert!(event.token == 7 && event.readable);
        thread.join().expect("ends");
    }

    #[test]
    fn the_timer_fires_and_the_wake_up_wakes() {
        let poller = Poller::new().expect("a poller");
        poller.arm_at(Instant::now() + Duration::from_millis(1));
        let mut tokens = Vec::new();
        poller.wait(Some(Duration::from_secs(10)), |event| tokens.push(event.token)).expect("waits");
        poller.wake();
        poller.wait(Some(Duration::from_secs(10)), |event| tokens.push(event.token)).expect("waits");
        assert_eq!(tokens, [TIMER, WAKE]);
    }
}
