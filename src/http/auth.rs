//! Who may read events, register objects and append events.
//!
//! With `http.token` set, a client that sends it may do everything, from any machine. Without it, clients on this
//! machine may read and register, and none may append.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, StatusCode, header, request::Parts};
use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;

use super::{connections::Connection, error_response::ErrorResponse};
use crate::config::Secret;

/// A token that was rotated is read so soon.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Headers that a proxy adds, apart from those that begin with `x-forwarded`.
const PROXIES: [&str; 12] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "cf-connecting-ip",
    "true-client-ip",
    "fastly-client-ip",
];

/// The token of the configuration, if there is one.
#[derive(Clone, Debug)]
pub struct Auth(Option<Secret>);

enum Bearer {
    None,
    Right,
    Wrong,
}

impl Auth {
    #[must_use]
    pub fn new(token: Option<Secret>) -> Self {
        Self(token)
    }

    /// The events, which name every object.
    pub(super) fn may_read(&self, connection: &Connection, request: &Parts) -> Result<(), ErrorResponse> {
        self.may("reading events", connection, request)
    }

    /// As reading, but without a token not for a page that a browser on this machine shows.
    pub(super) fn may_register(&self, connection: &Connection, request: &Parts) -> Result<(), ErrorResponse> {
        self.may("registering objects", connection, request)?;
        if self.0.is_none() && request.headers.contains_key(header::ORIGIN) {
            return Err(ErrorResponse::new(
                StatusCode::FORBIDDEN,
                "a page in a browser registers no objects: set http.token in the daemon's configuration and send it",
            ));
        }
        Ok(())
    }

    pub(super) fn may_append(&self, headers: &HeaderMap) -> Result<(), ErrorResponse> {
        if self.0.is_none() {
            return Err(ErrorResponse::new(
                StatusCode::FORBIDDEN,
                "events cannot be appended over HTTP until http.token is set in the daemon's configuration",
            ));
        }
        self.has_token("appending events", headers)
    }

    /// With a token in the configuration, any client that sends it: the address of a connection does not show who is
    /// behind it, since a proxy on this machine makes every request a local one. Without, this machine.
    fn may(&self, what: &str, connection: &Connection, request: &Parts) -> Result<(), ErrorResponse> {
        if self.0.is_some() {
            return self.has_token(what, &request.headers);
        }
        local(what, connection, request).map_err(|why| {
            let todo = "set http.token in the daemon's configuration and send it, as \"Authorization: Bearer TOKEN\"";
            ErrorResponse::new(StatusCode::FORBIDDEN, format!("{why}: {todo}"))
        })
    }

    fn has_token(&self, what: &str, headers: &HeaderMap) -> Result<(), ErrorResponse> {
        match self.bearer(headers) {
            Bearer::Right => Ok(()),
            Bearer::Wrong => Err(ErrorResponse::new(
                StatusCode::UNAUTHORIZED,
                "this is not the token: send http.token of the daemon's configuration",
            )),
            Bearer::None => Err(ErrorResponse::new(
                StatusCode::UNAUTHORIZED,
                format!("{what} needs the token, from this machine too: send \"Authorization: Bearer TOKEN\""),
            )),
        }
    }

    fn bearer(&self, headers: &HeaderMap) -> Bearer {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(first), None) = (given.next(), given.next()) else {
            return if headers.contains_key(header::AUTHORIZATION) { Bearer::Wrong } else { Bearer::None };
        };
        let token = first.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let is_right = |(_, token): (_, &[u8])| {
            let right = self.0.as_ref().map(|right| right.latest_within(READ_EVERY));
            right.is_some_and(|right| right.expose_secret().as_bytes().ct_eq(token.trim_ascii()).into())
        };
        if token.is_some_and(is_right) { Bearer::Right } else { Bearer::Wrong }
    }
}

/// Why not.
fn local(what: &str, connection: &Connection, request: &Parts) -> Result<(), String> {
    if !connection.peer.ip().to_canonical().is_loopback() || request.headers.keys().any(is_of_a_proxy) {
        return Err(format!("{what} is for this machine alone until there is a token"));
    }
    // A page on some site can have its name lead to this machine, and its visitors' browsers would read for it.
    if !host(request).is_some_and(is_local_name) {
        return Err(format!("without a token, {what} works by the names localhost, 127.0.0.1 and [::1] alone"));
    }
    Ok(())
}

/// A request that came through a proxy is not from this machine, whatever the address of the connection.
fn is_of_a_proxy(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded") || PROXIES.contains(&name.as_str())
}

/// Whom the request is for. A target that names a host is obeyed before the header.
fn host(request: &Parts) -> Option<&str> {
    match request.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers.get(header::HOST)?.to_str().ok(),
    }
}

fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]"
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Request};

    use super::{super::connections::ReadProgress, *};

    const TOKEN: &str = "sixteen-letters-at-least";

    fn with(token: Option<&str>) -> Auth {
        Auth::new(token.map(Into::into))
    }

    fn from(peer: &str) -> Connection {
        Connection { peer: peer.parse().unwrap(), progress: ReadProgress::default() }
    }

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn request(target: &str, given: &[(&'static str, &str)]) -> Parts {
        let (mut parts, ()) = Request::builder().uri(target).body(()).unwrap().into_parts();
        parts.headers = headers(given);
        parts
    }

    fn status(answer: Result<(), ErrorResponse>) -> u16 {
        use axum::response::IntoResponse as _;
        answer.map_or_else(|response| response.into_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn without_a_token_in_the_configuration_only_this_machine_reads_and_by_a_local_name() {
        for (peer, host, answer) in [
            ("127.0.0.1:5", "localhost:9180", 200),
            ("127.0.0.1:5", "LOCALHOST", 200),
            ("127.0.0.9:5", "127.0.0.1:9180", 200),
            ("[::1]:5", "[::1]:9180", 200),
            ("[::ffff:127.0.0.1]:5", "[::1]", 200),
            ("127.0.0.1:5", "evil.example:9180", 403),
            ("127.0.0.1:5", "localhost.evil.example", 403),
            ("127.0.0.1:5", "", 403),
            ("10.0.0.7:5", "localhost", 403),
        ] {
            let asked = request("/v1/events", &[("host", host)]);
            assert_eq!(status(with(None).may_read(&from(peer), &asked)), answer, "{peer} {host:?}");
            assert_eq!(status(with(None).may_register(&from(peer), &asked)), answer, "{peer} {host:?}");
        }
        let near = from("127.0.0.1:5");
        for proxy in ["x-forwarded-for", "X-Forwarded-Proto", "forwarded", "via", "x-real-ip", "cf-connecting-ip"] {
            let asked = request("/v1/events", &[("host", "localhost"), (proxy, "10.0.0.7")]);
            assert_eq!(status(with(None).may_read(&near, &asked)), 403, "{proxy}");
        }
        let other = request("http://evil.example/v1/events", &[("host", "localhost")]);
        assert_eq!(status(with(None).may_read(&near, &other)), 403, "the target counts, not the header");
        let same = request("http://localhost/v1/events", &[("host", "localhost")]);
        assert_eq!(status(with(None).may_read(&near, &same)), 200);
    }

    #[test]
    fn with_a_token_in_the_configuration_no_client_reads_registers_or_appends_without_it() {
        let plain_proxy = [("host", "127.0.0.1:9180")];
        for peer in ["127.0.0.1:5", "[::1]:5", "10.0.0.7:5"] {
            let asked = request("/v1/events", &plain_proxy);
            let auth = with(Some(TOKEN));
            assert_eq!(status(auth.may_read(&from(peer), &asked)), 401, "{peer}");
            assert_eq!(status(auth.may_register(&from(peer), &asked)), 401, "{peer}");
            assert_eq!(status(auth.may_append(&asked.headers)), 401, "{peer}");
        }
    }

    #[test]
    fn the_token_and_nothing_like_it_opens_all_ways() {
        for (given, answer) in [
            (format!("Bearer {TOKEN}"), 200),
            (format!("bearer  {TOKEN} "), 200),
            (format!("Bearer {TOKEN}x"), 401),
            (format!("Bearer {}", &TOKEN[1..]), 401),
            (format!("Basic {TOKEN}"), 401),
            (TOKEN.to_owned(), 401),
            ("Bearer ".to_owned(), 401),
            ("Bearer".to_owned(), 401),
            (String::new(), 401),
        ] {
            let sent = request("/v1/events", &[("host", "copyhold.example"), ("authorization", &given)]);
            for peer in ["10.0.0.7:5", "127.0.0.1:5"] {
                assert_eq!(status(with(Some(TOKEN)).may_read(&from(peer), &sent)), answer, "{given:?}");
                assert_eq!(status(with(Some(TOKEN)).may_register(&from(peer), &sent)), answer, "{given:?}");
            }
            assert_eq!(status(with(Some(TOKEN)).may_append(&sent.headers)), answer, "{given:?}");
            assert_eq!(status(with(None).may_append(&sent.headers)), 403, "{given:?}");
        }
        let mut twice = headers(&[("authorization", &format!("Bearer {TOKEN}"))]);
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(status(with(Some(TOKEN)).may_append(&twice)), 401);
    }

    #[test]
    fn a_token_that_is_not_required_does_no_harm() {
        let sent = request("/v1/events", &[("host", "localhost"), ("authorization", "Bearer whatever")]);
        assert_eq!(status(with(None).may_read(&from("127.0.0.1:5"), &sent)), 200);
        assert_eq!(status(with(None).may_read(&from("10.0.0.7:5"), &sent)), 403);
    }

    #[test]
    fn a_page_in_a_browser_registers_nothing_without_the_token() {
        let near = from("127.0.0.1:5");
        let page = [("host", "localhost:9180"), ("origin", "https://evil.example")];
        assert_eq!(status(with(None).may_register(&near, &request("/v1/objects", &page[..1]))), 200);
        assert_eq!(status(with(None).may_register(&near, &request("/v1/objects", &page))), 403);
        let token = format!("Bearer {TOKEN}");
        let knows = request("/v1/objects", &[page[0], page[1], ("authorization", &token)]);
        assert_eq!(status(with(Some(TOKEN)).may_register(&near, &knows)), 200);
        assert_eq!(status(with(Some(TOKEN)).may_register(&near, &request("/v1/objects", &page))), 401);
    }
}
