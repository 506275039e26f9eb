//! An endpoint as messages show it: its URL, its proxy, and the authority that must have certified it.

use std::fmt;

use copyhold_tls::TlsFailure;

use crate::settings;

/// Where a store is, for messages only.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// Scheme, host and port.
    url: String,
    proxy: Option<settings::Proxy>,
    trust: settings::Trust,
    replica: String,
}

impl Endpoint {
    pub(super) fn of(replica: &settings::StoreSettings) -> Self {
        Self {
            // A Url writes a slash after the host, to which the SDK would add another.
            url: replica.endpoint.as_str().trim_end_matches('/').to_owned(),
            proxy: replica.proxy.clone(),
            trust: replica.trust.clone(),
            replica: replica.name.to_string(),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn proxy(&self) -> Option<&settings::Proxy> {
        self.proxy.as_ref()
    }

    /// Explains a TLS failure there, and names the setting that decides about it.
    pub(super) fn tls_failure(&self, failure: &TlsFailure) -> String {
        let Self { replica, trust, .. } = self;
        let private = format!("for a private one, name its PEM file as ca_file in [replicas.{replica}]");
        let trusted = match (trust.ca_file(), trust) {
            (Some(path), _) => format!("an authority in {path}, the ca_file in [replicas.{replica}]"),
            (None, settings::Trust::Named(authorities)) => format!("an authority in {authorities}; {private}"),
            (None, settings::Trust::Machine) => format!("an authority that this machine trusts; {private}"),
        };
        format!("no secure connection to {self}: it {}", failure.clause(&trusted))
    }
}

/// Formats `https://s3.example.com`, and the proxy in front of it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)?;
        self.proxy.iter().try_for_each(|proxy| write!(f, " through the proxy {proxy}"))
    }
}

#[cfg(test)]
impl Endpoint {
    /// Makes the minimal settings of a replica `b2`.
    pub(super) fn at(url: &str) -> Self {
        let trust = settings::Trust::default();
        Self { url: url.to_owned(), proxy: None, trust, replica: "b2".to_owned() }
    }
}
