//! Which authorities may have issued the certificate of a store: those of this machine, or named ones.

use std::{fmt, sync::Arc};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::pki_types::CertificateDer;

/// The setting that names a file of authorities.
pub const CA_FILE: &str = "ca_file";

/// Which authorities are trusted.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// Those that this machine trusts.
    #[default]
    Machine,
    Named(Arc<Authorities>),
}

/// The authorities of a file, or of several, that a setting or a variable names.
pub struct Authorities {
    /// `ca_file`, or the variable's name.
    named_by: String,
    /// As an operator finds it: a path, or several.
    place: String,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    #[must_use]
    pub fn new(named_by: String, place: String, certificates: Vec<CertificateDer<'static>>) -> Self {
        Self { named_by, place, certificates }
    }

    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Returns them in PEM form.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let pem = |certificate: &CertificateDer<'_>| {
            let text = BASE64_STANDARD.encode(certificate);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        self.certificates.iter().map(pem).collect()
    }
}

/// `/etc/ssl/ca.pem (from SSL_CERT_FILE)`
impl fmt::Display for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", self.place, self.named_by)
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({} of {self})", self.certificates.len())
    }
}

impl Trust {
    /// The path of `ca_file`, where they are from there.
    #[must_use]
    pub fn ca_file(&self) -> Option<&str> {
        match self {
            Self::Named(authorities) if authorities.named_by == CA_FILE => Some(&authorities.place),
            Self::Named(_) | Self::Machine => None,
        }
    }
}
