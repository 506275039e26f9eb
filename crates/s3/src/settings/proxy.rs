//! `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, each in upper or lower case: which proxy stands before a
//! store.
//!
//! No message shows a proxy's credentials.

use std::{ffi::OsStr, fmt};

use copyhold_core::loopback::is_loopback;
use hyper::{Uri, header::HeaderValue};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use url::Url;

use super::InvalidVariable;

/// A proxy, and the variable that names it.
#[derive(Clone)]
pub struct Proxy {
    intercept: Intercept,
    variable: String,
}

impl Proxy {
    /// Scheme, host and port.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        self.intercept.uri()
    }

    /// Returns the value of Proxy-Authorization, if the variable has a user name.
    #[must_use]
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.intercept.basic_auth()
    }

    /// The variable that names it.
    #[must_use]
    pub fn variable(&self) -> &str {
        &self.variable
    }

    /// Returns whether the connection to the proxy itself uses TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.uri().scheme_str() == Some("https")
    }
}

/// Host and port.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.uri().port_u16().unwrap_or(if self.is_https() { 443 } else { 80 });
        write!(f, "{}:{port}", self.uri().host().unwrap_or_default())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self} of {})", self.variable)
    }
}

/// The proxies that the environment names.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    http: Option<Variable>,
    https: Option<Variable>,
    /// `NO_PROXY`
    exempt: String,
}

/// A variable that names a proxy: its URL with a scheme and nothing after the port, or what is wrong with it.
#[derive(Clone)]
struct Variable {
    name: String,
    url: Result<String, InvalidVariable>,
}

/// The URL may hold a password.
impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Variable({})", self.name)
    }
}

impl Proxies {
    /// Reads them from the environment; `variable` returns the value of one.
    #[must_use]
    pub fn of<'e>(variable: impl Fn(&str) -> Option<&'e OsStr>) -> Self {
        let named = |name: &str| Variable::of(&variable, name).or_else(|| Variable::of(&variable, "ALL_PROXY"));
        let (_, exempt) = set(&variable, "NO_PROXY").unwrap_or_default();
        Self { http: named("HTTP_PROXY"), https: named("HTTPS_PROXY"), exempt: exempt.to_string_lossy().into_owned() }
    }

    /// Returns the proxy for requests to `to`. Error: the variable that decides about `to` is invalid.
    pub fn before(&self, to: &Url) -> Result<Option<Proxy>, InvalidVariable> {
        let variable = if to.scheme() == "https" { &self.https } else { &self.http };
        let (Some(variable), Some(host)) = (variable, to.host_str()) else { return Ok(None) };
        // As in Go: such a name at the proxy would be another machine.
        if is_loopback(host) || self.exempts(host, to.port_or_known_default()) {
            return Ok(None);
        }
        let url = variable.url.as_ref().map_err(Clone::clone)?;
        let intercept = Matcher::builder().all(url).build().intercept(&stand_in(host));
        Ok(intercept.map(|intercept| Proxy { intercept, variable: variable.name.clone() }))
    }

    /// Returns the URL of the proxy for https, which may hold a password, and `NO_PROXY`, for a library that decides
    /// by itself.
    #[must_use]
    pub fn of_https(&self) -> Option<(&str, &str)> {
        let url = self.https.as_ref()?.url.as_ref().ok()?;
        Some((url, &self.exempt))
    }

    /// Returns whether `NO_PROXY` has the host. The library supports addresses, networks and domains, but neither ports
    /// nor an asterisk for addresses.
    fn exempts(&self, host: &str, port: Option<u16>) -> bool {
        let mut plain = Vec::new();
        for entry in self.exempt.split([',', ' ', '\t', '\n']).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                return true;
            }
            let (name, of_port) = entry_of(entry);
            if of_port.is_none_or(|of_port| Some(of_port) == port) {
                plain.push(name);
            }
        }
        let proxies = Matcher::builder().all("http://any.invalid").no(plain.join(",")).build();
        proxies.intercept(&stand_in(host.trim_end_matches('.'))).is_none()
    }
}

/// Returns some URL of that host.
fn stand_in(host: &str) -> Uri {
    // Cannot fail: a host of a URL is one of a URI.
    format!("https://{host}/").parse().unwrap_or_default()
}

/// Splits an entry into name and port: `example.com:443`, `[::1]:443`. `*.example.com` becomes `.example.com`.
fn entry_of(entry: &str) -> (String, Option<u16>) {
    let (name, port) = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        // With more than one colon it is an IPv6 address.
        None if entry.matches(':').count() == 1 => entry.split_once(':').map_or((entry, None), |(n, p)| (n, Some(p))),
        None => (entry, None),
    };
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    (name.trim_end_matches('.').to_owned(), port.and_then(|port| port.parse().ok()))
}

impl Variable {
    /// Reads the variable; an empty one counts as unset.
    fn of<'e>(variable: &impl Fn(&str) -> Option<&'e OsStr>, name: &str) -> Option<Self> {
        let (name, value) = set(variable, name)?;
        let url = url(value).map_err(|(what, todo)| InvalidVariable {
            variable: name.clone(),
            what: what.to_owned(),
            todo: todo.to_owned(),
        });
        Some(Self { name, url })
    }
}

/// Returns the name and value of the first spelling that is not empty.
fn set<'e>(variable: &impl Fn(&str) -> Option<&'e OsStr>, name: &str) -> Option<(String, &'e OsStr)> {
    [name.to_owned(), name.to_lowercase()].into_iter().find_map(|name| {
        let value = variable(&name).filter(|value| !value.is_empty())?;
        Some((name, value))
    })
}

/// Returns the URL of a proxy in one form. Error: what is wrong, without any part of the value, and what to do.
fn url(value: &OsStr) -> Result<String, (&'static str, &'static str)> {
    const FORM: &str = "write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, special characters of both as %XX";
    let value = value.to_str().ok_or(("is not UTF-8", FORM))?.trim();
    let whole = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let mut url = Url::parse(&whole).map_err(|_| ("is not the URL of a proxy", FORM))?;
    if url.scheme().starts_with("socks") {
        let todo = "name an HTTP proxy, or list the stores in NO_PROXY";
        return Err(("names a SOCKS proxy, and only HTTP proxies are supported", todo));
    }
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(("is not the URL of a proxy", FORM));
    }
    url.set_path("");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsStr::new(*value)))
    }

    fn before(variables: &[(&str, &str)], to: &str) -> Option<Proxy> {
        proxies(variables).before(&Url::parse(to).unwrap()).unwrap()
    }

    /// Returns whether a store is reached without the proxy of `ALL_PROXY`.
    fn is_exempt(no_proxy: &str, to: &str) -> bool {
        before(&[("ALL_PROXY", "http://proxy:3128"), ("no_proxy", no_proxy)], to).is_none()
    }

    #[test]
    fn each_scheme_has_its_proxy_in_either_case_and_without_one_that_of_all() {
        let both = [("HTTP_PROXY", "plain.internal"), ("https_proxy", "http://secure.internal:8080/")];
        let shown = |to| before(&both, to).map(|proxy| format!("{proxy} {}", proxy.variable()));
        assert_eq!(shown("http://s3.example.com:9000").unwrap(), "plain.internal:80 HTTP_PROXY");
        assert_eq!(shown("https://s3.example.com").unwrap(), "secure.internal:8080 https_proxy");
        let all = before(&[("all_proxy", "https://[::1]"), ("HTTPS_PROXY", "")], "https://s3.example.com").unwrap();
        assert_eq!((all.to_string(), all.is_https()), ("[::1]:443".to_owned(), true));
        assert!(before(&[("HTTP_PROXY", "http://proxy")], "https://s3.example.com").is_none());
    }

    #[test]
    fn credentials_are_sent_to_the_proxy_and_shown_nowhere() {
        let variables = [("HTTPS_PROXY", "http://me:ge%40he:im@proxy:3128")];
        let proxy = before(&variables, "https://s3.example.com").unwrap();
        // me:ge@he:im
        assert_eq!(proxy.authorization().unwrap(), "Basic bWU6Z2VAaGU6aW0=");
        let shown = format!("{proxy} {proxy:?} {:?} {}", proxies(&variables), proxy.uri());
        assert!(shown.contains("proxy:3128") && !shown.contains("im@") && !shown.contains("bWU6"), "{shown}");
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_a_word_of_its_url() {
        for (value, what) in [
            ("socks5://me:geheim@proxy:1080", "names a SOCKS proxy, and only HTTP proxies are supported"),
            ("ftp://me:geheim@proxy", "is not the URL of a proxy"),
            ("http://me:geheim@:3128", "is not the URL of a proxy"),
            ("http://me:geheim@proxy:99999", "is not the URL of a proxy"),
        ] {
            let proxies = proxies(&[("HTTPS_PROXY", value), ("NO_PROXY", "minio.internal")]);
            let problem = proxies.before(&Url::parse("https://s3.example.com").unwrap()).unwrap_err();
            assert_eq!((problem.what.as_str(), problem.variable.as_str()), (what, "HTTPS_PROXY"));
            assert!(!problem.todo.contains("geheim"), "{}", problem.todo);
            // The variable does not matter for a store that needs no proxy.
            assert!(proxies.before(&Url::parse("https://minio.internal").unwrap()).unwrap().is_none());
        }
    }

    #[test]
    fn no_proxy_has_domains_addresses_networks_ports_and_an_asterisk() {
        for (entries, to) in [
            ("example.com", "https://example.com"),
            ("example.com", "https://photos.S3.example.com"),
            (".example.com", "https://s3.example.com"),
            ("*.example.com", "https://s3.example.com"),
            ("EXAMPLE.com.", "https://s3.example.com"),
            ("a, example.com:8443 ,b", "https://s3.example.com:8443"),
            ("a example.com", "https://s3.example.com"),
            ("s3.example.com:443", "https://s3.example.com"),
            ("10.0.0.0/8", "http://10.1.2.3:9000"),
            ("10.1.2.3", "http://10.1.2.3:9000"),
            ("10.1.2.3:9000", "http://10.1.2.3:9000"),
            ("fd00::/8", "http://[fd00::7]:9000"),
            ("[fd00::7]:9000", "http://[fd00::7]:9000"),
            ("*", "https://s3.example.com"),
            ("*", "http://10.1.2.3:9000"),
            // Never through a proxy, whatever is listed.
            ("", "http://127.0.0.1:9000"),
            ("", "http://localhost:9000"),
            ("", "http://[::1]:9000"),
        ] {
            assert!(is_exempt(entries, to), "{entries} has {to}");
        }
        for (entries, to) in [
            ("example.com", "https://notexample.com"),
            ("s3.example.com", "https://example.com"),
            ("example.com:8443", "https://s3.example.com"),
            ("10.0.0.0/8", "http://11.1.2.3:9000"),
            ("10.1.2.3:9001", "http://10.1.2.3:9000"),
            ("[fd00::7]:9001", "http://[fd00::7]:9000"),
            ("", "https://s3.example.com"),
        ] {
            assert!(!is_exempt(entries, to), "{entries} has not {to}");
        }
    }
}
