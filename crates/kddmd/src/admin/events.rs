//! `watch`: what changes in a set, a line an event. Arguments, both ends of the socket, and how it is shown.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use kddm::{Change, Node, Position, RpcError, SetError, WatchAll};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value as Json, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::client::{Client, ClientError};
use super::protocol::{Command, Failure, LineError, Response, write_line};

/// Watches at one time: half of the connections, so that others are left to look with.
const WATCHES: usize = 8;

/// How often it is looked whether whoever watches is still there, while nothing changes.
const LOOK: Duration = Duration::from_millis(250);

/// How long that look may take.
const LOOK_LIMIT: Duration = Duration::from_millis(1);

/// How long the end waits for the line that is being written: longer only if nobody reads.
const LINE_LIMIT: Duration = Duration::from_millis(200);

/// What is watched.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// The set, of whatever type.
    set: String,
    /// One object, a number [default: all].
    object: Option<u64>,
    /// Goes on from where another watch had come to: what has changed since is told first.
    #[arg(long, value_name = "POSITION")]
    from: Option<Position>,
    /// Events [default: until Ctrl-C].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

static WATCHING: AtomicUsize = AtomicUsize::new(0);

/// One of the watches of this daemon.
struct Place;

impl Place {
    fn take() -> Result<Place, Failure> {
        if WATCHING.fetch_add(1, Ordering::AcqRel) >= WATCHES {
            WATCHING.fetch_sub(1, Ordering::AcqRel);
            return Err(Failure::new(format!("{WATCHES} watches of this daemon are open already; end one of them")));
        }
        Ok(Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        WATCHING.fetch_sub(1, Ordering::AcqRel);
    }
}

fn begin(node: &Node, set: &str, object: Option<u64>, from: Option<&str>) -> Result<WatchAll, Failure> {
    let position = |text: &str| text.parse::<Position>().map_err(|error| Failure::new(error.to_string()));
    let from = from.map(position).transpose()?;
    match node.watch_set(set, object, from.as_ref()) {
        Ok(begins) => Ok(begins.wait()?),
        Err(kddm::Error::Set(SetError::Unknown { .. })) => {
            let message = format!(
                "there is no set {set:?}; `kddmadm sets` lists them, `kddmadm object put {set} 1 VALUE` makes one"
            );
            Err(Failure { code: 201, ..Failure::new(message) })
        }
        Err(error) => Err(error.into()),
    }
}

/// The daemon's side: tells until so many events were, or whoever asked is gone, or the set.
///
/// # Errors
/// The connection's.
pub fn serve(
    stream: &UnixStream,
    node: &Node,
    set: &str,
    (object, from): (Option<u64>, Option<&str>),
    count: Option<u64>,
) -> Result<(), LineError> {
    let begun = Place::take().and_then(|place| Ok((place, begin(node, set, object, from)?)));
    let (_place, mut changes) = match begun {
        Ok(begun) => begun,
        Err(failure) => return Ok(write_line(stream, &Response::last(Err(failure)))?),
    };
    let begins = json!({"event": "begins", "set": set, "object": object, "position": changes.position().to_string()});
    write_line(stream, &Response::one_of_many(begins))?;
    stream.set_read_timeout(Some(LOOK_LIMIT))?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        match changes.receive().wait_for(LOOK) {
            Ok(change) => {
                left -= 1;
                let event = event(&change, &changes.position());
                let more = left > 0;
                write_line(stream, &Response { more, ..Response::one_of_many(event) })?;
            }
            Err(kddm::Error::Rpc(RpcError::Idle { .. })) => {
                if is_gone(stream)? {
                    return Ok(());
                }
            }
            Err(error) => return Ok(write_line(stream, &Response::last(Err(error.into())))?),
        }
    }
    Ok(())
}

/// The client says nothing more: only its end can be read.
fn is_gone(mut stream: &UnixStream) -> io::Result<bool> {
    match stream.read(&mut [0]) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

fn event(change: &Change, position: &Position) -> Json {
    let (epoch, tenure) = change.ownership().unzip();
    let position = position.to_string();
    match change {
        Change::Put { object, seen } => {
            let version = seen.version;
            json!({"event": "put", "object": object, "epoch": epoch, "tenure": tenure, "version": version, "position": position})
        }
        Change::Removed { object, .. } => {
            json!({"event": "removed", "object": object, "epoch": epoch, "tenure": tenure, "position": position})
        }
        Change::Skipped { count } => json!({"event": "skipped", "count": count, "position": position}),
        // A kind that this tool does not know yet.
        _ => json!({"event": "unknown", "position": position}),
    }
}

/// A line for people.
fn line(event: &Json) -> String {
    let tenure = || format!("{}.{}", event["epoch"], event["tenure"]);
    match event["event"].as_str().unwrap_or_default() {
        "put" => format!("put      object {}  version {}  tenure {}", event["object"], event["version"], tenure()),
        "removed" => format!("removed  object {}  tenure {}", event["object"], tenure()),
        "skipped" => match event["count"].as_u64() {
            Some(count) => format!("skipped  {count} events: read again what has to be known"),
            None => "skipped  nobody knows how many events: read again what has to be known".into(),
        },
        other => other.to_string(),
    }
}

impl Watch {
    /// The tool's side: a line an event, until Ctrl-C, or nobody reads.
    ///
    /// # Errors
    /// What the daemon says; within, that nobody reads the output.
    pub fn run(self, client: &Client, json: bool) -> Result<io::Result<()>, ClientError> {
        let Watch { set, object, from, count } = self;
        let command = Command::Events { set, object, from: from.map(|from| from.to_string()), count };
        // The position behind the last line. Whoever has this writes.
        let last = Arc::new(Mutex::new(None::<String>));
        let say_where = move |last: Option<&String>| {
            if let Some(position) = last.filter(|_| !json) {
                eprintln!("kddmadm: to go on from here: --from {position}");
            }
        };
        let seen = Arc::clone(&last);
        let ended = move || {
            // Whole lines only; but for one that nobody takes.
            let last = seen.try_lock_for(LINE_LIMIT);
            say_where(last.as_ref().and_then(|last| last.as_ref()));
            std::process::exit(0);
        };
        if let Err(error) = on_signal(ended) {
            return Ok(Err(error));
        }
        let mut printed = Ok(());
        let told = client.watch(command, |event| {
            let text = match (json, event["event"] == "begins") {
                (true, _) => event.to_string(),
                (false, true) => String::new(),
                (false, false) => line(&event),
            };
            let mut last = last.lock();
            if !text.is_empty() {
                printed = writeln!(io::stdout(), "{text}");
            }
            *last = event["position"].as_str().map(str::to_string);
            printed.is_ok()
        });
        if printed.is_ok() {
            say_where(last.lock().as_ref());
        }
        told.map(|()| printed)
    }
}

/// Runs that, on a thread of its own, when the tool is to end. When nobody reads the output any more it ends without a word,
/// though nothing is written.
fn on_signal(ended: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (mut reads, writes) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writes.try_clone()?)?;
    }
    let wait = move || {
        let output = io::stdout();
        loop {
            let mut watched = [PollFd::new(&reads, PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
            let polled = poll(&mut watched, None);
            let [signal, output] = watched.map(|polled| polled.revents());
            match polled {
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) if signal.is_empty() && output.intersects(PollFlags::ERR | PollFlags::HUP) => {
                    std::process::exit(0);
                }
                // A signal; or the output cannot be watched, so that only signals are.
                _ => break,
            }
        }
        if reads.read_exact(&mut [0]).is_ok() {
            ended();
        }
    };
    std::thread::Builder::new().name("kddmadm-signals".into()).spawn(wait).map(|_| ())
}
