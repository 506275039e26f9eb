use axum::{extract::State, http::StatusCode};

use super::Pages;
use crate::queue::{ReadOnlyCause, SchemaFit, probe};

/// The process runs and answers. Nothing else is asked, or an outage of PostgreSQL would have daemons restarted.
pub(super) async fn live() -> &'static str {
    "alive\n"
}

/// It takes on work: PostgreSQL answers and can be written to, and the schema fits.
pub(super) async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    if pages.drain.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".into());
    }
    // A server's message may name hosts and roles, which are nobody's business here.
    let read_only =
        |cause: ReadOnlyCause| (StatusCode::SERVICE_UNAVAILABLE, format!("PostgreSQL {}\n", cause.clause()));
    match probe(pages.queue.pool()).await {
        Ok(None) => {}
        Ok(Some(server)) => return read_only(server.cause),
        Err(error) => {
            let away = (StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL does not answer\n".to_owned());
            return error.read_only_cause().map_or(away, read_only);
        }
    }
    match SchemaFit::of(pages.queue.pool(), pages.queue.schema()).await {
        Ok(SchemaFit::Fits) => (StatusCode::OK, "ready\n".into()),
        Ok(unfit) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unfit}\n")),
        // The log has the reason.
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL does not answer\n".into()),
    }
}
