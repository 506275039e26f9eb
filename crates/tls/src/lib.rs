//! Explains TLS handshake failures to an operator.
//!
//! It knows neither stores nor PostgreSQL: the caller names its peer and the authorities that it trusts.

use std::{
    error::Error,
    io,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{CertificateError, pki_types::UnixTime};

/// What is wrong with a peer's certificate, or with TLS itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFailure {
    /// None of the trusted authorities has issued it.
    UnknownIssuer,
    /// Any other failure, as a clause whose subject is the peer.
    Other(String),
}

impl TlsFailure {
    /// Returns the TLS failure in the error's chain; `None`: there is none.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        Some(Self::of_rustls(find(error)?))
    }

    fn of_rustls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            // The peer speaks plain HTTP or another protocol.
            rustls::Error::InvalidMessage(_) => Self::Other("does not speak TLS there".to_owned()),
            rustls::Error::AlertReceived(alert) => Self::Other(format!("ends the handshake: {alert:?}")),
            other => Self::Other(format!("cannot be spoken to over TLS: {other}")),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        let shows = match error {
            CertificateError::UnknownIssuer => return Self::UnknownIssuer,
            CertificateError::Expired => "one that has expired".to_owned(),
            CertificateError::ExpiredContext { time, not_after } => {
                format!("one that expired on {}; this machine's clock says {}", date(*not_after), date(*time))
            }
            CertificateError::NotValidYet => "one that is not valid yet".to_owned(),
            CertificateError::NotValidYetContext { time, not_before } => {
                format!("one that is valid from {} on; this machine's clock says {}", date(*not_before), date(*time))
            }
            CertificateError::NotValidForName => "one for another name".to_owned(),
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names: Vec<_> = presented.iter().map(|name| plain_name(name)).collect();
                let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
                format!("one for another name: it is for {names}, and not for {}", expected.to_str())
            }
            CertificateError::Revoked => "one that was revoked".to_owned(),
            // The library keeps this one inside an opaque error.
            other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                "that of an authority where a server's is needed: issue one with it that says CA:FALSE".to_owned()
            }
            other => format!("one that is not accepted: {other}"),
        };
        Self::Other(format!("shows a certificate that cannot be trusted, {shows}"))
    }

    /// Returns the failure as a clause whose subject is the peer. `trusted`: which authorities are, after "signed by".
    #[must_use]
    pub fn clause(&self, trusted: &str) -> String {
        match self {
            Self::UnknownIssuer => {
                format!("shows a certificate of an unknown issuer: it is not signed by {trusted}")
            }
            Self::Other(clause) => clause.clone(),
        }
    }
}

/// Returns the first rustls error in the chain, also inside of an `io::Error`, whose `source` skips it.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    std::iter::successors(Some(error), |&error| {
        let payload = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        payload.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
    .find_map(|error| error.downcast_ref())
}

/// `2026-11-30T12:00:00Z`
fn date(time: UnixTime) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs())).to_string()
}

/// `minio.internal` of `DnsName("minio.internal")`, as the library shows the names in a certificate.
fn plain_name(shown: &str) -> String {
    let inner = shown.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(shown);
    copyhold_core::domain::excerpt(inner.trim_matches('"'), 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clause(error: CertificateError) -> String {
        let tls = rustls::Error::InvalidCertificate(error);
        // Nested as deep as in the errors of connectors.
        let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        TlsFailure::of(&error).unwrap().clause("an authority in ca.pem")
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_told_with_what_would_be_right() {
        assert_eq!(
            clause(CertificateError::UnknownIssuer),
            "shows a certificate of an unknown issuer: it is not signed by an authority in ca.pem"
        );
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext { time: time(86_400), not_after: time(0) };
        let told = clause(expired);
        assert!(told.contains("expired on 1970-01-01T00:00:00Z; this machine's clock says 1970-01-02"), "{told}");
        let expected = rustls::pki_types::ServerName::try_from("10.0.0.7").unwrap().to_owned();
        let presented = vec!["DnsName(\"minio.internal\")".to_owned(), "DnsName(\"*.b\")".to_owned()];
        let told = clause(CertificateError::NotValidForNameContext { expected, presented });
        assert!(told.ends_with("it is for minio.internal, *.b, and not for 10.0.0.7"), "{told}");
    }

    #[test]
    fn an_error_of_something_else_is_none_of_tls() {
        assert_eq!(TlsFailure::of(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
    }
}
