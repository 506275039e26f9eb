//! Gives the SDK a replica's current credentials, so that rotated keys and short-lived tokens need no restart.
//!
//! Files are read again every second in which the store is used, and once more when the store refuses their
//! credentials. It replaces the SDK's identity cache, which keeps credentials for 15 minutes and reads profile files
//! once. Tests: `tests/it/secrets.rs` of the program.

use std::{
    os::unix::fs::MetadataExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use aws_config::{default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig};
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError};
use aws_sdk_s3::config::{Credentials, Region};
use aws_smithy_http_client::{Builder, ConnectorBuilder, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::{
    http::SharedHttpClient,
    interceptors::context::InterceptorContext,
    retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority},
    runtime_components::RuntimeComponents,
};
use copyhold_core::domain::excerpt;
use copyhold_core::secret::Secret;
use secrecy::ExposeSecret as _;
use tracing::warn;

use super::transport_error;
use crate::settings::{self, ChainFile, NetworkEnvironment, Trust, chain_files};

/// How soon a changed file is read again.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How soon credentials of the chain without an expiry are requested again.
const KEEP_FOR: Duration = Duration::from_mins(15);
/// How long before their expiry credentials are requested again.
const BEFORE_EXPIRY: Duration = Duration::from_secs(20);
/// Time limit of the chain, which may ask a metadata service.
const LOAD_WITHIN: Duration = Duration::from_secs(10);
/// The same credentials, read again after a refusal, are refused for good reason: they are not read again before this.
const FINAL_FOR: Duration = Duration::from_secs(10);
/// Characters of a message about files that cannot be read.
const COMPLAINT_CHARS: usize = 500;

/// The credentials of one replica.
#[derive(Clone, Debug)]
pub(super) struct CurrentCredentials(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Source,
    state: Mutex<State>,
    /// Serializes requests to the chain.
    loading: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
enum Source {
    Keys { access_key_id: Secret, secret_access_key: Secret },
    Chain { region: Region, http: SharedHttpClient },
}

#[derive(Debug, Default)]
struct State {
    known: Option<KnownCredentials>,
    /// The store has refused them: they are read again before the next request.
    refused: bool,
    /// Until then another refusal changes nothing.
    final_until: Option<Instant>,
    /// Why the last attempt to read them failed; logged once.
    complaint: Option<String>,
}

#[derive(Clone, Debug)]
struct KnownCredentials {
    credentials: Credentials,
    loaded: Instant,
    /// When the files were checked last, and their stamps then.
    looked: Instant,
    files: Vec<Option<FileStamp>>,
}

/// Time, size and inode of a file: one that replaces it differs in one of them.
type FileStamp = (i64, i64, u64, u64);

impl CurrentCredentials {
    pub(super) fn of(replica: &settings::StoreSettings) -> Self {
        let source = match &replica.credentials {
            settings::Credentials::Ambient => {
                Source::Chain { region: Region::new(replica.region.clone()), http: chain_client(&replica.surroundings) }
            }
            settings::Credentials::Keys { access_key_id, secret_access_key } => {
                Source::Keys { access_key_id: access_key_id.clone(), secret_access_key: secret_access_key.clone() }
            }
        };
        Self(Arc::new(Shared { source, state: Mutex::default(), loading: tokio::sync::Mutex::default() }))
    }

    /// Returns the access key id that was used last.
    pub(super) fn key_id(&self) -> Option<String> {
        Some(self.state().known.as_ref()?.credentials.access_key_id().to_owned())
    }

    async fn current(&self) -> provider::Result {
        match &self.0.source {
            Source::Keys { access_key_id, secret_access_key } => Ok(self.keys(access_key_id, secret_access_key)),
            Source::Chain { region, http } => self.of_chain(region, http).await,
        }
    }

    fn keys(&self, id: &Secret, secret: &Secret) -> Credentials {
        let mut state = self.state();
        let age = if state.refused { Duration::ZERO } else { READ_EVERY };
        let (id, secret) = (id.latest_within(age), secret.latest_within(age));
        let credentials = Credentials::new(id.expose_secret(), secret.expose_secret(), None, None, "copyhold");
        state.read(credentials, Vec::new())
    }

    async fn of_chain(&self, region: &Region, http: &SharedHttpClient) -> provider::Result {
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        // While one asks, the others go on with what they have.
        let _one = match (self.0.loading.try_lock(), self.usable()) {
            (Ok(one), _) => one,
            (Err(_), Some(known)) => return Ok(known),
            (Err(_), None) => self.0.loading.lock().await,
        };
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        let files = stamps();
        let files_of_chain = chain_files();
        // A chain of its own each time: it reads profile files once.
        let load = async {
            if let Some(refused) = files_of_chain.iter().find_map(|file| file.check().err()) {
                return Err(CredentialsError::invalid_configuration(refused));
            }
            let config = ProviderConfig::default().with_http_client(http.clone());
            let chain = DefaultCredentialsChain::builder().configure(config).region(region.clone()).build().await;
            chain.provide_credentials().await
        };
        let loaded = tokio::time::timeout(LOAD_WITHIN, load).await;
        match loaded.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(LOAD_WITHIN))) {
            Ok(credentials) => Ok(self.state().read(credentials, files)),
            Err(error) => {
                let mut state = self.state();
                // A file that is half written says more in a second.
                if let Some(known) = &mut state.known {
                    known.looked = Instant::now();
                }
                drop(state);
                let Some(known) = self.usable() else { return Err(error) };
                self.complain(&error);
                Ok(known)
            }
        }
    }

    /// Returns the known credentials, unless they are to be read again.
    fn fresh(&self) -> Option<Credentials> {
        let mut state = self.state();
        let refused = state.refused;
        let known = state.known.as_mut()?;
        let expires_in = known.credentials.expiry().map(|at| at.duration_since(now()).unwrap_or_default());
        let is_old = match expires_in {
            Some(left) => left < BEFORE_EXPIRY,
            None => known.loaded.elapsed() > KEEP_FOR,
        };
        if known.looked.elapsed() >= READ_EVERY {
            if is_old || known.files != stamps() {
                return None;
            }
            known.looked = Instant::now();
        }
        (!refused).then(|| known.credentials.clone())
    }

    /// Returns the known credentials, unless they have expired.
    fn usable(&self) -> Option<Credentials> {
        let known = self.state().known.clone()?.credentials;
        known.expiry().is_none_or(|at| at > now()).then_some(known)
    }

    /// Logs once that the previous credentials stay in use.
    fn complain(&self, error: &CredentialsError) {
        let complaint = excerpt(&transport_error::chain(error), COMPLAINT_CHARS);
        let mut state = self.state();
        if state.complaint.as_ref() != Some(&complaint) {
            warn!("Could not read the AWS credentials again, those read before stay in use: {complaint}");
            state.complaint = Some(complaint);
        }
    }

    /// Records a refusal by the store. Returns whether they are to be read again for a retry.
    fn were_refused(&self) -> bool {
        if let Source::Keys { access_key_id, secret_access_key } = &self.0.source
            && !access_key_id.may_change()
            && !secret_access_key.may_change()
        {
            return false;
        }
        let mut state = self.state();
        let again = state.final_until.is_none_or(|until| until <= Instant::now());
        state.refused |= again;
        again
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read(&mut self, credentials: Credentials, files: Vec<Option<FileStamp>>) -> Credentials {
        let same = self.known.as_ref().is_some_and(|known| known.credentials == credentials);
        let now = Instant::now();
        if std::mem::take(&mut self.refused) {
            self.final_until = same.then(|| now + FINAL_FOR);
        } else if !same {
            self.final_until = None;
        }
        self.complaint = None;
        self.known = Some(KnownCredentials { credentials: credentials.clone(), loaded: now, looked: now, files });
        credentials
    }
}

impl ProvideCredentials for CurrentCredentials {
    fn provide_credentials<'a>(&'a self) -> provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        provider::future::ProvideCredentials::new(self.current())
    }
}

/// Builds the HTTP client of the chain. It asks metadata services over plain HTTP without a proxy, and others as stores
/// are asked.
fn chain_client(surroundings: &NetworkEnvironment) -> SharedHttpClient {
    let proxy =
        surroundings.proxies.of_https().and_then(|(url, exempt)| Some(ProxyConfig::https(url).ok()?.no_proxy(exempt)));
    let proxy = proxy.unwrap_or_else(ProxyConfig::disabled);
    let trust = match &surroundings.trust {
        Trust::Machine => tls::TrustStore::default(),
        Trust::Named(authorities) => tls::TrustStore::empty().with_pem_certificate(authorities.to_pem()),
    };
    let context = tls::TlsContext::builder().with_trust_store(trust).build();
    Builder::new().build_with_connector_fn(move |settings, components| {
        let crypto = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
        let mut connector = ConnectorBuilder::default().tls_provider(crypto).proxy_config(proxy.clone());
        if let Ok(context) = &context {
            connector.set_tls_context(context.clone());
        }
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.build()
    })
}

/// With a wrong clock the chain is only asked too often, or after a refusal.
#[expect(
    clippy::disallowed_methods,
    reason = "credentials name their end by the clock of the service that issued them"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Returns the stamps of the files that the chain reads.
fn stamps() -> Vec<Option<FileStamp>> {
    let stamp = |file: &ChainFile| {
        let found = file.path().metadata().ok()?;
        Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
    };
    chain_files().iter().map(stamp).collect()
}

/// Has a request that was refused for its credentials sent once more, with current ones.
#[derive(Debug)]
pub(super) struct RetriedWhenRefused(pub(super) CurrentCredentials);

impl ClassifyRetry for RetriedWhenRefused {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let refused = context.response().is_some_and(|response| {
            let (status, body) = (response.status().as_u16(), response.body().bytes().unwrap_or_default());
            refuses_credentials(status, body)
        });
        if refused && self.0.were_refused() { RetryAction::client_error() } else { RetryAction::NoActionIndicated }
    }

    fn name(&self) -> &'static str {
        "RetriedWhenRefused"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}

/// Codes of S3, and of services that issue credentials for it.
const CODES: [&str; 9] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidSecurity",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "Unauthorized",
];
/// The code is at the beginning of an error document.
const LOOKED_AT: usize = 4096;

/// The answer to a HEAD has no body and so no code.
fn refuses_credentials(status: u16, body: &[u8]) -> bool {
    if ![400, 401, 403].contains(&status) {
        return false;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(LOOKED_AT)]);
    body.is_empty() || status == 401 || CODES.iter().any(|code| text.contains(&format!("<Code>{code}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_credentials_is_told_from_others() {
        let answer = |code: &str| format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
        for code in ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"] {
            assert!(refuses_credentials(403, answer(code).as_bytes()), "{code}");
        }
        assert!(refuses_credentials(400, b"") && refuses_credentials(401, b"<html>"));
        assert!(!refuses_credentials(403, answer("AccessDenied").as_bytes()));
        assert!(!refuses_credentials(400, answer("InvalidArgument").as_bytes()));
        assert!(!refuses_credentials(404, b"") && !refuses_credentials(500, answer("ExpiredToken").as_bytes()));
    }
}
