//! The faults that can be injected.

use std::time::Duration;

use hyper::{HeaderMap, StatusCode, header};
use s3s::{S3Error, S3ErrorCode};

use super::pause_gate::PauseGate;

/// One way to fail. Positions in bodies are counted in bytes from 0; a position to be damaged is taken modulo the
/// body's length, so that it always lies in it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The store is not called; this error is answered instead.
    Answer(ErrorAnswer),
    /// The store is not called; this body is answered with status 200: a login page, half a document, nothing.
    Page(String),
    /// The store is not called; a proxy or firewall answers with this status and a page of its own.
    ProxyPage { status: u16, page: String },
    /// The connection is reset before anything is done.
    Reset,
    /// The connection is reset when this many bytes of the request's body have arrived, or a few more.
    ResetUpload { after: u64 },
    /// The store executes the request; then the connection is reset.
    LoseAnswer,
    /// Nothing is done or answered until the fault is cleared; then the call goes on.
    Stall,
    /// The call waits this long, and then goes on: a distant store.
    Delay(Duration),
    /// The call waits at the gate before anything is done.
    Hold(PauseGate),
    /// The store executes the request; the answer waits at the gate.
    HoldAnswer(PauseGate),
    /// The whole request is received and the connection is reset; the store executes the request when the gate opens.
    CarryOutLate(PauseGate),
    /// The same, but the store executes the request after this time.
    CarryOutAfter(Duration),
    /// The answer's body ends after this many bytes, with an orderly close of the connection.
    CutBody { after: u64 },
    /// The connection is reset after this many bytes of the answer's body.
    ResetBody { after: u64 },
    /// The answer's body stops after this many bytes until the fault is cleared.
    StallBody { after: u64 },
    /// One bit of the answer's body is wrong.
    FlipBody { at: u64 },
    /// The answer's body is sent this slowly.
    Drip { bytes_per_second: u64 },
    /// The request's body is read this slowly. What the sockets' buffers hold is sent at once all the same.
    DripUpload { bytes_per_second: u64 },
    /// The answer has another ETag than the object.
    WrongEtag,
    /// The answer has no ETag.
    NoEtag,
    /// The answer also has these headers: the first of a name replaces the existing one, others are added.
    Headers(Vec<(&'static str, String)>),
    /// The answer has a metadata header whose bytes are not text.
    UnreadableHeader,
    /// A proxy on the way compresses the body: other bytes with a `Content-Encoding` of its own, under the object's
    /// ETag.
    Compress,
    /// A proxy on the way decompresses the body: other bytes without the object's `Content-Encoding`, under its ETag.
    /// `ranges`: it answers ranges of them, as a cache does; otherwise it sends all of them with 200.
    Decompress { ranges: bool },
    /// One bit of an uploaded body is wrong when it arrives, before it is checked.
    FlipArriving { at: u64 },
    /// One bit is stored wrongly after all checks, silently.
    StoreDamaged { at: u64 },
}

/// An error document of S3.
#[derive(Debug, Clone)]
pub struct ErrorAnswer {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// Any status with any code.
    pub fn answer(status: u16, code: &str) -> Self {
        Self::Answer(ErrorAnswer {
            status,
            code: code.to_owned(),
            message: format!("This {code} was ordered."),
            retry_after: None,
        })
    }

    /// A proxy's page, as nginx writes it.
    pub fn proxy_page(status: u16) -> Self {
        let page = format!("<html><head><title>{status}</title></head><body>{status} ordered</body></html>");
        Self::ProxyPage { status, page }
    }

    pub fn internal_error() -> Self {
        Self::answer(500, "InternalError")
    }

    pub fn slow_down() -> Self {
        Self::answer(503, "SlowDown")
    }

    /// Answers `SlowDown` with a `Retry-After`, in whole seconds.
    pub fn slow_down_for(wait: Duration) -> Self {
        match Self::slow_down() {
            Self::Answer(answer) => Self::Answer(ErrorAnswer { retry_after: Some(wait), ..answer }),
            other => other,
        }
    }

    pub fn access_denied() -> Self {
        Self::answer(403, "AccessDenied")
    }

    /// 403 alone is ambiguous; the code decides.
    pub fn forbidden(code: &str) -> Self {
        Self::answer(403, code)
    }

    pub fn no_such_bucket() -> Self {
        Self::answer(404, "NoSuchBucket")
    }
}

impl ErrorAnswer {
    pub(super) fn to_error(&self) -> S3Error {
        let code = S3ErrorCode::from_bytes(self.code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
        let mut error = S3Error::with_message(code, self.message.clone());
        error.set_status_code(StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
        error
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let wait = self.retry_after.map(|wait| (header::RETRY_AFTER, wait.as_secs().into()));
        wait.into_iter().collect()
    }
}
