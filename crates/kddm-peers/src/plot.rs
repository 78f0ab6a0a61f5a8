//! How many times as fast ours is, for each case and peer, as a picture with a logarithmic scale.

use std::fmt::Write;

use crate::report::{Report, Row, short};
use crate::system::System;

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 60.0;
const ROW: f64 = 22.0;

/// The scale, in powers of ten.
const LEAST: f64 = -2.0;
const MOST: f64 = 5.0;

const COLOURS: &[&str] =
    &["#1155cc", "#cc0000", "#e69138", "#6aa84f", "#674ea7", "#45818e", "#a64d79", "#7f6000", "#000000"];

fn x(ratio: f64) -> f64 {
    let share = (ratio.max(1e-9).log10() - LEAST) / (MOST - LEAST);
    LEFT + (WIDTH - LEFT - RIGHT) * share.clamp(0.0, 1.0)
}

fn colour(row: &Row) -> &'static str {
    let at = System::ALL.iter().position(|system| system.name() == row.system).unwrap_or(0);
    COLOURS[at % COLOURS.len()]
}

/// The picture.
pub fn svg(report: &Report) -> String {
    let peers: Vec<&Row> = report.rows.iter().filter(|row| !row.system.starts_with("kddm")).collect();
    let mut labels: Vec<(&str, &str)> = Vec::new();
    for row in &peers {
        if labels.last() != Some(&(row.group, row.case)) {
            labels.push((row.group, row.case));
        }
    }
    let height = TOP + ROW * labels.len() as f64 + 40.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">KDDM is so many times as fast (left of 1: slower)</text>\n"
    );
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _a_string_takes_all = writeln!(out, "{text}");
    };
    for power in LEAST as i32..=MOST as i32 {
        let (ratio, bottom) = (10_f64.powi(power), height - 30.0);
        let (at, stroke) = (x(ratio), if power == 0 { "black" } else { "#dddddd" });
        line(format_args!("<path d=\"M{at:.1} {:.1} V{bottom:.1}\" stroke=\"{stroke}\"/>", TOP - 10.0));
        line(format_args!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{ratio}</text>", bottom + 16.0));
    }
    for (number, (group, case)) in labels.iter().enumerate() {
        let y = TOP + ROW * (number as f64 + 0.5);
        line(format_args!("<text x=\"8\" y=\"{:.1}\">{case} ({group})</text>", y + 4.0));
        for row in peers.iter().filter(|row| (row.group, row.case) == (*group, *case)) {
            let (spread, colour) = (row.ours_is_faster, colour(row));
            line(format_args!(
                "<path d=\"M{:.1} {y:.1} H{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                x(spread.low),
                x(spread.high)
            ));
            line(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\" fill-opacity=\"0.8\"><title>{} {}: {}</title></circle>",
                x(spread.median),
                row.system,
                row.case,
                short(spread.median)
            ));
        }
    }
    let shown = System::ALL.iter().filter(|system| peers.iter().any(|row| row.system == system.name()));
    for (number, system) in shown.enumerate() {
        let at = LEFT + 125.0 * number as f64;
        let colour = peers.iter().find(|row| row.system == system.name()).map_or("black", |row| colour(row));
        line(format_args!("<circle cx=\"{at:.1}\" cy=\"34\" r=\"5\" fill=\"{colour}\"/>"));
        line(format_args!("<text x=\"{:.1}\" y=\"38\">{}</text>", at + 9.0, system.name()));
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::GROUPS;
    use crate::report::Slice;
    use crate::workload::Done;

    #[test]
    fn each_peer_has_its_place_and_ours_has_none() {
        let slice = |operations| Slice {
            load: 0.0,
            done: vec![Done { operations, elapsed_ns: 1_000_000, samples_ns: Vec::new() }],
        };
        let mut report = Report::new(std::time::Duration::from_millis(1), 1);
        let case = &GROUPS[0].cases[0];
        for (system, operations) in [(System::Kddm, 1000), (System::Redis, 10), (System::Memcached, 100)] {
            report.rows.push(Row::new("one copy", case, system, &[slice(operations)], &[slice(1000)]));
        }
        let picture = svg(&report);
        assert_eq!(picture.matches("<title>").count(), 2);
        assert!(
            picture.contains("redis read_again: 100") && picture.contains("memcached read_again: 10.0"),
            "{picture}"
        );
        assert!(x(0.5) < x(1.0) && x(1.0) < x(2.0) && x(f64::INFINITY) <= WIDTH - RIGHT);
    }
}
