//! The metrics of this process: names, units and labels. Labels never hold a key or a task's id.
//!
//! The figures from PostgreSQL are in `database`: the recorder here keeps every value, and every label, for ever.

mod database;
mod exposition;
mod figures;
mod initial;
mod process;

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

pub(crate) use database::{
    BacklogFigures, ReplicaFigures, daemons_differ, database_away, database_read, log_bytes, notification_queue,
    replicas_unserved, uploads_unfinished,
};
pub(crate) use initial::initialise;

use copyhold_core::domain::{FailureClass, NotCarried, ReplicaName};

/// Seconds; from a local round trip to a large object on a slow line.
const LATENCY_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 3600.0];

/// Installs the recorder of this process; its text is what `/metrics` serves.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &LATENCY_BUCKETS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

/// What `/metrics` answers, from memory alone. `held`: bytes of objects in memory.
#[expect(clippy::cast_precision_loss, reason = "gauges are doubles; bytes stay exact up to 2^53")]
pub(crate) fn render(recorder: &PrometheusHandle, held: u64) -> String {
    gauge!("copyhold_memory_bytes").set(held as f64);
    let mut text = recorder.render();
    database::render(&mut text);
    process::render(&mut text);
    text
}

fn describe() {
    describe_counters();
    describe_gauges();
    describe_histograms();
}

fn describe_counters() {
    describe_counter!("copyhold_copies_total", Unit::Count, "Copies recorded; by replica.");
    describe_counter!("copyhold_copied_bytes_total", Unit::Bytes, "Bytes of copies recorded; by replica.");
    describe_counter!("copyhold_source_bytes_total", Unit::Bytes, "Bytes read from replicas; by replica.");
    describe_counter!(
        "copyhold_target_bytes_total",
        Unit::Bytes,
        "Bytes written to replicas, of copies that failed too; by replica."
    );
    describe_counter!(
        "copyhold_not_carried_total",
        Unit::Count,
        "Copies that lack something that their object has; by replica and property."
    );
    describe_counter!("copyhold_failures_total", Unit::Count, "Attempts that failed; by replica and class.");
    describe_counter!("copyhold_claims_total", Unit::Count, "Rows leased by this process.");
    describe_counter!(
        "copyhold_claims_unanswered_total",
        Unit::Count,
        "Rows of claims whose answer was lost, given back by this process."
    );
    describe_counter!("copyhold_leases_lost_total", Unit::Count, "Leases that this process lost before it was done.");
    describe_counter!("copyhold_leases_swept_total", Unit::Count, "Leases of dead holders that this process freed.");
    describe_counter!(
        "copyhold_uploads_orphaned_total",
        Unit::Count,
        "Orphaned uploads that this process aborted; by replica."
    );
    describe_counter!(
        "copyhold_leases_abandoned_again_total",
        Unit::Count,
        "Leases freed by this process of objects whose holder before had died as well."
    );
    describe_counter!(
        "copyhold_copies_overdue_total",
        Unit::Count,
        "Copies stopped because they took longer than their size explains."
    );
    describe_counter!(
        "copyhold_rechecks_total",
        Unit::Count,
        "Copies read once more because a holder of their object had died; by replica and result: equal, wrong, changed, unknown."
    );
    describe_counter!(
        "copyhold_unregistered_changes_parked_total",
        Unit::Count,
        "Unregistered changes at a replica that were parked: too many at once, or the configuration says so; by replica."
    );
    describe_counter!(
        "copyhold_listener_reconnects_total",
        Unit::Count,
        "Times that this process has connected again in order to LISTEN."
    );
    describe_counter!(
        "copyhold_listener_trials_failed_total",
        Unit::Count,
        "Connections of this process on which no notification could arrive: through a pooler, or to a read replica."
    );
    describe_counter!(
        "copyhold_notifications_total",
        Unit::Count,
        "Notifications of PostgreSQL that this process has received."
    );
    describe_counter!(
        "copyhold_inbox_moved_total",
        Unit::Count,
        "Events of other programs that this process has moved into the log."
    );
    describe_counter!(
        "copyhold_log_partitions_dropped_total",
        Unit::Count,
        "Partitions of the log dropped by this process."
    );
    describe_counter!(
        "copyhold_events_delivered_total",
        Unit::Count,
        "Events handed to readers, once for each of them."
    );
    describe_counter!(
        "copyhold_event_page_queries_total",
        Unit::Count,
        "Pages of the event log read for readers that are behind what is held in memory."
    );
    describe_counter!(
        "copyhold_event_readers_ended_total",
        Unit::Count,
        "Readers that could not go on from where they stood; by why: gone, ahead, other_log, away, or slow."
    );
    describe_counter!(
        "copyhold_http_connections_refused_total",
        Unit::Count,
        "HTTP connections that found no room, and no silent one that could have made it."
    );
    describe_counter!("copyhold_database_errors_total", Unit::Count, "Statements that failed; by statement.");
}

fn describe_gauges() {
    describe_gauge!("copyhold_leases_held", Unit::Count, "Rows that this process holds.");
    describe_gauge!("copyhold_memory_bytes", Unit::Bytes, "Object bytes held in memory.");
    describe_gauge!(
        "copyhold_replica_served",
        Unit::Count,
        "1 if this process copies to the replica, 0 if not; by replica."
    );
    describe_gauge!(
        "copyhold_replica_in_doubt",
        Unit::Count,
        "1 while this process does not know whether failures are the store's or its objects', and has few of these under way, 0 else; by replica."
    );
    describe_gauge!(
        "copyhold_plan_wrong",
        Unit::Count,
        "1 if PostgreSQL would not find a lane's work by its index, as seen when this process started; by lane."
    );
    describe_gauge!(
        "copyhold_listener_connected",
        Unit::Count,
        "1 if LISTEN is in place, 0 while only the poll works."
    );
    describe_gauge!("copyhold_event_readers", Unit::Count, "Readers of the event log.");
    describe_gauge!("copyhold_event_ring_bytes", Unit::Bytes, "The latest events, held in memory for readers.");
    describe_gauge!(
        "copyhold_store_concurrency_limit",
        Unit::Count,
        "Requests that may be under way at once, fewer while the store throttles; 0: one at a time, with pauses; by replica."
    );
}

fn describe_histograms() {
    describe_histogram!("copyhold_object_seconds", Unit::Seconds, "From claim to the end of work on one object.");
    describe_histogram!(
        "copyhold_lag_seconds",
        Unit::Seconds,
        "From registration to the record of a copy; by replica."
    );
    describe_histogram!(
        "copyhold_store_request_seconds",
        Unit::Seconds,
        "Requests to stores; by replica and operation."
    );
    describe_histogram!("copyhold_claim_seconds", Unit::Seconds, "Round trip of a claim.");
}

pub(crate) fn change_parked(replica: &ReplicaName) {
    metrics::counter!("copyhold_unregistered_changes_parked_total", "replica" => replica.to_string()).increment(1);
}

pub(crate) fn copied(replica: &ReplicaName, bytes: u64, lag: Duration) {
    let replica = replica.to_string();
    counter!("copyhold_copies_total", "replica" => replica.clone()).increment(1);
    counter!("copyhold_copied_bytes_total", "replica" => replica.clone()).increment(bytes);
    histogram!("copyhold_lag_seconds", "replica" => replica).record(lag);
}

pub(crate) fn not_carried(replica: &ReplicaName, property: NotCarried) {
    counter!("copyhold_not_carried_total", "replica" => replica.to_string(), "property" => property.as_str())
        .increment(1);
}

pub(crate) fn failed(replica: &ReplicaName, class: FailureClass) {
    counter!("copyhold_failures_total", "replica" => replica.to_string(), "class" => class.as_str()).increment(1);
}

pub(crate) fn claimed(rows: usize, took: Duration) {
    counter!("copyhold_claims_total").increment(rows as u64);
    histogram!("copyhold_claim_seconds").record(took);
}

pub(crate) fn claims_unanswered(rows: usize) {
    counter!("copyhold_claims_unanswered_total").increment(rows as u64);
}

pub(crate) fn object_done(took: Duration) {
    histogram!("copyhold_object_seconds").record(took);
}

pub(crate) fn leases_held(rows: usize) {
    #[expect(clippy::cast_precision_loss, reason = "leases are counted in thousands")]
    gauge!("copyhold_leases_held").set(rows as f64);
}

pub(crate) fn leases_lost(rows: usize) {
    counter!("copyhold_leases_lost_total").increment(rows as u64);
}

pub(crate) fn leases_swept(rows: usize) {
    counter!("copyhold_leases_swept_total").increment(rows as u64);
}

pub(crate) fn uploads_orphaned(replica: &ReplicaName, uploads: usize) {
    counter!("copyhold_uploads_orphaned_total", "replica" => replica.to_string()).increment(uploads as u64);
}

pub(crate) fn abandoned_again(rows: usize) {
    counter!("copyhold_leases_abandoned_again_total").increment(rows as u64);
}

pub(crate) fn copy_overdue() {
    counter!("copyhold_copies_overdue_total").increment(1);
}

pub(crate) fn rechecked(replica: &ReplicaName, result: &'static str) {
    counter!("copyhold_rechecks_total", "replica" => replica.to_string(), "result" => result).increment(1);
}

pub(crate) fn database_error(statement: &'static str) {
    counter!("copyhold_database_errors_total", "statement" => statement).increment(1);
}

pub(crate) fn replica_served(replica: &ReplicaName, served: bool) {
    gauge!("copyhold_replica_served", "replica" => replica.to_string()).set(f64::from(u8::from(served)));
}

pub(crate) fn in_doubt(replica: &ReplicaName, doubted: bool) {
    gauge!("copyhold_replica_in_doubt", "replica" => replica.to_string()).set(f64::from(u8::from(doubted)));
}

pub(crate) fn plan_wrong(lane: &str, wrong: bool) {
    gauge!("copyhold_plan_wrong", "lane" => lane.to_owned()).set(f64::from(u8::from(wrong)));
}

pub(crate) fn listener_connected(connected: bool) {
    gauge!("copyhold_listener_connected").set(f64::from(u8::from(connected)));
}

pub(crate) fn listener_reconnects() {
    counter!("copyhold_listener_reconnects_total").increment(1);
}

pub(crate) fn listener_trial_failed() {
    counter!("copyhold_listener_trials_failed_total").increment(1);
}

pub(crate) fn notification_received() {
    counter!("copyhold_notifications_total").increment(1);
}

pub(crate) fn inbox_moved(events: usize) {
    counter!("copyhold_inbox_moved_total").increment(events as u64);
}

pub(crate) fn log_partition_dropped() {
    counter!("copyhold_log_partitions_dropped_total").increment(1);
}

pub(crate) fn event_readers(readers: usize) {
    #[expect(clippy::cast_precision_loss, reason = "readers are counted in thousands")]
    gauge!("copyhold_event_readers").set(readers as f64);
}

pub(crate) fn event_ring_bytes(bytes: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a gibibyte at most")]
    gauge!("copyhold_event_ring_bytes").set(bytes as f64);
}

pub(crate) fn event_page_query() {
    counter!("copyhold_event_page_queries_total").increment(1);
}

pub(crate) fn events_delivered(events: usize) {
    counter!("copyhold_events_delivered_total").increment(events as u64);
}

pub(crate) fn connection_refused() {
    counter!("copyhold_http_connections_refused_total").increment(1);
}

pub(crate) fn event_reader_ended(why: &'static str) {
    counter!("copyhold_event_readers_ended_total", "why" => why).increment(1);
}
