//! Throughput over time with the faults in it, as a picture and as a line of text.

use std::fmt::Write;

use crate::report::Happened;

/// How long each figure of a throughput is for, in nanoseconds.
pub const SLICE_NS: u64 = 100_000_000;

/// Columns of the line of text.
const COLUMNS: usize = 100;

/// Size of the picture, and what is left free around the curve.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 50.0;

/// Operations that were completed in each slice of time.
pub fn throughput(returns_ns: impl Iterator<Item = u64>, end_ns: u64) -> Vec<u64> {
    let mut slices = vec![0; (end_ns / SLICE_NS) as usize + 1];
    for at in returns_ns {
        if let Some(slice) = slices.get_mut((at / SLICE_NS) as usize) {
            *slice += 1;
        }
    }
    slices
}

/// The throughput as a row of blocks, and below it where something was wrong.
pub fn sparkline(throughput: &[u64], faults: &[Happened]) -> String {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = throughput.len().div_ceil(COLUMNS).max(1);
    let sums: Vec<u64> = throughput.chunks(width).map(|chunk| chunk.iter().sum()).collect();
    let most = sums.iter().copied().max().unwrap_or(0).max(1);
    let row: String = sums.iter().map(|sum| BLOCKS[(sum * 8).div_ceil(most).min(8) as usize]).collect();
    let column_ns = SLICE_NS * width as u64;
    let marks = (0..sums.len() as u64).map(|column| {
        let (from, to) = (column * column_ns, (column + 1) * column_ns);
        let fault = faults.iter().find(|fault| fault.from_ns < to && fault.to_ns >= from);
        fault.and_then(|fault| fault.fault.name().chars().next()).unwrap_or(' ')
    });
    format!("{row}\n{}", marks.collect::<String>().trim_end())
}

/// The throughput as a picture, with each fault as a band that has its name.
pub fn svg(throughput: &[u64], faults: &[Happened], title: &str) -> String {
    let end_ns = (throughput.len().max(2) as u64 - 1) * SLICE_NS;
    let most = throughput.iter().copied().max().unwrap_or(0).max(1);
    let per_second = 1e9 / SLICE_NS as f64;
    let x = |ns: f64| MARGIN + (WIDTH - 2.0 * MARGIN) * (ns / end_ns as f64).min(1.0);
    let y = |count: u64| HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * count as f64 / most as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _a_string_takes_all = writeln!(out, "{text}");
    };
    for fault in faults {
        let (from, to) = (x(fault.from_ns as f64), x(fault.to_ns as f64));
        let (width, height) = ((to - from).max(1.0), HEIGHT - 2.0 * MARGIN);
        let colour = if fault.fault.ends_daemon() { "#e06666" } else { "#f6b26b" };
        line(format_args!(
            "<rect x=\"{from:.1}\" y=\"{MARGIN}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\" \
             fill-opacity=\"0.5\"><title>{} on host {}</title></rect>",
            fault.fault.name(),
            fault.host
        ));
        let (at, top) = (from + 3.0, MARGIN - 4.0);
        line(format_args!(
            "<text x=\"{at:.1}\" y=\"{top}\" font-size=\"8\" transform=\"rotate(-40 {at:.1} {top})\">{} {}</text>",
            fault.fault.name(),
            fault.host
        ));
    }
    let points = throughput.iter().enumerate().map(|(slice, count)| {
        let at = x((slice as u64 * SLICE_NS) as f64);
        format!("{at:.1},{:.1}", y(*count))
    });
    let points = points.collect::<Vec<_>>().join(" ");
    line(format_args!("<polyline points=\"{points}\" fill=\"none\" stroke=\"#1155cc\" stroke-width=\"1.5\"/>"));
    let (bottom, right) = (HEIGHT - MARGIN, WIDTH - MARGIN);
    line(format_args!("<path d=\"M{MARGIN} {MARGIN} V{bottom} H{right}\" fill=\"none\" stroke=\"black\"/>"));
    let rate = most as f64 * per_second;
    line(format_args!("<text x=\"4\" y=\"{MARGIN}\">{rate:.0}/s</text>"));
    line(format_args!("<text x=\"{right}\" y=\"{}\">{:.0} s</text>", bottom + 16.0, end_ns as f64 / 1e9));
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    #[test]
    fn operations_are_counted_where_they_ended() {
        let returns = [0, SLICE_NS - 1, SLICE_NS, 3 * SLICE_NS, 9 * SLICE_NS];
        assert_eq!(throughput(returns.into_iter(), 3 * SLICE_NS), [2, 1, 0, 1]);
    }

    #[test]
    fn faults_stand_below_the_curve_and_in_the_picture() {
        let fault = Happened {
            fault: Fault::Cut,
            led: false,
            host: 2,
            from_ns: SLICE_NS,
            to_ns: 2 * SLICE_NS,
            whole_ns: SLICE_NS..2 * SLICE_NS,
            cut_off: Vec::new(),
        };
        assert_eq!(sparkline(&[8, 4, 0, 1], std::slice::from_ref(&fault)), "█▄ ▁\n cc");
        let picture = svg(&[8, 4, 0, 1], &[fault], "a < b");
        assert!(picture.contains("cut on host 2") && picture.contains("a &lt; b"), "{picture}");
        assert_eq!(picture.matches("<polyline").count(), 1);
        assert!(sparkline(&[], &[]).trim().is_empty());
    }
}
