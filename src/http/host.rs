//! The header `Host`, of which HTTP/1.1 wants exactly one: two are read by a proxy and by us in two ways.

use axum::{
    extract::Request,
    http::{HeaderMap, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::error_response::ErrorResponse;

/// Refuses every request, to whichever page, whose host is not clear.
pub(super) async fn checked(request: Request, next: Next) -> Response {
    match flaw(request.version(), request.headers()) {
        Some(why) => ErrorResponse::bad(why).into_response(),
        None => next.run(request).await,
    }
}

fn flaw(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Some("there are two Host headers: send one"),
        (None, _) if version < Version::HTTP_11 => None,
        (None, _) => Some("there is no Host header, which HTTP/1.1 wants: send one"),
        (Some(host), None) => {
            let host = host.to_str().unwrap_or("?@");
            // An empty one is allowed, and names no host.
            let names_one = host.is_empty() || !host.contains('@') && host.parse::<Authority>().is_ok();
            (!names_one)
                .then_some("the Host header names no host: send the name or address, and the port if it is not 80")
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn exactly_one_host_is_given() {
        let flawed = |version, hosts: &[&[u8]]| {
            let hosts = hosts.iter().map(|host| (header::HOST, HeaderValue::from_bytes(host).unwrap()));
            let mut headers = HeaderMap::new();
            for (name, host) in hosts {
                headers.append(name, host);
            }
            flaw(version, &headers).is_some()
        };
        for good in ["localhost", "127.0.0.1:9180", "[::1]:9180", "copyhold_1.internal:80", ""] {
            assert!(!flawed(Version::HTTP_11, &[good.as_bytes()]), "{good}");
        }
        for bad in [&b"a b"[..], b"user@localhost", b"localhost/x", b"a\xffb", b"localhost:80:90", b"[::1"] {
            assert!(flawed(Version::HTTP_11, &[bad]), "{bad:?}");
        }
        assert!(flawed(Version::HTTP_11, &[]));
        assert!(!flawed(Version::HTTP_10, &[]));
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert!(flawed(version, &[b"localhost", b"localhost"]));
            assert!(flawed(version, &[b"localhost", b"evil.example"]));
        }
    }
}
