//! The guardian of a demonstration, which tells the others at once when one of its processes was killed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::DemoError;

/// The first argument that makes `kddmadm` that guardian.
pub const GUARDIAN: &str = "demo-guardian";

/// How long it may take until it listens, on a busy host.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How often is looked whether it does.
const START_CHECK: Duration = Duration::from_millis(5);

/// A guardian in a folder of its own; both are gone when this is.
pub struct Guardian {
    child: Child,
    folder: PathBuf,
}

impl Guardian {
    /// Starts one, and waits until nodes can register with it.
    ///
    /// # Errors
    /// `Guardian`, with what the system says.
    pub fn start() -> Result<Guardian, DemoError> {
        let failed = |error: std::io::Error| DemoError::Guardian(error.to_string());
        let folder = std::env::temp_dir().join(format!("kddm-demo-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg(GUARDIAN).arg("--socket").arg(socket_in(&folder)).arg("--log").arg("error");
        // It ends with its standard input, and so with this process, and not with a Ctrl-C that is meant for that: it
        // has to clean up.
        command.process_group(0);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(failed)?;
        let mut guardian = Guardian { child, folder };
        let deadline = Instant::now() + START_LIMIT;
        while std::os::unix::net::UnixStream::connect(guardian.socket()).is_err() {
            if let Some(status) = guardian.child.try_wait().map_err(failed)? {
                return Err(DemoError::Guardian(status.to_string()));
            }
            if Instant::now() >= deadline {
                return Err(DemoError::Guardian(format!("it does not listen after {START_LIMIT:?}")));
            }
            std::thread::park_timeout(START_CHECK);
        }
        Ok(guardian)
    }

    /// Where nodes register.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.folder)
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("guardian.sock")
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _ended = self.child.wait();
        let _already_gone = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs the guardian until standard input ends, and leaves nothing behind.
pub fn run(arguments: crate::guardian::Arguments) -> std::process::ExitCode {
    let socket = arguments.socket.clone();
    std::thread::spawn(move || {
        let _until_the_parent_is_gone = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        if let Some(socket) = socket {
            let _already_gone = std::fs::remove_file(&socket);
            // Not if anything else is in there.
            let _already_gone = socket.parent().map(std::fs::remove_dir);
        }
        std::process::exit(0);
    });
    crate::guardian::main(arguments)
}
