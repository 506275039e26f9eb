//! Splits a database URL into its parts, as libpq does. It does not interpret parameters.

use std::{fmt, ops::Range};

use url::form_urlencoded;

/// A URL in pieces, decoded. The Debug form shows none of it: any piece may hold a password.
#[derive(Default)]
pub struct Parts {
    pub user: Option<String>,
    pub password: Option<String>,
    /// Empty: none precedes the parameters.
    pub hosts: Vec<Host>,
    pub database: Option<String>,
    /// In their order; of several with one name the last counts.
    pub parameters: Vec<(String, String)>,
    /// Where passwords are in the text.
    secrets: Vec<Range<usize>>,
}

/// One of several hosts, or the only one.
pub struct Host {
    /// A name, an address without brackets, or the folder of a socket.
    pub name: String,
    pub port: Option<String>,
}

/// A typing error may have put a part of a password there.
impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// Why a text names no servers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("is not a URL")]
    NoUrl,
    #[error("does not begin with postgres://")]
    Scheme,
    #[error("does not name as many hosts as ports")]
    Hosts,
    #[error("asks for a server that is only read")]
    ReadOnlyServer,
    /// Only names that are known beforehand: the text may be a part of a password.
    #[error("has the parameter {name}, {what}")]
    Parameter { name: &'static str, what: String, todo: String },
    #[error("has a parameter that would be ignored, number {number} of them")]
    Unknown { number: usize, todo: String },
}

impl Parts {
    pub fn of(text: &str) -> Result<Self, InvalidUrl> {
        let (scheme, begin) = text.find("://").map(|at| (&text[..at], at + 3)).ok_or(InvalidUrl::NoUrl)?;
        if !["postgres", "postgresql"].contains(&scheme.trim_start().to_ascii_lowercase().as_str()) {
            return Err(InvalidUrl::Scheme);
        }
        let stop = text.trim_end().len().max(begin);
        let end = text[begin..stop].find(['/', '?']).map_or(stop, |length| begin + length);
        let mut parts = Self::default();
        let mut hosts_begin = begin;
        if let Some(at) = text[begin..end].rfind('@') {
            let (info, colon) = (&text[begin..begin + at], text[begin..begin + at].find(':'));
            parts.user = Some(decoded(&info[..colon.unwrap_or(info.len())])?).filter(|user| !user.is_empty());
            if let Some(colon) = colon {
                parts.password = Some(decoded(&info[colon + 1..])?).filter(|password| !password.is_empty());
                parts.secrets.push(begin + colon + 1..begin + at);
            }
            hosts_begin = begin + at + 1;
        }
        let hosts = &text[hosts_begin..end];
        if !hosts.is_empty() {
            parts.hosts = hosts.split(',').map(Host::of).collect::<Result<_, _>>()?;
        }
        let query = text[end..stop].find('?').map(|at| end + at);
        let path = &text[end..query.unwrap_or(stop)];
        parts.database = Some(decoded(path.trim_start_matches('/'))?).filter(|name| !name.is_empty());
        if let Some(query) = query {
            parts.read_query(text, query + 1..stop)?;
        }
        Ok(parts)
    }

    fn read_query(&mut self, text: &str, query: Range<usize>) -> Result<(), InvalidUrl> {
        let mut begin = query.start;
        for pair in text[query].split('&') {
            let end = begin + pair.len();
            if !pair.is_empty() {
                let (name, value) = pair.split_once('=').ok_or(InvalidUrl::NoUrl)?;
                let name_decoded = decoded(name)?;
                if SECRET.contains(&name_decoded.as_str()) {
                    self.secrets.push(begin + name.len() + 1..end);
                }
                // A plus stands for itself, as in libpq; other clients write the blanks of options like that.
                let value = if name_decoded == "options" { value.replace('+', "%20") } else { value.to_owned() };
                self.parameters.push((name_decoded, decoded(&value)?));
            }
            begin = end + 1;
        }
        Ok(())
    }

    /// The last value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn has_password(&self) -> bool {
        self.password.is_some() || self.parameter("password").is_some()
    }

    /// The original text, with `***` for each password.
    pub fn masked(&self, text: &str) -> String {
        let mut masked = String::new();
        let mut at = 0;
        for secret in &self.secrets {
            masked.push_str(&text[at..secret.start]);
            masked.push_str("***");
            at = secret.end;
        }
        masked + &text[at..]
    }
}

/// Parameters whose values are secret.
const SECRET: &[&str] = &["password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"];

impl Host {
    fn of(text: &str) -> Result<Self, InvalidUrl> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(InvalidUrl::NoUrl)?;
                match port.strip_prefix(':') {
                    Some(port) => (address, Some(port)),
                    None if port.is_empty() => (address, None),
                    None => return Err(InvalidUrl::NoUrl),
                }
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let port = port.filter(|port| !port.is_empty());
        if port.is_some_and(|port| port.parse::<u16>().is_err()) || name.contains(char::is_whitespace) {
            return Err(InvalidUrl::NoUrl);
        }
        Ok(Self { name: decoded(name)?, port: port.map(str::to_owned) })
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// `%XX` as bytes, which must be UTF-8. A plus stands for itself.
fn decoded(text: &str) -> Result<String, InvalidUrl> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = behind;
            continue;
        }
        let digits = behind.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok()).ok_or(InvalidUrl::NoUrl)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| InvalidUrl::NoUrl)?);
        rest = &behind[2..];
    }
    // PostgreSQL accepts no NUL anywhere.
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or(InvalidUrl::NoUrl)
}

/// A URL that the client library reads like this module: everything is a parameter.
pub fn url_of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    format!("postgres:///?{}", query_of(pairs))
}

/// Parameters, as written in a URL.
pub fn query_of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    query.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_libpq_reads_it() {
        let parts = Parts::of("postgresql://We%20ird%40Corp:p%2540:/?x@a:1,[::1]:2/My%20App?options=-c+a%3Db").err();
        // A slash in a password ends the hosts, and `p%2540:` is no port.
        assert_eq!(parts, Some(InvalidUrl::NoUrl));
        let parts =
            Parts::of("POSTGRESQL://We%20ird:p%2540#x@a:1,[::1]:2,%2Frun%2Fpg/My%20App?options=-c+a%3Db").unwrap();
        assert_eq!((parts.user.as_deref(), parts.password.as_deref()), (Some("We ird"), Some("p%40#x")));
        let hosts: Vec<_> = parts.hosts.iter().map(|host| (host.name.as_str(), host.port.as_deref())).collect();
        assert_eq!(hosts, [("a", Some("1")), ("::1", Some("2")), ("/run/pg", None)]);
        assert_eq!(parts.database.as_deref(), Some("My App"));
        assert_eq!(parts.parameter("options"), Some("-c a=b"));
        // The userinfo of a URL without a host.
        let parts = Parts::of("postgres://me:a+b@/d?host=/run/pg&password=c+d").unwrap();
        assert_eq!((parts.user.as_deref(), parts.password.as_deref()), (Some("me"), Some("a+b")));
        assert!(parts.hosts.is_empty());
        assert_eq!(parts.parameter("password"), Some("c+d"));
        for broken in
            ["db.internal/app", "postgres://u@h:x/d", "postgres://u@h/d?x", "postgres://%zz@h", "postgres://[::1"]
        {
            assert!(Parts::of(broken).is_err(), "{broken}");
        }
        assert_eq!(Parts::of("jdbc:postgresql://h/d").err(), Some(InvalidUrl::Scheme));
    }
}
