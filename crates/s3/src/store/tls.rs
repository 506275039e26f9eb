//! The TLS configuration for a store: trusted authorities, HTTP/1.1 only.

use std::{
    io,
    sync::{Arc, LazyLock},
};

use hyper_rustls::ConfigBuilderExt as _;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier, client::Resumption, crypto::aws_lc_rs};

use super::authorities::CurrentAuthorities;
use crate::settings::Trust;

/// Loaded once: it takes milliseconds, and is the same for all stores.
static OF_MACHINE: LazyLock<Result<Arc<ClientConfig>, String>> = LazyLock::new(|| {
    let trusting = versions().with_native_roots().map_err(|error: io::Error| {
        format!(
            "this machine has no CA certificates, so no store can be reached over TLS: install them (ca-certificates), or \
             name a PEM file as ca_file or in SSL_CERT_FILE ({error})"
        )
    })?;
    Ok(with_alpn(trusting.with_no_client_auth()))
});

/// Returns a TLS configuration that trusts only those. Error: this machine has none, reported at the start and not at
/// the first request.
pub(super) fn trusting(trust: &Trust) -> Result<Arc<ClientConfig>, String> {
    match trust {
        Trust::Machine => OF_MACHINE.clone(),
        Trust::Named(authorities) => {
            let verifier = Arc::new(CurrentAuthorities::new(Arc::clone(authorities))?);
            // It verifies, by files that may be replaced.
            let mut config = versions().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
            // A session that is resumed is not verified again.
            config.resumption = Resumption::disabled();
            Ok(with_alpn(config))
        }
    }
}

/// Returns a configuration by which a handshake only shows whether TLS is spoken.
pub(super) fn trusting_nobody() -> Arc<ClientConfig> {
    with_alpn(versions().with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn versions() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3") // Cannot fail: the provider has both.
}

fn with_alpn(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
