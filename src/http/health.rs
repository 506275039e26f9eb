//! The answers to an orchestrator's probes: whether the process lives, and whether it takes on work.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use copyhold_db::{
    DatabaseError,
    connections::{ConnectCause, ReadOnlyCause},
    schema::SchemaFit,
};

use super::AppState;

/// A prober does not wait for ever, and gets its answer before that.
const WITHIN: Duration = Duration::from_secs(3);
/// How long an attempt to connect that failed leaves the others time to succeed.
const OTHERS: Duration = Duration::from_millis(300);

/// The process runs and answers. Nothing else is asked, or an outage of PostgreSQL would have daemons restarted.
pub(super) async fn live() -> &'static str {
    "alive\n"
}

/// It takes on work: PostgreSQL answers and can be written to, and the schema fits.
pub(super) async fn ready(State(state): State<AppState>) -> (StatusCode, String) {
    if state.drain.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".into());
    }
    let outage = state.database.outage();
    let refused = async {
        let failed = outage.fails().await;
        tokio::time::sleep(OTHERS).await;
        failed.error.cause
    };
    tokio::select! {
        answer = asked(&state) => answer,
        Some(cause) = refused => unready(cause.clause()),
        () = tokio::time::sleep(WITHIN) => {
            let known = outage.now().and_then(|failed| failed.error.cause).unwrap_or(ConnectCause::NoAnswer);
            unready(known.clause())
        }
    }
}

async fn asked(state: &AppState) -> (StatusCode, String) {
    let read_only =
        |cause: ReadOnlyCause| (StatusCode::SERVICE_UNAVAILABLE, format!("PostgreSQL {}\n", cause.clause()));
    match state.database.probe().await {
        Ok(None) => {}
        Ok(Some(server)) => return read_only(server.cause),
        Err(error) => return error.read_only_cause().map_or_else(|| failed(&error), read_only),
    }
    match state.database.schema_fit().await {
        Ok(SchemaFit::Fits) => (StatusCode::OK, "ready\n".into()),
        Ok(unfit) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unfit}\n")),
        Err(error) => failed(&error),
    }
}

/// A server's message may name hosts and roles, which do not belong in this answer. The log has them.
fn failed(error: &DatabaseError) -> (StatusCode, String) {
    let cause = error.connect_cause().map(ConnectCause::clause);
    let cause = cause.or_else(|| error.is_no_answer().then(|| ConnectCause::NoAnswer.clause()));
    unready(cause.unwrap_or("it was asked in vain, and the log says why"))
}

fn unready(cause: &str) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, format!("PostgreSQL does not answer: {cause}\n"))
}
