//! Long polling: one JSON document per request.

use std::time::Duration;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use copyhold_core::domain::Cursor;
use tokio::time::Instant;

use super::super::{AppState, error_response::ErrorResponse};
use super::{ending, errors};
use crate::events::{Batch, Next, Reader};

/// However long it takes to find something that passes the filter, the client gets an answer after this time.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Returns the first events, or none if none have come within `wait`; and where to continue.
pub(super) async fn answer(mut reader: Reader, wait: Duration, state: &AppState) -> Result<Response, ErrorResponse> {
    let until = Instant::now() + wait;
    loop {
        let next = tokio::select! {
            next = reader.next_until(until) => next,
            () = state.drain.cancelled() => None,
        };
        match next {
            Some(Next::Events(batch)) => return Ok(document(Some(&batch), batch.last())),
            Some(Next::Bookmark(cursor)) if until.elapsed() > LONGEST_LOOK => return Ok(document(None, cursor)),
            Some(Next::Bookmark(_) | Next::Quiet) => {}
            Some(Next::End(end)) => return Err(errors::ended(end, &state.database)),
            None => break,
        }
    }
    reader.cursor().map(|cursor| document(None, cursor)).ok_or_else(ending)
}

/// `{"events":[…],"next":"12@1a2b3c4d"}`, from events that are JSON already.
fn document(batch: Option<&Batch>, next: Cursor) -> Response {
    let mut text = b"{\"events\":[".to_vec();
    for lines in batch.map(Batch::lines).unwrap_or_default() {
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            if text.last() == Some(&b'}') {
                text.push(b',');
            }
            text.extend_from_slice(line);
        }
    }
    text.extend_from_slice(format!("],\"next\":\"{next}\"}}\n").as_bytes());
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}
