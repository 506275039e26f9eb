//! What a play looks like in words.

use bytesize::ByteSize;
use copyhold_sandbox::demo::{Progress, Summary, Waits};

use crate::cli::output::Untrusted;

/// What goes on at the moment, beside the bars.
pub(super) fn now(progress: &Progress) -> String {
    match progress {
        Progress::Copying { leased, failing, .. } => {
            let failing = if *failing > 0 { format!(", {failing} copies failed and wait") } else { String::new() };
            format!("daemons hold {leased} objects{failing}")
        }
        Progress::Comparing { .. } => String::new(),
        Progress::Trickling { registered, everywhere, wrong, waits } => {
            let waits = waits.map(|w| format!(", {}", typical(&w))).unwrap_or_default();
            format!("{registered} registered, {everywhere} everywhere{waits}, {wrong} wrong or missing")
        }
    }
}

/// All of it in one line, where there are no bars.
pub(super) fn line(progress: &Progress) -> String {
    match progress {
        Progress::Copying { objects, registered, wasabi, scw, .. } => {
            format!("b2 {registered}/{objects}  wasabi {wasabi}/{objects}  scw {scw}/{objects}  {}", now(progress))
        }
        Progress::Comparing { done, of } => format!("read back {done}/{of}"),
        Progress::Trickling { .. } => now(progress),
    }
}

/// One subject a line.
pub(super) fn summary(summary: &Summary) -> String {
    let (comparison, killed, store) = (&summary.comparison, &summary.killed, &summary.failing_store);
    let mut lines = vec![
        String::new(),
        format!(
            "objects   {} of {}, the largest {} (seed {})",
            summary.objects,
            size(summary.bytes),
            size(summary.largest_bytes),
            summary.seed
        ),
        format!(
            "copies    {} in {:.1} s: {:.0} copies/s, {}/s, all accidents included",
            summary.copies,
            summary.seconds,
            summary.copies_per_second,
            size_of(summary.bytes_per_second)
        ),
    ];
    lines.extend(summary.waits.iter().map(|(replica, waits)| {
        format!("recorded  at {replica} {}, {} at most", typical(waits), seconds(waits.longest_seconds))
    }));
    lines.push(format!(
        "daemons   {} started, {} killed with SIGKILL holding {} leases, {} rescued",
        summary.daemons.started, summary.daemons.killed, killed.held_leases, killed.rescued_leases
    ));
    lines.push(format!(
        "{:<9} failed for {:.1} s: {} requests answered 503, {} connections reset",
        store.replica, store.seconds, store.answered_503, store.reset
    ));
    lines.extend(summary.failed_attempts.iter().map(|(replica, classes)| {
        let classes: Vec<_> = classes.iter().map(|(class, count)| format!("{count} {class}")).collect();
        format!("retried   copies to {replica} that failed: {}", classes.join(", "))
    }));
    let left = match summary.unfinished_uploads {
        0 => String::new(),
        left => format!("; {left} multipart left unfinished by the killed daemon"),
    };
    lines.push(format!("uploads   {} made twice{left}", summary.repeated_uploads));
    lines.push(format!(
        "compared  {} objects byte by byte, {}: {} wrong, {} missing, {} extra",
        comparison.compared,
        size(comparison.compared_bytes),
        comparison.wrong,
        comparison.missing,
        comparison.extra
    ));
    lines.extend(comparison.examples.iter().map(|finding| {
        format!("          {} {}: {}", finding.replica, Untrusted(&finding.key), Untrusted(&finding.how))
    }));
    lines.join("\n")
}

fn typical(waits: &Waits) -> String {
    format!("after {} (p50), {} (p99)", seconds(waits.p50_seconds), seconds(waits.p99_seconds))
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and far below 2^63")]
fn size_of(bytes: f64) -> String {
    size(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use copyhold_sandbox::demo::{Comparison, Finding};

    #[test]
    fn a_key_in_a_finding_cannot_touch_the_terminal() {
        let finding = Finding { replica: "scw".into(), key: "a\u{1b}[2J".into(), how: "byte 7 differs".into() };
        let bad = Summary {
            comparison: Comparison { wrong: 1, examples: vec![finding], ..Comparison::default() },
            ..Summary::nothing()
        };
        let text = summary(&bad);
        assert!(text.contains("1 wrong, 0 missing") && text.contains("scw a\\u{1b}[2J: byte 7 differs"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn times_are_given_in_the_unit_that_reads_best() {
        assert_eq!([0.0, 0.0194, 0.9994, 1.0, 12.34].map(seconds), ["0 ms", "19 ms", "999 ms", "1.0 s", "12.3 s"]);
    }
}
