//! Warns when daemons are configured differently.

use std::{collections::BTreeMap, time::Duration};

use copyhold_db::{Duties, stats::Difference};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{metrics, wakeup::jitter::jittered};

/// How often the daemons' descriptions of themselves are compared.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Shows them in the metrics.
fn publish(duties: &Duties, now: &BTreeMap<(&'static str, Option<String>), Difference>) {
    let differ = |kind| now.keys().any(|(what, _)| *what == kind);
    metrics::daemons_differ(Difference::KINDS.map(|kind| (kind, differ(kind))));
    let served = duties.replicas().iter().map(|replica| (replica.to_string(), false));
    let unserved = now.values().filter_map(|difference| match difference {
        Difference::Unserved { replica } => Some((replica.clone(), true)),
        _ => None,
    });
    // Of a replica that is in both, the latter counts.
    metrics::replicas_unserved(served.chain(unserved));
}

/// Says when the daemons are not configured alike, once for each difference, until `drain`.
pub async fn watch_differences(duties: Duties, drain: CancellationToken) {
    // By kind and replica, and not by who differs: in a rolling deployment that changes with each daemon.
    let mut logged: BTreeMap<(&'static str, Option<String>), Difference> = BTreeMap::new();
    loop {
        match duties.differences().await {
            Ok(differences) => {
                let key = |difference: &Difference| (difference.what(), difference.replica().map(str::to_owned));
                let now: BTreeMap<_, _> = differences.into_iter().map(|d| (key(&d), d)).collect();
                for (_, new) in now.iter().filter(|(key, _)| !logged.contains_key(key)) {
                    warn!("Daemons and database differ: {new}");
                }
                for (_, past) in logged.iter().filter(|(key, _)| !now.contains_key(key)) {
                    info!("No longer so: {past}");
                }
                publish(&duties, &now);
                logged = now;
            }
            // The claimer logs that PostgreSQL is unavailable.
            Err(_) => metrics::database_error("stats::differences"),
        }
        tokio::select! {
            () = drain.cancelled() => return,
            () = tokio::time::sleep(jittered(LOOK_EVERY)) => {}
        }
    }
}
