//! The hosts of a run, each with a daemon and a guardian. All processes are started by one thread, and die
//! with it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::network::{Network, address};
use crate::world::Folder;

/// The port of all daemons; each host has an address of its own.
const PORT: u16 = 7600;

/// What fits on the disk of a host: what a daemon keeps, above all what is decided about members.
const DISK: &str = "16m";

/// How long a daemon may take until it is a member, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a daemon that is asked to stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The longest pause between looks at a process.
const LOOK: Duration = Duration::from_millis(5);

/// A daemon process, from its start to its end.
struct Daemon {
    child: Child,
    /// It has said that it is a member.
    is_member: Arc<AtomicBool>,
}

/// One host.
pub struct Host {
    number: u16,
    namespace: String,
    disk: PathBuf,
    log: PathBuf,
    guardian: Child,
    daemon: Option<Daemon>,
    /// How far its monotonic clock is from that of this program.
    clock_offset: Duration,
    /// Lives that ended before they were members.
    pub failed_starts: u64,
    /// Lives that ended by themselves after they were members.
    pub own_ends: u64,
}

/// How the programs of a host are started.
pub struct Programs {
    /// Where `kddmd` and `kddm-guardian` are.
    pub folder: PathBuf,
    /// Where their logs go.
    pub logs: PathBuf,
    /// How many hosts there are.
    pub hosts: u16,
    /// The lease of their cluster.
    pub lease: Duration,
}

impl Programs {
    /// A command in the namespace of a host, which dies with this thread.
    fn command(&self, host: &str, clock_offset: Duration, program: &str) -> Command {
        let seconds = clock_offset.as_secs().to_string();
        let mut command = Command::new("unshare");
        command.args(["--time", "--monotonic", &seconds, "--boottime", &seconds, "--"]);
        command.args(["ip", "netns", "exec", host, "setpriv", "--pdeathsig", "KILL", "--"]);
        command.arg(self.folder.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KDDM_") || name == "NOTIFY_SOCKET" {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::piped());
        // Ctrl-C is for this program alone.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    fn log(path: &Path) -> Result<File, String> {
        let file = File::options().create(true).append(true).open(path);
        file.map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

impl Host {
    /// Makes a host with a guardian and without a daemon.
    ///
    /// # Errors
    /// What the system does not do.
    pub fn make(number: u16, network: &Network, folder: &Folder, programs: &Programs) -> Result<Host, String> {
        let (namespace, disk) = (network.host(number), folder.disk(&number.to_string(), DISK)?);
        let log = programs.logs.join(format!("node-{number}.log"));
        let mut command = programs.command(&namespace, Duration::ZERO, "kddm-guardian");
        let socket = disk.join("guardian.sock");
        command.arg("--socket").arg(&socket);
        command.stderr(Programs::log(&programs.logs.join(format!("guardian-{number}.log")))?).stdout(Stdio::null());
        let guardian = command.spawn().map_err(|error| format!("cannot start a guardian: {error}"))?;
        let clock_offset = Duration::ZERO;
        let mut host =
            Host { number, namespace, disk, log, guardian, daemon: None, clock_offset, failed_starts: 0, own_ends: 0 };
        host.wait_for_guardian(&socket)?;
        Ok(host)
    }

    /// A daemon that is killed before it is watched would be no proof of anything.
    fn wait_for_guardian(&mut self, socket: &Path) -> Result<(), String> {
        let begun = Instant::now();
        while !socket.exists() {
            if matches!(self.guardian.try_wait(), Ok(Some(_))) || begun.elapsed() >= START_LIMIT {
                return Err(format!("the guardian of host {} does not listen, its log says why", self.number));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Its number, which is that of its node.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The process of its guardian, and that of its daemon if it has one.
    pub fn processes(&self) -> (u32, Option<u32>) {
        (self.guardian.id(), self.daemon.as_ref().map(|daemon| daemon.child.id()))
    }

    /// Where programs attach to its daemon.
    pub fn attach_socket(&self) -> PathBuf {
        kddm::attach_socket(&self.data_dir())
    }

    /// The data directory of its daemon, on the host's own disk.
    pub fn data_dir(&self) -> PathBuf {
        self.disk.join("data")
    }

    /// The disk.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// The next daemon has a monotonic clock that is so far ahead.
    pub fn set_clock_offset(&mut self, offset: Duration) {
        self.clock_offset = offset;
    }

    /// Starts its daemon, without waiting until it is a member.
    ///
    /// # Errors
    /// What the system does not do.
    pub fn start(&mut self, programs: &Programs) -> Result<(), String> {
        let contacts: Vec<String> = (1..=programs.hosts).map(|host| format!("{}:{PORT}", address(host))).collect();
        let number = self.number.to_string();
        let mut command = programs.command(&self.namespace, self.clock_offset, "kddmd");
        command.args(["--child", "--keep", "--config", "/dev/null", "--insecure", "--node-id", &number]);
        command.args(["--lease-ms", &programs.lease.as_millis().to_string()]);
        command.args(["--listen", &format!("{}:{PORT}", address(self.number)), "--contact", &contacts.join(",")]);
        command.arg("--data-dir").arg(self.data_dir()).arg("--guardian").arg(self.disk.join("guardian.sock"));
        command.args(["--join-limit-ms", "20000", "--drain-limit-ms", "10000"]);
        command.stdout(Stdio::piped()).stderr(Programs::log(&self.log)?);
        let mut child = command.spawn().map_err(|error| format!("cannot start kddmd: {error}"))?;
        let is_member = Arc::new(AtomicBool::new(false));
        if let Some(output) = child.stdout.take() {
            let is_member = Arc::clone(&is_member);
            std::thread::spawn(move || {
                for _line in BufReader::new(output).lines().map_while(Result::ok) {
                    is_member.store(true, Ordering::Release);
                }
            });
        }
        self.daemon = Some(Daemon { child, is_member });
        Ok(())
    }

    /// Whether its daemon is a member, as far as it has said.
    pub fn is_member(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.is_member.load(Ordering::Acquire))
    }

    /// Whether a daemon process runs. One that has ended by itself is counted and forgotten.
    pub fn has_daemon(&mut self) -> bool {
        let Some(daemon) = &mut self.daemon else { return false };
        if matches!(daemon.child.try_wait(), Ok(Some(_))) {
            let was_member = daemon.is_member.load(Ordering::Acquire);
            *(if was_member { &mut self.own_ends } else { &mut self.failed_starts }) += 1;
            self.daemon = None;
        }
        self.daemon.is_some()
    }

    /// Waits until its daemon is a member.
    ///
    /// # Errors
    /// It has ended, or takes too long.
    pub fn wait_until_member(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while !self.is_member() {
            if !self.has_daemon() {
                return Err(format!("the daemon of host {} has ended, see {}", self.number, self.log.display()));
            }
            if begun.elapsed() >= START_LIMIT {
                return Err(format!("the daemon of host {} is no member after {START_LIMIT:?}", self.number));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let Some(daemon) = &self.daemon else { return Err(format!("host {} has no daemon", self.number)) };
        kill_process(Pid::from_child(&daemon.child), signal).map_err(|error| format!("cannot signal kddmd: {error}"))
    }

    /// kill -9.
    ///
    /// # Errors
    /// There is no daemon.
    pub fn kill(&mut self) -> Result<(), String> {
        self.signal(Signal::KILL)?;
        let ended = self.daemon.take().map(|mut daemon| daemon.child.wait());
        ended.transpose().map(|_| ()).map_err(|error| format!("a killed daemon does not end: {error}"))
    }

    /// Stops its daemon where it is.
    ///
    /// # Errors
    /// There is no daemon, or it goes on.
    pub fn pause(&self) -> Result<(), String> {
        self.signal(Signal::STOP)?;
        let begun = Instant::now();
        while self.state() != Some('T') {
            if begun.elapsed() >= START_LIMIT {
                return Err(format!("the daemon of host {} does not stop on SIGSTOP", self.number));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// What the kernel says that its daemon does.
    fn state(&self) -> Option<char> {
        let id = self.daemon.as_ref()?.child.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        status.rsplit_once(") ")?.1.chars().next()
    }

    /// Has it go on.
    ///
    /// # Errors
    /// There is no daemon.
    pub fn go_on(&self) -> Result<(), String> {
        self.signal(Signal::CONT)
    }

    /// A clean stop: it hands over what it has, and leaves.
    ///
    /// # Errors
    /// There is no daemon, or it does not end in time.
    pub fn stop(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM)?;
        let begun = Instant::now();
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        while matches!(daemon.child.try_wait(), Ok(None)) {
            if begun.elapsed() >= STOP_LIMIT {
                let _already_dead = daemon.child.kill();
                let _ended = daemon.child.wait();
                return Err(format!("the daemon of host {} did not stop within {STOP_LIMIT:?}", self.number));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in self.daemon.iter_mut().map(|daemon| &mut daemon.child).chain([&mut self.guardian]) {
            let _already_dead = child.kill();
            let _ended = child.wait();
        }
    }
}
