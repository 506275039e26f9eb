//! The response to a request that is not served: one sentence with the remedy, in JSON.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use copyhold_core::domain::visible_json;
use serde_json::{Map, Value};

/// An answer to a request that is not served.
#[derive(Debug)]
pub(super) struct ErrorResponse {
    status: StatusCode,
    members: Map<String, Value>,
    retry_after: Option<Duration>,
}

impl ErrorResponse {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let members = Map::from_iter([("error".to_owned(), Value::String(error.into()))]);
        Self { status, members, retry_after: None }
    }

    /// A request that is wrong whenever it is sent.
    pub(super) fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// Data for programs, beside the sentence.
    pub(super) fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }

    /// The same request may be repeated, not earlier than this.
    pub(super) fn again_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let text = Value::Object(self.members).to_string();
        let text = visible_json(&text).into_owned() + "\n";
        let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
        let mut response = (self.status, headers, text).into_response();
        if let Some(pause) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
            // Kept open, it would occupy the slot of a client that can be served.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// For a sentence: in quotes, escaped, and no longer than a line.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 100;
    let shown: String = text.chars().take(MOST).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}
