//! The demonstration with what a real folder and a real machine have in store for it.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// No demonstration of a test may take longer; far above what a busy machine needs.
const LIMIT: Duration = Duration::from_secs(120);

/// A folder, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("kddm-demo-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    /// So much text that no machine counts it before the test has done its deed.
    fn with_much_text(name: &str) -> Folder {
        let folder = Folder::new(name);
        let text: String = (0..5_000).map(|number| format!("word{number}\n")).collect();
        for number in 0..20 {
            std::fs::write(folder.0.join(format!("{number}.txt")), &text).expect("a file");
        }
        folder
    }

    fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).expect("a file");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_dir_all(&self.0);
    }
}

fn demo(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kddmadm"));
    command.args(["demo", "words", "--nodes", "2", "--json"]).arg(&folder.0);
    command
}

/// A demonstration that is under way.
struct Running {
    child: Child,
    start: Instant,
}

impl Running {
    fn start(folder: &Folder) -> Running {
        let child = demo(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Running { child: child.expect("the program starts"), start: Instant::now() }
    }

    /// The process ids of both counting processes.
    fn workers(&self) -> [u32; 2] {
        loop {
            if let [first, second] = children(self.child.id())[..] {
                return [first, second];
            }
            assert!(self.start.elapsed() < LIMIT, "there are two counting processes");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// All that it and its counting processes have said on standard error, when they have ended.
    fn ends(mut self) -> (Option<i32>, String) {
        let mut errors = self.child.stderr.take().expect("it was asked for");
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let _read = errors.read_to_string(&mut text);
            let _nobody_waits = sender.send(text);
        });
        let text = receiver.recv_timeout(LIMIT).expect("all processes end");
        (self.child.wait().expect("it ends").code(), text)
    }
}

fn children(of: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("a process table").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let status = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // Behind the name, which stands in brackets: the state, then the parent.
        let parent = status.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if parent.is_some_and(|parent| parent == of.to_string()) {
            children.push(id);
        }
    }
    children
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status();
    assert!(sent.expect("a shell").success(), "it is there");
}

fn text_of(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Names with line ends and bytes that are no text are names as others; what is left out is counted.
#[test]
fn any_file_name_is_counted_and_what_is_left_out_is_said() {
    let folder = Folder::new("names");
    folder.write("two\nlines", b"one two");
    folder.write(OsString::from_vec(b"not\xff\xfeutf8".to_vec()), b"two three");
    folder.write("binary", b"one\0two");
    folder.write("large", &vec![b'a'; (4 << 20) + 1]);
    let output = demo(&folder).output().expect("it starts");
    let (said, errors) = text_of(&output);
    assert!(output.status.success(), "{errors}");
    let summary: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(summary["totals_equal"], true);
    assert_eq!((&summary["files"], &summary["words"]), (&2.into(), &4.into()));
    let left_out = &summary["left_out"];
    assert_eq!((&left_out["too_large"], &left_out["not_text"]), (&1.into(), &1.into()), "{left_out}");
    assert!(errors.contains("2 files are left out") && errors.contains("larger than 4 MiB"), "{errors}");
}

/// A standard output that takes nothing is an error with a sentence.
#[test]
fn a_full_disk_is_an_error_and_no_panic() {
    let folder = Folder::new("full");
    folder.write("text", b"one two");
    let full = std::fs::File::options().write(true).open("/dev/full").expect("it takes nothing");
    let output = demo(&folder).stdout(full).stderr(Stdio::piped()).output().expect("it starts");
    let (_, errors) = text_of(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("could not be written") && !errors.contains("panicked"), "{errors}");
}

/// With `--kill` one of the processes is killed in the middle of a file, another takes its share, and no word is
/// lost or counted twice: every file has the same words, so that each object is of all of them.
#[test]
fn a_process_that_is_killed_on_purpose_loses_and_doubles_nothing() {
    const FILES: usize = 12;
    const WORDS: usize = 300;
    let folder = Folder::new("on-purpose");
    let text: String = (0..WORDS).map(|number| format!("word{number}\n")).collect();
    (0..FILES).for_each(|number| folder.write(format!("{number}.txt"), text.as_bytes()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_kddmadm"));
    let output = command.args(["--json", "demo", "--kill", "words"]).arg(&folder.0).output().expect("it starts");
    let (said, errors) = text_of(&output);
    assert!(output.status.success(), "{errors}");
    let summary: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&summary["killed"], &summary["totals_equal"]), (&1.into(), &true.into()), "{errors}");
    assert_eq!(summary["words"], FILES * WORDS);
}

/// The demonstration itself is killed: the guardian that it has started is gone, and so is its folder.
#[test]
fn a_demonstration_that_is_killed_leaves_nothing_behind() {
    let (folder, scratch) = (Folder::with_much_text("all-killed"), Folder::new("all-killed-scratch"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_kddmadm"));
    command.args(["demo", "--kill", "words"]).arg(&folder.0).env("TMPDIR", &scratch.0);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let start = Instant::now();
    let entries = || {
        let names = std::fs::read_dir(&scratch.0).expect("it is there").flatten();
        names.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let until = |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(start.elapsed() < LIMIT, "{:?}", entries());
            std::thread::yield_now();
        }
    };
    until(&|| entries().iter().any(|path| path.join("guardian.sock").exists()));
    child.kill().expect("it runs");
    child.wait().expect("it has ended");
    until(&|| entries().is_empty());
}

/// A counting process that is killed is named, before any wait has come to its limit of ten seconds.
#[test]
fn a_killed_counting_process_is_blamed() {
    let folder = Folder::with_much_text("killed");
    let running = Running::start(&folder);
    let [_, second] = running.workers();
    let start = Instant::now();
    signal("KILL", second);
    let (code, errors) = running.ends();
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("counting process") && errors.contains("SIGKILL"), "{errors}");
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
}

/// One that is stopped keeps the demonstration no longer than the limit of a wait, and does not stay.
#[test]
fn a_stopped_counting_process_does_not_stay() {
    let folder = Folder::with_much_text("stopped");
    let running = Running::start(&folder);
    let [first, second] = running.workers();
    signal("STOP", first);
    let (code, errors) = running.ends();
    assert_eq!(code, Some(1), "{errors}");
    // Stopped before the cluster was whole for the first time it takes along what nobody else had yet, which is said then.
    let is_said = errors.contains("counting process") || errors.contains("is lost");
    assert!(is_said && !errors.contains("panicked"), "{errors}");
    for process in [first, second] {
        assert!(!Path::new(&format!("/proc/{process}")).exists(), "process {process} has ended");
    }
}

/// The death of the parent ends the counting processes, without a word.
#[test]
fn counting_processes_end_with_their_parent() {
    let folder = Folder::with_much_text("parent");
    let running = Running::start(&folder);
    let _started = running.workers();
    signal("KILL", running.child.id());
    let (code, errors) = running.ends();
    assert_eq!((code, errors.as_str()), (None, ""));
}
