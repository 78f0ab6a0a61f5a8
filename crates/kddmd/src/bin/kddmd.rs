//! `kddmd`: the daemon. All of it is in the library, so that `kddmadm playground` is the same program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    kddmd::daemon::main(kddmd::daemon::Arguments::parse())
}
