//! What a play looks like in words.

use bytesize::ByteSize;

use crate::{
    cli::show::{Untrusted, table},
    sandbox::demo::{Progress, Summary, Waits},
};

/// What goes on at the moment, beside the bars.
pub(super) fn now(progress: &Progress) -> String {
    match progress {
        Progress::Copying { leased, failing, .. } => {
            let failing = if *failing > 0 { format!(", {failing} copies failed and wait") } else { String::new() };
            format!("daemons hold {leased} objects{failing}")
        }
        Progress::Comparing { .. } => String::new(),
        Progress::Trickling { registered, everywhere, compared, wrong, waits } => {
            let waits = waits.map(|w| format!("; recorded everywhere after {}", typical(&w))).unwrap_or_default();
            format!(
                "{registered} registered, {everywhere} everywhere, {compared} copies compared, {wrong} wrong or missing{waits}"
            )
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

pub(super) fn summary(summary: &Summary) -> String {
    let comparison = &summary.comparison;
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
        format!(
            "compared  {} objects on all replicas, {}, byte by byte: {} wrong, {} missing, {} extra",
            comparison.compared,
            size(comparison.compared_bytes),
            comparison.wrong,
            comparison.missing,
            comparison.extra
        ),
    ];
    for finding in &comparison.examples {
        lines.push(format!("          {} {}: {}", finding.replica, Untrusted(&finding.key), Untrusted(&finding.how)));
    }
    lines.extend(accidents(summary));
    lines.push(String::new());
    lines.push(waits(summary));
    lines.join("\n")
}

fn accidents(summary: &Summary) -> Vec<String> {
    let (killed, store) = (&summary.killed, &summary.failing_store);
    let mut lines = vec![
        format!(
            "daemons   {} started, {} killed with SIGKILL: it held {} leases, {} were rescued",
            summary.daemons.started, summary.daemons.killed, killed.held_leases, killed.rescued_leases
        ),
        format!(
            "{:<9} failed for {:.1} s: {} requests answered 503, {} connections reset",
            store.replica, store.seconds, store.answered_503, store.reset
        ),
    ];
    let attempts = summary.failed_attempts.iter().flat_map(|(replica, classes)| {
        classes.iter().map(move |(class, count)| format!("{count} to {replica} {class}"))
    });
    let attempts: Vec<_> = attempts.collect();
    if !attempts.is_empty() {
        lines.push(format!("retried   {}", attempts.join(", ")));
    }
    let cost = format!("uploads   {} more than one per copy", summary.repeated_uploads);
    lines.push(if summary.unfinished_uploads > 0 {
        format!("{cost}, {} multipart uploads left unfinished", summary.unfinished_uploads)
    } else {
        cost
    });
    lines
}

fn waits(summary: &Summary) -> String {
    let row = |(replica, waits): (&String, &Waits)| {
        vec![replica.clone(), seconds(waits.p50_seconds), seconds(waits.p99_seconds), seconds(waits.longest_seconds)]
    };
    let heads = ["from registration to record", "p50", "p99", "longest"];
    table(&heads, 1, summary.waits.iter().map(row).collect()).to_string()
}

fn typical(waits: &Waits) -> String {
    format!("{} (p50), {} (p99)", seconds(waits.p50_seconds), seconds(waits.p99_seconds))
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
