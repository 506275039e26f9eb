//! `/v1/events`: serves the event log over HTTP.

mod append;
mod body;
mod errors;
mod poll;
mod query;

use std::time::Duration;

use axum::{
    Extension,
    body::{Body, HttpBody as _},
    extract::State,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    response::Response,
};

pub(super) use append::append;

use super::{AppState, connections::Connection, error_response::ErrorResponse};
use query::{EventsQuery, ResponseFormat};

/// `GET /v1/events`: from where the reader left off, in the shape that it wants.
pub(super) async fn read(
    State(state): State<AppState>,
    Extension(connection): Extension<Connection>,
    request: Request<Body>,
) -> Result<Response, ErrorResponse> {
    let (head, body) = request.into_parts();
    state.auth.may_read(&connection, &head)?;
    if !body.is_end_stream() {
        return Err(ErrorResponse::bad("a GET has no body here: append events with POST"));
    }
    let batch_requested = EventsQuery::of(head.uri.query().unwrap_or_default(), &head.headers)?;
    let mut reader = state.log.reader(batch_requested.start, batch_requested.filter).map_err(errors::full)?;
    let began = tokio::select! {
        began = reader.begin() => began.map_err(|end| errors::ended(end, &state.database))?,
        () = state.drain.cancelled() => return Err(ending()),
    };
    let mut response = match batch_requested.shape {
        ResponseFormat::Sse => body::stream(reader, body::Sse, None, connection.progress, state.drain),
        ResponseFormat::Lines(wait) => body::stream(reader, body::Lines, wait, connection.progress, state.drain),
        ResponseFormat::Poll(wait) => poll::answer(reader, wait, &state).await?,
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy in front would otherwise collect some kilobytes before it passes anything on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Some(epoch) = began.epoch {
        // Cannot fail: eight hexadecimal digits.
        let epoch = HeaderValue::try_from(epoch.to_string()).expect("visible letters");
        headers.insert("copyhold-epoch", epoch);
    }
    Ok(response)
}

/// Another daemon, or this one's successor, continues.
fn ending() -> ErrorResponse {
    ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "this daemon is shutting down: ask again in a moment")
        .again_after(Duration::from_secs(1))
}

/// Says why a reader's query is not valid. For the fuzz targets.
pub fn check_events_query(query: &str) -> Result<(), String> {
    EventsQuery::of(query, &HeaderMap::new()).map(drop).map_err(|error| format!("{error:?}"))
}
