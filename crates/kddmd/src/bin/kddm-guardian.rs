//! `kddm-guardian`: watches the processes of the nodes of this host, and tells the members of their
//! clusters when one has ended. All of it is in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    kddmd::guardian::main(kddmd::guardian::Arguments::parse())
}
