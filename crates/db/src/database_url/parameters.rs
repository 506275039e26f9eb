//! Interprets each parameter of a database URL: libpq's, and those that clouds and other clients write.

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

use copyhold_core::did_you_mean::among;

use super::parts::{InvalidUrl, Parts};

/// Parameters that the client library understands.
const UNDERSTOOD: &[&str] = &[
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
const MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Parameters whose effect Copyhold always has with these values, and cannot have with others.
const HELD_ANYWAY: &[(&str, &[&str])] = &[
    ("client_encoding", &["utf8", "utf-8", "unicode", "auto"]),
    ("gssencmode", &["disable", "prefer"]),
    ("load_balance_hosts", &["disable"]),
    ("max_protocol_version", &["3.0", "3.2", "latest"]),
    ("min_protocol_version", &["3.0"]),
    ("replication", &["false", "off", "no", "0"]),
    ("requiressl", &["0"]),
    ("ssl_min_protocol_version", &["tlsv1", "tlsv1.1", "tlsv1.2"]),
    ("sslcertmode", &["allow"]),
    ("sslcompression", &["0"]),
    ("sslnegotiation", &["postgres"]),
    ("sslsni", &["1"]),
];

const NO_KERBEROS: &str = "Copyhold logs in with a password or a certificate: remove it";
const DEAD_CONNECTIONS: &str = "Copyhold finds dead connections by itself: remove it";
const OTHER_CLIENT: &str = "it is of another client: remove it";
const SET_FOR_ROLE: &str = "a setting of PostgreSQL goes into options, as options=-c%20NAME%3DVALUE";

/// Parameters of libpq that Copyhold lacks, and those of other clients, each with a remedy.
const REFUSED: &[(&str, &str)] = &[
    ("ApplicationName", OTHER_CLIENT),
    ("TimeZone", SET_FOR_ROLE),
    ("async_fallback", OTHER_CLIENT),
    ("binary_parameters", OTHER_CLIENT),
    ("connection_limit", OTHER_CLIENT),
    ("currentSchema", OTHER_CLIENT),
    ("default_query_exec_mode", OTHER_CLIENT),
    ("gssdelegation", NO_KERBEROS),
    ("gsslib", NO_KERBEROS),
    ("idle_in_transaction_session_timeout", SET_FOR_ROLE),
    ("keepalives", DEAD_CONNECTIONS),
    ("keepalives_count", DEAD_CONNECTIONS),
    ("keepalives_idle", DEAD_CONNECTIONS),
    ("keepalives_interval", DEAD_CONNECTIONS),
    ("krbsrvname", NO_KERBEROS),
    ("lock_timeout", SET_FOR_ROLE),
    ("loginTimeout", OTHER_CLIENT),
    ("max_connections", OTHER_CLIENT),
    ("oauth_client_id", NO_KERBEROS),
    ("oauth_client_secret", NO_KERBEROS),
    ("oauth_issuer", NO_KERBEROS),
    ("oauth_scope", NO_KERBEROS),
    ("passfile", "use database.password_file: remove it"),
    ("pgbouncer", "it is Prisma's; docs/postgresql.md says what a pooler needs: remove it"),
    ("pool", OTHER_CLIENT),
    ("pool_max_conn_lifetime", OTHER_CLIENT),
    ("pool_max_conns", OTHER_CLIENT),
    ("pool_min_conns", OTHER_CLIENT),
    ("pool_mode", OTHER_CLIENT),
    ("pool_size", OTHER_CLIENT),
    ("pool_timeout", OTHER_CLIENT),
    ("prepareThreshold", OTHER_CLIENT),
    ("prepared_statement_cache_size", OTHER_CLIENT),
    ("require_auth", "which ways to log in are allowed is for the server's pg_hba.conf: remove it"),
    ("requirepeer", "Copyhold does not look at who owns a socket: remove it"),
    ("schema", "it is Prisma's; Copyhold's schema is database.schema: remove it"),
    ("scram_client_key", "Copyhold logs in with the password itself: remove it"),
    ("scram_server_key", "Copyhold logs in with the password itself: remove it"),
    ("search_path", SET_FOR_ROLE),
    ("service", "write what the service stands for into the URL"),
    ("servicefile", "write what the service stands for into the URL"),
    ("socketTimeout", OTHER_CLIENT),
    ("socket_timeout", OTHER_CLIENT),
    ("ssl_max_protocol_version", "Copyhold takes the newest version that the server has: remove it"),
    ("sslaccept", "it is Prisma's: write sslmode=verify-full or another sslmode instead"),
    ("sslcrl", "Copyhold reads no lists of revoked certificates: remove it"),
    ("sslcrldir", "Copyhold reads no lists of revoked certificates: remove it"),
    ("sslidentity", "it is Prisma's: write sslcert and sslkey instead"),
    ("sslpassword", "Copyhold opens no keys with a password: give a key without one as sslkey"),
    ("statement_cache_size", OTHER_CLIENT),
    ("statement_timeout", SET_FOR_ROLE),
    ("supa", "it is of another client, and is Supabase's note for itself: remove it"),
    ("tcpKeepAlive", OTHER_CLIENT),
    ("tcp_user_timeout", DEAD_CONNECTIONS),
    ("uselibpqcompat", "it is node-postgres's; sslmode means what libpq says: remove it"),
];

/// The combined effect of the parameters.
/// Shows none of their values: any may hold a password.
#[derive(Default)]
pub struct Parameters<'a> {
    /// For the client library.
    pub kept: Vec<(&'a str, &'a str)>,
    /// `connect_timeout`: the time limit for connecting; `None`: Copyhold's own.
    pub within: Option<Duration>,
}

impl fmt::Debug for Parameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameters").field("within", &self.within).finish_non_exhaustive()
    }
}

impl<'a> Parameters<'a> {
    /// Of several with one name the last counts.
    pub fn of(parts: &'a Parts) -> Result<Self, InvalidUrl> {
        let mut all = Self::default();
        for (at, (name, value)) in parts.parameters.iter().enumerate() {
            let lower = value.to_ascii_lowercase();
            match name.as_str() {
                // Of several hosts each gets its own; the application name of Copyhold goes first.
                "host" | "hostaddr" | "port" | "fallback_application_name" => {}
                "sslmode" | "ssl-mode" => all.kept.push(("sslmode", mode(&lower)?)),
                // libpq accepts this parameter of JDBC's.
                "ssl" if lower == "true" => all.kept.push(("sslmode", "require")),
                "ssl" => {
                    return Err(refused(
                        "ssl",
                        "whose value means nothing here",
                        "write sslmode=require or verify-full",
                    ));
                }
                "sslrootcert" if lower == "system" => {}
                "target_session_attrs" => match lower.as_str() {
                    "any" | "read-write" | "primary" => {}
                    _ => return Err(InvalidUrl::ReadOnlyServer),
                },
                "channel_binding" => match lower.as_str() {
                    "disable" | "prefer" => {}
                    _ => return Err(refused("channel_binding", "which Copyhold does not have", CHANNEL_BINDING)),
                },
                "connect_timeout" => all.within = within(value)?,
                known => {
                    let understood = UNDERSTOOD.contains(&known) || known.starts_with("options[");
                    if understood {
                        all.kept.push((name.as_str(), value.as_str()));
                    } else {
                        other(at, name, &lower)?;
                    }
                }
            }
        }
        all.system_roots(parts)?;
        let has = |names: [&str; 2]| names.iter().any(|name| parts.parameter(name).is_some());
        if has(["sslcert", "ssl-cert"]) != has(["sslkey", "ssl-key"]) {
            return Err(refused("sslcert or sslkey", "without the other", "give both, or none"));
        }
        for address in parts.parameter("hostaddr").into_iter().flat_map(|list| list.split(',')) {
            if address.parse::<IpAddr>().is_err() {
                return Err(refused("hostaddr", "which is no address", "write an IP address, or the name as host"));
            }
        }
        for port in parts.parameter("port").into_iter().flat_map(|list| list.split(',')) {
            if port.parse::<u16>().is_err() {
                return Err(refused("port", "which is no number up to 65535", "correct it"));
            }
        }
        if let Some(capacity) = parts.parameter("statement-cache-capacity")
            && capacity.parse::<usize>().is_err()
        {
            return Err(refused("statement-cache-capacity", "which is no number", "remove it"));
        }
        Ok(all)
    }

    /// `sslrootcert=system` asks for the public authorities, which are built in, and for full verification.
    fn system_roots(&mut self, parts: &Parts) -> Result<(), InvalidUrl> {
        let asks = parts.parameter("sslrootcert").is_some_and(|value| value.eq_ignore_ascii_case("system"));
        if !asks {
            return Ok(());
        }
        match self.mode() {
            None => self.kept.push(("sslmode", "verify-full")),
            Some("verify-full") => {}
            Some(_) => {
                return Err(refused(
                    "sslrootcert",
                    "whose value system goes with sslmode=verify-full alone",
                    "say verify-full",
                ));
            }
        }
        self.kept.retain(|(name, _)| *name != "sslrootcert");
        Ok(())
    }

    /// The `sslmode` in force, as far as the URL sets it.
    pub fn mode(&self) -> Option<&'a str> {
        self.kept.iter().rev().find(|(name, _)| *name == "sslmode").map(|(_, mode)| *mode)
    }
}

const CHANNEL_BINDING: &str = "remove it, and say sslmode=verify-full, which proves the server";

fn refused(name: &'static str, what: &str, todo: &str) -> InvalidUrl {
    InvalidUrl::Parameter { name, what: what.to_owned(), todo: todo.to_owned() }
}

/// As the client library has to get it. It lacks libpq's `allow`, which accepts both: so does `prefer`.
fn mode(lower: &str) -> Result<&'static str, InvalidUrl> {
    match MODES.iter().find(|mode| **mode == lower) {
        Some(&"allow") => Ok("prefer"),
        Some(mode) => Ok(mode),
        None => {
            Err(refused("sslmode", "whose value is none of its own", &format!("write one of {}", MODES.join(", "))))
        }
    }
}

/// Seconds; libpq rounds 1 up to 2, and takes 0 or less for no limit.
fn within(value: &str) -> Result<Option<Duration>, InvalidUrl> {
    let seconds = value.trim().parse::<i32>();
    let seconds = seconds.map_err(|_| refused("connect_timeout", "which is no number of seconds", "correct it"))?;
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.max(2))))
}

/// A parameter that the client library does not know.
fn other(at: usize, name: &str, lower: &str) -> Result<(), InvalidUrl> {
    if let Some((name, values)) = HELD_ANYWAY.iter().find(|(known, _)| *known == name) {
        let is_held = values.contains(&lower);
        let todo = format!("remove it, or say {}", values.join(" or "));
        return if is_held { Ok(()) } else { Err(refused(name, "with a value that Copyhold cannot have", &todo)) };
    }
    if let Some((name, todo)) = REFUSED.iter().find(|(known, _)| *known == name) {
        return Err(refused(name, "which would be ignored", todo));
    }
    let known: BTreeSet<_> =
        UNDERSTOOD.iter().chain(OWN).copied().chain(HELD_ANYWAY.iter().map(|(name, _)| *name)).collect();
    let todo = match among(name, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("remove it; known are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Err(InvalidUrl::Unknown { number: at + 1, todo })
}

/// Parameters that have an arm of their own.
const OWN: &[&str] =
    &["channel_binding", "connect_timeout", "ssl", "target_session_attrs", "fallback_application_name"];

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(query: &str) -> Result<Vec<(String, String)>, InvalidUrl> {
        let parts = Parts::of(&format!("postgres://h/d?{query}"))?;
        let all = Parameters::of(&parts)?;
        Ok(all.kept.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn each_parameter_of_libpq_works_or_is_refused_by_name() {
        for works in [
            "sslmode=allow",
            "sslmode=VERIFY-FULL",
            "ssl=true",
            "sslrootcert=system",
            "channel_binding=prefer",
            "gssencmode=disable",
            "connect_timeout=10",
            "connect_timeout=0",
            "client_encoding=UTF8",
            "options=endpoint%3Dep-cool",
            "options[search_path]=x",
            "target_session_attrs=any",
            "application_name=mine",
            "fallback_application_name=x",
            "sslsni=1",
        ] {
            assert!(kept(works).is_ok(), "{works}");
        }
        for (name, query) in [
            ("sslmode", "sslmode=no-verify"),
            ("channel_binding", "channel_binding=require"),
            ("gssencmode", "gssencmode=require"),
            ("connect_timeout", "connect_timeout=ten"),
            ("client_encoding", "client_encoding=LATIN1"),
            ("sslrootcert", "sslrootcert=system&sslmode=require"),
            ("sslcert or sslkey", "sslcert=/x"),
            ("hostaddr", "hostaddr=localhost"),
            ("port", "port=x"),
            ("passfile", "passfile=/x"),
            ("service", "service=x"),
            ("pgbouncer", "pgbouncer=true"),
            ("pool_max_conns", "pool_max_conns=5"),
            ("keepalives_idle", "keepalives_idle=5"),
            ("tcp_user_timeout", "tcp_user_timeout=5"),
            ("require_auth", "require_auth=scram-sha-256"),
            ("requirepeer", "requirepeer=postgres"),
            ("krbsrvname", "krbsrvname=x"),
            ("sslcrl", "sslcrl=/x"),
            ("sslpassword", "sslpassword=geheim"),
            ("schema", "schema=x"),
        ] {
            match kept(query) {
                Err(InvalidUrl::Parameter { name: named, what, todo }) => {
                    assert_eq!(named, name);
                    assert!(!format!("{what}{todo}").contains("geheim"));
                }
                other => panic!("{query}: {other:?}"),
            }
        }
        assert_eq!(kept("sslmode=require&sslmode=allow").unwrap().last().unwrap().1, "prefer");
        // An unknown name may be a part of a password.
        let unknown = kept("password=ge&heim=x").unwrap_err();
        assert!(matches!(&unknown, InvalidUrl::Unknown { number: 2, .. }) && !unknown.to_string().contains("heim"));
    }
}
