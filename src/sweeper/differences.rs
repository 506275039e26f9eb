use std::{collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::about;
use crate::{
    metrics,
    queue::{Difference, Queue},
};

/// How often the daemons' descriptions of themselves are compared.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Says when the daemons are not configured alike, once for each difference, until `drain`.
pub async fn watch_differences(queue: Queue, drain: CancellationToken) {
    // By kind and replica, and not by who differs: in a rolling deployment that changes with each daemon.
    let mut said: BTreeMap<(&'static str, Option<String>), Difference> = BTreeMap::new();
    loop {
        match queue.differences().await {
            Ok(differences) => {
                let key = |difference: &Difference| (difference.what(), difference.replica().map(str::to_owned));
                let now: BTreeMap<_, _> = differences.into_iter().map(|d| (key(&d), d)).collect();
                for (_, new) in now.iter().filter(|(key, _)| !said.contains_key(key)) {
                    warn!("Daemons and database differ: {new}");
                }
                for (_, past) in said.iter().filter(|(key, _)| !now.contains_key(key)) {
                    info!("No longer so: {past}");
                    if let (Difference::Unserved { .. }, Some(replica)) = (past, past.replica()) {
                        metrics::replica_unserved(replica, false);
                    }
                }
                for kind in Difference::KINDS {
                    metrics::daemons_differ(kind, now.keys().any(|(what, _)| *what == kind));
                }
                for unserved in now.values().filter(|d| matches!(d, Difference::Unserved { .. })) {
                    metrics::replica_unserved(unserved.replica().unwrap_or_default(), true);
                }
                said = now;
            }
            // The claims will say that PostgreSQL is away.
            Err(_) => metrics::database_error("queue::differences"),
        }
        tokio::select! {
            () = drain.cancelled() => return,
            () = tokio::time::sleep(about(LOOK_EVERY)) => {}
        }
    }
}
