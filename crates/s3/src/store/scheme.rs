//! Whether an endpoint speaks TLS where plain HTTP was asked for, or the other way round.
//!
//! Mostly the first byte of an answer tells. A server that closes, or stays silent, is asked once more the other way.

use std::{
    io,
    time::{Duration, Instant},
};

use hyper::Uri;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tower_service::Service as _;

use super::{
    Store,
    socket::{BoxError, Connector},
    tls::trusting_nobody,
    transport_error::find,
};

/// For the question, connecting included.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// A store that never answers is not asked with each request.
const ASK_EVERY: Duration = Duration::from_mins(1);
const QUESTION: &[u8] = b"HEAD / HTTP/1.0\r\n\r\n";

/// What is expected of the first byte that a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// The server speaks, and something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OtherScheme {
    #[error("it speaks TLS: write https:// in this replica's endpoint")]
    Https,
    #[error("it speaks HTTP without TLS: write http:// in this replica's endpoint, if that is meant")]
    Http,
}

/// What was found when an endpoint that has never answered was asked the other way.
#[derive(Clone, Copy, Debug)]
pub(super) struct SchemeProbe {
    at: Instant,
    other: Option<OtherScheme>,
}

impl Scheme {
    pub(super) fn of(uri: &Uri) -> Self {
        if uri.scheme_str() == Some("https") { Self::Https } else { Self::Http }
    }

    /// Error: what the byte shows.
    pub(super) fn check(self, first: u8) -> io::Result<()> {
        // Of TLS: from ChangeCipherSpec to Heartbeat.
        let tls = (0x14..=0x18).contains(&first);
        let other = match self {
            Self::Http if tls => OtherScheme::Https,
            Self::Https if !tls => OtherScheme::Http,
            Self::Http | Self::Https => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, other))
    }
}

impl Store {
    /// The other scheme, if the endpoint speaks that. To be asked of one that has never answered.
    pub(super) async fn other_scheme(&self) -> Option<OtherScheme> {
        // There may be no other way than through the proxy.
        if self.endpoint.proxy().is_some() {
            return None;
        }
        let mut asked = self.scheme.lock().await;
        let known = asked.filter(|asked| asked.at.elapsed() < ASK_EVERY);
        let other = match known {
            Some(known) => known.other,
            None => tokio::time::timeout(ASK_WITHIN, other_of(self.endpoint.url())).await.ok().flatten(),
        };
        *asked = known.or_else(|| Some(SchemeProbe { at: Instant::now(), other }));
        other
    }
}

/// The other scheme, if the endpoint speaks that.
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
            tcp.write_all(QUESTION).await.ok()?;
            let mut line = [0; 12];
            tcp.read_exact(&mut line).await.ok()?;
            // Servers that speak TLS say 400 to whoever does not.
            let (protocol, status) = line.split_at(9);
            (protocol.starts_with(b"HTTP/1.") && status != b"400").then_some(OtherScheme::Http)
        }
    }
}

/// Whoever refuses a handshake, or shows a certificate that nobody trusts, speaks TLS.
fn is_of_tls(error: &BoxError) -> bool {
    find::<rustls::Error>(&**error).is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_of_an_answer_tells_what_is_spoken() {
        let other = |scheme: Scheme, first| {
            let error = scheme.check(first).err()?;
            error.get_ref().and_then(|inner| inner.downcast_ref::<OtherScheme>()).copied()
        };
        assert_eq!(other(Scheme::Http, b'H'), None);
        assert_eq!(other(Scheme::Http, 0x15), Some(OtherScheme::Https));
        assert_eq!(other(Scheme::Https, 0x16), None);
        for plain in [b'H', b'<', b'\n'] {
            assert_eq!(other(Scheme::Https, plain), Some(OtherScheme::Http));
        }
    }
}
