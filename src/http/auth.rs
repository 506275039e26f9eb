//! Who may: reading and registering is for this machine and for the holders of the token, writing to the log for these alone.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;

use super::{connections::Connection, refusal::Refusal};
use crate::config::Secret;

/// A token that was rotated is read so soon.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Headers that a proxy adds. What came through one is not from this machine, whatever the connection says.
const FORWARDED: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];

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

    pub(super) fn may_read(&self, connection: &Connection, headers: &HeaderMap) -> Result<(), Refusal> {
        self.may_here("events are read", connection, headers)
    }

    /// As reading, but not for a page that a browser on this machine shows.
    pub(super) fn may_register(&self, connection: &Connection, headers: &HeaderMap) -> Result<(), Refusal> {
        self.may_here("objects are registered", connection, headers)?;
        if headers.contains_key(header::ORIGIN) && !matches!(self.bearer(headers), Bearer::Right) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "a page in a browser registers no objects without the token",
            ));
        }
        Ok(())
    }

    /// From this machine, or with the token.
    fn may_here(&self, what: &str, connection: &Connection, headers: &HeaderMap) -> Result<(), Refusal> {
        match (self.bearer(headers), &self.0) {
            (Bearer::Right, _) => Ok(()),
            (Bearer::Wrong, Some(_)) => Err(wrong()),
            (Bearer::None, _) | (Bearer::Wrong, None) => {
                let Err(why) = local(what, connection, headers) else { return Ok(()) };
                Err(match &self.0 {
                    Some(_) => Refusal::new(
                        StatusCode::UNAUTHORIZED,
                        format!("{why}: send the token, as \"Authorization: Bearer TOKEN\""),
                    ),
                    None => Refusal::new(
                        StatusCode::FORBIDDEN,
                        format!(
                            "{why}: set http.token in the daemon's configuration and send it, as \"Authorization: Bearer TOKEN\""
                        ),
                    ),
                })
            }
        }
    }

    pub(super) fn may_write(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.0.is_none() {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "nobody may append events over HTTP until http.token is set in the daemon's configuration",
            ));
        }
        match self.bearer(headers) {
            Bearer::Right => Ok(()),
            Bearer::Wrong => Err(wrong()),
            Bearer::None => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "appending events needs the token: send \"Authorization: Bearer TOKEN\"",
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

fn wrong() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "this is not the token: send http.token of the daemon's configuration")
}

/// Why not.
fn local(what: &str, connection: &Connection, headers: &HeaderMap) -> Result<(), String> {
    if !connection.peer.ip().to_canonical().is_loopback() || FORWARDED.iter().any(|name| headers.contains_key(*name)) {
        return Err(format!("from another machine {what} with the token alone"));
    }
    // A page on some site can have its name lead to this machine, and its visitors' browsers would read for it.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_local_name(host) {
        return Err(format!("without the token {what} from localhost, 127.0.0.1 or [::1] by this name alone"));
    }
    Ok(())
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
    use axum::http::HeaderValue;

    use super::{super::connections::Pace, *};

    const TOKEN: &str = "sixteen-letters-at-least";

    fn with(token: Option<&str>) -> Auth {
        Auth::new(token.map(Into::into))
    }

    fn from(peer: &str) -> Connection {
        Connection { peer: peer.parse().unwrap(), pace: Pace::default() }
    }

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn status(answer: Result<(), Refusal>) -> u16 {
        use axum::response::IntoResponse as _;
        answer.map_or_else(|refusal| refusal.into_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn this_machine_reads_by_a_local_name_and_nobody_else_without_the_token() {
        for (peer, host, answer) in [
            ("127.0.0.1:5", "localhost:9180", 200),
            ("127.0.0.1:5", "LOCALHOST", 200),
            ("127.0.0.9:5", "127.0.0.1:9180", 200),
            ("[::1]:5", "[::1]:9180", 200),
            ("[::ffff:127.0.0.1]:5", "[::1]", 200),
            ("127.0.0.1:5", "evil.example:9180", 401),
            ("127.0.0.1:5", "localhost.evil.example", 401),
            ("127.0.0.1:5", "", 401),
            ("10.0.0.7:5", "localhost", 401),
        ] {
            let host = headers(&[("host", host)]);
            assert_eq!(status(with(Some(TOKEN)).may_read(&from(peer), &host)), answer, "{peer} {host:?}");
            let untold = if answer == 401 { 403 } else { answer };
            assert_eq!(status(with(None).may_read(&from(peer), &host)), untold, "{peer} {host:?}");
        }
        let through_a_proxy = headers(&[("host", "localhost"), ("x-forwarded-for", "10.0.0.7")]);
        assert_eq!(status(with(Some(TOKEN)).may_read(&from("127.0.0.1:5"), &through_a_proxy)), 401);
    }

    #[test]
    fn the_token_and_nothing_like_it_opens_both_ways() {
        let far = from("10.0.0.7:5");
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
            let sent = headers(&[("authorization", &given)]);
            assert_eq!(status(with(Some(TOKEN)).may_read(&far, &sent)), answer, "{given:?}");
            assert_eq!(status(with(Some(TOKEN)).may_write(&sent)), answer, "{given:?}");
            assert_eq!(status(with(None).may_write(&sent)), 403, "{given:?}");
        }
        let mut twice = headers(&[("authorization", &format!("Bearer {TOKEN}"))]);
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(status(with(Some(TOKEN)).may_write(&twice)), 401);
    }

    #[test]
    fn a_wrong_token_is_refused_even_where_none_is_needed() {
        let near = from("127.0.0.1:5");
        let sent = headers(&[("host", "localhost"), ("authorization", "Bearer wrong")]);
        assert_eq!(status(with(Some(TOKEN)).may_read(&near, &sent)), 401);
        assert_eq!(status(with(None).may_read(&near, &sent)), 200);
    }

    #[test]
    fn a_page_in_a_browser_registers_nothing_without_the_token() {
        let near = from("127.0.0.1:5");
        let page = [("host", "localhost:9180"), ("origin", "https://evil.example")];
        assert_eq!(status(with(None).may_register(&near, &headers(&page[..1]))), 200);
        assert_eq!(status(with(None).may_register(&near, &headers(&page))), 403);
        let token = format!("Bearer {TOKEN}");
        let knows = headers(&[page[0], page[1], ("authorization", &token)]);
        assert_eq!(status(with(Some(TOKEN)).may_register(&near, &knows)), 200);
        assert_eq!(status(with(Some(TOKEN)).may_register(&from("10.0.0.7:5"), &headers(&page[..1]))), 401);
    }
}
