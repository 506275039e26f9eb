//! Detects TLS or plain HTTP by the first byte of an answer.

use std::io;

use hyper::Uri;

/// The protocol that the first byte of an answer must belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// The server speaks the other protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OtherScheme {
    #[error("it speaks TLS: write https:// in this replica's endpoint")]
    Https,
    #[error("it speaks HTTP without TLS: write http:// in this replica's endpoint, if that is meant")]
    Http,
}

impl Scheme {
    pub(super) fn of(uri: &Uri) -> Self {
        if uri.scheme_str() == Some("https") { Self::Https } else { Self::Http }
    }

    /// Checks the first byte of an answer. Error: the protocol that it belongs to.
    pub(super) fn check(self, first: u8) -> io::Result<()> {
        // The content types of TLS: from ChangeCipherSpec to Heartbeat.
        let tls = (0x14..=0x18).contains(&first);
        let other = match self {
            Self::Http if tls => OtherScheme::Https,
            Self::Https if !tls => OtherScheme::Http,
            Self::Http | Self::Https => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, other))
    }
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
