//! The unit file for systemd, as systemd reads it.

use std::path::Path;
use std::process::Command;

/// What packages take from the repository: [operating](../../../docs/operating.md) names each.
#[test]
fn what_is_packaged_is_in_the_repository_and_starts_our_programs() {
    let starts = |name: &str, text: &str| packaged(name).lines().any(|line| line.starts_with(text));
    assert!(starts("kddmd.service", "ExecStart=/usr/bin/kddmd"));
    assert!(starts("kddm-guardian.service", "ExecStart=/usr/bin/kddm-guardian"));
    assert!(starts("kddm.sysusers", "u kddm "), "the user of both units");
    for unit in ["kddmd.service", "kddm-guardian.service"] {
        assert!(starts(unit, "User=kddm"), "{unit}");
    }
}

fn packaged(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where `systemd-analyze` is not installed it says so, which is a failure under `KDDM_REQUIRE_ALL=1`.
#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let text = packaged("kddmd.service");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        assert!(std::env::var_os("KDDM_REQUIRE_ALL").is_none_or(|value| value != "1"), "needs systemd-analyze");
        return eprintln!("skipped: needs systemd-analyze");
    }
    // The program is where this test was built, and not installed.
    let start = format!("ExecStart={}", env!("CARGO_BIN_EXE_kddmd"));
    let here = text.replace("ExecStart=/usr/bin/kddmd", &start);
    assert!(here.contains(&start), "it starts the daemon");
    let folder = std::env::temp_dir().join(format!("kddm-unit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let verify = |text: &str| {
        let copy = folder.join("kddmd.service");
        std::fs::write(&copy, text).expect("written");
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["verify", "--man=no"]).arg(&copy).output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (is_right, said) = verify(&here);
    // It says more than that of a unit that is not all right, and it does find what is wrong.
    let (_, of_wrong) = verify(&here.replace("RestartSec=2", "RestartSecond=2"));
    let _left_behind = std::fs::remove_dir_all(&folder);
    assert!(is_right && said.is_empty(), "{said}");
    assert!(of_wrong.contains("RestartSecond"), "{of_wrong}");
}
