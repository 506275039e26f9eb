//! Asks a daemon for events over HTTP.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::config::{Config, ConfigErrors, Trust};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A daemon that waits for its database answers so within a few seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Of an answer that is no stream.
const ANSWER_BYTES: usize = 1 << 20;
const TOKEN: &str = "COPYHOLD_HTTP__TOKEN";

/// One daemon.
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    events: Url,
    authorization: Option<HeaderValue>,
}

/// Why there is no usable answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// A transient error; the daemon may state how long to wait at least.
    Passing(anyhow::Error, Option<Duration>),
    /// The request is wrong.
    Lasting(anyhow::Error),
}

impl From<Trouble> for anyhow::Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Passing(error, _) | Trouble::Lasting(error) => error,
        }
    }
}

impl Client {
    /// Of the daemon at `url`, else of the one of the configuration on this machine.
    pub(super) fn of(config: impl Fn() -> Result<Config, ConfigErrors>, url: Option<&Url>) -> anyhow::Result<Self> {
        // The configuration's token is for the daemon of the configuration.
        if let Some(url) = url {
            return Self::new(url.clone(), env::var(TOKEN).ok().map(SecretString::from).as_ref());
        }
        let config = config()?;
        Self::new(here(&config)?, config.http.token.map(|token| token.latest()).as_ref())
    }

    fn new(mut url: Url, token: Option<&SecretString>) -> anyhow::Result<Self> {
        ensure!(["http", "https"].contains(&url.scheme()), "--url begins with http:// or https://");
        ensure!(
            url.username().is_empty() && url.password().is_none(),
            "--url holds credentials: give the token as {TOKEN}"
        );
        ensure!(url.query().is_none() && url.fragment().is_none(), "--url ends with the host, or with a path");
        // Cannot fail: an http URL has a path. It may be that of a proxy.
        url.path_segments_mut().expect("a base").pop_if_empty().extend(["v1", "events"]);
        let mut authorization =
            token.map(|token| HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))).transpose();
        if let Ok(Some(value)) = &mut authorization {
            value.set_sensitive(true);
        }
        let authorization = authorization.with_context(|| format!("{TOKEN} holds characters that no token has"))?;
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector(url.scheme() == "https")?);
        Ok(Self { http, events: url, authorization })
    }

    /// For a message.
    pub(super) fn address(&self) -> &str {
        self.events.as_str()
    }

    /// Asks for events, one a line.
    pub(super) async fn lines(&self, query: &str) -> Result<Response<Incoming>, Trouble> {
        let mut url = self.events.clone();
        url.set_query(Some(query));
        let request = Request::builder().method(Method::GET).uri(url.as_str()).header(ACCEPT, "application/x-ndjson");
        self.ask(request, Bytes::new()).await
    }

    /// Appends events; the daemon's answer.
    pub(super) async fn append(&self, body: Bytes) -> Result<Bytes, Trouble> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.events.as_str())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        let answer = self.ask(request, body).await?;
        whole(answer).await.map_err(|error| Trouble::Passing(error, None))
    }

    async fn ask(
        &self,
        mut request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, Trouble> {
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let address = self.address();
        let request = request.body(Full::new(body)).map_err(|error| Trouble::Lasting(error.into()))?;
        let answer = match tokio::time::timeout(ANSWER_WITHIN, self.http.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let error = anyhow::Error::new(error).context(format!("no daemon answers at {address}"));
                return Err(Trouble::Passing(error, None));
            }
            Err(_) => {
                let error = anyhow::anyhow!("no answer from {address} within {} seconds", ANSWER_WITHIN.as_secs());
                return Err(Trouble::Passing(error, None));
            }
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(refused(answer, address, self.authorization.is_some()).await)
    }
}

/// The daemon's own sentence, if it is one of ours that answers.
async fn refused(answer: Response<Incoming>, address: &str, has_token: bool) -> Trouble {
    let status = answer.status();
    let after = answer.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
    let sentence = whole(answer).await.ok().and_then(|body| {
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(super::super::output::Untrusted(body["error"].as_str()?).to_string())
    });
    let error = match sentence {
        Some(sentence) => anyhow::anyhow!(sentence),
        None => anyhow::anyhow!("{address} answers {status}: is it Copyhold's address?"),
    };
    let error = match status {
        // The daemon's sentence is for the author of the request.
        StatusCode::UNAUTHORIZED => {
            let what = if has_token { "does not accept the token that was sent" } else { "needs a token" };
            let todo = format!("set {TOKEN} to http.token of its configuration");
            anyhow::anyhow!("the daemon at {address} {what}; {todo}")
        }
        _ => error,
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Trouble::Passing(error, after.map(Duration::from_secs))
        }
        status if status.is_server_error() => Trouble::Passing(error, after.map(Duration::from_secs)),
        _ => Trouble::Lasting(error),
    }
}

async fn whole(answer: Response<Incoming>) -> anyhow::Result<Bytes> {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES);
    match tokio::time::timeout(ANSWER_WITHIN, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(anyhow::anyhow!(error).context("the answer did not come to its end")),
        Err(_) => bail!("the answer did not come to its end"),
    }
}

/// What is listened on everywhere is found here too.
fn here(config: &Config) -> anyhow::Result<Url> {
    let mut address = config.http.listen;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    ensure!(address.port() != 0, "http.listen has no fixed port: say where the daemon is with --url");
    Url::parse(&format!("http://{address}")).context("http.listen")
}

/// Trusts whom this machine trusts, or its variables name; for plain HTTP that is not looked up.
fn connector(tls: bool) -> anyhow::Result<HttpsConnector<HttpConnector>> {
    let mut connect = HttpConnector::new();
    connect.enforce_http(false);
    connect.set_connect_timeout(Some(CONNECT_WITHIN));
    connect.set_nodelay(true);
    let builder = HttpsConnectorBuilder::new();
    let builder = if tls {
        let provider = aws_lc_rs::default_provider();
        match Trust::of_process().map_err(|problem| anyhow::anyhow!("{problem}"))? {
            Trust::Machine => builder
                .with_provider_and_native_roots(provider)
                .context("cannot read this machine's certificate authorities")?,
            Trust::Named(authorities) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(authorities.certificates().iter().cloned());
                let config =
                    ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions()?;
                builder.with_tls_config(config.with_root_certificates(roots).with_no_client_auth())
            }
        }
    } else {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_root_certificates(RootCertStore::empty());
        builder.with_tls_config(config.with_no_client_auth())
    };
    Ok(builder.https_or_http().enable_http1().wrap_connector(connect))
}
