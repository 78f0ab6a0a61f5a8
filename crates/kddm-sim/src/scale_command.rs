//! The command `scale`: what a membership costs as it grows.

use std::process::ExitCode;

use kddm_sim::scale::{Cost, Figures, Size, run};

#[derive(clap::Args)]
pub struct Arguments {
    /// How many nodes: one run for each number.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 16, 64, 256, 1_023])]
    nodes: Vec<u16>,
    /// Objects that each node owns.
    #[arg(long, default_value_t = Size::of(3).owned)]
    owned: u32,
    /// Zones that the nodes are spread over; 0 if they name none.
    #[arg(long, default_value_t = 0)]
    zones: u16,
    /// One line of JSON for each run.
    #[arg(long)]
    json: bool,
}

/// Runs each size, and tells of it at once: the last ones take minutes.
pub fn main(arguments: &Arguments) -> ExitCode {
    if !arguments.json {
        println!("per node      messages  of none     KiB   holds ms   over ms   longest wait ms   core ms");
    }
    for nodes in &arguments.nodes {
        let size = Size { owned: arguments.owned, zones: arguments.zones, ..Size::of(*nodes) };
        let figures = match run(size) {
            Ok(figures) => figures,
            Err(wrong) => {
                eprintln!("{nodes} nodes: {wrong}");
                return ExitCode::FAILURE;
            }
        };
        if arguments.json {
            println!("{}", serde_json::json!(figures));
        } else {
            tell(&figures);
        }
    }
    ExitCode::SUCCESS
}

fn tell(figures: &Figures) {
    let Figures { size, fill, miss, join, leave, loss, objects_kib, view_kib } = figures;
    println!("{} nodes, {} objects each; {objects_kib:.1} KiB, a view {view_kib:.1} KiB", size.nodes, size.owned);
    for (name, cost) in [("fill", fill), ("a miss", miss), ("join", join), ("leave", leave), ("loss", loss)] {
        let Cost { messages, of_none, kib, holds_ms, over_ms, longest_wait_ms, core_ms } = cost;
        println!(
            "  {name:<10} {messages:>9.1} {of_none:>7.1} {kib:>8.1} {holds_ms:>10.2} {over_ms:>9.2} {longest_wait_ms:>17.2} {core_ms:>9.3}"
        );
    }
}
