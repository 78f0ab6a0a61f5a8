//! A service here: its handler, and the threads that run it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::forward::PassOn;
use super::frame::{Fault, Manner};
use super::relay::Forward;
use super::stream::flow::Flow;
use super::{Engine, HandlerError, LONGEST, Request};
use crate::node::{Node, Owner};
use crate::runtime::wait::may_block;

/// Threads of one service that may wait for objects.
pub(crate) const WORKERS: usize = 16;

/// Calls that wait for a thread of one service.
pub(crate) const QUEUE_LIMIT: usize = 1024;

/// How long a thread without work stays, so that calls in a row need not start one each.
const LINGER: Duration = Duration::from_secs(5);

/// Where a handler runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// On the thread that reads all calls.
    Reader,
    /// On threads of the service.
    Workers,
}

type Answering = dyn Fn(&Request) -> Result<Vec<u8>, HandlerError> + Send + Sync;

type Streaming = dyn Fn(&Request, Arc<Flow>) + Send + Sync;

/// What is run for what came in.
pub(crate) enum Handler {
    Call(Box<Answering>),
    /// It sees to the end of the stream itself.
    Stream(Box<Streaming>),
}

/// A call that has come in: on which connection it is answered, and as which.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ReplyTo {
    pub connection: u64,
    pub id: u64,
}

/// What a call that came in brings along.
pub(crate) struct Incoming {
    pub reply_to: ReplyTo,
    pub manner: Manner,
    /// Who asks.
    pub from: u16,
    pub body: Vec<u8>,
    pub deadline: Instant,
    pub cancelled: Arc<std::sync::atomic::AtomicBool>,
    /// The stream, if that is what is asked for.
    pub flow: Option<Arc<Flow>>,
}

/// What a handler or this node has to say to a caller.
pub(crate) type Outcome = Result<Vec<u8>, (Fault, String)>;

/// What came of a handler.
enum Ran {
    Answer(Outcome),
    /// Somebody else is to answer.
    Forward(Forward),
    /// It was a stream, which has its end, or will.
    Streamed,
}

#[derive(Default)]
struct Inside {
    queue: VecDeque<Incoming>,
    threads: usize,
    waiting: usize,
    /// Handlers that run now.
    running: usize,
    is_closed: bool,
}

/// A registered service.
pub(crate) struct Registered {
    pub name: Arc<str>,
    place: Place,
    /// Handlers are given the node; this does not keep it alive.
    node: Weak<Owner>,
    handler: Handler,
    inside: Mutex<Inside>,
    /// Told of work, of the end of a handler, and of the end.
    news: Condvar,
}

thread_local! {
    /// The services whose handlers this thread is in: it must not wait for these to end.
    static WITHIN: RefCell<Vec<*const Registered>> = const { RefCell::new(Vec::new()) };
}

impl Registered {
    pub fn new(name: &str, place: Place, node: Weak<Owner>, handler: Handler) -> Registered {
        let (inside, news) = (Mutex::default(), Condvar::new());
        Registered { name: name.into(), place, node, handler, inside, news }
    }

    /// Runs the handler, or leaves it to a thread that may wait. What cannot be run is answered here.
    pub fn take(self: &Arc<Self>, engine: &Arc<Engine>, incoming: Incoming) {
        let mut inside = self.inside.lock();
        let reply_to = incoming.reply_to;
        if inside.is_closed {
            drop(inside);
            return engine.answer(reply_to, Err((Fault::NoService, String::new())));
        }
        if self.place == Place::Reader {
            inside.running += 1;
            drop(inside);
            return self.run(engine, incoming);
        }
        if inside.queue.len() >= QUEUE_LIMIT {
            drop(inside);
            let what = format!("{QUEUE_LIMIT} calls wait for a thread of the service");
            return engine.answer(reply_to, Err((Fault::Overloaded, what)));
        }
        inside.queue.push_back(incoming);
        if inside.waiting >= inside.queue.len() || inside.threads >= WORKERS {
            self.news.notify_all();
            return;
        }
        inside.threads += 1;
        drop(inside);
        let (service, worker) = (Arc::clone(self), Arc::clone(engine));
        if let Err(error) = engine.spawn("kddm-rpc-work", move || service.work(&worker)) {
            self.no_thread(engine, &error);
        }
    }

    /// The system gives no more threads: those that run go on; without any, nobody would answer.
    fn no_thread(&self, engine: &Arc<Engine>, error: &std::io::Error) {
        let mut inside = self.inside.lock();
        inside.threads -= 1;
        let left = if inside.threads == 0 { std::mem::take(&mut inside.queue) } else { VecDeque::new() };
        drop(inside);
        for incoming in left {
            engine.answer(incoming.reply_to, Err((Fault::Overloaded, format!("no thread could be started: {error}"))));
        }
    }

    fn work(self: Arc<Self>, engine: &Arc<Engine>) {
        let mut inside = self.inside.lock();
        loop {
            if let Some(incoming) = inside.queue.pop_front() {
                inside.running += 1;
                drop(inside);
                self.run(engine, incoming);
                inside = self.inside.lock();
                continue;
            }
            if inside.is_closed || !self.linger(&mut inside) {
                break;
            }
        }
        inside.threads -= 1;
    }

    /// Waits for work. False if none has come.
    fn linger(&self, inside: &mut MutexGuard<'_, Inside>) -> bool {
        inside.waiting += 1;
        let timed_out = self.news.wait_for(inside, LINGER).timed_out();
        inside.waiting -= 1;
        !timed_out || !inside.queue.is_empty()
    }

    /// Runs the handler for one call that was counted as running, and answers.
    fn run(&self, engine: &Arc<Engine>, incoming: Incoming) {
        WITHIN.with_borrow_mut(|within| within.push(std::ptr::from_ref(self)));
        let reply_to = incoming.reply_to;
        match self.outcome(incoming) {
            Ran::Answer(outcome) => engine.answer(reply_to, outcome),
            Ran::Forward(forward) => engine.pass_on(&forward),
            Ran::Streamed => {}
        }
        WITHIN.with_borrow_mut(Vec::pop);
        self.inside.lock().running -= 1;
        self.news.notify_all();
    }

    fn outcome(&self, incoming: Incoming) -> Ran {
        let refused = |fault, reason: &str| Ran::Answer(Err((fault, reason.into())));
        let Some(owner) = self.node.upgrade() else { return refused(Fault::Stopping, "") };
        let Incoming { reply_to, manner, from, body, deadline, cancelled, flow } = incoming;
        let mut request = Request { node: Node(owner), from, body, deadline, cancelled };
        if request.is_cancelled() {
            return refused(Fault::TooLate, "");
        }
        let handler = match (&self.handler, flow) {
            (Handler::Call(handler), None) => handler,
            (Handler::Stream(handler), Some(flow)) => {
                request.deadline = Instant::now() + LONGEST;
                handler(&request, flow);
                return Ran::Streamed;
            }
            (Handler::Call(_), Some(_)) => return refused(Fault::Failed, "it takes calls, and no streams"),
            (Handler::Stream(_), None) => return refused(Fault::Failed, "it takes streams, and no calls"),
        };
        let error = match catch_unwind(AssertUnwindSafe(|| handler(&request))) {
            Ok(Ok(body)) if body.len() > super::frame::BODY_LIMIT_BYTES => {
                let limit = super::frame::BODY_LIMIT_BYTES;
                let what = format!("an answer of {} bytes, at most {limit} are allowed", body.len());
                return refused(Fault::Failed, &what);
            }
            Ok(Ok(body)) => return Ran::Answer(Ok(body)),
            Ok(Err(error)) => error,
            Err(_) => {
                tracing::error!(service = &*self.name, from, "a handler panicked");
                return refused(Fault::Failed, "the handler panicked");
            }
        };
        match error.downcast::<PassOn>() {
            Err(error) => refused(Fault::Failed, &error.to_string()),
            Ok(to) => {
                let (node, service) = (to.node, to.service);
                let Request { node: here, from, deadline, cancelled, .. } = request;
                let incoming = Incoming { reply_to, manner, from, body: to.body, deadline, cancelled, flow: None };
                Ran::Forward(Forward {
                    incoming,
                    service,
                    program: None,
                    node,
                    passed: Some(Arc::clone(here.runtime())),
                })
            }
        }
    }

    /// No handler begins from now on. What waits is answered with that fault.
    pub fn close(&self, engine: &Arc<Engine>, fault: Fault) {
        let mut inside = self.inside.lock();
        inside.is_closed = true;
        let left = std::mem::take(&mut inside.queue);
        drop(inside);
        self.news.notify_all();
        for incoming in left {
            engine.answer(incoming.reply_to, Err((fault, String::new())));
        }
    }

    /// Waits until no handler runs, except on a thread that the handlers may be waiting for.
    pub fn wait_for_handlers(&self) {
        let is_within = WITHIN.with_borrow(|within| within.contains(&std::ptr::from_ref(self)));
        if is_within || !may_block() {
            return;
        }
        let mut inside = self.inside.lock();
        while inside.running > 0 {
            self.news.wait(&mut inside);
        }
    }
}
