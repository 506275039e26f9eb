//! Asks an endpoint that never answered whether it speaks the other scheme: TLS instead of HTTP, or the reverse.

use std::time::{Duration, Instant};

use hyper::Uri;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tower_service::Service as _;

use super::{
    Store,
    connector::Connector,
    scheme::{OtherScheme, Scheme},
    socket::BoxError,
    tls::trusting_nobody,
    transport_error::find,
};

/// Time limit of the probe, connecting included.
const PROBE_WITHIN: Duration = Duration::from_secs(3);
/// A store that never answers is probed at most this often.
const PROBE_EVERY: Duration = Duration::from_mins(1);
const PROBE_REQUEST: &[u8] = b"HEAD / HTTP/1.0\r\n\r\n";

/// The result of the last probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct SchemeProbe {
    at: Instant,
    other: Option<OtherScheme>,
}

impl Store {
    /// Returns the other scheme if the endpoint speaks it. For an endpoint that has never answered.
    pub(super) async fn other_scheme(&self) -> Option<OtherScheme> {
        // The endpoint may be reachable only through the proxy.
        if self.endpoint.proxy().is_some() {
            return None;
        }
        let mut asked = self.scheme.lock().await;
        let known = asked.filter(|asked| asked.at.elapsed() < PROBE_EVERY);
        let other = match known {
            Some(known) => known.other,
            None => tokio::time::timeout(PROBE_WITHIN, other_of(self.endpoint.url())).await.ok().flatten(),
        };
        *asked = known.or_else(|| Some(SchemeProbe { at: Instant::now(), other }));
        other
    }
}

/// Returns the other scheme if the endpoint speaks it.
async fn other_of(endpoint: &str) -> Option<OtherScheme> {
    let uri: Uri = endpoint.parse().ok()?;
    let host = uri.host()?;
    match Scheme::of(&uri) {
        Scheme::Http => {
            let port = uri.port_u16().unwrap_or(80);
            let secure = format!("https://{host}:{port}/").parse().ok()?;
            let answer = Connector::new(trusting_nobody(), 1).call(secure).await;
            (answer.is_ok() || answer.is_err_and(|error| is_of_tls(&error))).then_some(OtherScheme::Https)
        }
        Scheme::Https => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let mut tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await.ok()?;
            tcp.write_all(PROBE_REQUEST).await.ok()?;
            let mut line = [0; 12];
            tcp.read_exact(&mut line).await.ok()?;
            // TLS servers answer 400 to a client that speaks plain HTTP.
            let (protocol, status) = line.split_at(9);
            (protocol.starts_with(b"HTTP/1.") && status != b"400").then_some(OtherScheme::Http)
        }
    }
}

/// A peer that refuses a handshake, or shows an untrusted certificate, speaks TLS.
fn is_of_tls(error: &BoxError) -> bool {
    find::<rustls::Error>(&**error).is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_)))
}
