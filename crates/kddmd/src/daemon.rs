//! The daemon: a node, kept by a process of its own, from its start to its clean end.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clap::Parser;
use kddm::{LogSource, Node, default_data_dir};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::admin::answer::{Shown, Subject};
use crate::admin::server;
use crate::config::{ConfigError, Layer, Settings, Source};
use crate::data_dir::{DataDir, DataDirError, Sync, admin_socket};
use crate::ending::{self, End};
use crate::http;
use crate::joining::{self, Past};
use crate::life::{Around, Life};
use crate::notify::ServiceManager;

/// The variable in which a daemon tells itself, when it begins again, whom to ask for admission.
const REJOIN: &str = "KDDM_REJOIN";

/// Why a daemon stops that was started as a child of another program.
const PARENT_ENDED: &str = "its parent has ended";

/// What is said of a daemon that ends because all do.
const CLUSTER_ENDS: &str = "all daemons are told to end";

/// How much longer than handing over the rest of a stop may take.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// How often a stop says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

/// The KDDM daemon: a node of a cluster, for programs and tools on this host.
#[derive(Debug, Parser)]
#[command(name = "kddmd", version)]
pub struct Arguments {
    /// The settings file [default: KDDM_CONFIG, else /etc/kddm/kddmd.toml for root, else ~/.config/kddm/kddmd.toml, if it exists].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub settings: Layer,
    /// Say where it listens in a line of JSON on standard output, stop when standard input ends, and
    /// leave no data directory behind.
    #[arg(long, hide = true)]
    pub child: bool,
    /// With --child: the data directory stays, with all that a daemon keeps for its next start.
    #[arg(long, hide = true, requires = "child")]
    pub keep: bool,
    /// Where the log of views is kept, if not in data directories: for programs that are daemons with such a log.
    #[arg(skip)]
    pub view_log_in: Option<Arc<dyn LogSource>>,
}

impl Arguments {
    fn leaves_nothing(&self) -> bool {
        self.child && !self.keep
    }
}

/// Why a daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The settings do not work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory is of no use.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The node did not start.
    #[error("{0}")]
    Node(String),
    /// The system refused something.
    #[error("cannot {what}: {reason}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        reason: String,
    },
    /// A stop was asked for first.
    #[error("stopped before the node was a member")]
    Interrupted,
}

pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> DaemonError {
    let what = what.into();
    move |error| DaemonError::System { what, reason: error.to_string() }
}

/// Runs a daemon until it is stopped, and says on standard error why it could not.
pub fn main(arguments: Arguments) -> ExitCode {
    // Files and sockets of a daemon are its own user's.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(DaemonError::Interrupted) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kddmd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn default_config_file() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some("/etc/kddm/kddmd.toml".into());
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")))?;
    Some(folder.join("kddm/kddmd.toml"))
}

fn settings(arguments: &Arguments) -> Result<Settings, ConfigError> {
    let variable = std::env::var_os("KDDM_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    let file = match arguments.config.as_ref().or(variable.as_ref()) {
        Some(path) => Layer::from_file(path)?,
        None => match default_config_file().filter(|path| path.exists()) {
            Some(path) => Layer::from_file(&path)?,
            None => Layer::default(),
        },
    };
    let mut flags = arguments.settings.clone();
    if let Ok(members) = std::env::var(REJOIN) {
        flags.found = Some(false);
        flags.contacts = Some(members.split(',').map(String::from).collect());
    }
    let environment = Layer::from_environment(|name| std::env::var(name).ok())?;
    arguments.settings.check(&Source::Flags)?;
    Settings::resolve(flags.over(environment).over(file), default_data_dir())
}

pub(crate) fn start_log(filter: &str) -> Result<(), DaemonError> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| {
        DaemonError::Node(format!("the log filter `{filter}`: {error}; write for example info, or kddm=debug,info"))
    })?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    // A test may have one already.
    let _set_before = subscriber.try_init();
    Ok(())
}

/// What happens to a daemon. Some of it to one life of its node.
pub(crate) enum Event {
    /// A member now, or why not.
    Joined(Result<Node, String>),
    /// A signal, or the end of standard input, asks for the end.
    Stop(&'static str),
    /// The node has stopped.
    Stopped,
    /// Others have come or gone.
    Members,
    /// The node is no member any more: it hears so at every end, asked for or not.
    Out(u64),
    /// The node uses nothing of what it held any more; the process may join again.
    Fenced(u64),
    /// It has joined again, or is not to any more.
    Back(Option<Node>),
}

fn run(arguments: Arguments) -> Result<(), DaemonError> {
    let started = Instant::now();
    let settings = settings(&arguments)?;
    start_log(&settings.log)?;
    let data_dir = DataDir::open(&settings.data_dir, if arguments.leaves_nothing() { Sync::No } else { Sync::Yes })?;
    let result = serve(&arguments, &settings, &data_dir, started);
    let _already_gone = std::fs::remove_file(admin_socket(data_dir.path()));
    if arguments.leaves_nothing() {
        data_dir.remove();
    }
    result
}

fn serve(arguments: &Arguments, settings: &Settings, data_dir: &DataDir, started: Instant) -> Result<(), DaemonError> {
    let manager = ServiceManager::from_environment();
    let (sender, events) = channel();
    watch_signals(&sender)?;
    if arguments.child {
        watch_standard_input(&sender)?;
    }
    let past = past(arguments, settings, data_dir)?;
    let keeps_log = past.view_log.is_some();
    let (joins, its_settings) = (sender.clone(), settings.clone());
    let is_wanted = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&is_wanted);
    let join = move || {
        let joined = joining::join(&its_settings, &past, &still);
        let _main_may_have_left = joins.send(Event::Joined(joined));
    };
    std::thread::Builder::new().name("kddmd-join".into()).spawn(join).map_err(system("start a thread"))?;
    manager.tell("STATUS=Joining");
    let node = wait_for_node(&events, &is_wanted)?;
    let mut subject = Subject::new(node.clone(), started, settings.drain_limit);
    subject.end = ends_all(&subject, &sender);
    let (is_stopping, end) = (Arc::clone(&subject.is_stopping), Arc::clone(&subject.end));
    let around = Around { data_dir, sender: &sender, end };
    let mut life = Life::begin(node, 1, &around)?;
    let shown = Shown::new(subject);
    let socket = admin_socket(data_dir.path());
    let listens = server::listen(&socket, shown.clone());
    listens.map_err(system(format!("listen on {}", socket.display()))).inspect_err(|_| life.node.stop())?;
    let http = settings.http.as_ref().map(|address| http::listen(address, shown.clone()));
    let http = http.transpose().map_err(DaemonError::Node).inspect_err(|_| life.node.stop())?;
    let place = tell_place(settings, &life.node, http.as_ref());
    if arguments.child {
        let node = &life.node;
        let news = json!({"node": node.id(), "address": node.address().to_string(), "admin": socket,
                          "http": http.as_ref().map(ToString::to_string)});
        let mut output = io::stdout().lock();
        let _parent_may_be_gone = writeln!(output, "{news}").and_then(|()| output.flush());
    }
    manager.tell(&format!("READY=1\nSTATUS={place}"));
    let http = http.as_ref();
    let daily =
        Daily { settings, around, events: &events, shown, manager: &manager, is_wanted, is_stopping, keeps_log, http };
    let Some(why) = daily.until_stop(&mut life)? else { return Ok(()) };
    stop(&life.node, &events, sender.clone(), why, settings.drain_limit, &manager)
}

/// A daemon between its start and its stop.
struct Daily<'a> {
    settings: &'a Settings,
    around: Around<'a>,
    events: &'a Receiver<Event>,
    shown: Shown,
    manager: &'a ServiceManager,
    /// That it comes back.
    is_wanted: Arc<AtomicBool>,
    is_stopping: Arc<AtomicBool>,
    keeps_log: bool,
    http: Option<&'a kddm::Address>,
}

impl Daily<'_> {
    /// From life to life, until a stop is asked for: why. Nothing if no life is there that could be stopped.
    fn until_stop(&self, life: &mut Life) -> Result<Option<&'static str>, DaemonError> {
        // Until it is back.
        let mut is_away = false;
        let why = loop {
            match self.events.recv() {
                Ok(Event::Stop(why)) => break why,
                Ok(Event::Members) => life.keep_members(self.around.data_dir),
                // All daemons are about to end: whoever decides may be gone already.
                Ok(Event::Fenced(_) | Event::Out(_)) if self.is_stopping.load(Ordering::Acquire) => {}
                Ok(Event::Fenced(number)) if number == life.number => {
                    if !life.can_come_back(self.keeps_log) {
                        return Err(begin_again(&life.node));
                    }
                    tracing::warn!("its lease is over: this node joins again, with what it owned");
                    self.manager.tell("STATUS=Its lease is over, joining again");
                    is_away = true;
                    life.come_back(self.around.sender, &self.is_wanted)?;
                }
                Ok(Event::Out(number)) if number == life.number && !is_away => {
                    let text = "this node is no member any more, see the log above; look who has its number, then \
                                start it again";
                    return Err(DaemonError::Node(text.into()));
                }
                Ok(Event::Back(Some(node))) => {
                    *life = Life::begin(node, life.number + 1, &self.around)?;
                    self.shown.change(|subject| {
                        subject.freezes.end();
                        subject.node = life.node.clone();
                    });
                    is_away = false;
                    self.manager.tell(&format!("STATUS={}", tell_place(self.settings, &life.node, self.http)));
                }
                Ok(_) => {}
                Err(_) => break "nobody is left to ask for it",
            }
        };
        self.is_stopping.store(true, Ordering::Release);
        self.shown.now().freezes.end();
        if !is_away {
            return Ok(Some(why));
        }
        tracing::info!(why, "stopping as soon as it is decided whether this node is back");
        self.is_wanted.store(false, Ordering::Release);
        let came = wait_until_back(self.events)?;
        Ok(came.map(|node| {
            life.node = node;
            why
        }))
    }
}

/// Says where the node is to be found, in the log, and in words.
fn tell_place(settings: &Settings, node: &Node, http: Option<&kddm::Address>) -> String {
    tracing::info!(
        node = node.id(),
        address = %node.address(),
        members = node.members().len(),
        session = settings.session,
        data_dir = %settings.data_dir.display(),
        http = http.map_or("off".into(), ToString::to_string),
        "this node shares objects"
    );
    let metrics = http.map(|address| format!(", metrics on {address}")).unwrap_or_default();
    format!("Node {} of session {} on {}{metrics}", node.id(), settings.session, node.address())
}

/// Ends this daemon with all others.
fn ends_all(subject: &Subject, sender: &Sender<Event>) -> End {
    let (ends, stops) = (sender.clone(), Arc::clone(&subject.is_stopping));
    Arc::new(move || {
        stops.store(true, Ordering::Release);
        let _main_may_have_left = ends.send(Event::Stop(CLUSTER_ENDS));
    })
}

/// What is known of the lives of this daemon's node before this one.
fn past(arguments: &Arguments, settings: &Settings, data_dir: &DataDir) -> Result<Past, DataDirError> {
    let is_new = data_dir.is_new();
    if settings.found || is_new {
        // It is of another cluster, or of a node that was never let in.
        data_dir.put_view_log_aside()?;
    }
    Ok(Past {
        node_id: data_dir.node_id(settings.node_id)?,
        is_new,
        members: data_dir.members(),
        view_log: (!arguments.leaves_nothing()).then(|| data_dir.view_log()),
        has_log: !arguments.leaves_nothing() && arguments.view_log_in.is_none() && data_dir.has_view_log(),
        view_log_in: arguments.view_log_in.clone(),
        rejoins: std::env::var_os(REJOIN).is_some(),
    })
}

/// Executes this program again in its own place, so that nothing of the life that has ended is left: where it cannot
/// come back in this process. It returns only if that failed.
fn begin_again(node: &Node) -> DaemonError {
    let others = node.members().into_iter().filter(|member| member.id != node.id());
    let members: Vec<String> = others.map(|member| member.address).collect();
    let lease = node.lease().length;
    tracing::warn!(?lease, "this node's lease is over: it joins again as a new life when the others know");
    // By then whoever decides has waited for this life to end, and its number is free.
    std::thread::sleep(2 * lease);
    let failed = match std::env::current_exe() {
        Ok(program) => {
            let mut again = std::process::Command::new(program);
            again.args(std::env::args_os().skip(1)).env(REJOIN, members.join(","));
            std::os::unix::process::CommandExt::exec(&mut again)
        }
        Err(error) => error,
    };
    DaemonError::System { what: "begin again after the lease ended".into(), reason: failed.to_string() }
}

/// Waits for the node. If a stop is asked for meanwhile, what has been begun is ended first, so that no
/// member is left behind; a second request ends the process at once.
fn wait_for_node(events: &Receiver<Event>, is_wanted: &AtomicBool) -> Result<Node, DaemonError> {
    match events.recv() {
        Ok(Event::Joined(joined)) => return joined.map_err(DaemonError::Node),
        Ok(Event::Stop(why)) => tracing::info!(why, "stopping as soon as the admission is decided"),
        _ => return Err(DaemonError::Interrupted),
    }
    is_wanted.store(false, Ordering::Release);
    if let Ok(Event::Joined(Ok(node))) = events.recv() {
        node.stop();
    }
    Err(DaemonError::Interrupted)
}

/// Waits for what an attempt to come back comes to; a second request ends the process at once.
fn wait_until_back(events: &Receiver<Event>) -> Result<Option<Node>, DaemonError> {
    loop {
        match events.recv() {
            Ok(Event::Back(came)) => return Ok(came),
            Ok(Event::Stop(why)) => {
                let text =
                    format!("a second request to stop ({why}) ended it at once, while its node was on its way back");
                return Err(DaemonError::Node(text));
            }
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
    }
}

/// The clean end, with its progress told, up to a limit. A second request ends it at once.
fn stop(
    node: &Node,
    events: &Receiver<Event>,
    sender: Sender<Event>,
    why: &str,
    limit: Duration,
    manager: &ServiceManager,
) -> Result<(), DaemonError> {
    tracing::info!(why, limit_seconds = limit.as_secs(), "stopping; a second signal ends at once");
    manager.tell("STOPPING=1\nSTATUS=Handing over");
    let (begun, leaving) = (Instant::now(), node.clone());
    // With whoever started this daemon the whole cluster ends, or has been told to: nobody is there to hand over to.
    let ends_with_all = why == PARENT_ENDED || why == CLUSTER_ENDS;
    let drain = if ends_with_all { Duration::ZERO } else { limit };
    if !ends_with_all {
        ending::tell_if_last(node);
    }
    let leave = move || {
        leaving.stop_within(drain);
        let _main_may_have_left = sender.send(Event::Stopped);
    };
    std::thread::Builder::new().name("kddmd-stop".into()).spawn(leave).map_err(system("start a thread"))?;
    let mut next = begun + PROGRESS;
    loop {
        match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Event::Stopped) => {
                tracing::info!(seconds = begun.elapsed().as_secs_f64(), "stopped");
                return Ok(());
            }
            Ok(Event::Stop(why)) => {
                let text =
                    format!("a second request to stop ({why}) ended it at once; what was not handed over is lost");
                return Err(DaemonError::Node(text));
            }
            Ok(Event::Joined(_) | Event::Back(_) | Event::Out(_) | Event::Fenced(_) | Event::Members) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if begun.elapsed() >= limit + STOP_MARGIN => {
                let text = format!("not stopped after {limit:?}, the limit of a clean stop; ended all the same");
                return Err(DaemonError::Node(text));
            }
            Err(RecvTimeoutError::Timeout) => {
                let objects = node.left_to_hand_over();
                let seconds = begun.elapsed().as_secs();
                tracing::info!(objects, seconds, "still handing over");
                manager.tell(&format!("STATUS=Handing over, {objects} objects left, for {seconds} s"));
                next += PROGRESS;
            }
        }
    }
}

/// SIGTERM and SIGINT ask for a clean end. SIGHUP does too, unless it is ignored (nohup): nothing is
/// read again, and a daemon that was started from a terminal ends with it.
fn watch_signals(sender: &Sender<Event>) -> Result<(), DaemonError> {
    let signals = [(SIGTERM, "SIGTERM"), (SIGINT, "SIGINT"), (SIGHUP, "SIGHUP")];
    for (signal, name) in signals.into_iter().filter(|(signal, _)| *signal != SIGHUP || !ignores_hangup()) {
        let (mut reads, writes) = UnixStream::pair().map_err(system("watch for signals"))?;
        signal_hook::low_level::pipe::register(signal, writes).map_err(system("watch for signals"))?;
        let sender = sender.clone();
        let watch = move || {
            while reads.read_exact(&mut [0]).is_ok() && sender.send(Event::Stop(name)).is_ok() {}
        };
        std::thread::Builder::new().name("kddmd-signal".into()).spawn(watch).map_err(system("start a thread"))?;
    }
    Ok(())
}

fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ignored & (1 << (SIGHUP - 1)) != 0
}

/// Who started this daemon holds the other end of its standard input: however that process ends, the
/// input ends with it.
fn watch_standard_input(sender: &Sender<Event>) -> Result<(), DaemonError> {
    let sender = sender.clone();
    let watch = move || {
        let _until_it_ends = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _main_may_have_left = sender.send(Event::Stop(PARENT_ENDED));
    };
    std::thread::Builder::new().name("kddmd-parent".into()).spawn(watch).map_err(system("start a thread"))?;
    Ok(())
}
