//! The rules for a database URL. It may hold a password, and a slip may put that anywhere,
//! into the name of a parameter for one: no message shows any of it.

mod parameters;
mod parts;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use sqlx::postgres::PgConnectOptions;

use super::{
    net::is_loopback,
    reader::{Flaw, Reader},
    trust,
};
use crate::regular_file::{self, ReadError};
use parameters::Parameters;
pub use parts::InvalidUrl;
use parts::{Parts, query_of, url_of};

const FORM: &str = "write postgres://USER@HOST/DATABASE?sslmode=verify-full, special characters of a password as %XX";

/// Those that name the authorities to trust.
const ROOT_CERTIFICATES: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca"];
/// How a certificate begins that stands in the URL itself.
const PEM: &str = "-----BEGIN";

/// One server of a database URL, as the client library reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// May hold a password.
    pub url: String,
    /// Whether it says whose role it is.
    pub names_role: bool,
    /// How long a connection may take, by `connect_timeout`.
    pub within: Option<Duration>,
}

/// The URL of each server that this one names, in their order: hosts with commas between them, as libpq takes them.
/// Without what says what Copyhold does in any case, `target_session_attrs` for one.
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
        // Nothing is encrypted on a socket of this machine, whatever is asked for: as libpq has it.
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
        // Of several parameters of a name the last counts.
        format!("{}&{}", self.url, query_of([("user", role)]))
    }
}

impl std::fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerUrl").field("within", &self.within).finish_non_exhaustive()
    }
}

impl From<InvalidUrl> for Flaw {
    fn from(invalid: InvalidUrl) -> Self {
        let todo = match &invalid {
            InvalidUrl::NoUrl | InvalidUrl::Scheme => FORM.to_owned(),
            InvalidUrl::Hosts => "write postgres://USER@HOST1:PORT1,HOST2:PORT2/DATABASE".to_owned(),
            InvalidUrl::ReadOnlyServer => "remove target_session_attrs, or say read-write: Copyhold writes".to_owned(),
            InvalidUrl::Parameter { todo, .. } | InvalidUrl::Unknown { todo, .. } => todo.clone(),
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
    let servers = each_server(text)?;
    let parts = Parts::of(text)?;
    let parameters = Parameters::of(&parts)?;
    for (name, value) in &parameters.kept {
        certificate(name, value, rules)?;
    }
    let hosts = hosts(&parts, rules.host_of_environment.as_deref());
    if parts.hosts.is_empty() && hosts.iter().any(|host| host.contains(',')) {
        return Err(Flaw::new("leaves it to PGHOST, which names several hosts", "name them in the URL"));
    }
    if servers.iter().any(|server| PgConnectOptions::from_str(&server.url).is_err()) {
        return Err(Flaw::new("cannot be understood as a database URL", FORM));
    }
    if !rules.insecure && !is_verified(parameters.mode()) && hosts.iter().any(|host| is_remote(host)) {
        return Err(Flaw::new(
            "leads to another host without proof that it is the right one",
            "append ?sslmode=verify-full (and &sslrootcert=/path/to/ca.pem for an authority of your own), \
             or set database.insecure = true if nobody else is on that network",
        ));
    }
    let named = parts.parameter("host").is_some_and(|host| host.parse::<IpAddr>().is_err())
        || parts.hosts.iter().any(|host| host.name.parse::<IpAddr>().is_err());
    if parameters.mode() == Some("verify-full") && parts.parameter("hostaddr").is_some() && named {
        return Err(Flaw::new(
            "has the parameter hostaddr beside a name that sslmode=verify-full is to prove",
            "remove hostaddr: the certificate would be compared with the address",
        ));
    }
    Ok(())
}

/// True where only `insecure = true` let the URL pass, as far as the URL alone says.
pub(super) fn is_insecure(text: &str) -> bool {
    let Ok(parts) = Parts::of(text) else { return false };
    let verified = Parameters::of(&parts).is_ok_and(|parameters| is_verified(parameters.mode()));
    !verified && hosts(&parts, None).iter().any(|host| is_remote(host))
}

/// Whether the URL holds a password.
pub fn has_password(text: &str) -> bool {
    Parts::of(text).is_ok_and(|parts| parts.has_password())
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
    let Ok(parts) = Parts::of(text) else { return Vec::new() };
    let Ok(parameters) = Parameters::of(&parts) else { return Vec::new() };
    let is_path = |name: &str, value: &str| names.contains(&name) && !value.starts_with(PEM);
    let kept = parameters.kept.iter().filter(|(name, value)| is_path(name, value));
    kept.map(|(_, value)| PathBuf::from(value)).collect()
}

/// The URL with `***` for each password in it.
pub fn masked(text: &str) -> String {
    Parts::of(text).map_or_else(|_| "***".to_owned(), |parts| parts.masked(text))
}

fn certificate(name: &str, value: &str, rules: &Rules) -> Result<(), Flaw> {
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

fn is_verified(mode: Option<&str>) -> bool {
    mode.is_some_and(|mode| ["verify-full", "verify-ca"].contains(&mode))
}

/// Every host that the URL names in one way or another. One that names none leads to what libpq's
/// variables say, else to the local server.
fn hosts(parts: &Parts, of_environment: Option<&str>) -> Vec<String> {
    let in_front = parts.hosts.iter().map(|host| host.name.as_str()).filter(|host| !host.is_empty());
    let as_parameters = ["host", "hostaddr"].into_iter().filter_map(|name| parts.parameter(name));
    let as_parameters = as_parameters.flat_map(|list| list.split(','));
    let mut hosts: Vec<String> = in_front.chain(as_parameters).map(str::to_owned).collect();
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
        // As libpq has it, what a parameter says comes before what stands in front.
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
    fn a_connection_may_take_as_long_as_the_url_says() {
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
