//! `/v1/objects`: registers objects over HTTP, for applications without a connection to PostgreSQL.

mod body;

use std::time::Duration;

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};
use copyhold_core::domain::Generation;
use copyhold_db::{DatabaseError, connections::LogThrottle};
use serde_json::json;
use tracing::warn;

use super::{AppState, connections::Connection, error_response::ErrorResponse};

/// `POST /v1/objects`: an object, an array of objects, or objects one after another; all are registered, or none.
pub(super) async fn register(
    State(state): State<AppState>,
    Extension(connection): Extension<Connection>,
    request: Request<Body>,
) -> Result<Response, ErrorResponse> {
    let (head, body) = request.into_parts();
    state.auth.may_register(&connection, &head)?;
    let body = state.write_limits.read(&head.headers, body, "objects").await?;
    let counted = body::count(body.text()?)?;
    // Objects take several times the room of their text, so they are made of few texts at a time.
    let _permit = state.write_limits.statement_permit().await;
    let objects = counted.objects(state.database.replicas())?;
    let generations = state.database.register_objects(&objects).await.map_err(|error| error_response(&error))?;
    AWAY.is_over();
    let generations: Vec<_> = generations.into_iter().map(|Generation(number)| number).collect();
    Ok(axum::Json(json!({ "registered": generations.len(), "generations": generations })).into_response())
}

/// Logs an unavailable PostgreSQL once for all requests.
static AWAY: LogThrottle = LogThrottle::new();

fn error_response(error: &DatabaseError) -> ErrorResponse {
    if let Some(response) = error.refusal().filter(|_| error.is_data_error()) {
        let hint = response.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
        let text = format!("nothing was registered: {}{hint}", response.message);
        return ErrorResponse::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    }
    if error.is_unavailable() {
        AWAY.fails(|times| warn!(error = %error, times, "Could not register objects"));
    } else {
        warn!(error = %error, "Could not register objects");
    }
    let away =
        |text: &str| ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, text).again_after(Duration::from_secs(2));
    if error.outcome_unknown() {
        return away(
            "PostgreSQL did not answer: it is not known whether the objects were registered; send them again, which costs \
             a copy at most",
        );
    }
    if error.is_unavailable() {
        return away(&format!("nothing was registered: PostgreSQL {}", error.unavailable_because()));
    }
    if error.is_lock_timeout() {
        return away("nothing was registered: another transaction holds one of these objects");
    }
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "nothing was registered: the daemon's log says why")
}
