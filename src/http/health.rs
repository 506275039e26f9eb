use axum::{extract::State, http::StatusCode};

use super::Pages;
use crate::queue::SchemaFit;

/// The process runs and answers. Nothing else is asked, or an outage of PostgreSQL would have daemons restarted.
pub(super) async fn live() -> &'static str {
    "alive\n"
}

/// It takes on work: PostgreSQL answers and the schema fits.
pub(super) async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    if pages.drain.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".into());
    }
    match SchemaFit::of(pages.queue.pool(), pages.queue.schema()).await {
        Ok(SchemaFit::Fits) => (StatusCode::OK, "ready\n".into()),
        Ok(unfit) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unfit}\n")),
        // The log has the reason; a server's message may name hosts and roles, which are nobody's business here.
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL does not answer\n".into()),
    }
}
