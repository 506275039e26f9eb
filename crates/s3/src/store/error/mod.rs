//! The error of a call to a store: what is recorded of the answer, and what follows from it.

mod from_sdk;

use std::{error::Error, fmt, time::Duration};

use copyhold_core::domain::{Failure, FailureClass, FailureScope, excerpt};

use super::{endpoint::Endpoint, operation::Operation, reason::Reason, scheme::OtherScheme};

/// How much of a store's message is kept.
const MESSAGE_CHARS: usize = 400;
/// Codes and request ids are short; what is longer is not one.
const WORD_CHARS: usize = 64;

/// A call to a store that failed.
///
/// Keeps of the answer only what is shown below, all of it escaped: no headers,
/// no URLs (they may carry signatures), no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    operation: Operation,
    reason: Reason,
    status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    message: String,
    retry_after: Option<Duration>,
    outcome_unknown: bool,
    /// Nothing of an answer has come.
    unanswered: bool,
}

impl StoreError {
    /// A failure that we found ourselves, in our own words.
    pub(super) fn found(operation: Operation, reason: Reason, message: impl AsRef<str>) -> Self {
        Self {
            // What is refused before it is sent is refused for one of these reasons.
            outcome_unknown: !matches!(reason, Reason::Refused | Reason::Unsupported),
            operation,
            reason,
            status: None,
            code: None,
            request_id: None,
            message: bounded(message.as_ref(), MESSAGE_CHARS),
            retry_after: None,
            unanswered: false,
        }
    }

    /// Makes an error without a request: the store throttles this prefix for this long.
    pub(super) fn spared(operation: Operation, rest: Duration) -> Self {
        let what = format!(
            "not sent: the store has asked to be left alone under this prefix for {} s more",
            rest.as_secs() + 1
        );
        Self { outcome_unknown: false, retry_after: Some(rest), ..Self::found(operation, Reason::Throttled, what) }
    }

    /// Names the proxy where an answer that is none of S3's may be its own: without TLS it can be.
    fn through(self, endpoint: &Endpoint) -> Self {
        let proxy = endpoint.proxy().filter(|_| endpoint.url().starts_with("http://"));
        match proxy {
            Some(proxy) if self.code.is_none() && !self.message.is_empty() => {
                Self { message: format!("through the proxy {proxy}: {}", self.message), ..self }
            }
            _ => self,
        }
    }

    /// The same; of our access key id, which some stores repeat in what they say, the end is shown.
    pub(super) fn without(self, key_id: Option<&str>) -> Self {
        const SHOWN: usize = 4;
        match key_id {
            // A shorter one may be a word of the message, and hides nothing when it is cut.
            Some(id) if id.len() > 2 * SHOWN && self.message.contains(id) => {
                let end = id.len() - SHOWN;
                let cut = format!("…{}", id.get(end..).unwrap_or_default());
                Self { message: self.message.replace(id, &cut), ..self }
            }
            _ => self,
        }
    }

    /// The same, where nothing of an answer has come.
    pub(super) fn without_answer(self) -> Self {
        Self { unanswered: true, ..self }
    }

    /// What follows from it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        self.reason.class()
    }

    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// How much it says of the store. A store that breaks off or keeps silent before its answer is like one that cannot
    /// be reached; one that refuses with a code of S3's may not know our credentials any more.
    #[must_use]
    pub fn scope(&self) -> FailureScope {
        match self.reason {
            Reason::Broken | Reason::Stalled if self.unanswered => FailureScope::Store,
            Reason::Denied if self.code.is_some() || self.status == Some(401) => FailureScope::Store,
            reason => reason.scope(),
        }
    }

    /// Whether nothing of an answer has come.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Returns the delay that the store asked for, if it did.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the store may still carry the request out: its first byte may have gone out, and no complete answer came
    /// that is surely the store's own. `true` also where that cannot be known.
    #[must_use]
    pub const fn outcome_unknown(&self) -> bool {
        self.outcome_unknown
    }

    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The store's own word for it, where it had one.
    pub(super) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Status and code alone, for a table: `400 BadDigest`.
    pub(super) fn brief(&self) -> String {
        match (self.status, &self.code) {
            (Some(status), Some(code)) => format!("{status} {code}"),
            (Some(status), None) => status.to_string(),
            (None, _) => self.to_string(),
        }
    }

    /// Something is missing, and the store does not say what.
    pub(super) fn is_bare_404(&self) -> bool {
        self.status == Some(404) && self.code.as_deref().is_none_or(|code| code == "NotFound")
    }

    /// A complete answer that may speak of one optional header: nothing of the request was carried out.
    pub(super) fn may_refuse_a_header(&self) -> bool {
        !self.outcome_unknown && matches!(self.status, Some(400 | 403 | 405 | 501))
    }

    /// An answer came.
    pub(super) fn has_status(&self) -> bool {
        self.status.is_some()
    }

    /// The store has said nothing, as if it did not understand.
    pub(super) fn is_no_answer(&self) -> bool {
        self.status.is_none() && matches!(self.reason, Reason::Broken | Reason::Stalled)
    }

    /// It has said nothing because it speaks something else.
    pub(super) fn of_the_scheme(self, endpoint: &str, other: OtherScheme) -> Self {
        self.because(Reason::Tls, &format!("no answer from {endpoint}: {other}"))
    }

    /// Its path may not have arrived as it was signed: a refused signature, or a refusal without a word.
    pub(super) fn may_be_of_the_path(&self) -> bool {
        match self.code.as_deref() {
            Some(code) => code == "SignatureDoesNotMatch",
            None => self.status == Some(400),
        }
    }

    /// It was found that its path is changed on the way.
    pub(super) fn is_of_the_path(&self) -> bool {
        self.may_be_of_the_path() && self.reason == Reason::Refused
    }

    /// The same answer, which by another look means something else, and why.
    pub(super) fn because(self, reason: Reason, why: &str) -> Self {
        let message = if self.message.is_empty() { why.to_owned() } else { format!("{} ({why})", self.message) };
        Self { reason, message, ..self }
    }

    /// The same answer, which by another look means something else.
    pub(super) fn meaning(self, reason: Reason) -> Self {
        Self { reason, ..self }
    }

    /// As a failure that may be kept, beginning with `whose` (`source b2`).
    #[must_use]
    pub fn into_failure(self, whose: impl fmt::Display) -> Failure {
        let message = format!("{whose}: {self}");
        let (scope, advice) = (self.scope(), self.reason.advice());
        Failure { retry_after: self.retry_after, scope, advice, ..Failure::new(self.class(), message) }
    }
}

impl fmt::Display for StoreError {
    /// `GetObject: 503 SlowDown (request 17A): Please reduce your request rate.`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation.as_str())?;
        match (self.status, &self.code) {
            (Some(status), Some(code)) => write!(f, ": {status} {code}")?,
            (Some(status), None) => write!(f, ": {status}")?,
            (None, _) => {}
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(advice) = self.reason.advice() {
            write!(f, " ({advice})")?;
        }
        Ok(())
    }
}

impl Error for StoreError {}

/// Untrusted text, escaped and cut.
fn bounded(text: &str, chars: usize) -> String {
    excerpt(text.trim(), chars)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::{error::ErrorMetadata, operation::get_object::GetObjectError, primitives::SdkBody};

    use std::time::SystemTime;

    use aws_sdk_s3::{
        config::http::HttpResponse,
        error::SdkError,
        primitives::{DateTime, DateTimeFormat as Format},
    };

    use super::*;

    fn answered(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> StoreError {
        let mut raw = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
        for (name, value) in headers {
            raw.headers_mut().insert(*name, *value);
        }
        let between = |open: &str, close: &str| {
            let from = body.find(open)? + open.len();
            Some(body[from..].split(close).next()?.to_owned())
        };
        let mut said = ErrorMetadata::builder();
        if let Some(code) = between("<Code>", "<") {
            said = said.code(code);
        }
        if let Some(message) = between("<Message>", "</Message>") {
            said = said.message(message);
        }
        let error = SdkError::service_error(GetObjectError::generic(said.build()), raw);
        StoreError::of_sdk(Operation::GetObject, &Endpoint::at("https://store.example"), &error)
    }

    #[test]
    fn a_failure_reads_as_a_sentence_with_everything_that_support_asks_for() {
        let error = answered(
            503,
            &[("x-amz-request-id", "17A"), ("retry-after", "7")],
            "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
        );
        assert_eq!(error.to_string(), "GetObject: 503 SlowDown (request 17A): Please reduce your request rate.");
        let failure = error.into_failure("source b2");
        assert_eq!(failure.class, FailureClass::Throttled);
        assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
        assert!(failure.message.starts_with("source b2: GetObject: 503"), "{}", failure.message);
    }

    #[test]
    fn a_message_of_a_store_is_cut_and_cannot_touch_the_terminal() {
        let long: &'static str = Box::leak(
            format!("<Error><Code>Evil\u{1b}[2J</Code><Message>\u{1b}[31m{}</Message></Error>", "x".repeat(5_000))
                .into_boxed_str(),
        );
        let shown = answered(400, &[], long).to_string();
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(shown.chars().count() < 450, "{}", shown.chars().count());
    }

    #[test]
    fn headers_and_urls_are_not_kept() {
        let error = answered(
            403,
            &[("authorization", "AWS4-HMAC-SHA256 Credential=AKIA"), ("location", "https://x/?X-Amz-Signature=5ec2e7")],
            "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
        );
        let everything = format!("{error:?} {error}");
        assert!(!everything.contains("AKIA") && !everything.contains("5ec2e7"), "{everything}");
    }

    #[test]
    fn an_access_key_id_that_a_store_repeats_is_cut() {
        let body = "<Error><Code>InvalidAccessKeyId</Code><Message>Key AKIDEXAMPLE1234 is unknown</Message></Error>";
        let shown = |id| answered(403, &[], body).without(id).to_string();
        assert!(shown(Some("AKIDEXAMPLE1234")).contains("Key …1234 is unknown"));
        // One that is a word.
        assert!(shown(Some("unknown")).contains("AKIDEXAMPLE1234 is unknown") && shown(None).contains("AKID"));
    }

    #[test]
    fn the_region_that_a_store_names_is_told() {
        for error in [
            answered(301, &[("x-amz-bucket-region", "eu-west-1")], "<Error><Code>PermanentRedirect</Code></Error>"),
            answered(301, &[("x-amz-bucket-region", "eu-west-1")], ""),
            answered(400, &[("x-amz-bucket-region", "eu-west-1")], ""),
            answered(400, &[], "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"),
        ] {
            assert_eq!(error.class(), FailureClass::Misconfigured);
            assert!(error.to_string().contains("the bucket is in region eu-west-1"), "{error}");
        }
    }

    #[test]
    fn a_region_is_believed_only_if_it_looks_like_one() {
        let error = answered(301, &[("x-amz-bucket-region", "eu west\"")], "");
        assert!(!error.to_string().contains("west"), "{error}");
    }

    #[test]
    fn a_page_that_refuses_is_that_of_a_proxy_and_says_little_of_the_store() {
        for status in [400, 405, 411, 413, 414, 431] {
            let failure =
                answered(status, &[], "<html>Request Header Or Cookie Too Large</html>").into_failure("target b2");
            assert_eq!((failure.class, failure.scope), (FailureClass::Refused, FailureScope::Either), "{status}");
            assert!(failure.message.contains("a proxy or firewall"), "{}", failure.message);
        }
        let by_the_store = answered(400, &[], "<Error><Code>KeyTooLongError</Code></Error>").into_failure("target b2");
        assert_eq!((by_the_store.class, by_the_store.scope), (FailureClass::Refused, FailureScope::Object));
    }

    #[test]
    fn credentials_that_are_refused_speak_of_the_store_and_a_firewalls_page_does_not() {
        for (status, body, scope) in [
            (403, "<Error><Code>InvalidAccessKeyId</Code></Error>", FailureScope::Store),
            (403, "<Error><Code>SignatureDoesNotMatch</Code></Error>", FailureScope::Store),
            (403, "<Error><Code>AccessDenied</Code></Error>", FailureScope::Store),
            (403, "<html>Attention Required!</html>", FailureScope::Either),
            (404, "<Error><Code>NoSuchBucket</Code></Error>", FailureScope::Store),
            (507, "", FailureScope::Store),
            (500, "<Error><Code>InternalError</Code></Error>", FailureScope::Either),
            (501, "<Error><Code>NotImplemented</Code></Error>", FailureScope::Either),
            (404, "<Error><Code>NoSuchKey</Code></Error>", FailureScope::Object),
        ] {
            assert_eq!(answered(status, &[], body).scope(), scope, "{status} {body}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a store whose clock agrees with this machine's")]
    fn a_wrong_signature_beside_a_wrong_clock_is_the_clocks() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>";
        let error = answered(403, &[("date", "Wed, 21 Oct 2015 07:28:00 GMT")], body);
        assert_eq!(error.reason(), Reason::Clock);
        assert!(error.to_string().contains("s apart. no (the clock of this machine"), "{error}");
        let now = DateTime::from(SystemTime::now()).fmt(Format::HttpDate).unwrap();
        let now: &'static str = Box::leak(now.into_boxed_str());
        assert_eq!(answered(403, &[("date", now)], body).reason(), Reason::BadCredentials);
    }

    #[test]
    fn a_web_page_is_called_one() {
        let error = answered(502, &[], "<!DOCTYPE html><html><body>Bad gateway <script>…</script></body></html>");
        assert_eq!(error.to_string(), "GetObject: 502: an HTML page instead of an answer of S3");
        assert_eq!(error.class(), FailureClass::Transient);
    }
}
