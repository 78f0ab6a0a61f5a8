//! The counting processes, from outside: started, listened to, and gone when the demonstration is.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::DemoError;
use super::count::write_list;
use super::worker::{Part, Report};

/// How long a counting process may take to end once its standard input has ended: all that it does
/// then is to exit. One that was stopped never does, and is killed.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How often is looked whether it has ended.
const END_CHECK: Duration = Duration::from_millis(5);

/// What is heard from counting processes, numbered from 1, and from the thread that reads back.
pub enum Event {
    /// That one says something.
    Report(usize, Report),
    /// One has ended, or at least closed its standard output.
    Ended(usize),
    /// All objects have been read back and compared.
    ReadBack(Result<bool, DemoError>),
}

struct Worker {
    child: Child,
    /// It was killed on purpose: its end is no surprise.
    is_killed: bool,
    /// Until it has been given its list.
    input: Option<ChildStdin>,
    /// As long as this is here, its standard input does not end.
    keeps_input: Option<Sender<()>>,
}

/// Counting processes; none outlives the demonstration.
#[derive(Default)]
pub struct Workers(Vec<Worker>);

impl Workers {
    /// Starts one more, which says what it does to `events`.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(&mut self, part: &Part, events: &Sender<Event>) -> Result<(), DemoError> {
        let number = self.0.len() + 1;
        let failed = |error: std::io::Error| DemoError::Worker { number, reason: error.to_string() };
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .arg("demo-worker")
            .args(part.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        self.0.push(Worker { child, is_killed: false, input, keeps_input: None });
        let events = events.clone();
        std::thread::spawn(move || {
            for line in output.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                let Ok(report) = serde_json::from_str(&line) else { continue };
                if events.send(Event::Report(number, report)).is_err() {
                    return;
                }
            }
            let _nobody_listens_any_more = events.send(Event::Ended(number));
        });
        Ok(())
    }

    /// Gives the list of files to those that have none yet: they begin to count.
    pub fn begin(&mut self, files: &Arc<Vec<PathBuf>>) {
        for worker in &mut self.0 {
            let Some(input) = worker.input.take() else { continue };
            let (keeps_input, ended) = channel();
            worker.keeps_input = Some(keeps_input);
            let files = Arc::clone(files);
            // One that does not read must not keep the others from it.
            std::thread::spawn(move || feed(input, &files, &ended));
        }
    }

    /// Kills one, as `kill -9` does.
    pub fn kill(&mut self, number: usize) {
        if let Some(worker) = self.0.get_mut(number - 1) {
            worker.is_killed = true;
            let _it_may_have_ended = worker.child.kill();
        }
    }

    /// Whether it was killed on purpose.
    pub fn is_killed(&self, number: usize) -> bool {
        self.0.get(number - 1).is_some_and(|worker| worker.is_killed)
    }

    /// Why the demonstration failed, when the process `number` ended before it was to: one that was
    /// killed is the cause, and others fail after it because they miss its objects.
    pub fn blame(&mut self, number: usize) -> DemoError {
        let status = self.0.get_mut(number - 1).and_then(|worker| ended_within(&mut worker.child, END_LIMIT));
        let others = (1..).zip(&mut self.0).filter(|(_, worker)| !worker.is_killed);
        let killed = others.into_iter().find_map(|(number, worker)| {
            let status = worker.child.try_wait().ok()??;
            status.signal().map(|_| (number, status))
        });
        match (killed, status) {
            (Some((number, status)), _) => DemoError::Worker { number, reason: format!("it was killed, {status}") },
            (None, Some(status)) => DemoError::Worker { number, reason: format!("{status}; its message is above") },
            (None, None) => DemoError::Worker { number, reason: "it has closed its standard output".into() },
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut children: Vec<Child> = self.0.drain(..).map(|worker| worker.child).collect();
        let deadline = Instant::now() + END_LIMIT;
        for child in &mut children {
            if ended_within(child, deadline.saturating_duration_since(Instant::now())).is_none() {
                let _ended_just_now = child.kill();
                let _ended = child.wait();
            }
        }
    }
}

/// Writes the list, and keeps the input open until the process is to end.
fn feed(mut input: ChildStdin, files: &[PathBuf], end: &Receiver<()>) {
    // That one has died is seen at its output.
    if write_list(&mut input, files).and_then(|()| input.flush()).is_ok() {
        let _the_sender_is_gone = end.recv();
    }
}

fn ended_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::park_timeout(END_CHECK),
            Ok(None) | Err(_) => return None,
        }
    }
}
