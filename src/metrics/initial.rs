//! Makes each series whose labels are known at the start, with 0: `increase()` does not see the first step of a series
//! that begins with it.

use copyhold_core::domain::{FailureClass, NotCarried, ReplicaName};
use metrics::{counter, gauge, histogram};

const COUNTERS: [&str; 14] = [
    "copyhold_claims_total",
    "copyhold_claims_unanswered_total",
    "copyhold_leases_lost_total",
    "copyhold_leases_swept_total",
    "copyhold_leases_abandoned_again_total",
    "copyhold_copies_overdue_total",
    "copyhold_listener_reconnects_total",
    "copyhold_listener_trials_failed_total",
    "copyhold_notifications_total",
    "copyhold_inbox_moved_total",
    "copyhold_log_partitions_dropped_total",
    "copyhold_events_delivered_total",
    "copyhold_event_page_queries_total",
    "copyhold_http_connections_refused_total",
];
const REPLICA_COUNTERS: [&str; 6] = [
    "copyhold_copies_total",
    "copyhold_copied_bytes_total",
    "copyhold_source_bytes_total",
    "copyhold_target_bytes_total",
    "copyhold_uploads_orphaned_total",
    "copyhold_unregistered_changes_parked_total",
];
const GAUGES: [&str; 4] =
    ["copyhold_leases_held", "copyhold_listener_connected", "copyhold_event_readers", "copyhold_event_ring_bytes"];
const REPLICA_GAUGES: [&str; 2] = ["copyhold_replica_served", "copyhold_replica_in_doubt"];
const HISTOGRAMS: [&str; 2] = ["copyhold_object_seconds", "copyhold_claim_seconds"];

/// As in the metric `copyhold_rechecks_total`.
const RECHECK_RESULTS: [&str; 4] = ["equal", "wrong", "changed", "unknown"];
/// Why a reader of events ended.
const READER_ENDS: [&str; 5] = ["gone", "ahead", "other_log", "away", "slow"];
/// The statements whose failures are counted.
const STATEMENTS: [&str; 38] = [
    "log_page",
    "log_tail",
    "replica::admit_change",
    "lease::begin_generation",
    "lease::claim",
    "lease::complete",
    "lease::condemn_uploads",
    "lease::count_uploads",
    "stats::differences",
    "log::drop_partition",
    "replica::end_probe",
    "lease::end_uploads",
    "stats::figures",
    "lease::forget_unserved_uploads",
    "lease::intend_upload",
    "log::bytes",
    "lease::check_uploads",
    "log::make_partitions",
    "log::move_inbox",
    "lease::note_unsettled",
    "lease::older_uploads",
    "replica::open_breaker",
    "lease::pull_in",
    "lease::reclaim",
    "lease::record_parts",
    "replica::recorded_keys",
    "stats::refresh_backlog",
    "lease::renew",
    "schema::sequences_behind",
    "daemon::set_idle",
    "daemon::set_wakeup",
    "replica::claim_probe",
    "lease::claim_unsettled",
    "replica::probe_keys",
    "log::begin_partition",
    "object::key_twins",
    "lease::unfinished_uploads",
    "lease::upload_began",
];

/// Sets the counters of a daemon that is configured for `replicas` to 0, so that a scrape shows them before they rise.
pub(crate) fn initialise(replicas: &[ReplicaName]) {
    for name in COUNTERS {
        counter!(name).absolute(0);
    }
    for why in READER_ENDS {
        counter!("copyhold_event_readers_ended_total", "why" => why).absolute(0);
    }
    for statement in STATEMENTS {
        counter!("copyhold_database_errors_total", "statement" => statement).absolute(0);
    }
    for name in GAUGES {
        gauge!(name).set(0.0);
    }
    for name in HISTOGRAMS {
        drop(histogram!(name));
    }
    replicas.iter().for_each(initialise_replica);
}

fn initialise_replica(replica: &ReplicaName) {
    let replica = || replica.to_string();
    for name in REPLICA_COUNTERS {
        counter!(name, "replica" => replica()).absolute(0);
    }
    for class in FailureClass::ALL {
        counter!("copyhold_failures_total", "replica" => replica(), "class" => class.as_str()).absolute(0);
    }
    for property in NotCarried::ALL {
        counter!("copyhold_not_carried_total", "replica" => replica(), "property" => property.as_str()).absolute(0);
    }
    for result in RECHECK_RESULTS {
        counter!("copyhold_rechecks_total", "replica" => replica(), "result" => result).absolute(0);
    }
    for name in REPLICA_GAUGES {
        gauge!(name, "replica" => replica()).set(0.0);
    }
    drop(histogram!("copyhold_lag_seconds", "replica" => replica()));
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn sources(folder: &Path, found: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn each_statement_whose_failures_are_counted_is_there_from_the_start() {
        let mut text = String::new();
        for folder in ["src", "crates"] {
            sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut text);
        }
        // Spelt apart, so as not to be found here.
        let calls = [concat!("metrics::database", "_error(\""), concat!("journals.keep_", "trying(\"")];
        let mut counted = 0;
        for call in calls {
            for after in text.split(call).skip(1) {
                let mut quoted = after.split('"');
                let first = quoted.next().unwrap();
                // The second argument of those that try for as long as it takes.
                let statement = if call.contains("trying") { quoted.nth(1).unwrap() } else { first };
                assert!(STATEMENTS.contains(&statement), "{statement}");
                counted += 1;
            }
        }
        assert!(counted >= STATEMENTS.len() - 3, "{counted}");
        for duty in copyhold_db::log::LogDuty::ALL {
            assert!(STATEMENTS.contains(&duty.name()), "{}", duty.name());
        }
    }
}
