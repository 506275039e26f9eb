//! Reads request bodies as a whole, within limits that all requests share.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error_response::ErrorResponse;

/// Bytes of one request.
const BODY: usize = 1 << 20;
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// What requests that write may take of the process.
#[derive(Clone, Debug)]
pub struct WriteLimits {
    /// Requests whose body is held in memory.
    bodies: Arc<Semaphore>,
    /// Connections to PostgreSQL: claims and completions need some too.
    statements: Arc<Semaphore>,
}

impl Default for WriteLimits {
    fn default() -> Self {
        Self { bodies: Arc::new(Semaphore::new(16)), statements: Arc::new(Semaphore::new(2)) }
    }
}

/// A body as it was sent, and its room.
#[derive(Debug)]
pub(super) struct RequestBody<'w> {
    body: Vec<u8>,
    _permit: SemaphorePermit<'w>,
}

impl RequestBody<'_> {
    pub(super) fn text(&self) -> Result<&str, ErrorResponse> {
        str::from_utf8(&self.body).map_err(|_| ErrorResponse::bad("the body is not UTF-8: send JSON as UTF-8"))
    }
}

impl WriteLimits {
    /// The whole body. `things`: what it holds, in a sentence.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        things: &str,
    ) -> Result<RequestBody<'_>, ErrorResponse> {
        if headers.contains_key(header::CONTENT_ENCODING) {
            return Err(ErrorResponse::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body is compressed, which is not understood: send it as it is",
            ));
        }
        let room = self.bodies.acquire().await.expect("never closed");
        Ok(RequestBody { body: read_whole(headers, body, things).await?, _permit: room })
    }

    /// Waits for a permit to send statements.
    pub(super) async fn statement_permit(&self) -> SemaphorePermit<'_> {
        self.statements.acquire().await.expect("never closed")
    }
}

/// Why there is no whole body.
enum BodyError {
    /// What was taken of it is as much as may be taken.
    TooLarge,
    Cut,
}

async fn read_whole(headers: &HeaderMap, body: Body, things: &str) -> Result<Vec<u8>, ErrorResponse> {
    // `at`: where the limit is, if that was seen.
    let too_large = |at: &str| {
        ErrorResponse::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request has {BODY} bytes at most{at}: send the {things} in several"),
        )
    };
    // Said before the client has sent all of it.
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > BODY as u64) {
        return Err(too_large(""));
    }
    // Gathered in one place: in pieces that are joined at the end, it would take twice the room.
    let mut bytes = Vec::with_capacity(announced.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default());
    let reading = async {
        let mut body = body;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BodyError::Cut)?;
            let Ok(data) = frame.into_data() else { continue };
            let room = BODY - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return Err(BodyError::TooLarge);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(BODY_WITHIN, reading).await {
        Ok(Ok(())) => Ok(bytes),
        Ok(Err(BodyError::TooLarge)) => {
            let line = bytes.split(|byte| *byte == b'\n').count();
            Err(too_large(&format!(", and line {line} goes beyond them")))
        }
        Ok(Err(BodyError::Cut)) => Err(ErrorResponse::bad("the body did not come to its end: send it again")),
        Err(_) => Err(ErrorResponse::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} seconds: send it again", BODY_WITHIN.as_secs()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, response::IntoResponse as _};
    use futures::{StreamExt as _, stream};

    use super::*;

    #[tokio::test]
    async fn a_body_without_end_is_refused_at_the_line_at_which_it_is_too_large() {
        let pieces = stream::iter(["{}\n{}\n".to_owned()]).chain(stream::repeat(" ".repeat(10_000)));
        let body = Body::from_stream(pieces.map(Ok::<_, std::io::Error>));
        let refused = WriteLimits::default().read(&HeaderMap::new(), body, "events").await.unwrap_err().into_response();
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let answer = to_bytes(refused.into_body(), 10_000).await.unwrap();
        let answer = str::from_utf8(&answer).unwrap();
        assert!(
            answer.contains("1048576 bytes at most, and line 3 goes beyond them: send the events in several"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_body_of_just_the_size_is_taken() {
        let body = Body::from(" ".repeat(BODY));
        assert_eq!(WriteLimits::default().read(&HeaderMap::new(), body, "events").await.unwrap().body.len(), BODY);
    }
}
