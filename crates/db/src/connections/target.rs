//! Where connections lead: the servers of a database URL, with the secrets of the moment of connecting.

use std::{
    env, io,
    net::IpAddr,
    path::PathBuf,
    str::FromStr as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use copyhold_core::secret::Secret;
use secrecy::ExposeSecret as _;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::watch;

use super::{
    catch_panics::catch_panics,
    cause::ConnectCause,
    error::{ConnectError, ReadOnlyServer},
    os_user::with_role,
    outage::Outage,
    session::{self, SESSION_SETTINGS},
};
use crate::database_url::{each_server, has_password, root_certificates};

/// The time limit per server of several: one that drops packets must not keep the others from being tried.
const EACH_OF_SEVERAL: Duration = Duration::from_secs(2);
/// Added to the server's refusal.
const NO_PASSWORD: &str =
    "; no password is given: name a file that holds it as database.password_file, or write it into the URL";
/// A read-only server is not tried again before this: completions alone are tried ten times a second.
const REST_OF_READ_ONLY: Duration = Duration::from_millis(300);

/// Which servers are acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writable ones.
    Write,
    /// All, writable ones first. For commands that only read.
    Any,
}

/// Connections of an earlier era are not reused. An era ends when a server turns out to be read-only.
#[derive(Debug, Clone)]
pub struct Era(Arc<watch::Sender<u64>>);

impl Default for Era {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Era {
    #[must_use]
    pub fn now(&self) -> u64 {
        *self.0.borrow()
    }

    /// Ends the era that a connection was made in, unless it has ended.
    pub fn end(&self, era: u64) {
        self.0.send_if_modified(|now| {
            let ends = *now == era;
            *now += u64::from(ends);
            ends
        });
    }

    /// Waits until this era has ended.
    pub async fn ended(&self, era: u64) {
        // Cannot fail: we hold the sender.
        let _ = self.0.subscribe().wait_for(|now| *now != era).await;
    }
}

/// Where connections lead.
#[derive(Debug, Clone)]
pub struct Target {
    whither: Arc<Destination>,
    pub era: Era,
    /// The index of the server that was suitable last.
    preferred: Arc<AtomicUsize>,
    /// The server that was read-only last, and when.
    refused: Arc<Mutex<Option<(Instant, ReadOnlyServer)>>>,
    /// The state of an outage.
    pub outage: Outage,
}

/// One server of several, or the only one.
#[derive(Debug)]
pub struct Server {
    /// Its index in the URL.
    pub at: usize,
    pub options: PgConnectOptions,
    /// The time limit for connecting, if the URL has one.
    pub within: Option<Duration>,
}

#[derive(Debug)]
enum Destination {
    Configured { url: Secret, password: Option<Secret>, pooled: bool },
    Fixed(Box<PgConnectOptions>),
}

impl Target {
    /// `pooled`: a pooler may stand in front, which shares sessions and may refuse start-up options.
    #[must_use]
    pub fn new(url: Secret, password: Option<Secret>, pooled: bool, era: Era, outage: Outage) -> Self {
        Self::to(Destination::Configured { url, password, pooled }, era, outage)
    }

    /// Leads to the one server of these options.
    #[must_use]
    pub fn fixed(options: PgConnectOptions) -> Self {
        Self::to(Destination::Fixed(Box::new(options)), Era::default(), Outage::default())
    }

    fn to(whither: Destination, era: Era, outage: Outage) -> Self {
        Self { whither: Arc::new(whither), era, preferred: Arc::default(), refused: Arc::default(), outage }
    }

    /// All servers, the one that was suitable last first, with the present secrets.
    pub fn servers(&self) -> Result<Vec<Server>, sqlx::Error> {
        let (url, password, pooled) = match &*self.whither {
            Destination::Fixed(options) => {
                return Ok(vec![Server { at: 0, options: options.as_ref().clone(), within: None }]);
            }
            Destination::Configured { url, password, pooled } => (url.latest(), password, *pooled),
        };
        let password = password.as_ref().map(Secret::latest);
        let each = each_server(url.expose_secret()).map_err(|invalid| sqlx::Error::Configuration(invalid.into()))?;
        let mut servers = Vec::new();
        for (at, one) in each.iter().enumerate() {
            // We read floats in binary and do not need it; poolers refuse it by default.
            let mut options = PgConnectOptions::from_str(&with_role(one))?.extra_float_digits(None);
            if options.get_application_name().is_none() {
                options = options.application_name("copyhold");
            }
            if let Some(password) = &password {
                options = options.password(password.expose_secret());
            }
            if !pooled {
                options = options.options(SESSION_SETTINGS);
            }
            servers.push(Server { at, options, within: one.within });
        }
        let first = self.preferred.load(Ordering::Relaxed) % servers.len().max(1);
        servers.rotate_left(first);
        Ok(servers)
    }

    /// Marks this server as the suitable one.
    pub fn prefer(&self, server: usize) {
        self.preferred.store(server, Ordering::Relaxed);
    }

    /// Tries one server after the other, once, until `deadline`.
    pub async fn connect(&self, access: Access, deadline: Instant) -> Result<PgConnection, sqlx::Error> {
        if let Some(server) = self.refused_lately().filter(|_| access == Access::Write) {
            return Err(server.into());
        }
        let servers = self.servers()?;
        let several = servers.len() > 1;
        let (mut readable, mut read_only, mut failed) = (None, None, Vec::new());
        for server in servers {
            let left = deadline.saturating_duration_since(Instant::now());
            let within = if several { left.min(EACH_OF_SEVERAL) } else { left };
            let within = server.within.map_or(within, |asked| within.min(asked));
            let name = name(&server.options);
            match self.connect_to(&server.options, &name, within).await {
                Ok((connection, None)) => {
                    self.prefer(server.at);
                    self.note(None);
                    self.outage.ends();
                    return Ok(connection);
                }
                Ok((connection, Some(of))) => {
                    if access == Access::Any {
                        readable.get_or_insert(connection);
                    } else {
                        // A failed close changes nothing: the connection is given up in any case.
                        let _ = connection.close().await;
                    }
                    read_only.get_or_insert(of);
                }
                Err(error) => failed.push((name, error)),
            }
        }
        self.note(read_only.clone());
        if let Some(connection) = readable {
            self.outage.ends();
            return Ok(connection);
        }
        Err(self.none_of(read_only, &failed))
    }

    /// The authorities that a server's certificate may come from, to follow "signed by".
    fn trusted(&self) -> String {
        let url = match &*self.whither {
            Destination::Configured { url, .. } => url.latest(),
            Destination::Fixed(_) => return "an authority that the connection's options name".to_owned(),
        };
        match root_certificates(url.expose_secret()) {
            Some(path) => format!("an authority in {}, which sslrootcert names, or a public one", path.display()),
            None => {
                "one of the public authorities; name the PEM file of a private one as sslrootcert in the URL".to_owned()
            }
        }
    }

    /// Whether no source provides a password.
    fn lacks_password(&self) -> bool {
        let Destination::Configured { url, password: None, .. } = &*self.whither else { return false };
        let file = env::var_os("PGPASSFILE").map(PathBuf::from);
        let by_default = env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
        let has_file = file.into_iter().chain(by_default).any(|path| path.exists());
        !has_file && !has_password(url.latest().expose_secret()) && env::var_os("PGPASSWORD").is_none()
    }

    async fn connect_to(
        &self,
        options: &PgConnectOptions,
        name: &str,
        within: Duration,
    ) -> Result<(PgConnection, Option<ReadOnlyServer>), sqlx::Error> {
        let owned = matches!(&*self.whither, Destination::Configured { pooled: false, .. });
        let resolved = AtomicBool::new(false);
        let connected = catch_panics(Box::pin(async {
            resolve(options).await?;
            resolved.store(true, Ordering::Relaxed);
            let mut connection = PgConnection::connect_with(options).await?;
            let read_only = session::look(&mut connection, name, owned).await?;
            Ok((connection, read_only))
        }));
        let in_time = tokio::time::timeout(within, connected).await;
        in_time.unwrap_or_else(|_| {
            let what = if resolved.load(Ordering::Relaxed) { "no answer" } else { "its host name was not resolved" };
            let what = format!("{what} within {:.0} s", within.as_secs_f64().max(1.0));
            Err(io::Error::new(io::ErrorKind::TimedOut, what).into())
        })
    }

    /// Combines into one error why no server was suitable.
    pub(super) fn none_of(&self, read_only: Option<ReadOnlyServer>, failed: &[(String, sqlx::Error)]) -> sqlx::Error {
        let causes: Vec<_> = failed.iter().map(|(_, error)| ConnectCause::of(error)).collect();
        let trusted = self.trusted();
        let sentences = failed.iter().zip(&causes).map(|((name, error), cause)| match cause {
            Some(cause @ ConnectCause::Password) if self.lacks_password() => {
                format!("{}{NO_PASSWORD}", cause.sentence(name, error, &trusted))
            }
            Some(cause) => cause.sentence(name, error, &trusted),
            None => format!("PostgreSQL at {name} refused: {error}"),
        });
        let lasts = |(cause, (_, error)): (&Option<ConnectCause>, &(String, sqlx::Error))| match cause {
            Some(cause) => cause.is_lasting(error),
            None => !matches!(error, sqlx::Error::Database(_) | sqlx::Error::PoolTimedOut),
        };
        let error = ConnectError {
            unreachable: sentences.collect(),
            cause: causes.first().copied().flatten().filter(|_| read_only.is_none()),
            is_lasting: read_only.is_none() && !failed.is_empty() && causes.iter().zip(failed).all(lasts),
            is_first_contact: self.outage.is_first_contact(),
            read_only,
        };
        self.outage.goes_on(&error);
        error.into()
    }

    /// The server that was read-only when a connection was made last.
    #[must_use]
    pub fn read_only(&self) -> Option<ReadOnlyServer> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, server)| server.clone())
    }

    fn refused_lately(&self) -> Option<ReadOnlyServer> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, server) = refused.as_ref()?;
        (at.elapsed() < REST_OF_READ_ONLY).then(|| server.clone())
    }

    pub(super) fn note(&self, read_only: Option<ReadOnlyServer>) {
        let read_only = read_only.map(|server| (Instant::now(), server));
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = read_only;
    }
}

/// Host and port, or the socket's folder.
pub(super) fn name(options: &PgConnectOptions) -> String {
    let host = options.get_socket().map_or_else(|| options.get_host().into(), |path| path.to_string_lossy());
    let brackets = host.contains(':') && !host.starts_with('[');
    if brackets { format!("[{host}]:{}", options.get_port()) } else { format!("{host}:{}", options.get_port()) }
}

/// Checks whether the host's name resolves, so that errors and silence of the resolver are not taken for the server's.
async fn resolve(options: &PgConnectOptions) -> io::Result<()> {
    let host = options.get_host();
    let is_folder = options.get_socket().is_some() || host.starts_with('/');
    if !is_folder && host.parse::<IpAddr>().is_err() {
        drop(tokio::net::lookup_host((host, options.get_port())).await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn several(url: &str) -> Target {
        Target::new(url.into(), None, false, Era::default(), Outage::default())
    }

    #[test]
    fn the_server_that_was_right_last_is_asked_first() {
        let target = several("postgres://u@127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/d");
        let ports = || target.servers().unwrap().iter().map(|server| server.options.get_port()).collect::<Vec<_>>();
        assert_eq!(ports(), [1, 2, 3]);
        target.prefer(1);
        assert_eq!(ports(), [2, 3, 1]);
    }

    #[tokio::test]
    async fn each_server_that_cannot_be_reached_is_named() {
        let target = several("postgres://u@127.0.0.1:1,127.0.0.1:2/d");
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = target.connect(Access::Write, deadline).await.unwrap_err();
        let error = ConnectError::of(&error).expect("no server");
        assert_eq!(error.cause, Some(ConnectCause::Refused));
        assert!(error.is_first_contact && !error.is_lasting);
        let error = error.to_string();
        assert!(error.contains("127.0.0.1:1: ") && error.contains("127.0.0.1:2: "), "{error}");
    }

    #[test]
    fn an_era_ends_once_however_many_callers_end_it() {
        let era = Era::default();
        era.end(0);
        era.end(0);
        assert_eq!(era.now(), 1);
    }
}
