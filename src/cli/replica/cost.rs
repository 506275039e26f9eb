//! Describes what it costs to clear all recorded copies of a replica.

use copyhold_core::domain::ReplicaName;
use copyhold_db::walk::Holdings;

use super::output;

/// One line for what is cleared, one for where it comes from, one for what is lost; none if nothing is on record.
/// `is`: `is` or `would be`.
pub(super) fn lines(replica: &ReplicaName, seen: &Holdings, would_be: bool) -> Vec<String> {
    if seen.recorded == 0 {
        return Vec::new();
    }
    let copies = output::count(seen.recorded.unsigned_abs(), "copy", "copies");
    let verb = match (would_be, seen.recorded) {
        (true, _) => "would be",
        (false, 1) => "is",
        (false, _) => "are",
    };
    let mut lines = vec![format!("{copies} of {replica} {verb} cleared and made again: {}", bytes(seen))];
    let sources: Vec<_> = seen
        .sources
        .iter()
        .filter(|(_, copies)| *copies > 0)
        .map(|(name, copies)| format!("{name} ({copies})"))
        .collect();
    if !sources.is_empty() {
        lines.push(format!("read from {}", sources.join(", ")));
    }
    if let Some(example) = seen.alone_example.as_ref().filter(|_| seen.alone > 0) {
        let objects = output::count(seen.alone.unsigned_abs(), "object", "objects");
        lines.push(format!("{objects} would have no copy left anywhere: \"{example}\", for one"));
    }
    lines
}

/// Returns how many bytes the recorded copies have, as far as their sizes are known.
fn bytes(seen: &Holdings) -> String {
    let known = output::bytes(seen.recorded_bytes);
    match seen.recorded_of_unknown_size {
        0 => known,
        unknown if unknown == seen.recorded => "no size is known".to_owned(),
        unknown => format!("{known}, and {unknown} of unknown size"),
    }
}
