//! A table that nodes serve as the objects of a set, by the example that shows it.

use std::process::Command;

/// Cargo makes examples before it runs tests, and puts them there.
#[test]
fn what_nodes_have_done_is_in_the_table_whatever_becomes_of_them() {
    let me = std::env::current_exe().expect("it runs");
    let folder = me.parent().and_then(|deps| deps.parent()).expect("tests lie in a folder of the target's");
    let output = Command::new(folder.join("examples/accounts")).arg("2").output().expect("the example is made");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("payments; the nodes see"), "{said}");
}
