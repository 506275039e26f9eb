//! Applies the rules to all objects, with a progress bar.

use std::time::{Duration, Instant};

use copyhold_db::{
    Database,
    rules::{ApplyProgress, ApplyResult, ApplyScope, PartSizes},
};
use copyhold_s3::copy::{PART_AT_LEAST, WHOLE_UP_TO};
use tokio_util::sync::CancellationToken;

use crate::cli::{progress::Bar, stop::StopSignals};

/// How objects are sent, for figures: a store with narrower limits takes more parts.
pub(in crate::cli) fn sizes() -> PartSizes {
    PartSizes { whole_up_to: WHOLE_UP_TO, part_bytes: PART_AT_LEAST, max_parts: 10_000 }
}

/// Applies the rules to all objects, or until a signal; shows the progress. Returns how long it took, too.
pub(in crate::cli) async fn judge(database: &Database, scope: &ApplyScope) -> anyhow::Result<(ApplyResult, Duration)> {
    let mut signals = StopSignals::listen()?;
    let (stop, progress) = (CancellationToken::new(), ApplyProgress::default());
    // For the bar alone. One that goes on amid them does not know how many are left.
    let amid = database.rules_state().await?.applying.is_some_and(|(_, through)| through.is_some());
    let total = database.estimate_objects().await.ok().filter(|total| *total > 0 && !amid);
    let (bar, begun) = (Bar::new(total, "objects"), Instant::now());
    let ended = {
        let mut running = std::pin::pin!(database.apply_rules(scope, &progress, &stop));
        loop {
            tokio::select! {
                ended = &mut running => break ended,
                () = bar.due() => {
                    let looked = progress.looked();
                    #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
                    let rate = looked as f64 / begun.elapsed().as_secs_f64();
                    bar.show(looked, &format!("{rate:.0}/s"));
                }
                () = signals.next() => stop.cancel(),
            }
        }
    };
    bar.clear();
    Ok((ended?, begun.elapsed()))
}
