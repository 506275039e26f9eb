use std::time::Duration;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use copyhold_core::domain::{InvalidEvents, split_events};
use copyhold_db::queue::{Complaint, QueueError};
use serde_json::json;
use tracing::warn;

use super::super::{Pages, refusal::Refusal};

/// `POST /v1/events`: an object, an array of objects, or objects one after another; all are appended, or none.
pub(in crate::http) async fn append(
    State(pages): State<Pages>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    pages.auth.may_append(&headers)?;
    let given = pages.writes.take(&headers, body, "events").await?;
    let split_events = split_events(given.text()?).map_err(|why| {
        let status = match why {
            InvalidEvents::TooMany(_) => StatusCode::PAYLOAD_TOO_LARGE,
            InvalidEvents::NotJson(_) | InvalidEvents::Empty => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, why.to_string())
    })?;
    let _turn = pages.writes.turn().await;
    let appended = pages.queue.append_events(&split_events).await.map_err(|error| refused(&error))?;
    AWAY.is_over();
    Ok((StatusCode::ACCEPTED, axum::Json(json!({ "appended": appended }))).into_response())
}

/// PostgreSQL is away, and everybody asks.
static AWAY: Complaint = Complaint::new();

fn refused(error: &QueueError) -> Refusal {
    if let Some(refusal) = error.refusal() {
        let status = match refusal.sqlstate {
            "54000" => Some(StatusCode::PAYLOAD_TOO_LARGE),
            // A reserved kind, and all that is wrong with a value.
            "42939" => Some(StatusCode::UNPROCESSABLE_ENTITY),
            code if code.starts_with("22") => Some(StatusCode::UNPROCESSABLE_ENTITY),
            _ => None,
        };
        if let Some(status) = status {
            let hint = refusal.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
            return Refusal::new(status, format!("nothing was appended: {}{hint}", refusal.message));
        }
    }
    if error.is_away() {
        AWAY.fails(|times| warn!(error = %error, times, "Could not append events"));
    } else {
        warn!(error = %error, "Could not append events");
    }
    if error.leaves_open() {
        return Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "PostgreSQL did not answer: it is not known whether the events were appended",
        )
        .again_after(Duration::from_secs(2));
    }
    if error.is_away() {
        let text = format!("nothing was appended: PostgreSQL {}", error.why_away());
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).again_after(Duration::from_secs(2));
    }
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "nothing was appended: the daemon's log says why")
}
