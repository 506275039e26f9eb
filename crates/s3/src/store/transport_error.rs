//! Failures without an answer: their reason, and an explanation for people.

use std::{error::Error, io};

use aws_smithy_runtime_api::client::dns::ResolveDnsError;
use copyhold_tls::TlsFailure;
use hyper::StatusCode;
use hyper_util::client::legacy;

use super::{endpoint::Endpoint, headers::MOST_HEADERS, proxy::ProxyError, reason::Reason, scheme::OtherScheme};
use crate::settings::Proxy;

/// Returns the reason, by the first error in the chain that identifies one.
pub(super) fn reason(error: &(dyn Error + 'static)) -> Reason {
    if let Some(error) = find::<ProxyError>(error) {
        reason_of_proxy(error)
    } else if find::<OtherScheme>(error).is_some() || find::<rustls::Error>(error).is_some() {
        Reason::Tls
    } else if find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
        Reason::NotUnderstood
    } else if is_of_dns(error) {
        Reason::Unreachable
    } else if says(error, "redential") {
        Reason::NoCredentials
    } else if let Some(io) = find::<io::Error>(error) {
        match io.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable => Reason::Unreachable,
            io::ErrorKind::TimedOut => Reason::Stalled,
            _ => Reason::Broken,
        }
    } else if says(error, "timed out") || says(error, "timeout") {
        Reason::Stalled
    } else {
        Reason::Broken
    }
}

fn reason_of_proxy(error: &ProxyError) -> Reason {
    match error {
        ProxyError::Unreachable(_) => Reason::Unreachable,
        // It cannot reach the store, by its own words.
        ProxyError::Refused(status) if status.is_server_error() => Reason::Unreachable,
        ProxyError::Refused(_) => Reason::Proxy,
        ProxyError::Broken(_) => Reason::Broken,
    }
}

/// Returns whether no byte of the request was sent: there was no connection, or no credentials to sign with.
///
/// The reason alone is not enough: a route may be lost, and TLS may fail, in the middle of a request.
pub(super) fn is_unsent(error: &(dyn Error + 'static)) -> bool {
    let no_connection = find::<legacy::Error>(error).is_some_and(legacy::Error::is_connect);
    no_connection || find::<OtherScheme>(error).is_some() || reason(error) == Reason::NoCredentials
}

/// Explains the failure to reach `endpoint`.
pub(super) fn explain(endpoint: &Endpoint, error: &(dyn Error + 'static)) -> String {
    let root = root(error);
    if let (Some(failed), Some(proxy)) = (find::<ProxyError>(error), endpoint.proxy()) {
        return format!("cannot reach {endpoint}: {}", explain_proxy(proxy, failed));
    }
    match reason(error) {
        Reason::Unreachable if is_of_dns(error) => {
            format!("cannot reach {endpoint}: its name does not resolve ({root})")
        }
        Reason::Unreachable => format!("cannot reach {endpoint}: {}", plain_io(error).unwrap_or(root)),
        Reason::Stalled => format!("cannot reach {endpoint}: it does not answer in time"),
        Reason::Tls => match find::<OtherScheme>(error) {
            Some(OtherScheme::Https) => format!("no connection without TLS to {endpoint}: {}", OtherScheme::Https),
            Some(OtherScheme::Http) => format!("no secure connection to {endpoint}: {}", OtherScheme::Http),
            None => match TlsFailure::of(error) {
                Some(failure) => endpoint.tls_failure(&failure),
                None => format!("no secure connection to {endpoint}: {root}"),
            },
        },
        Reason::NotUnderstood => format!("the answer of {endpoint} cannot be read: {}", unreadable(error)),
        // In our own words: what a helper program printed may hold a secret.
        Reason::NoCredentials => "the AWS credential chain has no credentials".into(),
        _ => format!("the connection to {endpoint} broke: {}", plain_io(error).unwrap_or(root)),
    }
}

/// Returns a clause about what the proxy did.
fn explain_proxy(proxy: &Proxy, error: &ProxyError) -> String {
    let variable = proxy.variable();
    match error {
        ProxyError::Unreachable(cause) => {
            let cause = &**cause;
            let why = match TlsFailure::of(cause) {
                Some(failure) => format!("it {}", failure.clause("an authority that is trusted here")),
                None if is_of_dns(cause) => "its name does not resolve".to_owned(),
                None => plain_io(cause).unwrap_or_else(|| root(cause)),
            };
            format!("no connection to the proxy, which {variable} names: {why}")
        }
        ProxyError::Refused(StatusCode::PROXY_AUTHENTICATION_REQUIRED) if proxy.authorization().is_some() => {
            format!("the proxy does not accept the user name and the password in {variable} (407)")
        }
        ProxyError::Refused(StatusCode::PROXY_AUTHENTICATION_REQUIRED) => format!(
            "the proxy asks for a user name and a password (407); write them into {variable}, as \
             http://USER:PASSWORD@HOST:PORT"
        ),
        ProxyError::Refused(status) if status.is_server_error() => format!("the proxy cannot connect there ({status})"),
        ProxyError::Refused(status) => format!("the proxy refuses to connect there ({status})"),
        ProxyError::Broken(cause) => {
            let why = cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
            format!("the proxy, which {variable} names, gives no answer of an HTTP proxy{why}")
        }
    }
}

/// Returns a clause about the part of an answer that hyper cannot parse.
fn unreadable(error: &(dyn Error + 'static)) -> String {
    match find::<hyper::Error>(error) {
        Some(error) if error.is_parse_too_large() => {
            format!("it has more than {MOST_HEADERS} headers, or 400 KiB of them")
        }
        Some(error) => error.to_string(),
        None => root(error),
    }
}

/// Returns whether a header of an answer cannot be parsed, or there are too many.
pub(super) fn is_of_a_header(error: &(dyn Error + 'static)) -> bool {
    find::<hyper::Error>(error)
        .is_some_and(|error| error.is_parse_too_large() || error.is_parse() && error.to_string().contains("header"))
}

/// Formats the errors of the chain in one line, outermost first.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words = Vec::<String>::new();
    for error in errors(error) {
        let said = error.to_string();
        if words.last().is_none_or(|last| !last.contains(&said)) {
            words.push(said);
        }
    }
    words.join(": ")
}

/// Returns the first error of type `T` in the chain.
pub(super) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    errors(error).find_map(|error| error.downcast_ref::<T>())
}

/// Iterates over the chain with the payloads of `io::Error`, which their `source` skips.
fn errors<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let payload = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        payload.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// Returns whether the name of the store does not resolve. hyper-util reports that as text, the SDK as a type.
fn is_of_dns(error: &(dyn Error + 'static)) -> bool {
    find::<ResolveDnsError>(error).is_some() || errors(error).any(|error| error.to_string() == "dns error")
}

fn root(error: &(dyn Error + 'static)) -> String {
    errors(error).last().map(ToString::to_string).unwrap_or_default()
}

/// `connection refused` instead of `Connection refused (os error 111)`.
fn plain_io(error: &(dyn Error + 'static)) -> Option<String> {
    find::<io::Error>(error)
        .map(io::Error::kind)
        .filter(|kind| *kind != io::ErrorKind::Other)
        .map(|kind| kind.to_string())
}

fn says(error: &(dyn Error + 'static), words: &str) -> bool {
    errors(error).any(|error| error.to_string().contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("client error (Connect)")]
    struct Wrapped(#[source] io::Error);

    #[test]
    fn a_refused_connection_is_told_without_numbers() {
        let error = Wrapped(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(reason(&error), Reason::Unreachable);
        assert_eq!(
            explain(&Endpoint::at("http://127.0.0.1:1"), &error),
            "cannot reach http://127.0.0.1:1: connection refused"
        );
    }

    #[test]
    fn a_certificate_of_another_name_is_a_matter_of_configuration() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName);
        // As deep as the connector hides it.
        let error = Wrapped(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls)));
        assert_eq!(reason(&error), Reason::Tls);
        let told = explain(&Endpoint::at("https://store.example"), &error);
        assert!(told.starts_with("no secure connection to https://store.example: it shows a certificate"), "{told}");
    }

    #[test]
    fn a_name_that_does_not_resolve_is_told_as_such() {
        let error = ResolveDnsError::new(io::Error::other("failed to lookup address information"));
        assert_eq!(reason(&error), Reason::Unreachable);
        assert!(explain(&Endpoint::at("https://nowhere.invalid"), &error).contains("its name does not resolve"));
    }

    #[test]
    fn missing_credentials_are_told_without_a_word_of_whoever_was_asked_for_them() {
        let error = Wrapped(io::Error::other("the credential process printed s3cr3t"));
        assert_eq!(reason(&error), Reason::NoCredentials);
        assert!(!explain(&Endpoint::at("https://a.b"), &error).contains("s3cr3t"));
    }

    #[test]
    fn a_connection_that_breaks_may_be_tried_again() {
        let error = Wrapped(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(reason(&error), Reason::Broken);
        assert!(explain(&Endpoint::at("https://a.b"), &error).ends_with("broke: connection reset"));
    }
}
