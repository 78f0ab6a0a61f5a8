//! Etcd servers of a test's own, on loopback.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A machine that does much else needs its time.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits for what is going to be, and says what was missing if it is not.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs the cases of which a name that was given is part, or all; none where there is no etcd.
pub fn run<C>(cases: &[(&str, C)], arguments: &[String], take: impl Fn(&str, &C)) {
    if !Etcd::is_here() {
        eprintln!("skipped: all of these, they need the program etcd (Debian: etcd-server)");
        assert!(std::env::var_os("KDDM_REQUIRE_ALL").is_none(), "etcd is missing, and all is required");
        return;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    for (name, case) in cases {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            let begun = Instant::now();
            take(name, case);
            println!("{name} ... ok, {:.1} s", begun.elapsed().as_secs_f64());
        }
    }
}

pub struct Etcd {
    dir: PathBuf,
    /// For clients and for each other.
    ports: Vec<(u16, u16)>,
    servers: Vec<Option<Child>>,
}

impl Etcd {
    pub fn is_here() -> bool {
        Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    pub fn start(count: usize) -> Etcd {
        let held: Vec<TcpListener> =
            (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let port = |at: usize| held[at].local_addr().expect("an address").port();
        let ports: Vec<(u16, u16)> = (0..count).map(|at| (port(2 * at), port(2 * at + 1))).collect();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("etcd-{}", ports[0].0));
        let _of_another_run = std::fs::remove_dir_all(&dir);
        drop(held);
        let mut etcd = Etcd { dir, ports, servers: (0..count).map(|_| None).collect() };
        etcd.start_killed();
        etcd
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.ports.iter().map(|(client, _)| format!("http://127.0.0.1:{client}")).collect()
    }

    /// Starts those that do not run.
    pub fn start_killed(&mut self) {
        let peer = |at: usize| format!("http://127.0.0.1:{}", self.ports[at].1);
        let all: Vec<String> = (0..self.ports.len()).map(|at| format!("s{at}={}", peer(at))).collect();
        for at in 0..self.ports.len() {
            if self.servers[at].is_some() {
                continue;
            }
            let client = format!("http://127.0.0.1:{}", self.ports[at].0);
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("s{at}"), "--data-dir"]).arg(self.dir.join(at.to_string()));
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer(at), "--initial-advertise-peer-urls", &peer(at)]);
            command.args(["--initial-cluster", &all.join(","), "--logger", "zap", "--log-level", "error"]);
            let server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            self.servers[at] = Some(server.expect("etcd is here"));
        }
    }

    /// kill -9.
    pub fn kill(&mut self, at: usize) {
        let mut server = self.servers[at].take().expect("it runs");
        server.kill().expect("it is a child of this process");
        server.wait().expect("it is a child of this process");
    }

    /// The same for the server that leads the others.
    pub fn kill_leader(&mut self) {
        let leader = until("etcd has a leader", || {
            (0..self.ports.len()).find(|at| self.servers[*at].is_some() && self.leads(*at))
        });
        self.kill(leader);
    }

    fn leads(&self, at: usize) -> bool {
        let url = format!("http://127.0.0.1:{}/v3/maintenance/status", self.ports[at].0);
        let limited = ureq::post(&url).config().timeout_global(Some(Duration::from_secs(1))).build();
        let Ok(mut response) = limited.send("{}") else { return false };
        let said = response.body_mut().read_to_string().unwrap_or_default();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        said["leader"].is_string() && said["leader"] == said["header"]["member_id"]
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for at in 0..self.servers.len() {
            if self.servers[at].is_some() {
                self.kill(at);
            }
        }
        let _it_is_only_room = std::fs::remove_dir_all(&self.dir);
    }
}
