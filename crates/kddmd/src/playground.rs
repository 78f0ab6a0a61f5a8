//! A cluster to play with: daemons on loopback ports of their own choosing, which leave nothing behind.
//!
//! Every daemon's standard input is a pipe from here: however this process ends, kill -9 too, the pipes
//! end with it, and each daemon stops and removes its directory. A command dies with this process.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::Deserialize;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::admin::client::{Client, ClientError};
use crate::admin::protocol;

/// The first argument that makes `kddmadm` one of the daemons.
pub const DAEMON: &str = "playground-daemon";

/// The first argument that makes `kddmadm` the command, tied to the life of the playground.
pub const COMMAND: &str = "playground-command";

/// How long all daemons may take to become members. They share the host with others.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a daemon may take to stop before it is killed, with room above its own limit.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long a command may take to end when it is asked to.
const COMMAND_LIMIT: Duration = Duration::from_secs(5);

/// What to play with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many daemons.
    pub nodes: u16,
    /// What to run in it, if anything.
    pub command: Vec<OsString>,
    /// Say where the daemons are in JSON on standard output; without a command only.
    pub json: bool,
    /// What the daemons log.
    pub log: String,
}

/// Why there is no playground.
#[derive(Debug, thiserror::Error)]
pub enum PlaygroundError {
    /// A daemon did not start.
    #[error("daemon {0} of the playground ended before it was a member; its reason stands above")]
    Daemon(usize),
    /// They took too long.
    #[error("{missing} daemons of the playground were no members after {limit:?}; is this host very busy?")]
    Slow {
        /// How many.
        missing: usize,
        /// The limit.
        limit: Duration,
    },
    /// They do not see each other.
    #[error(transparent)]
    Admin(#[from] ClientError),
    /// A process could not be started.
    #[error("cannot start {what}: {reason}")]
    Start {
        /// Which.
        what: String,
        /// What the system says.
        reason: String,
    },
    /// Asked to end first.
    #[error("ended by a signal before all daemons were members")]
    Interrupted,
}

fn cannot_start(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> PlaygroundError {
    let what = what.into();
    move |error| PlaygroundError::Start { what, reason: error.to_string() }
}

/// What a daemon says when it is a member.
#[derive(Clone, Debug, Deserialize)]
struct Ready {
    node: u16,
    address: String,
    admin: PathBuf,
}

enum Event {
    Ready(usize, Ready),
    DaemonEnded(usize),
    CommandEnded,
    Signal,
}

struct Daemon {
    child: Child,
    dir: PathBuf,
    ready: Option<Ready>,
}

/// All daemons; stops them when it is dropped.
struct Daemons(Vec<Daemon>);

impl Daemons {
    /// The last first: the first decides who is a member.
    fn stop(&mut self) {
        while let Some(mut daemon) = self.0.pop() {
            drop(daemon.child.stdin.take());
            if !ends_within(&mut daemon.child, STOP_LIMIT) {
                eprintln!("kddmadm: daemon {} did not stop and is killed", self.0.len() + 1);
                let _already_dead = daemon.child.kill();
                let _ended = daemon.child.wait();
            }
            // A daemon that was killed could not do it.
            let _already_gone = std::fs::remove_dir_all(&daemon.dir);
        }
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for a child without holding up its signals. False at the limit.
fn ends_within(child: &mut Child, limit: Duration) -> bool {
    let (sender, ended) = channel();
    let id = Pid::from_child(child);
    let watch = move || {
        let _its_end = waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _nobody_waits_any_more = sender.send(());
    };
    if std::thread::Builder::new().spawn(watch).is_err() || ended.recv_timeout(limit).is_err() {
        return false;
    }
    child.wait().is_ok()
}

/// Runs it. The exit status is that of the command; without one, success when it was ended by a signal.
///
/// # Errors
/// Why it could not be.
pub fn run(options: &Options) -> Result<u8, PlaygroundError> {
    let (sender, events) = channel();
    watch_signals(&sender)?;
    let mut daemons = Daemons(Vec::new());
    let first = start(&mut daemons, &sender, options, None)?;
    wait_until_ready(&mut daemons, &events, Instant::now() + START_LIMIT)?;
    let contact = address_of(&daemons, first);
    for _ in 1..options.nodes {
        start(&mut daemons, &sender, options, Some(&contact))?;
    }
    wait_until_ready(&mut daemons, &events, Instant::now() + START_LIMIT)?;
    for daemon in daemons.0.iter().filter_map(|daemon| daemon.ready.as_ref()) {
        let wait = protocol::Command::Wait {
            members: options.nodes.into(),
            limit_ms: START_LIMIT.as_millis().try_into().unwrap_or(u64::MAX),
        };
        Client::new(daemon.admin.clone()).ask(wait)?;
    }
    let status = if options.command.is_empty() {
        tell(&daemons, options);
        wait_for_signal(&events);
        0
    } else {
        run_command(&daemons, &sender, &events, options)?
    };
    daemons.stop();
    Ok(status)
}

fn address_of(daemons: &Daemons, at: usize) -> String {
    daemons.0[at].ready.as_ref().map_or_else(String::new, |ready| ready.address.clone())
}

fn start(
    daemons: &mut Daemons,
    sender: &Sender<Event>,
    options: &Options,
    contact: Option<&str>,
) -> Result<usize, PlaygroundError> {
    let number = daemons.0.len();
    let what = format!("daemon {} of the playground", number + 1);
    let program = std::env::current_exe().map_err(cannot_start(&what))?;
    let dir = directory(number);
    let mut command = Command::new(program);
    command.arg(DAEMON).args(["--child", "--config", "/dev/null", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(&dir).args(["--log", &options.log, "--join-limit-ms", "60000", "--drain-limit-ms", "8000"]);
    match contact {
        Some(contact) => command.args(["--contact", contact]),
        None => command.arg("--found"),
    };
    // Settings of the user's own daemon are not meant for these.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KDDM_") || name == "NOTIFY_SOCKET" {
            command.env_remove(name);
        }
    }
    // A group of their own, so that Ctrl-C comes here only, and they stop in order.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(cannot_start(&what))?;
    let output = child.stdout.take();
    daemons.0.push(Daemon { child, dir, ready: None });
    let sender = sender.clone();
    let listen = move || {
        for line in output.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
            if let Ok(ready) = serde_json::from_str(&line) {
                let _main_may_have_left = sender.send(Event::Ready(number, ready));
            }
        }
        let _main_may_have_left = sender.send(Event::DaemonEnded(number));
    };
    std::thread::Builder::new().spawn(listen).map_err(cannot_start("a thread"))?;
    Ok(number)
}

/// A directory that nobody has: made by the daemon, and removed by it.
fn directory(number: usize) -> PathBuf {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let name = format!("kddm-playground-{}-{}-{:x}", std::process::id(), number + 1, now.subsec_nanos());
    let base = std::env::temp_dir();
    // A socket's path is at most 107 bytes.
    let base = if base.as_os_str().len() > 40 { PathBuf::from("/tmp") } else { base };
    base.join(name)
}

fn wait_until_ready(daemons: &mut Daemons, events: &Receiver<Event>, deadline: Instant) -> Result<(), PlaygroundError> {
    loop {
        let missing = daemons.0.iter().filter(|daemon| daemon.ready.is_none()).count();
        if missing == 0 {
            return Ok(());
        }
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Ready(number, ready)) => daemons.0[number].ready = Some(ready),
            Ok(Event::DaemonEnded(number)) => return Err(PlaygroundError::Daemon(number + 1)),
            Ok(Event::Signal) => return Err(PlaygroundError::Interrupted),
            Ok(Event::CommandEnded) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(PlaygroundError::Slow { missing, limit: START_LIMIT });
            }
        }
    }
}

fn tell(daemons: &Daemons, options: &Options) {
    let ready: Vec<(u32, &Ready)> =
        daemons.0.iter().filter_map(|daemon| Some((daemon.child.id(), daemon.ready.as_ref()?))).collect();
    if options.json {
        let nodes: Vec<_> = ready
            .iter()
            .map(|(pid, ready)| json!({"id": ready.node, "address": ready.address, "admin": ready.admin, "pid": pid}))
            .collect();
        println!("{}", json!({ "nodes": nodes }));
    }
    for (pid, ready) in &ready {
        eprintln!("node {} on {}, process {pid}, admin socket {}", ready.node, ready.address, ready.admin.display());
    }
    if let Some((_, first)) = ready.first() {
        eprintln!("\nexport KDDM_CONTACT={} KDDM_ADMIN={}", first.address, first.admin.display());
        eprintln!("Ctrl-C stops all of it.");
    }
}

/// Until somebody asks for the end. A daemon that ends meanwhile is part of the game, and told.
fn wait_for_signal(events: &Receiver<Event>) {
    while let Ok(event) = events.recv() {
        match event {
            Event::Signal => return,
            Event::DaemonEnded(number) => eprintln!("kddmadm: daemon {} has ended", number + 1),
            Event::Ready(..) | Event::CommandEnded => {}
        }
    }
}

fn run_command(
    daemons: &Daemons,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
    options: &Options,
) -> Result<u8, PlaygroundError> {
    let what = options.command[0].to_string_lossy().into_owned();
    let program = std::env::current_exe().map_err(cannot_start(&what))?;
    let mut command = Command::new(program);
    command.arg(COMMAND).arg(std::process::id().to_string()).args(&options.command);
    if let Some(first) = daemons.0.first().and_then(|daemon| daemon.ready.as_ref()) {
        command.env("KDDM_CONTACT", &first.address).env("KDDM_ADMIN", &first.admin);
    }
    let mut child = command.spawn().map_err(cannot_start(&what))?;
    let (id, sender) = (Pid::from_child(&child), sender.clone());
    let watch = move || {
        // Not reaped here: as long as it is not, a signal cannot meet another process.
        let _its_end = waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _main_may_have_left = sender.send(Event::CommandEnded);
    };
    std::thread::Builder::new().spawn(watch).map_err(cannot_start("a thread"))?;
    let mut ask_until: Option<Instant> = None;
    loop {
        let left = ask_until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        match events.recv_timeout(left.min(Duration::from_secs(3600))) {
            Ok(Event::CommandEnded) => break,
            Ok(Event::Signal) if ask_until.is_none() => {
                ask_until = Some(Instant::now() + COMMAND_LIMIT);
                let _already_dead = kill_process(id, Signal::TERM);
            }
            Ok(Event::Signal) => {
                let _already_dead = kill_process(id, Signal::KILL);
            }
            Ok(Event::DaemonEnded(number)) => eprintln!("kddmadm: daemon {} has ended", number + 1),
            Ok(Event::Ready(..)) => {}
            Err(_) if ask_until.is_some_and(|until| Instant::now() >= until) => {
                let _already_dead = kill_process(id, Signal::KILL);
                ask_until = Some(Instant::now() + COMMAND_LIMIT);
            }
            Err(_) => {}
        }
    }
    child.wait().map(code_of).map_err(cannot_start(&what))
}

/// As a shell says it.
fn code_of(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.try_into().unwrap_or(1),
        (None, Some(signal)) => (128 + signal).try_into().unwrap_or(1),
        (None, None) => 1,
    }
}

fn watch_signals(sender: &Sender<Event>) -> Result<(), PlaygroundError> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let (mut reads, writes) = UnixStream::pair().map_err(cannot_start("to watch for signals"))?;
        signal_hook::low_level::pipe::register(signal, writes).map_err(cannot_start("to watch for signals"))?;
        let sender = sender.clone();
        let watch = move || {
            while reads.read_exact(&mut [0]).is_ok() && sender.send(Event::Signal).is_ok() {}
        };
        std::thread::Builder::new().spawn(watch).map_err(cannot_start("a thread"))?;
    }
    Ok(())
}

/// In the process that is to be the command: ties its life to the playground's, and becomes it. Returns
/// only if that fails, with the exit status.
pub fn become_command(mut arguments: impl Iterator<Item = OsString>) -> u8 {
    let playground = arguments.next().and_then(|text| text.to_str()?.parse::<i32>().ok());
    let Some(program) = arguments.next() else { return 2 };
    let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
    if tied.is_err() || parent != playground {
        eprintln!("kddmadm: the playground has ended before its command began");
        return 1;
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("kddmadm: cannot run {}: {error}; is the name right?", program.to_string_lossy());
    if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
}
