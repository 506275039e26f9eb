use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::LengthLimitError;
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::warn;

use super::super::{Pages, refusal::Refusal};
use crate::{
    domain::{NoEvents, documents},
    queue::QueueError,
};

/// Bytes of one request.
const BODY: usize = 1 << 20;
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// What appending may take of the process.
#[derive(Clone, Debug)]
pub struct Appends {
    /// Requests whose body is held in memory.
    bodies: Arc<Semaphore>,
    /// Connections to PostgreSQL: claims and completions need some too.
    statements: Arc<Semaphore>,
}

impl Default for Appends {
    fn default() -> Self {
        Self { bodies: Arc::new(Semaphore::new(32)), statements: Arc::new(Semaphore::new(2)) }
    }
}

/// `POST /v1/events`: an object, an array of objects, or objects one after another; all are appended, or none.
pub(in crate::http) async fn append(
    State(pages): State<Pages>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    pages.auth.may_write(&headers)?;
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is compressed, which is not understood: send it as it is",
        ));
    }
    let _room = pages.appends.bodies.acquire().await.expect("never closed");
    let body = whole(&headers, body).await?;
    let text = str::from_utf8(&body).map_err(|_| Refusal::bad("the body is not UTF-8: send JSON as UTF-8"))?;
    let documents = documents(text).map_err(|why| {
        let status = match why {
            NoEvents::TooMany(_) => StatusCode::PAYLOAD_TOO_LARGE,
            NoEvents::NotJson(_) | NoEvents::Empty => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, why.to_string())
    })?;
    let _turn = pages.appends.statements.acquire().await.expect("never closed");
    let appended = pages.queue.append_events(&documents).await.map_err(|error| refused(&error))?;
    Ok((StatusCode::ACCEPTED, axum::Json(json!({ "appended": appended }))).into_response())
}

async fn whole(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request has {BODY} bytes at most: send the events in several"),
        )
    };
    // Said before the client has sent all of it.
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > BODY as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_WITHIN, to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_large(&error) => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::bad("the body did not come to its end: send it again")),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} seconds: send it again", BODY_WITHIN.as_secs()),
        )),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

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
    warn!(error = %error, "Could not append events");
    if error.leaves_open() {
        return Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "PostgreSQL did not answer: it is not known whether the events were appended",
        )
        .again_after(Duration::from_secs(2));
    }
    if error.is_away() {
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "nothing was appended: PostgreSQL cannot be reached")
            .again_after(Duration::from_secs(2));
    }
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "nothing was appended: the daemon's log says why")
}
