//! The chapters of docs/operating.md on failures, each with the very commands that stand there.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

#[path = "programs/harness.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts of it")]
mod harness;

use harness::{Scratch, eventually, text, wait};

const PAGE: &str = include_str!("../../../docs/operating.md");

/// The section with the chapters, and its first one, which comes before each other.
const SECTION: &str = "\n## When something fails\n";
const SETTING: &str = "Three daemons to try it on";

/// A command, and what it has to say.
struct Line {
    command: String,
    says: Option<String>,
}

/// The chapters of the section, with the commands of their indented blocks.
fn chapters() -> BTreeMap<&'static str, Vec<Line>> {
    let (_, section) = PAGE.split_once(SECTION).expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or(section);
    let chapters = section.split("\n### ").skip(1).filter_map(|chapter| chapter.split_once('\n'));
    chapters.map(|(title, body)| (title, body.lines().filter_map(line).collect())).collect()
}

fn line(line: &str) -> Option<Line> {
    let line = line.strip_prefix("    ")?;
    let (command, comment) = line.split_once(" # ").unwrap_or((line, ""));
    let says = comment.strip_prefix('"').and_then(|quoted| quoted.split_once('"'));
    Some(Line { command: command.trim().into(), says: says.map(|(says, _)| says.into()) })
}

/// Where the commands of one chapter run: in a folder of their own, on ports of their own.
struct Host {
    scratch: Scratch,
    ports: Vec<(&'static str, String)>,
    variables: BTreeMap<String, String>,
    daemons: BTreeMap<String, Child>,
}

impl Host {
    fn new() -> Host {
        // All at once, so that no two are the same.
        let listeners: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("bound").port().to_string();
        let ports = ["7600", "7601", "7602"].into_iter().zip(listeners.iter().map(port)).collect();
        Host { scratch: Scratch::new(), ports, variables: BTreeMap::new(), daemons: BTreeMap::new() }
    }

    /// The command as it stands in the page, for this host.
    fn here(&self, command: &str) -> String {
        let folder = self.scratch.path().display().to_string();
        let command = command.replace("/tmp/kddm", &folder);
        self.ports.iter().fold(command, |command, (page, port)| command.replace(page, port))
    }

    fn shell(&self, command: &str) -> Command {
        let programs = PathBuf::from(env!("CARGO_BIN_EXE_kddmadm"));
        let folder = programs.parent().expect("it is in a folder").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = self.scratch.program("bash");
        shell.env("PATH", format!("{folder}:{path}")).envs(&self.variables).env("KDDM_CONFIG", "/dev/null");
        shell.arg("-c").arg(command);
        shell
    }

    fn run(&mut self, line: &Line) {
        let command = self.here(&line.command);
        if let Some((name, value)) = command.strip_prefix("export ").and_then(|pair| pair.split_once('=')) {
            self.variables.insert(name.into(), value.into());
        } else if let Some(daemon) = command.strip_suffix('&') {
            self.start(daemon.trim());
        } else if let Some(says) = &line.says {
            let mut said = String::new();
            eventually(&format!("`{}` says {says:?}", line.command), || {
                let Output { stdout, stderr, .. } = self.shell(&command).output().expect("bash runs");
                said = text(&stdout) + &text(&stderr);
                said.contains(says)
            });
        } else {
            let output = self.shell(&command).output().expect("bash runs");
            assert!(output.status.success(), "`{}`: {}", line.command, text(&output.stderr));
            self.await_ends(&command);
        }
    }

    /// A daemon, once it answers. It ignores the signal for files that are too long, as where a disk is full.
    fn start(&mut self, command: &str) {
        let dir = command.split("--data-dir ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a directory");
        // After an end of all the first ones wait for each other.
        let was_member = std::path::Path::new(dir).join("view.redb").exists();
        let mut shell = self.shell(&format!("trap '' XFSZ; exec {command}"));
        let child = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("bash runs");
        self.daemons.insert(dir.into(), child);
        if was_member && self.daemons.len() < 3 {
            return;
        }
        let asks = format!("kddmadm --data-dir {dir} nodes");
        eventually(&format!("`{command}` is a member"), || {
            self.shell(&asks).output().expect("bash runs").status.success()
        });
    }

    /// What was killed, or asked to stop, has ended before the next command.
    fn await_ends(&mut self, command: &str) {
        let is_all = command.starts_with("kddmadm cluster stop --yes");
        let lasts = command.starts_with("kill -STOP") || command.starts_with("kill -CONT");
        let names: Vec<String> = self.daemons.keys().cloned().collect();
        for name in names {
            let is_meant = command.starts_with("kill ") && !lasts && command.contains(&format!("{name}/lock"));
            if (is_meant || is_all)
                && let Some(mut child) = self.daemons.remove(&name)
            {
                wait(&mut child);
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in self.daemons.values_mut() {
            let _already_dead = child.kill();
            let _ended = child.wait();
        }
    }
}

fn try_out(title: &str) {
    let chapters = chapters();
    let mut host = Host::new();
    let chapter = chapters.get(title).unwrap_or_else(|| panic!("there is no chapter {title:?}"));
    for line in chapters[SETTING].iter().chain(chapter) {
        host.run(line);
    }
}

macro_rules! chapters {
    ($($name:ident: $title:literal,)*) => {
        const TRIED: &[&str] = &[$($title),*];
        $(#[test]
        fn $name() {
            try_out($title);
        })*
    };
}

chapters! {
    a_process_is_killed: "A process is killed",
    a_host_is_lost: "A host is lost",
    a_host_is_paused: "A host is paused",
    the_network_is_cut: "The network is cut",
    the_minority_side: "The minority side",
    the_disk_of_a_voter_is_full: "The disk of a voter is full",
    the_whole_cluster_is_restarted: "The whole cluster is restarted",
    a_loss_beyond_the_replicas: "A loss beyond the replicas",
    a_node_does_not_come_back: "A node does not come back",
    a_rolling_restart: "A rolling restart",
    the_whole_cluster_is_stopped: "The whole cluster is stopped",
}

#[test]
fn every_chapter_has_its_parts_and_is_tried() {
    let chapters = chapters();
    let mut titles: Vec<&str> = chapters.keys().copied().filter(|title| *title != SETTING).collect();
    let mut tried = TRIED.to_vec();
    titles.sort_unstable();
    tried.sort_unstable();
    assert_eq!(titles, tried);
    for title in titles {
        let body = PAGE.split(&format!("\n### {title}\n")).nth(1).expect("it is there");
        let body = body.split("\n##").next().unwrap_or(body);
        for part in ["*What is seen.*", "*What the system does.*", "*What to type.*"] {
            assert!(body.contains(part), "{title}: {part}");
        }
        assert!(chapters[title].iter().any(|line| line.says.is_some()), "{title} says nothing");
    }
}
