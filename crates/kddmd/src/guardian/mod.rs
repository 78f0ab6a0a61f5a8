//! The guardian of a host: a small process of its own, so that it outlives the nodes that it watches. A
//! node registers over a Unix socket; which process that is, the kernel says. When the kernel says that
//! this process is gone, the members of the node's cluster are told, and need not wait for a lease.
//!
//! The end of a connection proves nothing, not even that of the socket by which a node has registered:
//! only the process counts.

mod peer;
mod tell;
mod watch;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use kddm::Address;
use kddm::guardian::{Heard, Life, WORD_LIMIT};
use kddm::transport::{Listener, Stream, greeting};
use parking_lot::Mutex;

/// Sockets that are served at one time, each of a node or of who wants to be one: more nodes than anybody
/// runs on one host. A thread is spent on each.
const REGISTRATIONS: usize = 256;

/// How long nothing is accepted after the system could not: it mostly says so again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often trouble of one kind is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Watches the processes of the nodes of this host, and tells the members of their clusters when one ends.
#[derive(Debug, Parser)]
#[command(name = "kddm-guardian", version)]
pub struct Arguments {
    /// Where nodes register [default: KDDM_GUARDIAN, else guardian.sock in KDDM_DATA_DIR or in the
    /// directory of a daemon that is given none].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// Who is watched. A life that registers again, or a later one of a node in the same process, is watched by the
/// thread of its new socket alone.
#[derive(Default)]
struct Watched {
    /// Each with its process, and with what wakes its thread.
    lives: Mutex<HashMap<Life, (i32, Arc<OwnedFd>)>>,
    /// Sockets that are served.
    served: Mutex<usize>,
}

/// One of the sockets that are served.
struct Place(Arc<Watched>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.served.lock() -= 1;
    }
}

impl Watched {
    fn place(self: &Arc<Watched>) -> Option<Place> {
        let mut served = self.served.lock();
        if *served >= REGISTRATIONS {
            return None;
        }
        *served += 1;
        Some(Place(Arc::clone(self)))
    }
}

/// Runs a guardian until a signal ends it.
pub fn main(arguments: Arguments) -> ExitCode {
    // Its socket is its own user's.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("kddm-guardian: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    crate::daemon::start_log(&arguments.log).map_err(|error| error.to_string())?;
    let none = "neither HOME nor XDG_STATE_HOME is set; name its socket with --socket";
    let socket = arguments.socket.clone().or_else(kddm::default_guardian).ok_or(none)?;
    let socket = std::path::absolute(&socket).map_err(|error| format!("{}: {error}", socket.display()))?;
    if let Some(folder) = socket.parent() {
        let made = std::fs::create_dir_all(folder);
        made.map_err(|error| format!("cannot make {}: {error}; name a socket with --socket", folder.display()))?;
    }
    let cannot = |reason| format!("cannot listen on {}: {reason}; name a socket with --socket", socket.display());
    let listener = Listener::bind(&Address::Unix(socket.clone()), false).map_err(cannot)?;
    tracing::info!(socket = %socket.display(), "watching the nodes that register here");
    crate::notify::ServiceManager::from_environment().tell("READY=1");
    serve(&listener);
    Ok(())
}

fn serve(listener: &Listener) {
    let watched = Arc::new(Watched::default());
    let mut reported: Option<Instant> = None;
    loop {
        let stream = match listener.accept() {
            Ok(Some(stream)) => stream,
            Ok(None) => return,
            Err(error) => {
                report(&mut reported, &format!("a socket could not be accepted: {error}"));
                std::thread::park_timeout(ACCEPT_PAUSE);
                continue;
            }
        };
        let Some(place) = watched.place() else {
            report(&mut reported, &format!("{REGISTRATIONS} nodes are watched, which is the most; one was refused"));
            refuse(&stream);
            continue;
        };
        let serve = move || watch::serve(&stream, &place.0);
        if let Err(error) = std::thread::Builder::new().name("guardian-watch".into()).spawn(serve) {
            report(&mut reported, &format!("no thread to watch a node with: {error}"));
        }
    }
}

fn report(reported: &mut Option<Instant>, trouble: &str) {
    if reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
        tracing::warn!("{trouble}");
        *reported = Some(Instant::now());
    }
}

fn refuse(stream: &Stream) {
    let answer = Heard::No(format!("this guardian watches {REGISTRATIONS} nodes, which is the most"));
    let _it_may_be_gone = stream.set_limit(Some(WORD_LIMIT)).and_then(|()| greeting::send(stream, &answer));
}
