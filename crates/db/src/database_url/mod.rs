//! Reads the servers from a database URL, as libpq does. The URL may contain a password, and a typing error may put it
//! anywhere, even into the name of a parameter: no message shows any part of it.

mod parameters;
mod parts;

use std::{fmt, path::PathBuf, str::FromStr as _, time::Duration};

use sqlx::postgres::PgConnectOptions;

pub use parameters::Parameters;
pub use parts::{InvalidUrl, Parts};

use parts::{query_of, url_of};

/// The parameters that name the trusted authorities.
const ROOT_CERTIFICATES: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca"];
/// The beginning of a certificate that is in the URL itself.
pub const PEM: &str = "-----BEGIN";

/// One server of a database URL, as the client library reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// It may contain a password.
    pub url: String,
    /// Whether it names a role.
    pub names_role: bool,
    /// The time limit for connecting, from `connect_timeout`.
    pub within: Option<Duration>,
}

/// Returns the URL of each server that this one names, in their order: hosts separated by commas, as in libpq.
/// Parameters for what Copyhold does in any case, such as `target_session_attrs`, are left out.
pub fn each_server(text: &str) -> Result<Vec<ServerUrl>, InvalidUrl> {
    let url = Parts::of(text)?;
    let parameters = Parameters::of(&url)?;
    let list = |name: &str| url.parameter(name).map(|value| value.split(',').collect::<Vec<_>>());
    let (of_parameter, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let several_in_front = url.hosts.len() > 1;
    if several_in_front
        && (of_parameter.is_some() || addresses.is_some() || ports.as_ref().is_some_and(|all| all.len() > 1))
    {
        return Err(InvalidUrl::Hosts);
    }
    let names = of_parameter.unwrap_or_else(|| url.hosts.iter().map(|host| host.name.as_str()).collect());
    let servers = names.len().max(addresses.as_ref().map_or(1, Vec::len)).max(1);
    let fits = |count: usize, may_be_one: bool| count == servers || (may_be_one && count == 1);
    if !(names.is_empty() || fits(names.len(), false))
        || !addresses.as_ref().is_none_or(|all| fits(all.len(), false))
        || !ports.as_ref().is_none_or(|all| fits(all.len(), true))
        || (servers > 1 && names.iter().any(|name| name.is_empty()))
    {
        return Err(InvalidUrl::Hosts);
    }
    let names_role = url.user.is_some() || url.parameter("user").is_some_and(|user| !user.is_empty());
    let one = |at: usize| {
        let front = [("user", &url.user), ("password", &url.password), ("dbname", &url.database)];
        let mut pairs: Vec<_> = front.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        let address = addresses.as_ref().map(|all| all[at]);
        let port = match &ports {
            Some(all) => Some(all[at.min(all.len() - 1)]),
            None => url.hosts.get(at).and_then(|host| host.port.as_deref()),
        };
        let name = names.get(at).copied().filter(|name| !name.is_empty());
        let places = [("host", name), ("hostaddr", address), ("port", port)];
        pairs.extend(places.iter().filter_map(|(name, value)| Some((*name, (*value)?))));
        // A Unix socket is never encrypted, whatever the URL asks for: as in libpq.
        let is_socket = address.is_none() && name.is_some_and(|name| name.starts_with('/'));
        pairs.extend(parameters.kept.iter().copied().filter(|(name, _)| !(is_socket && name.starts_with("ssl"))));
        ServerUrl { url: url_of(pairs), names_role, within: parameters.within }
    };
    Ok((0..servers).map(one).collect())
}

impl ServerUrl {
    /// Returns the URL with this role in place of the one that it names, if any.
    #[must_use]
    pub fn of_role(&self, role: &str) -> String {
        // Of several parameters with one name the last counts.
        format!("{}&{}", self.url, query_of([("user", role)]))
    }

    /// Whether the client library can read it.
    #[must_use]
    pub fn is_understood(&self) -> bool {
        PgConnectOptions::from_str(&self.url).is_ok()
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerUrl").field("within", &self.within).finish_non_exhaustive()
    }
}

/// Whether the URL contains a password.
#[must_use]
pub fn has_password(text: &str) -> bool {
    Parts::of(text).is_ok_and(|parts| parts.has_password())
}

/// The files with private keys that the URL names.
#[must_use]
pub fn key_files(text: &str) -> Vec<PathBuf> {
    files(text, &["sslkey", "ssl-key"])
}

/// The file of authorities that the URL names, if any: without one, public authorities are trusted.
#[must_use]
pub fn root_certificates(text: &str) -> Option<PathBuf> {
    files(text, ROOT_CERTIFICATES).pop()
}

/// The value of the last parameter with one of these names. It may also be the certificate itself.
fn files(text: &str, names: &[&str]) -> Vec<PathBuf> {
    let Ok(parts) = Parts::of(text) else { return Vec::new() };
    let Ok(parameters) = Parameters::of(&parts) else { return Vec::new() };
    let is_path = |name: &str, value: &str| names.contains(&name) && !value.starts_with(PEM);
    let kept = parameters.kept.iter().filter(|(name, value)| is_path(name, value));
    kept.map(|(_, value)| PathBuf::from(value)).collect()
}

/// The URL with `***` for each password in it.
#[must_use]
pub fn masked(text: &str) -> String {
    Parts::of(text).map_or_else(|_| "***".to_owned(), |parts| parts.masked(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_several_servers_is_one_url_for_each() {
        let split = |text: &str| {
            let servers = each_server(text).unwrap().into_iter();
            let options = servers.map(|server| PgConnectOptions::from_str(&server.url).unwrap());
            let place = |options: PgConnectOptions| match options.get_socket() {
                Some(folder) => format!("{}:{}", folder.display(), options.get_port()),
                None => format!("{}:{}", options.get_host(), options.get_port()),
            };
            options.map(place).collect::<Vec<_>>()
        };
        assert_eq!(split("postgres://u@h:7/d?sslmode=require"), ["h:7"]);
        assert_eq!(
            split("postgres://u:p,q@a:1,[::1]:2,c:3/d?target_session_attrs=read-write&sslmode=require"),
            ["a:1", "::1:2", "c:3"]
        );
        assert_eq!(split("postgres://a,b/d?port=5"), ["a:5", "b:5"]);
        assert_eq!(split("postgres:///d?host=/run/a,/run/b&port=5432,5433"), ["/run/a:5432", "/run/b:5433"]);
        assert_eq!(split("postgres:///d?host=a%2Cb&port=5432"), ["a:5432", "b:5432"]);
        // As in libpq, a parameter overrides what precedes the parameters.
        assert_eq!(split("postgres://u@%2Frun%2Fa:1/d?host=b&port=2"), ["b:2"]);
        assert_eq!(split("postgres://u@/d?host=/cloudsql/p:r:i&port=1"), ["/cloudsql/p:r:i:1"]);
        assert_eq!(split("postgres://u@%2Fcloudsql%2Fp%3Ar%3Ai:1/d"), ["/cloudsql/p:r:i:1"]);
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
    fn user_password_and_database_may_hold_any_characters() {
        let url = "postgres://We%20ird%40Corp:p%2540%3A%2F%3F%23%5B%5D%40+%20%C3%A9@127.0.0.1:1/My%20App-DB%25";
        let options = PgConnectOptions::from_str(&each_server(url).unwrap()[0].url).unwrap();
        assert_eq!((options.get_username(), options.get_database()), ("We ird@Corp", Some("My App-DB%")));
    }

    #[test]
    fn a_connection_may_take_as_long_as_the_url_allows() {
        let within = |query: &str| each_server(&format!("postgres://h/d?{query}")).unwrap()[0].within;
        assert_eq!(within("connect_timeout=10"), Some(Duration::from_secs(10)));
        assert_eq!(within("connect_timeout=1"), Some(Duration::from_secs(2)));
        assert_eq!(within("connect_timeout=0"), None);
        assert_eq!(within(""), None);
    }

    #[test]
    fn passwords_in_urls_are_masked_wherever_they_stand() {
        assert_eq!(masked("postgres://u:geheim@h/d"), "postgres://u:***@h/d");
        assert_eq!(masked("postgres:///d?host=/run/pg&password=geheim"), "postgres:///d?host=/run/pg&password=***");
        assert_eq!(masked("postgres://u@h/d?sslmode=verify-full"), "postgres://u@h/d?sslmode=verify-full");
        assert_eq!(masked("u:geheim"), "***");
        assert_eq!(masked("postgres://u:geheim@a:1,b:2/d"), "postgres://u:***@a:1,b:2/d");
        assert_eq!(masked("postgres://a,b/d?password=geheim"), "postgres://a,b/d?password=***");
        assert_eq!(masked("postgres://a,b/d?%70assword=geheim&x=y"), "postgres://a,b/d?%70assword=***&x=y");
        for odd in ["postgres://u:12#geheim@h/d", "postgres://u:a@geheim@h/d", "postgres://u:12?geheim@h/d"] {
            assert!(!masked(odd).contains("geheim"), "{odd}: {}", masked(odd));
        }
    }
}
