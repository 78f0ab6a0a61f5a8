//! Where a run takes place: a mount namespace of its own, in which the names of network namespaces and the
//! directories of nodes exist. It ends with the last process in it, and all of this with it, however that
//! process ends: nothing is to be tidied up.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;

/// Tells this program that it is in there already.
const INSIDE: &str = "KDDM_CHAOS_INSIDE";

/// Where `ip` keeps the names of network namespaces.
const NAMES: &str = "/run/netns";

/// What is missing for a run, in a sentence.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root: network namespaces and mounts are made".into());
    }
    let tools = [("ip", "iproute2"), ("nft", "nftables"), ("unshare", "util-linux"), ("setpriv", "util-linux")];
    let absent = |(program, _): &&(&str, &str)| Command::new(program).arg("--version").output().is_err();
    if let Some((program, package)) = tools.iter().find(absent) {
        return Some(format!("needs `{program}`: apt-get install {package}"));
    }
    run(&["unshare", "--mount", "--net", "--propagation", "private", "true"])
        .err()
        .map(|error| format!("needs the right to make namespaces: {error}"))
}

/// Whether this process is in the namespace of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Becomes the same program, inside. Returns only if that fails.
pub fn enter(arguments: impl Iterator<Item = OsString>) -> String {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return format!("this program does not find itself: {error}"),
    };
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(program).args(arguments).env(INSIDE, "1");
    format!("cannot make a mount namespace: {}", command.exec())
}

/// The directory of a run, on a file system that nobody else sees.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it. The names of network namespaces are this run's own from now on.
    ///
    /// # Errors
    /// What the system does not do.
    pub fn make() -> Result<Folder, String> {
        let path = std::env::temp_dir().join(format!("kddm-chaos-{}", std::process::id()));
        let made = std::fs::create_dir_all(&path).and_then(|()| std::fs::create_dir_all(NAMES));
        made.map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        let folder = Folder(path);
        mount(Path::new(NAMES), "1m")?;
        mount(&folder.0, "1m")?;
        Ok(folder)
    }

    /// A directory in it, with a file system of that size of its own.
    ///
    /// # Errors
    /// What the system does not do.
    pub fn disk(&self, name: &str, size: &str) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        mount(&path, size)?;
        Ok(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone_with_the_namespace = run(&["umount", "--recursive", &self.0.display().to_string()]);
        // What it was mounted on is outside.
        let _others_may_use_it = std::fs::remove_dir(&self.0);
    }
}

fn mount(at: &Path, size: &str) -> Result<(), String> {
    run(&["mount", "-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs", &at.display().to_string()])
        .map(|_| ())
}
