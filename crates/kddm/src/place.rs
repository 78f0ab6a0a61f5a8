//! Where a daemon of this host keeps its things, for those who look for it.

use std::path::{Path, PathBuf};

/// Where a daemon keeps its things unless told: `$XDG_STATE_HOME/kddm`, `/var/lib/kddm` for root, or
/// `~/.local/state/kddm`.
pub fn default_data_dir() -> Option<PathBuf> {
    choose_data_dir(path_in, rustix::process::geteuid().is_root())
}

fn path_in(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn choose_data_dir(variable: impl Fn(&str) -> Option<PathBuf>, is_root: bool) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    match absolute("XDG_STATE_HOME") {
        Some(state) => Some(state.join("kddm")),
        None if is_root => Some("/var/lib/kddm".into()),
        None => Some(absolute("HOME")?.join(".local/state/kddm")),
    }
}

/// The socket in a data directory to which programs attach.
pub fn attach_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("attach.sock")
}

/// The socket of this host's guardian: `KDDM_GUARDIAN`; else `guardian.sock` in `KDDM_DATA_DIR`; else in
/// the default directory.
pub fn default_guardian() -> Option<PathBuf> {
    choose_guardian(path_in, default_data_dir())
}

fn choose_guardian(variable: impl Fn(&str) -> Option<PathBuf>, default: Option<PathBuf>) -> Option<PathBuf> {
    let dir = || variable("KDDM_DATA_DIR").or(default);
    variable("KDDM_GUARDIAN").or_else(|| Some(dir()?.join("guardian.sock")))
}

/// The socket of the daemon that is meant: `KDDM_ATTACH`; else beside the one in `KDDM_ADMIN`; else in
/// `KDDM_DATA_DIR`; else in the default directory.
pub(crate) fn meant_socket() -> Option<PathBuf> {
    choose_socket(path_in, default_data_dir())
}

fn choose_socket(variable: impl Fn(&str) -> Option<PathBuf>, default: Option<PathBuf>) -> Option<PathBuf> {
    let beside_admin = || variable("KDDM_ADMIN").and_then(|admin| admin.parent().map(attach_socket));
    variable("KDDM_ATTACH")
        .or_else(beside_admin)
        .or_else(|| variable("KDDM_DATA_DIR").map(|dir| attach_socket(&dir)))
        .or_else(|| default.map(|dir| attach_socket(&dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_depends_on_the_user_and_the_environment() {
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/x"));
        assert_eq!(choose_data_dir(home, false), Some("/home/x/.local/state/kddm".into()));
        assert_eq!(choose_data_dir(home, true), Some("/var/lib/kddm".into()));
        let state = |name: &str| (name == "XDG_STATE_HOME").then(|| PathBuf::from("/state"));
        assert_eq!(choose_data_dir(state, false), Some("/state/kddm".into()));
        assert_eq!(choose_data_dir(state, true), Some("/state/kddm".into()));
        assert_eq!(choose_data_dir(|_| None, false), None);
    }

    #[test]
    fn the_nearest_name_of_a_socket_wins() {
        let named = |names: &'static [&'static str]| {
            let variable = move |name: &str| names.contains(&name).then(|| PathBuf::from(format!("/{name}/x")));
            choose_socket(variable, Some("/d".into())).expect("one is meant")
        };
        assert_eq!(named(&["KDDM_ATTACH", "KDDM_ADMIN", "KDDM_DATA_DIR"]), Path::new("/KDDM_ATTACH/x"));
        assert_eq!(named(&["KDDM_ADMIN", "KDDM_DATA_DIR"]), Path::new("/KDDM_ADMIN/attach.sock"));
        assert_eq!(named(&["KDDM_DATA_DIR"]), Path::new("/KDDM_DATA_DIR/x/attach.sock"));
        assert_eq!(named(&[]), Path::new("/d/attach.sock"));
        let guardian = |names: &'static [&'static str]| {
            let variable = move |name: &str| names.contains(&name).then(|| PathBuf::from(format!("/{name}/x")));
            choose_guardian(variable, Some("/d".into())).expect("one is meant")
        };
        assert_eq!(guardian(&["KDDM_GUARDIAN", "KDDM_DATA_DIR"]), Path::new("/KDDM_GUARDIAN/x"));
        assert_eq!(guardian(&["KDDM_DATA_DIR"]), Path::new("/KDDM_DATA_DIR/x/guardian.sock"));
        assert_eq!(guardian(&[]), Path::new("/d/guardian.sock"));
    }
}
