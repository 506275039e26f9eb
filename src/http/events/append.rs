//! `POST /v1/events`: appends events of other programs.

use std::time::Duration;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use copyhold_core::domain::{InvalidEvents, split_events};
use copyhold_db::{DatabaseError, connections::LogThrottle};
use serde_json::json;
use tracing::warn;

use super::super::{AppState, error_response::ErrorResponse};

/// `POST /v1/events`: an object, an array of objects, or objects one after another; all are appended, or none.
pub(in crate::http) async fn append(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorResponse> {
    state.auth.may_append(&headers)?;
    let body = state.write_limits.read(&headers, body, "events").await?;
    let split_events = split_events(body.text()?).map_err(|why| {
        let status = match why {
            InvalidEvents::TooMany(_) => StatusCode::PAYLOAD_TOO_LARGE,
            InvalidEvents::NotJson(_) | InvalidEvents::Empty => StatusCode::BAD_REQUEST,
        };
        ErrorResponse::new(status, why.to_string())
    })?;
    let _permit = state.write_limits.statement_permit().await;
    let appended = state.database.append_events(&split_events).await.map_err(|error| error_response(&error))?;
    AWAY.is_over();
    Ok((StatusCode::ACCEPTED, axum::Json(json!({ "appended": appended }))).into_response())
}

/// Logs an unavailable PostgreSQL once for all requests.
static AWAY: LogThrottle = LogThrottle::new();

fn error_response(error: &DatabaseError) -> ErrorResponse {
    if let Some(response) = error.refusal() {
        let status = match response.sqlstate {
            "54000" => Some(StatusCode::PAYLOAD_TOO_LARGE),
            // A reserved kind, and all that is wrong with a value.
            "42939" => Some(StatusCode::UNPROCESSABLE_ENTITY),
            code if code.starts_with("22") => Some(StatusCode::UNPROCESSABLE_ENTITY),
            _ => None,
        };
        if let Some(status) = status {
            let hint = response.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
            return ErrorResponse::new(status, format!("nothing was appended: {}{hint}", response.message));
        }
    }
    if error.is_unavailable() {
        AWAY.fails(|times| warn!(error = %error, times, "Could not append events"));
    } else {
        warn!(error = %error, "Could not append events");
    }
    if error.outcome_unknown() {
        return ErrorResponse::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "PostgreSQL did not answer: it is not known whether the events were appended",
        )
        .again_after(Duration::from_secs(2));
    }
    if error.is_unavailable() {
        let text = format!("nothing was appended: PostgreSQL {}", error.unavailable_because());
        return ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, text).again_after(Duration::from_secs(2));
    }
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "nothing was appended: the daemon's log says why")
}
