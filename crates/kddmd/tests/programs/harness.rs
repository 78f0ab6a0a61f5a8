//! Daemons, tools, and what they leave behind.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

/// Nothing here takes a second on an idle host; hosts are not always idle.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The lease of a test that is about something else.
const UNHURRIED_MS: &str = "15000";

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// A folder for one test; its path is in the environment of all that the test starts.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kddm-test-{}-{number}.", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder can be made");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file can be written");
        path
    }

    /// A program that knows of this folder and of no settings of the user's.
    pub fn program(&self, path: &str) -> Command {
        let mut command = Command::new(path);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KDDM_") {
                command.env_remove(name);
            }
        }
        command.env("TMPDIR", &self.0).env("HOME", &self.0).env_remove("XDG_STATE_HOME").stdin(Stdio::null());
        command
    }

    pub fn kddmd(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_kddmd"));
        command.arg("--data-dir").arg(self.0.join(name));
        if !arguments.contains(&"--config") {
            command.args(["--config", "/dev/null"]);
        }
        command.args(arguments);
        command
    }

    pub fn kddmadm(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_kddmadm"));
        command.args(arguments);
        command
    }

    /// Processes that were started with this folder in their environment.
    pub fn processes(&self) -> Vec<String> {
        let mark = format!("TMPDIR={}", self.0.display());
        let is_ours = |folder: &Path| {
            let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|pair| pair == mark.as_bytes())
        };
        let folders = std::fs::read_dir("/proc").expect("there is /proc").flatten().map(|entry| entry.path());
        folders
            .filter(|folder| is_ours(folder))
            .map(|folder| std::fs::read_to_string(folder.join("cmdline")).unwrap_or_default().replace('\0', " "))
            .collect()
    }

    pub fn entries(&self) -> Vec<PathBuf> {
        std::fs::read_dir(&self.0).expect("it is there").flatten().map(|entry| entry.path()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _leave_it_then = std::fs::remove_dir_all(&self.0);
    }
}

/// A daemon that is a member. Killed when it is dropped.
pub struct Daemon {
    pub child: Child,
    pub dir: PathBuf,
    /// What it told the service manager when it was ready.
    pub news: String,
}

impl Daemon {
    /// Starts it, and waits until it tells the service manager that it is ready.
    #[track_caller]
    pub fn start(scratch: &Scratch, name: &str, arguments: &[&str]) -> Daemon {
        let socket = scratch.path().join(format!("{name}.notify"));
        let _from_an_earlier_start = std::fs::remove_file(&socket);
        let manager = UnixDatagram::bind(&socket).expect("a socket");
        manager.set_read_timeout(Some(Duration::from_millis(50))).expect("a limit");
        let mut command = scratch.kddmd(name, arguments);
        let child = command.env("NOTIFY_SOCKET", &socket).stderr(Stdio::piped()).spawn().expect("kddmd starts");
        let mut daemon = Daemon { child, dir: scratch.path().join(name), news: String::new() };
        eventually("the daemon is ready", || {
            if let Some(status) = daemon.child.try_wait().expect("it is our child") {
                panic!("it ended with {status}: {}", daemon.said());
            }
            let mut news = [0; 512];
            daemon.news = manager.recv(&mut news).map_or_else(|_| String::new(), |length| text(&news[..length]));
            daemon.news.starts_with("READY=1")
        });
        daemon
    }

    /// The first daemon of a cluster. Unless the arguments say otherwise nobody is taken for lost because the machine
    /// is busy.
    pub fn first(scratch: &Scratch, arguments: &[&str]) -> Daemon {
        let mut all: Vec<&str> = ["--found", "--listen", "127.0.0.1:0"].iter().chain(arguments).copied().collect();
        if !arguments.contains(&"--lease-ms") {
            all.extend(["--lease-ms", UNHURRIED_MS]);
        }
        Daemon::start(scratch, "first", &all)
    }

    /// What it has written to standard error, once it has ended.
    pub fn said(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut output) = self.child.stderr.take() {
            output.read_to_string(&mut text).expect("it writes text");
        }
        text
    }

    pub fn tool(&self, scratch: &Scratch, arguments: &[&str]) -> Output {
        let mut command = scratch.kddmadm(arguments);
        command.env("KDDM_ADMIN", self.dir.join("admin.sock")).output().expect("kddmadm runs")
    }

    /// The answer of the tool in JSON.
    #[track_caller]
    pub fn json(&self, scratch: &Scratch, arguments: &[&str]) -> Json {
        let output = self.tool(scratch, &[&["--json"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("it is JSON")
    }

    pub fn address(&self, scratch: &Scratch) -> String {
        let status = self.json(scratch, &["cluster", "status"]);
        status["nodes"][0]["address"].as_str().expect("an address").to_string()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our child, and not waited for");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[track_caller]
pub fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("the process ends", || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    });
    status.expect("just seen")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
