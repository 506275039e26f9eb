use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::LengthLimitError;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::warn;

use super::super::{Pages, refusal::Refusal};
use crate::queue::QueueError;

/// Bytes of one request.
const BODY: usize = 1 << 20;
const EVENTS: usize = 10_000;
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
    let documents = documents(&body)?;
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

/// The texts of the values one after another. PostgreSQL reads what is in them.
fn documents(body: &[u8]) -> Result<Vec<&str>, Refusal> {
    let text = str::from_utf8(body).map_err(|_| Refusal::bad("the body is not UTF-8: send JSON as UTF-8"))?;
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut documents, mut events) = (Vec::new(), 0);
    loop {
        let begin = values.byte_offset();
        match values.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Refusal::bad(format!("the body is not JSON: {error}"))),
            None => break,
        }
        let document = text[begin..values.byte_offset()].trim();
        // Anything but an array is one event, or none: PostgreSQL says so.
        events += serde_json::from_str::<Vec<IgnoredAny>>(document).map_or(1, |elements| elements.len());
        documents.push(document);
    }
    if events == 0 {
        return Err(Refusal::bad(
            "there is no event in the body: send a JSON object, such as {\"kind\": \"door.opened\"}",
        ));
    }
    if events > EVENTS {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request has {EVENTS} events at most, this one has {events}: send them in several"),
        ));
    }
    Ok(documents)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_or_several_in_whatever_way_they_are_written() {
        for (body, found) in [
            (r#"{"a": 1}"#, vec![r#"{"a": 1}"#]),
            ("  {\"a\":\n 1}\n", vec!["{\"a\":\n 1}"]),
            (r#"[{"a": 1}, {}]"#, vec![r#"[{"a": 1}, {}]"#]),
            (
                "{\"a\":1}\n\n{\"b\":123456789012345678901234567890}\n",
                vec!["{\"a\":1}", "{\"b\":123456789012345678901234567890}"],
            ),
        ] {
            assert_eq!(documents(body.as_bytes()).unwrap(), found, "{body}");
        }
        let nested = "[".repeat(100_000);
        let many = format!("[{}{{}}]", "{},".repeat(EVENTS));
        for bad in ["", " \n", "[]", "{", "{}}", "{\"a\":1} x", "nonsense", &nested, &many] {
            assert!(documents(bad.as_bytes()).is_err(), "{bad:.20}");
        }
        assert!(documents(b"{\"a\": \"\xff\"}").is_err());
    }
}
