//! The rules for a database URL. It may hold a password, and a slip may put that anywhere,
//! into the name of a parameter for one: no message shows any of it.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use copyhold_core::loopback::is_loopback;
use copyhold_core::regular_file::{self, ReadError};
use copyhold_db::database_url::{InvalidUrl, PEM, Parameters, Parts, ServerUrl, each_server};
use copyhold_s3::settings::AUTHORITIES_AT_MOST_BYTES;

use super::{invalid_value::InvalidValue, sources::Sources};

const FORM: &str = "write postgres://USER@HOST/DATABASE?sslmode=verify-full, special characters of a password as %XX";

impl From<InvalidUrl> for InvalidValue {
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
    pub(super) fn of(sources: &Sources, insecure: bool) -> Self {
        let host = ["PGHOSTADDR", "PGHOST"].iter().find_map(|name| sources.environment.get(name)?.to_str());
        Self { insecure, host_of_environment: host.map(str::to_owned), folder: sources.folder.clone() }
    }
}

/// Refuses a URL that sqlx would refuse or only half understand, or whose connection
/// could be read or answered by a stranger.
pub(super) fn check(text: &str, rules: &Rules) -> Result<(), InvalidValue> {
    let servers = each_server(text)?;
    let parts = Parts::of(text)?;
    let parameters = Parameters::of(&parts)?;
    for (name, value) in &parameters.kept {
        certificate(name, value, rules)?;
    }
    let hosts = hosts(&parts, rules.host_of_environment.as_deref());
    if parts.hosts.is_empty() && hosts.iter().any(|host| host.contains(',')) {
        return Err(InvalidValue::new("leaves it to PGHOST, which names several hosts", "name them in the URL"));
    }
    if !servers.iter().all(ServerUrl::is_understood) {
        return Err(InvalidValue::new("cannot be understood as a database URL", FORM));
    }
    if !rules.insecure && !is_verified(parameters.mode()) && hosts.iter().any(|host| is_remote(host)) {
        return Err(InvalidValue::new(
            "leads to another host without proof that it is the right one",
            "append ?sslmode=verify-full (and &sslrootcert=/path/to/ca.pem for an authority of your own), \
             or set database.insecure = true if that network is private",
        ));
    }
    let named = parts.parameter("host").is_some_and(|host| host.parse::<IpAddr>().is_err())
        || parts.hosts.iter().any(|host| host.name.parse::<IpAddr>().is_err());
    if parameters.mode() == Some("verify-full") && parts.parameter("hostaddr").is_some() && named {
        return Err(InvalidValue::new(
            "has the parameter hostaddr beside a name that sslmode=verify-full is to prove",
            "remove hostaddr: the certificate would be compared with the address",
        ));
    }
    Ok(())
}

/// True where only `insecure = true` let the URL pass, as far as the URL alone shows.
pub(super) fn is_insecure(text: &str) -> bool {
    let Ok(parts) = Parts::of(text) else { return false };
    let verified = Parameters::of(&parts).is_ok_and(|parameters| is_verified(parameters.mode()));
    !verified && hosts(&parts, None).iter().any(|host| is_remote(host))
}

fn certificate(name: &str, value: &str, rules: &Rules) -> Result<(), InvalidValue> {
    let names_a_file = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];
    // sqlx takes the certificate itself as well as its path.
    if names_a_file.contains(&name) && !value.starts_with(PEM) {
        let path = rules.folder.join(value);
        let is_certificate = !["sslkey", "ssl-key"].contains(&name);
        let problem = match regular_file::read(&path, AUTHORITIES_AT_MOST_BYTES) {
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
        return Err(InvalidValue::new(what, "give the full path of a PEM file"));
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
