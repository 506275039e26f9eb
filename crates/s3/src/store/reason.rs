//! What went wrong at a store: maps its answer to a reason, and the reason to a class. It does no I/O.

use copyhold_core::domain::{FailureClass, FailureScope};

/// What went wrong, as finely as callers distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No connection was established: name resolution, route, refusal.
    Unreachable,
    /// The connection broke, or the body ended early.
    Broken,
    /// No byte moved for too long.
    Stalled,
    /// The certificate, its name, or TLS itself.
    Tls,
    /// The configured sources have no credentials.
    NoCredentials,
    /// Credentials that the store does not know or no longer accepts.
    BadCredentials,
    /// The clocks of the two sides differ too much.
    Clock,
    /// The bucket lives in another region or at another endpoint.
    WrongRegion,
    NoSuchBucket,
    /// The store does not support a request that every store must support.
    Unsupported,
    /// The store failed internally.
    Internal,
    /// The answer is not one of S3's.
    NotUnderstood,
    Throttled,
    Full,
    Denied,
    NoSuchKey,
    /// The multipart upload is unknown: forgotten, completed or aborted.
    NoSuchUpload,
    /// The store lacks a part that it had accepted, or has another in its place.
    InvalidPart,
    /// Other content has replaced the requested one.
    Replaced,
    /// The range lies outside the object.
    OutsideRange,
    Archived,
    /// The object is encrypted with a key that its owner keeps (SSE-C).
    OwnersKey,
    /// The store received other bytes than were sent.
    Damaged,
    /// This store cannot hold this key, size or metadata.
    Refused,
    /// An intermediary in front of the store refused the request, with an answer that is not one of S3's.
    RefusedOnTheWay,
    /// The configured proxy lets no request pass.
    Proxy,
}

impl Reason {
    /// Returns the reason for an answer of a store. A code says more than the status.
    #[must_use]
    pub fn of_answer(status: u16, code: Option<&str>, message: &str) -> Self {
        code.and_then(|code| Self::of_code(code, message)).unwrap_or_else(|| Self::of_status(status, code.is_some()))
    }

    fn of_code(code: &str, message: &str) -> Option<Self> {
        Some(match code {
            // AWS and the stores that use its codes.
            "InvalidRequest" if message.contains("Server Side Encryption") => Self::OwnersKey,
            // B2 reports it as 403, and only in the message.
            "AccessDenied" | "Forbidden" if message.to_ascii_lowercase().contains("cap exceeded") => Self::Full,
            "AccessDenied" | "Forbidden" | "UnauthorizedAccess" | "AllAccessDisabled" | "AccountProblem"
            | "InvalidPayer" | "NotSignedUp" | "AccountSuspended" => Self::Denied,
            "SlowDown"
            | "SlowDownRead"
            | "SlowDownWrite"
            | "ServiceUnavailable"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequests"
            | "BandwidthLimitExceeded"
            | "XMinioServerNotInitialized" => Self::Throttled,
            "QuotaExceeded"
            | "StorageQuotaExceeded"
            | "InsufficientStorage"
            | "InsufficientCapacity"
            | "StorageCapExceeded"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded" => Self::Full,
            "InternalError"
            | "InternalFailure"
            | "RequestTimeout"
            | "IncompleteBody"
            | "OperationAborted"
            | "ConditionalRequestConflict"
            | "TemporaryRedirect" => Self::Internal,
            "InvalidPart" | "InvalidPartOrder" => Self::InvalidPart,
            "SignatureDoesNotMatch"
            | "InvalidAccessKeyId"
            | "InvalidSecurity"
            | "InvalidToken"
            | "ExpiredToken"
            | "TokenRefreshRequired"
            | "CredentialsNotSupported"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "AuthorizationQueryParametersError" => Self::BadCredentials,
            "RequestTimeTooSkewed" | "RequestExpired" => Self::Clock,
            "PermanentRedirect"
            | "Redirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException" => Self::WrongRegion,
            "NoSuchBucket" | "InvalidBucketName" => Self::NoSuchBucket,
            "NotImplemented"
            | "InvalidStorageClass"
            | "InvalidBucketState"
            | "MissingContentMD5"
            | "MissingContentLength"
            | "MissingSecurityHeader" => Self::Unsupported,
            "NoSuchKey" | "NoSuchVersion" => Self::NoSuchKey,
            "NoSuchUpload" => Self::NoSuchUpload,
            "PreconditionFailed" => Self::Replaced,
            "InvalidRange" => Self::OutsideRange,
            "InvalidObjectState" => Self::Archived,
            "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => {
                Self::Damaged
            }
            "KeyTooLongError"
            | "KeyTooLong"
            | "InvalidObjectName"
            | "XMinioInvalidObjectName"
            | "InvalidURI"
            | "EntityTooLarge"
            | "EntityTooSmall"
            | "MaxMessageLengthExceeded"
            | "MetadataTooLarge"
            | "RequestHeaderSectionTooLarge"
            | "InvalidArgument"
            | "InvalidRequest"
            | "MethodNotAllowed" => Self::Refused,
            _ => return None,
        })
    }

    fn of_status(status: u16, has_code: bool) -> Self {
        match status {
            200..=299 => Self::NotUnderstood,
            300..=306 | 308..=399 => Self::WrongRegion,
            // A HEAD's answer has no body and so no code. The cause of a 400 is
            // nearly always the region or an expired token.
            400 if !has_code => Self::BadCredentials,
            401 | 403 => Self::Denied,
            // No store answers with this status.
            407 => Self::Proxy,
            // Only the request tells whether the object or the bucket is missing.
            404 => Self::NoSuchBucket,
            412 => Self::Replaced,
            416 => Self::OutsideRange,
            429 | 503 | 509 => Self::Throttled,
            307 | 408 | 409 => Self::Internal,
            400..=499 => Self::Refused,
            501 => Self::Unsupported,
            507 => Self::Full,
            _ => Self::Internal,
        }
    }

    /// Returns the class of the failure. No other place decides that.
    #[must_use]
    pub const fn class(self) -> FailureClass {
        match self {
            Self::Unreachable
            | Self::Broken
            | Self::Stalled
            | Self::Internal
            | Self::NotUnderstood
            // The next attempt begins a new upload at a store that lost this one, or parts of it.
            | Self::NoSuchUpload
            | Self::InvalidPart => FailureClass::Transient,
            Self::Throttled => FailureClass::Throttled,
            Self::Full => FailureClass::Full,
            Self::Denied => FailureClass::Denied,
            Self::Tls
            | Self::Proxy
            | Self::NoCredentials
            | Self::BadCredentials
            | Self::Clock
            | Self::WrongRegion
            | Self::NoSuchBucket
            | Self::Unsupported => FailureClass::Misconfigured,
            Self::NoSuchKey => FailureClass::Gone,
            // The object is shorter than it was.
            Self::Replaced | Self::OutsideRange => FailureClass::Changed,
            Self::Archived => FailureClass::Archived,
            Self::Damaged => FailureClass::Corrupt,
            Self::OwnersKey | Self::Refused | Self::RefusedOnTheWay => FailureClass::Refused,
        }
    }

    /// Returns whether the reason points to the store or to the object.
    #[must_use]
    pub const fn scope(self) -> FailureScope {
        match self {
            Self::Unreachable
            | Self::Tls
            | Self::Proxy
            | Self::NoCredentials
            | Self::BadCredentials
            | Self::Clock
            | Self::NoSuchBucket => FailureScope::Store,
            Self::RefusedOnTheWay => FailureScope::Either,
            other => other.class().scope(),
        }
    }

    /// Returns what an operator can do about it, if that is known.
    #[must_use]
    pub const fn advice(self) -> Option<&'static str> {
        match self {
            Self::Proxy => Some("HTTP_PROXY and HTTPS_PROXY name the proxy and its user, NO_PROXY what needs none"),
            Self::NoCredentials => Some(
                "looked for in the environment, the profile and the instance role; set them there, or \
                 give access_key_id and secret_access_key",
            ),
            Self::BadCredentials => Some("check this replica's access_key_id, secret_access_key and region"),
            Self::Clock => Some("the clock of this machine or of the store is wrong"),
            Self::WrongRegion => Some("check this replica's region and endpoint"),
            Self::NoSuchBucket => Some("check this replica's bucket, endpoint and path_style"),
            Self::NotUnderstood => Some("does the endpoint speak S3?"),
            Self::Full => Some("make room there, or raise the account's or the bucket's limit"),
            Self::RefusedOnTheWay => Some("a proxy or firewall before the store refuses it; see what limits it sets"),
            Self::Archived => Some("restore it there, then retry"),
            Self::OwnersKey => Some(
                "it is encrypted with a key of its owner's, SSE-C, which Copyhold is never given; have its owner copy it",
            ),
            // The message of a TLS failure contains its advice.
            Self::Tls
            | Self::Unreachable
            | Self::Broken
            | Self::Stalled
            | Self::Unsupported
            | Self::Internal
            | Self::Throttled
            | Self::Denied
            | Self::NoSuchKey
            | Self::NoSuchUpload
            | Self::InvalidPart
            | Self::Replaced
            | Self::OutsideRange
            | Self::Damaged
            | Self::Refused => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (status, code, message) of answers that stores were seen to give.
    const ANSWERS: &[(u16, Option<&str>, FailureClass)] = &[
        (500, Some("InternalError"), FailureClass::Transient),
        (500, None, FailureClass::Transient),
        (502, None, FailureClass::Transient),
        (504, None, FailureClass::Transient),
        (599, Some("NeverHeardOf"), FailureClass::Transient),
        (400, Some("RequestTimeout"), FailureClass::Transient),
        (409, Some("OperationAborted"), FailureClass::Transient),
        (404, Some("NoSuchUpload"), FailureClass::Transient),
        (400, Some("InvalidPart"), FailureClass::Transient),
        (200, Some("InternalError"), FailureClass::Transient),
        (200, None, FailureClass::Transient),
        (503, Some("SlowDown"), FailureClass::Throttled),
        (503, None, FailureClass::Throttled),
        (429, None, FailureClass::Throttled),
        (200, Some("SlowDown"), FailureClass::Throttled),
        (507, None, FailureClass::Full),
        (403, Some("QuotaExceeded"), FailureClass::Full),
        (507, Some("XMinioStorageFull"), FailureClass::Full),
        (403, Some("AccessDenied"), FailureClass::Denied),
        (403, None, FailureClass::Denied),
        (401, None, FailureClass::Denied),
        (403, Some("AccountProblem"), FailureClass::Denied),
        (403, Some("SomethingNew"), FailureClass::Denied),
        (404, Some("NoSuchBucket"), FailureClass::Misconfigured),
        (301, Some("PermanentRedirect"), FailureClass::Misconfigured),
        (301, None, FailureClass::Misconfigured),
        (400, Some("AuthorizationHeaderMalformed"), FailureClass::Misconfigured),
        (403, Some("SignatureDoesNotMatch"), FailureClass::Misconfigured),
        (403, Some("InvalidAccessKeyId"), FailureClass::Misconfigured),
        (403, Some("RequestTimeTooSkewed"), FailureClass::Misconfigured),
        (400, Some("ExpiredToken"), FailureClass::Misconfigured),
        (501, Some("NotImplemented"), FailureClass::Misconfigured),
        (404, Some("NoSuchKey"), FailureClass::Gone),
        (412, Some("PreconditionFailed"), FailureClass::Changed),
        (412, None, FailureClass::Changed),
        (416, Some("InvalidRange"), FailureClass::Changed),
        (400, Some("BadDigest"), FailureClass::Corrupt),
        (400, Some("KeyTooLongError"), FailureClass::Refused),
        (400, Some("XMinioInvalidObjectName"), FailureClass::Refused),
        (400, Some("EntityTooLarge"), FailureClass::Refused),
        (400, Some("MetadataTooLarge"), FailureClass::Refused),
        (400, Some("InvalidURI"), FailureClass::Refused),
        (400, Some("SomethingNew"), FailureClass::Refused),
        (413, None, FailureClass::Refused),
        (407, None, FailureClass::Misconfigured),
        (405, Some("MethodNotAllowed"), FailureClass::Refused),
        (403, Some("InvalidObjectState"), FailureClass::Archived),
        (400, Some("InvalidRequest"), FailureClass::Refused),
    ];

    #[test]
    fn every_answer_that_stores_were_seen_to_give_has_its_class() {
        for (status, code, class) in ANSWERS {
            assert_eq!(Reason::of_answer(*status, *code, "").class(), *class, "{status} {code:?}");
        }
    }

    #[test]
    fn a_bare_404_never_means_that_the_object_is_gone() {
        assert_ne!(Reason::of_answer(404, None, "").class(), FailureClass::Gone);
        assert_ne!(Reason::of_answer(404, Some("NotFound"), "").class(), FailureClass::Gone);
    }

    #[test]
    fn a_cap_that_b2_hides_behind_a_403_is_a_full_store() {
        let said = "Cannot upload files, storage cap exceeded. See the Caps & Alerts page to increase your cap.";
        assert_eq!(Reason::of_answer(403, Some("AccessDenied"), said).class(), FailureClass::Full);
        assert_eq!(Reason::of_answer(403, Some("AccessDenied"), "Access denied").class(), FailureClass::Denied);
    }

    proptest::proptest! {
        #[test]
        fn any_answer_at_all_has_a_class(status in 0u16..1000, code in proptest::option::of("[A-Za-z]{0,20}")) {
            let class = Reason::of_answer(status, code.as_deref(), "").class();
            proptest::prop_assert!(FailureClass::ALL.contains(&class));
            // Only a code shows that an object is gone.
            if code.as_deref() != Some("NoSuchKey") && code.as_deref() != Some("NoSuchVersion") {
                proptest::prop_assert_ne!(class, FailureClass::Gone);
            }
        }
    }
}
