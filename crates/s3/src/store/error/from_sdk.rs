//! Builds the error from what the SDK reports: reason, message and retry delay of an answer, or why there was none.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{BuildError, ProvideErrorMetadata, SdkError},
    operation::RequestId,
    primitives::{DateTime, DateTimeFormat as Format},
};

use super::{MESSAGE_CHARS, StoreError, WORD_CHARS, bounded};
use crate::store::{
    endpoint::Endpoint, operation::Operation, reason::Reason, scheme::OtherScheme, transport_error,
    xml_document::InvalidDocument,
};

/// Stores refuse signatures that are 15 minutes old, some sooner.
const CLOCKS_MAY_DIFFER_BY: Duration = Duration::from_mins(4);
/// How a compressed answer begins.
const GZIP: &[u8] = &[0x1f, 0x8b];
const TOO_LARGE: &str = "The store, or a proxy in front of it, takes no request of this size: set max_put in this replica's \
                         section to what it takes, 5MiB at least, or raise its limit (nginx: client_max_body_size)";

impl StoreError {
    /// Reduces an error of the SDK to what may be recorded. `endpoint` is shown when no answer came.
    pub(in crate::store) fn of_sdk<E>(
        operation: Operation,
        endpoint: &Endpoint,
        error: &SdkError<E, HttpResponse>,
    ) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        // Where we ask for what cannot be sent, the SDK says so with a BuildError: a metadata value or a key that no
        // header or path can carry.
        if transport_error::find::<BuildError>(error).is_some() {
            let message = transport_error::chain(error);
            return Self { outcome_unknown: false, ..Self::found(operation, Reason::Refused, message) };
        }
        match error {
            SdkError::ServiceError(answer) if endpoint.url().starts_with("http://") && sends_to_tls(answer.raw()) => {
                let message = format!("no connection without TLS to {endpoint}: {}", OtherScheme::Https);
                Self {
                    status: Some(answer.raw().status().as_u16()),
                    outcome_unknown: false,
                    ..Self::found(operation, Reason::Tls, message)
                }
            }
            SdkError::ServiceError(answer) => Self::of_answer(operation, answer.err(), answer.raw()).through(endpoint),
            SdkError::ResponseError(answer) => {
                let reason = if answer.raw().status().is_success() { Reason::NotUnderstood } else { Reason::Broken };
                let message = match InvalidDocument::of(error) {
                    Some(invalid) => invalid.to_string(),
                    None => transport_error::chain(error),
                };
                Self {
                    status: Some(answer.raw().status().as_u16()),
                    outcome_unknown: true,
                    ..Self::found(operation, reason, message)
                }
            }
            SdkError::TimeoutError(_) => {
                Self::found(operation, Reason::Stalled, format!("no answer from {endpoint} in time")).without_answer()
            }
            SdkError::ConstructionFailure(_) => {
                let reason = transport_error::reason(error);
                Self {
                    outcome_unknown: false,
                    ..Self::found(operation, reason, transport_error::explain(endpoint, error))
                }
            }
            // It is the object's: what others of its headers say comes through.
            _ if operation.reads_an_object() && transport_error::is_of_a_header(error) => {
                Self::found(operation, Reason::Refused, transport_error::explain(endpoint, error))
            }
            _ => Self {
                outcome_unknown: !transport_error::is_unsent(error),
                unanswered: true,
                ..Self::found(operation, transport_error::reason(error), transport_error::explain(endpoint, error))
            },
        }
    }

    fn of_answer<E: ProvideErrorMetadata + Error + 'static>(
        operation: Operation,
        said: &E,
        raw: &HttpResponse,
    ) -> Self {
        let status = raw.status().as_u16();
        let body = raw.body().bytes().unwrap_or_default();
        let code = said.code();
        let mut reason = Reason::of_answer(status, code, said.message().unwrap_or_default());
        let mut message = match said.message() {
            Some(message) => bounded(message, MESSAGE_CHARS),
            None if body.starts_with(GZIP) => "a compressed answer, which is not read".into(),
            None if looks_like_html(body) => "an HTML page instead of an answer of S3".into(),
            None if code.is_none() && !body.is_empty() => "an answer that is none of S3's".into(),
            None => String::new(),
        };
        if status / 100 == 2 && code.is_none() {
            // The request succeeded; what the SDK could not read is a header.
            message = bounded(&transport_error::chain(said), MESSAGE_CHARS);
        }
        if operation.sends_bytes() && (status == 413 || code == Some("EntityTooLarge")) {
            message = format!("{message}{}{TOO_LARGE}", if message.is_empty() { "" } else { " " });
        }
        if raw.headers().get("x-amz-delete-marker") == Some("true") {
            message = format!("it was deleted there, and older versions of it may still exist. {message}");
        }
        if reason == Reason::Refused && code.is_none() && (400..500).contains(&status)
            || reason == Reason::BadCredentials && code.is_none() && !body.is_empty()
        {
            reason = Reason::RefusedOnTheWay;
        }
        // Where the clocks differ, stores call it a wrong signature too.
        if reason == Reason::BadCredentials
            && let Some(apart) = clocks_apart(raw)
        {
            reason = Reason::Clock;
            message = format!("the clocks are {} s apart. {message}", apart.as_secs());
        }
        if let Some(region) = region_named(raw, body) {
            if matches!(reason, Reason::BadCredentials | Reason::RefusedOnTheWay) && code.is_none() {
                reason = Reason::WrongRegion;
            }
            if reason == Reason::WrongRegion {
                message = format!("the bucket is in region {region}. {message}");
            }
        }
        Self {
            status: Some(status),
            code: code.map(|code| bounded(code, WORD_CHARS)),
            request_id: request_id(raw).map(|id| bounded(id, WORD_CHARS)),
            retry_after: retry_after(raw),
            outcome_unknown: outcome_unknown(status),
            ..Self::found(operation, reason, message)
        }
    }
}

/// Whether an answer of this status, complete as it is, does not say how the request ends: it may be that of a proxy
/// which has lost sight of the store, or a success that cannot be read.
fn outcome_unknown(status: u16) -> bool {
    match status {
        501 | 503 | 507 => false,
        status => status < 300 || status == 408 || status >= 500,
    }
}

fn request_id(raw: &HttpResponse) -> Option<&str> {
    // Some stores answer only with the second, extended one.
    raw.request_id().or_else(|| raw.headers().get("x-amz-id-2")).filter(|id| !id.is_empty())
}

/// Seconds only: the date form would need a clock that agrees with the store's.
fn retry_after(raw: &HttpResponse) -> Option<Duration> {
    raw.headers().get("retry-after")?.trim().parse().ok().map(Duration::from_secs)
}

/// By how much the answer's Date and this machine's clock differ, if that is more than any store lets pass.
#[expect(
    clippy::disallowed_methods,
    reason = "the host's clock is what signatures are dated by, and what is judged here"
)]
fn clocks_apart(raw: &HttpResponse) -> Option<Duration> {
    let now = SystemTime::now();
    let date = DateTime::from_str(raw.headers().get("date")?, Format::HttpDate).ok()?;
    let date = SystemTime::try_from(date).ok()?;
    let apart = now.duration_since(date).unwrap_or_else(|behind| behind.duration());
    (apart > CLOCKS_MAY_DIFFER_BY).then_some(apart)
}

/// The region that the store says the bucket is in.
fn region_named<'a>(raw: &'a HttpResponse, body: &'a [u8]) -> Option<&'a str> {
    let in_body = || {
        let body = std::str::from_utf8(body).ok()?;
        let after = &body[body.find("<Region>")? + "<Region>".len()..];
        after.split('<').next()
    };
    let plain = |region: &&str| {
        (1..=40).contains(&region.len()) && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    raw.headers().get("x-amz-bucket-region").filter(plain).or_else(|| in_body().filter(plain))
}

/// Returns whether the answer shows that the endpoint speaks TLS: a redirect there, or the page that a TLS server sends
/// to a client that speaks plain HTTP.
fn sends_to_tls(raw: &HttpResponse) -> bool {
    let redirects = || raw.headers().get("location").is_some_and(|to| to.starts_with("https://"));
    match raw.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => redirects(),
        400 => {
            let body = raw.body().bytes().unwrap_or_default();
            let said = String::from_utf8_lossy(&body[..body.len().min(2_000)]);
            // nginx, Go, Apache.
            [
                "HTTP request was sent to HTTPS port",
                "HTTP request to an HTTPS server",
                "HTTP to an SSL-enabled server port",
            ]
            .iter()
            .any(|words| said.contains(words))
        }
        _ => false,
    }
}

fn looks_like_html(body: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&body[..body.len().min(200)]).to_ascii_lowercase();
    start.trim_start().starts_with("<!doctype html") || start.trim_start().starts_with("<html")
}
