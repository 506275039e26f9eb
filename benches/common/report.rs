//! The lines that a benchmark prints for programs to read: `bar F4 peak-rss-mib 121 <= 150 ok`.

use std::fmt::Display;

/// Prints a bar that requires no more than `limit`.
pub fn at_most<T: PartialOrd + Display + Copy>(label: &str, name: &str, value: T, limit: T) {
    line(label, name, value, "<=", limit, value <= limit);
}

/// Prints a bar that requires no less than `limit`.
pub fn at_least<T: PartialOrd + Display + Copy>(label: &str, name: &str, value: T, limit: T) {
    line(label, name, value, ">=", limit, value >= limit);
}

fn line<T: Display>(label: &str, name: &str, value: T, relation: &str, limit: T, holds: bool) {
    let verdict = if holds { "ok" } else { "short" };
    println!("bar {label} {name} {value:.1} {relation} {limit} {verdict}");
}

/// Returns the percentile by nearest rank: the smallest value that at least this share of all do not exceed. `sorted`
/// is ascending and not empty.
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}
