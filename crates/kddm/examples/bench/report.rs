//! Rows, medians, and how they are shown.

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub value: f64,
    pub unit: String,
    pub floor: Option<f64>,
    pub ratio: Option<f64>,
    pub p99_ratio: Option<f64>,
}

/// Nanoseconds of single operations, or of batches divided by their size.
#[derive(Default, Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, nanoseconds: f64) {
        self.0.push(nanoseconds);
    }

    pub fn quantile(&mut self, quantile: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let at = ((self.0.len().saturating_sub(1)) as f64 * quantile) as usize;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// A figure against its floor.
pub fn row(name: &str, unit: &str, scale: f64, mut value: Samples, mut floor: Samples) -> Row {
    let (median, base) = (value.quantile(0.5), floor.quantile(0.5));
    let p99_ratio = value.quantile(0.99) / floor.quantile(0.99);
    Row {
        name: name.into(),
        value: median / scale,
        unit: unit.into(),
        floor: Some(base / scale),
        ratio: Some(median / base),
        p99_ratio: Some(p99_ratio),
    }
}

/// A rate against that of its floor, from the nanoseconds of single ones: here more is better.
pub fn rate(name: &str, unit: &str, scale: f64, mut value: Samples, mut floor: Samples) -> Row {
    let (median, base) = (value.quantile(0.5), floor.quantile(0.5));
    Row {
        name: name.into(),
        value: scale / median,
        unit: unit.into(),
        floor: Some(scale / base),
        ratio: Some(base / median),
        p99_ratio: Some(floor.quantile(0.99) / value.quantile(0.99)),
    }
}

/// What a figure costs, compared with its floor where it has one, so that less is better. A rate has no other cost than
/// that, and without a floor it says more of the machine than of us.
pub fn cost(row: &Row) -> Option<f64> {
    match (row.ratio, row.unit.as_str()) {
        (Some(ratio), "k/s" | "MiB/s") => Some(1.0 / ratio),
        (Some(ratio), _) => Some(ratio),
        (None, "B") => Some(row.value),
        (None, _) => None,
    }
}

pub fn print(rows: &[Row], json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(rows).expect("rows are plain data"));
        return;
    }
    println!("{:<26} {:>12} {:<6} {:>12} {:>8} {:>8}", "figure", "value", "unit", "floor", "ratio", "p99");
    for row in rows {
        let show = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
        println!(
            "{:<26} {:>12.2} {:<6} {:>12} {:>8} {:>8}",
            row.name,
            row.value,
            row.unit,
            show(row.floor),
            show(row.ratio),
            show(row.p99_ratio)
        );
    }
}
