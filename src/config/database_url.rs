//! The rules for a database URL. It may hold a password, and a slip may put that anywhere,
//! into the name of a parameter for one: no message shows any of it.

use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;
use url::Url;

use super::{
    net::is_loopback,
    overrides::Environment,
    reader::{Flaw, Reader},
    suggest,
};

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

/// Refuses a URL that sqlx would refuse or only half understand, or whose connection
/// could be read or answered by somebody else.
pub(super) fn check(text: &str, insecure: bool, reader: &Reader) -> Result<(), Flaw> {
    let url = Url::parse(text).map_err(|_| Flaw::new("is not a URL", FORM))?;
    if !["postgres", "postgresql"].contains(&url.scheme()) {
        return Err(Flaw::new("does not begin with postgres://", FORM));
    }
    for (name, value) in url.query_pairs() {
        parameter(&name, &value, reader)?;
    }
    let hosts = hosts(&url, &reader.environment);
    if hosts.iter().any(|host| host.contains(',')) {
        return Err(Flaw::new("names several hosts", "name one; a host name may lead to whichever server is primary"));
    }
    if PgConnectOptions::from_str(text).is_err() {
        return Err(Flaw::new("cannot be understood as a database URL", FORM));
    }
    if !insecure && !is_verified(&url) && hosts.iter().any(|host| is_remote(host)) {
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
    let remote = |url: &Url| hosts(url, &Environment::default()).iter().any(|host| is_remote(host));
    Url::parse(text).is_ok_and(|url| !is_verified(&url) && remote(&url))
}

pub(super) fn has_password(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        url.password().is_some_and(|password| !password.is_empty())
            || url.query_pairs().any(|(name, _)| name == "password")
    })
}

/// The URL with `***` for each password in it.
pub fn masked(text: &str) -> String {
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

fn parameter(name: &str, value: &str, reader: &Reader) -> Result<(), Flaw> {
    if !PARAMETERS.contains(&name) && !name.starts_with("options[") {
        let todo = match suggest::among(name, PARAMETERS.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("remove it; known are {}", PARAMETERS.join(", ")),
        };
        return Err(Flaw::new("has a parameter that would be ignored", todo));
    }
    let names_a_file = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];
    // sqlx takes the certificate itself as well as its path.
    if names_a_file.contains(&name) && !value.starts_with("-----BEGIN") {
        let path = reader.resolve(value);
        let problem = match std::fs::metadata(&path) {
            Ok(found) if !found.is_file() => "is no file",
            Ok(found) if found.len() == 0 => "is empty",
            Ok(_) if path != std::path::Path::new(value) => "is relative",
            Ok(_) => return Ok(()),
            Err(_) => "cannot be found",
        };
        let what = format!("names a file as {name}, which {problem}");
        return Err(Flaw::new(what, "give the full path of a PEM file"));
    }
    Ok(())
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
fn hosts(url: &Url, environment: &Environment) -> Vec<String> {
    let in_front =
        url.host_str().filter(|host| !host.is_empty()).map(|host| host.replace("%2F", "/").replace("%2f", "/"));
    let as_parameters = url.query_pairs().filter(|(name, _)| name == "host" || name == "hostaddr");
    let mut hosts: Vec<String> = in_front.into_iter().chain(as_parameters.map(|(_, host)| host.into_owned())).collect();
    if hosts.is_empty() {
        let from_environment = ["PGHOSTADDR", "PGHOST"].iter().find_map(|name| environment.get(name)?.to_str());
        hosts.extend(from_environment.map(str::to_owned));
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_masked_wherever_they_stand() {
        assert_eq!(masked("postgres://u:geheim@h/d"), "postgres://u:***@h/d");
        assert_eq!(masked("postgres:///d?host=/run/pg&password=geheim"), "postgres:///d?host=%2Frun%2Fpg&password=***");
        assert_eq!(masked("postgres://u@h/d?sslmode=verify-full"), "postgres://u@h/d?sslmode=verify-full");
        assert_eq!(masked("u:geheim"), "u:geheim");
    }
}
