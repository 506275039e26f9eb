use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use metrics::gauge;

use super::Pages;
use crate::queue::ReplicaStatus;

/// The figures of this process, and the backlog as the table has it.
pub(super) async fn render(State(pages): State<Pages>) -> impl IntoResponse {
    // While PostgreSQL is away the process's own figures are worth the more.
    if let Ok(replicas) = pages.queue.backlog().await {
        replicas.iter().for_each(set_backlog);
    }
    #[expect(clippy::cast_precision_loss, reason = "gauges are doubles; bytes stay exact up to 2^53")]
    gauge!("copyhold_memory_bytes").set(pages.memory.held_bytes() as f64);
    metrics_process::Collector::default().collect();
    (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render())
}

#[expect(clippy::cast_precision_loss, reason = "gauges are doubles; counts and bytes stay exact up to 2^53")]
fn set_backlog(status: &ReplicaStatus) {
    let set = |name: &'static str, value: f64| gauge!(name, "replica" => status.replica.clone()).set(value);
    set("copyhold_backlog_objects", status.backlog_objects as f64);
    set("copyhold_backlog_bytes", status.backlog_bytes as f64);
    set("copyhold_backlog_in_flight", status.in_flight as f64);
    set("copyhold_backlog_waiting", status.waiting as f64);
    set("copyhold_backlog_parked", status.parked as f64);
    set("copyhold_backlog_oldest_age_seconds", status.oldest_age_seconds.unwrap_or_default());
    // Of one that is about to leave nothing is counted, and nothing is wrong with that.
    let draining = status.draining_seconds.is_some();
    let never = if draining { 0.0 } else { f64::INFINITY };
    set("copyhold_backlog_counted_ago_seconds", status.counted_seconds_ago.unwrap_or(never));
    set("copyhold_replica_draining", f64::from(u8::from(draining)));
}
