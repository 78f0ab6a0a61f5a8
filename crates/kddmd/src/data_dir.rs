//! The data directory of a daemon: its lock, its number, its sockets.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use kddm::{Address, attach_socket};
use rustix::fs::{FlockOperation, flock};

/// The list of members is not longer: 1,024 of the longest addresses.
const MEMBERS_LIMIT_BYTES: u64 = 1024 * 256;

/// The file of the view log.
const VIEW_LOG: &str = "view.redb";

/// Longest path of a Unix socket that the system takes, without the zero at its end.
const SOCKET_PATH_BYTES: usize = 107;

/// Why a data directory is of no use.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another daemon has it.
    #[error(
        "the data directory {dir} is in use by the daemon with process id {pid}; \
         stop that one, or give this one another directory with --data-dir"
    )]
    InUse {
        /// The directory.
        dir: String,
        /// Who has it, as far as its lock file tells.
        pid: String,
    },
    /// The system does not let us.
    #[error("the data directory {dir}: cannot {what}: {reason}; name another one with --data-dir")]
    System {
        /// The directory.
        dir: String,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        reason: String,
    },
    /// It belongs to another number.
    #[error(
        "the data directory {dir} belongs to node {kept}, not {wanted}; \
         leave the number out, or give node {wanted} a directory of its own with --data-dir"
    )]
    OtherNode {
        /// The directory.
        dir: String,
        /// Whose it is.
        kept: u16,
        /// What was asked for.
        wanted: u16,
    },
    /// The kept number is damaged.
    #[error("{path} has {text:?} where a number from 1 to 65535 is due; remove that file to be given a new number")]
    BadNumber {
        /// The file.
        path: String,
        /// What is in it.
        text: String,
    },
    /// A socket cannot be in it.
    #[error(
        "the path {path} has {bytes} bytes, and a Unix socket's has at most 107; choose a shorter --data-dir",
        bytes = path.len()
    )]
    TooLong {
        /// The socket.
        path: String,
    },
}

/// The admin socket in a data directory.
pub fn admin_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

/// Whether a file must outlive the end of the system, which can take seconds on a busy disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    /// It must.
    Yes,
    /// It need not.
    No,
}

/// A data directory that this process has for itself as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
    sync: Sync,
}

impl DataDir {
    /// Makes it if it is missing, and locks it. `sync` says whether its number must outlive the system.
    ///
    /// # Errors
    /// `InUse` names the process that has it; `System`; `TooLong`.
    pub fn open(path: &Path, sync: Sync) -> Result<DataDir, DataDirError> {
        let dir = path.display().to_string();
        let failed = |what| {
            let dir = dir.clone();
            move |error: std::io::Error| DataDirError::System { dir, what, reason: error.to_string() }
        };
        // The longer name of the two.
        let socket = attach_socket(path).display().to_string();
        if socket.len() > SOCKET_PATH_BYTES {
            return Err(DataDirError::TooLong { path: socket });
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make it"))?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut lock = options.open(path.join("lock")).map_err(failed("open its lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _unknown_then = (&lock).take(32).read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_string() };
                return Err(DataDirError::InUse { dir, pid });
            }
            Err(error) => return Err(failed("lock it")(error.into())),
        }
        let written =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(failed("write its lock"))?;
        Ok(DataDir { path: path.into(), lock, sync })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no number is kept in it: no node has ever been a member from here.
    pub fn is_new(&self) -> bool {
        !self.path.join("node-id").exists()
    }

    /// Where the node keeps what is decided about members.
    pub fn view_log(&self) -> PathBuf {
        self.path.join(VIEW_LOG)
    }

    /// Whether something is kept there.
    pub fn has_view_log(&self) -> bool {
        self.view_log().exists()
    }

    /// Puts that aside, for a node that begins a cluster of its own.
    ///
    /// # Errors
    /// `System`.
    pub fn put_view_log_aside(&self) -> Result<(), DataDirError> {
        match std::fs::rename(self.view_log(), self.path.join(format!("{VIEW_LOG}.old"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.failed("put its view log aside", &error))
            }
            _ => Ok(()),
        }
    }

    /// The number to ask for: the one that is kept, or the one that is wanted.
    ///
    /// # Errors
    /// `OtherNode` if they differ; `BadNumber`; `System`.
    pub fn node_id(&self, wanted: Option<u16>) -> Result<Option<u16>, DataDirError> {
        let path = self.path.join("node-id");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(wanted),
            Err(error) => return Err(self.failed("read its node id", &error)),
        };
        let kept: Option<u16> = text.trim().parse().ok().filter(|kept| *kept != 0);
        let Some(kept) = kept else {
            let text = text.trim().chars().take(32).collect();
            return Err(DataDirError::BadNumber { path: path.display().to_string(), text });
        };
        match wanted {
            Some(wanted) if wanted != kept => {
                Err(DataDirError::OtherNode { dir: self.path.display().to_string(), kept, wanted })
            }
            _ => Ok(Some(kept)),
        }
    }

    /// Keeps this node's number for the next start.
    ///
    /// # Errors
    /// `System`.
    pub fn keep_node_id(&self, node_id: u16) -> Result<(), DataDirError> {
        if std::fs::read_to_string(self.path.join("node-id")).is_ok_and(|text| text.trim() == node_id.to_string()) {
            return Ok(());
        }
        let kept = self.replace("node-id", &format!("{node_id}\n"), self.sync);
        kept.map_err(|error| self.failed("keep its node id", &error))
    }

    /// Where the other members of this node's cluster were when it last knew. What cannot be read is
    /// forgotten: it is a help, and nothing rests on it.
    pub fn members(&self) -> Vec<Address> {
        let mut text = String::new();
        let file = File::open(self.path.join("members"));
        let _as_far_as_it_comes = file.map(|file| file.take(MEMBERS_LIMIT_BYTES).read_to_string(&mut text));
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Keeps where the other members are, for the next start.
    ///
    /// # Errors
    /// `System`.
    pub fn keep_members(&self, members: &[String]) -> Result<(), DataDirError> {
        let text: String = members.iter().map(|member| format!("{member}\n")).collect();
        self.replace("members", &text, Sync::No).map_err(|error| self.failed("keep its members", &error))
    }

    /// Written aside and renamed: the end of this process leaves the old content or the new one.
    fn replace(&self, name: &str, text: &str, sync: Sync) -> std::io::Result<()> {
        let (new, path) = (self.path.join(format!("{name}.new")), self.path.join(name));
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        if sync == Sync::Yes {
            file.sync_all()?;
        }
        std::fs::rename(&new, &path)
    }

    fn failed(&self, what: &'static str, error: &std::io::Error) -> DataDirError {
        DataDirError::System { dir: self.path.display().to_string(), what, reason: error.to_string() }
    }

    /// Removes it with all that a daemon puts there. Other files stay, and the directory with them.
    pub fn remove(self) {
        let new_log = format!("{VIEW_LOG}.new");
        let sockets = ["admin.sock", "attach.sock"];
        let kept = ["node-id", "node-id.new", "members", "members.new", VIEW_LOG, &new_log, "lock"];
        for name in sockets.into_iter().chain(kept) {
            let _may_be_missing = std::fs::remove_file(self.path.join(name));
        }
        let _may_have_other_files = std::fs::remove_dir(&self.path);
    }
}

/// The lock belongs to the open file, not to its descriptor: a child that another thread forks has a copy of
/// that until it executes its program, and with it the lock. So it is given back by name, for all copies.
impl Drop for DataDir {
    fn drop(&mut self) {
        let _ends_with_the_process_then = flock(&self.lock, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("kddm-data-dir-{}-{name}", std::process::id()))
    }

    #[test]
    fn it_is_free_when_given_back_though_a_copy_of_its_lock_is_open() {
        let path = scratch("copied");
        let first = DataDir::open(&path, Sync::No).expect("free");
        // What a fork leaves in the child for a moment.
        let copy = first.lock.try_clone().expect("a descriptor");
        drop(first);
        DataDir::open(&path, Sync::No).expect("free again").remove();
        drop(copy);
    }

    #[test]
    fn one_process_has_it_and_the_number_is_kept() {
        let path = scratch("kept");
        let first = DataDir::open(&path, Sync::Yes).expect("free");
        let error = DataDir::open(&path, Sync::Yes).expect_err("taken").to_string();
        assert!(error.contains(&format!("process id {}", std::process::id())), "{error}");
        assert!(first.is_new());
        assert_eq!(first.node_id(Some(3)).expect("none is kept"), Some(3));
        first.keep_node_id(3).expect("kept");
        first.keep_members(&["127.0.0.1:1".into(), "unix:/a".into()]).expect("kept");
        drop(first);
        let second = DataDir::open(&path, Sync::Yes).expect("free again");
        assert!(!second.is_new());
        assert_eq!(second.members().iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:1", "unix:/a"]);
        assert_eq!(second.node_id(None).expect("kept"), Some(3));
        assert!(second.node_id(Some(4)).expect_err("another").to_string().contains("belongs to node 3, not 4"));
        std::fs::write(path.join("node-id"), "none\n").expect("written");
        assert!(second.node_id(None).expect_err("damaged").to_string().contains("remove that file"));
        second.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let error = DataDir::open(&scratch(&"x".repeat(120)), Sync::No).expect_err("too long").to_string();
        assert!(error.contains("shorter"), "{error}");
    }
}
