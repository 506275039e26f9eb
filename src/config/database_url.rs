//! The rules for a database URL. It may hold a password, and a slip may put that anywhere,
//! into the name of a parameter for one: no message shows any of it.

use std::{
    path::{Path, PathBuf},
    str::FromStr as _,
};

use sqlx::postgres::PgConnectOptions;
use url::Url;

use super::{
    net::is_loopback,
    reader::{Flaw, Reader},
    suggest, trust,
};
use crate::regular_file::{self, ReadError};

const FORM: &str = "write postgres://USER@HOST/DATABASE?sslmode=verify-full, special characters of a password as %XX";
/// What sqlx understands. It ignores everything else, logging it with its value.
const PARAMETERS: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// Those that name the authorities to trust.
const ROOT_CERTIFICATES: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca"];
/// How a certificate begins that stands in the URL itself.
const PEM: &str = "-----BEGIN";

/// Stands for the hosts of a URL that names several, which is no URL to a parser.
const STAND_IN: &str = "several-hosts.invalid";

/// A URL around its hosts.
struct Parts<'a> {
    /// Scheme, user and password.
    before: &'a str,
    hosts: &'a str,
    after: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let begin = text.find("://")? + 3;
        let end = text[begin..].find(['/', '?', '#']).map_or(text.len(), |length| begin + length);
        let begin = text[begin..end].rfind('@').map_or(begin, |at| begin + at + 1);
        Some(Self { before: &text[..begin], hosts: &text[begin..end], after: &text[end..] })
    }

    fn with(&self, host: &str) -> String {
        format!("{}{host}{}", self.before, self.after)
    }
}

/// The URL of each server that this one names, in their order: hosts with commas between them, as libpq takes them.
/// Without `target_session_attrs`, which says what Copyhold does in any case.
pub fn each_server(text: &str) -> Result<Vec<String>, InvalidUrl> {
    let Some(parts) = Parts::of(text) else { return Ok(vec![text.to_owned()]) };
    let several = parts.hosts.contains(',');
    let stand_in = if several { parts.with(STAND_IN) } else { text.to_owned() };
    let Ok(mut url) = Url::parse(&stand_in) else { return Ok(vec![text.to_owned()]) };
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let lists = |name: &str| pairs.iter().any(|(key, value)| key == name && value.contains(','));
    let asks = pairs.iter().find(|(name, _)| name == "target_session_attrs");
    if asks.is_some_and(|(_, value)| !["read-write", "primary"].contains(&value.as_str())) {
        return Err(InvalidUrl::ReadOnlyServer);
    }
    if !several && asks.is_none() && !["host", "hostaddr", "port"].into_iter().any(lists) {
        return Ok(vec![text.to_owned()]);
    }
    let count =
        |name: &str| pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.split(',').count()).max();
    let of_parameters = ["host", "hostaddr"].into_iter().filter_map(count).max().unwrap_or(1);
    let servers = if several { parts.hosts.split(',').count() } else { of_parameters };
    let fits = |name: &str| count(name).is_none_or(|count| count == 1 || (count == servers && !several));
    if !["host", "hostaddr", "port"].into_iter().all(fits)
        || parts.hosts.split(',').any(|host| several && host.is_empty())
    {
        return Err(InvalidUrl::Hosts);
    }
    let one = |at: usize| {
        let kept = pairs.iter().filter(|(name, _)| name != "target_session_attrs").map(|(name, value)| {
            let is_list = ["host", "hostaddr", "port"].contains(&name.as_str());
            let value = if is_list { value.split(',').nth(at).unwrap_or(value) } else { value };
            (name.as_str(), value)
        });
        url.query_pairs_mut().clear().extend_pairs(kept);
        let text = url.as_str().trim_end_matches('?');
        match parts.hosts.split(',').nth(at) {
            Some(host) if several => text.replacen(STAND_IN, host, 1),
            _ => text.to_owned(),
        }
    };
    Ok((0..servers).map(one).collect())
}

/// Why a URL names no servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("does not name as many hosts as ports")]
    Hosts,
    #[error("asks for a server that is only read")]
    ReadOnlyServer,
}

impl From<InvalidUrl> for Flaw {
    fn from(invalid: InvalidUrl) -> Self {
        let todo = match invalid {
            InvalidUrl::Hosts => "write postgres://USER@HOST1:PORT1,HOST2:PORT2/DATABASE",
            InvalidUrl::ReadOnlyServer => "remove target_session_attrs, or say read-write: Copyhold writes",
        };
        Self::new(invalid.to_string(), todo)
    }
}

/// What a URL is checked with, then and whenever it is read again.
pub(super) struct Rules {
    insecure: bool,
    /// Where a URL leads that names no host.
    host_of_environment: Option<String>,
    /// Relative paths begin there.
    folder: PathBuf,
}

impl Rules {
    pub(super) fn of(reader: &Reader, insecure: bool) -> Self {
        let host = ["PGHOSTADDR", "PGHOST"].iter().find_map(|name| reader.environment.get(name)?.to_str());
        Self { insecure, host_of_environment: host.map(str::to_owned), folder: reader.folder.clone() }
    }
}

/// Refuses a URL that sqlx would refuse or only half understand, or whose connection
/// could be read or answered by somebody else.
pub(super) fn check(text: &str, rules: &Rules) -> Result<(), Flaw> {
    each_server(text)?.iter().try_for_each(|one| check_one(one, rules))
}

fn check_one(text: &str, rules: &Rules) -> Result<(), Flaw> {
    let url = Url::parse(text).map_err(|_| Flaw::new("is not a URL", FORM))?;
    if !["postgres", "postgresql"].contains(&url.scheme()) {
        return Err(Flaw::new("does not begin with postgres://", FORM));
    }
    for (name, value) in url.query_pairs() {
        parameter(&name, &value, rules)?;
    }
    let hosts = hosts(&url, rules.host_of_environment.as_deref());
    if hosts.iter().any(|host| host.contains(',')) {
        return Err(Flaw::new("leaves it to PGHOST, which names several hosts", "name them in the URL"));
    }
    if PgConnectOptions::from_str(text).is_err() {
        return Err(Flaw::new("cannot be understood as a database URL", FORM));
    }
    if !rules.insecure && !is_verified(&url) && hosts.iter().any(|host| is_remote(host)) {
        return Err(Flaw::new(
            "leads to another host without proof that it is the right one",
            "append ?sslmode=verify-full (and &sslrootcert=/path/to/ca.pem for an authority of your own), \
             or set database.insecure = true if nobody else is on that network",
        ));
    }
    Ok(())
}

/// True where only `insecure = true` let the URL pass, as far as the URL alone says.
pub(super) fn is_insecure(text: &str) -> bool {
    let remote = |url: &Url| hosts(url, None).iter().any(|host| is_remote(host));
    let insecure = |text: &String| Url::parse(text).is_ok_and(|url| !is_verified(&url) && remote(&url));
    each_server(text).is_ok_and(|all| all.iter().any(insecure))
}

pub(super) fn has_password(text: &str) -> bool {
    let first = each_server(text).ok().and_then(|all| all.into_iter().next());
    first.and_then(|one| Url::parse(&one).ok()).is_some_and(|url| {
        url.password().is_some_and(|password| !password.is_empty())
            || url.query_pairs().any(|(name, _)| name == "password")
    })
}

/// The files with private keys that the URL names.
pub(super) fn key_files(text: &str) -> Vec<PathBuf> {
    files(text, &["sslkey", "ssl-key"])
}

/// The file of authorities that the URL names, if any: without one, public ones are trusted.
pub fn root_certificates(text: &str) -> Option<PathBuf> {
    files(text, ROOT_CERTIFICATES).pop()
}

/// What the parameters of these names lead to, the one that counts last. The certificate itself may stand there as well.
fn files(text: &str, names: &[&str]) -> Vec<PathBuf> {
    let first = each_server(text).ok().and_then(|all| all.into_iter().next());
    let Some(url) = first.and_then(|one| Url::parse(&one).ok()) else { return Vec::new() };
    let is_path = |name: &str, value: &str| names.contains(&name) && !value.starts_with(PEM);
    let pairs = url.query_pairs().filter(|(name, value)| is_path(name, value));
    pairs.map(|(_, value)| PathBuf::from(value.into_owned())).collect()
}

/// The URL with `***` for each password in it.
pub fn masked(text: &str) -> String {
    if let Some(parts) = Parts::of(text).filter(|parts| parts.hosts.contains(',')) {
        return masked_one(&parts.with(STAND_IN)).replacen(STAND_IN, parts.hosts, 1);
    }
    masked_one(text)
}

fn masked_one(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else { return "***".to_owned() };
    // Setting a password fails for URLs without a host, which have none.
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "***".to_owned();
    }
    if url.query_pairs().any(|(name, _)| name == "password") {
        let mask = |(name, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
            let value = if name == "password" { "***".to_owned() } else { value.into_owned() };
            (name.into_owned(), value)
        };
        let pairs: Vec<_> = url.query_pairs().map(mask).collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.to_string()
}

fn parameter(name: &str, value: &str, rules: &Rules) -> Result<(), Flaw> {
    if !PARAMETERS.contains(&name) && !name.starts_with("options[") {
        let todo = match suggest::among(name, PARAMETERS.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("remove it; known are {}", PARAMETERS.join(", ")),
        };
        return Err(Flaw::new("has a parameter that would be ignored", todo));
    }
    let names_a_file = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];
    // sqlx takes the certificate itself as well as its path.
    if names_a_file.contains(&name) && !value.starts_with(PEM) {
        let path = rules.folder.join(value);
        let is_certificate = !["sslkey", "ssl-key"].contains(&name);
        let problem = match regular_file::read(&path, trust::AT_MOST_BYTES) {
            Ok(bytes) if bytes.is_empty() => "is empty",
            Ok(_) if path != Path::new(value) => "is relative",
            Ok(bytes) if is_certificate && !holds_certificate(&bytes) => "holds no certificate in PEM form",
            Ok(_) => return Ok(()),
            Err(ReadError::Io(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => "we may not read",
            Err(ReadError::Io(_)) => "cannot be found",
            Err(ReadError::TooLarge(_)) => "is too large",
            Err(ReadError::NotRegular(_) | ReadError::NeverEnds) => "is no file",
        };
        let what = format!("names a file as {name}, which {problem}");
        return Err(Flaw::new(what, "give the full path of a PEM file"));
    }
    Ok(())
}

fn holds_certificate(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains("-----BEGIN CERTIFICATE-----")
}

fn is_remote(host: &str) -> bool {
    // A path is the folder of a socket.
    !host.starts_with('/') && !is_loopback(host)
}

fn is_verified(url: &Url) -> bool {
    // sqlx takes the last one.
    let mode = url.query_pairs().filter(|(name, _)| name == "sslmode" || name == "ssl-mode").last();
    mode.is_some_and(|(_, mode)| ["verify-full", "verify-ca"].contains(&mode.to_ascii_lowercase().as_str()))
}

/// Every host that the URL names in one way or another. One that names none leads to what libpq's
/// variables say, else to the local server.
fn hosts(url: &Url, of_environment: Option<&str>) -> Vec<String> {
    let in_front =
        url.host_str().filter(|host| !host.is_empty()).map(|host| host.replace("%2F", "/").replace("%2f", "/"));
    let as_parameters = url.query_pairs().filter(|(name, _)| name == "host" || name == "hostaddr");
    let mut hosts: Vec<String> = in_front.into_iter().chain(as_parameters.map(|(_, host)| host.into_owned())).collect();
    if hosts.is_empty() {
        hosts.extend(of_environment.map(str::to_owned));
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_several_servers_is_one_url_for_each() {
        let split = |text: &str| each_server(text).unwrap();
        assert_eq!(split("postgres://u@h/d?sslmode=require"), ["postgres://u@h/d?sslmode=require"]);
        assert_eq!(
            split("postgres://u:p,q@a:1,[::1]:2,c/d?target_session_attrs=read-write&sslmode=require"),
            ["a:1", "[::1]:2", "c"].map(|host| format!("postgres://u:p,q@{host}/d?sslmode=require"))
        );
        assert_eq!(
            split("postgres:///d?host=/run/a,/run/b&port=5432,5433"),
            ["postgres:///d?host=%2Frun%2Fa&port=5432", "postgres:///d?host=%2Frun%2Fb&port=5433"]
        );
        assert_eq!(
            split("postgres:///d?host=a%2Cb&port=5432"),
            ["postgres:///d?host=a&port=5432", "postgres:///d?host=b&port=5432"]
        );
        for refused in [
            "postgres://a,/d",
            "postgres://a,b/d?host=c,d",
            "postgres:///d?host=a,b&port=1,2,3",
            "postgres://a,b/d?target_session_attrs=standby",
        ] {
            assert!(each_server(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn passwords_in_urls_are_masked_wherever_they_stand() {
        assert_eq!(masked("postgres://u:geheim@h/d"), "postgres://u:***@h/d");
        assert_eq!(masked("postgres:///d?host=/run/pg&password=geheim"), "postgres:///d?host=%2Frun%2Fpg&password=***");
        assert_eq!(masked("postgres://u@h/d?sslmode=verify-full"), "postgres://u@h/d?sslmode=verify-full");
        assert_eq!(masked("u:geheim"), "u:geheim");
        assert_eq!(masked("postgres://u:geheim@a:1,b:2/d"), "postgres://u:***@a:1,b:2/d");
        assert_eq!(masked("postgres://a,b/d?password=geheim"), "postgres://a,b/d?password=***");
    }
}
