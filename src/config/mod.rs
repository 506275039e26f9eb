//! The configuration: read ([`load()`]), then checked, then trusted ([`Config`]).
//!
//! The holder of a [`Config`] need not check anything again. Secrets are [`Secret`]s; the configuration prints them as
//! `***`.

mod chain;
mod database;
mod database_url;
mod endpoint;
mod env_overrides;
mod events;
mod invalid_value;
mod load;
mod net;
mod position;
mod problem;
mod process;
mod reader;
mod replica;
mod rules;
mod secret;
mod show;
mod sources;
mod suggest;
#[cfg(test)]
mod tests;
mod toml_tree;
mod value_types;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use copyhold_core::{did_you_mean::among as did_you_mean, domain::Rule, secret::Secret};
pub use copyhold_db::{
    database_url::masked as masked_url,
    settings::{ConnectionSettings, Wakeup},
};
pub use copyhold_s3::settings::{
    Authorities, Credentials, NetworkEnvironment, Provider, Proxies, Proxy, StoreOverrides, Trust,
};
pub use load::{load, parse};
pub use position::Position;
pub use problem::{ConfigErrors, Problem};

use copyhold_core::domain::{EventKinds, ReplicaName};
use copyhold_db::{
    database_url::{has_password, key_files},
    pin::Pin,
    settings::SchemaPlan,
};
use copyhold_s3::settings::StoreSettings;
use secrecy::ExposeSecret as _;
use url::Url;

/// Everything that the operator decided, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The preferred source; one of `replicas`.
    pub primary: ReplicaName,
    pub database: ConnectionSettings,
    /// In the order of their names.
    pub replicas: Vec<ReplicaSettings>,
    /// Which of them objects are wanted at: the first that fits counts; without one, all.
    pub rules: Vec<Rule>,
    pub workers: WorkerSettings,
    pub lease: LeaseSettings,
    pub guard: GuardSettings,
    pub sweeper: SweeperSettings,
    pub events: EventSettings,
    pub shutdown: ShutdownSettings,
    pub http: HttpSettings,
    pub log: LogSettings,
}

impl Config {
    /// The section of one replica.
    #[must_use]
    pub fn replica(&self, name: &ReplicaName) -> Option<&ReplicaSettings> {
        self.replicas.iter().find(|r| r.name == *name)
    }

    /// Returns the files that secrets are in, the configuration's own included, each once.
    #[must_use]
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let keys = self.replicas.iter().flat_map(|replica| match &replica.credentials {
            Credentials::Keys { access_key_id, secret_access_key } => vec![access_key_id, secret_access_key],
            Credentials::Ambient => Vec::new(),
        });
        let secrets = keys.chain(self.http.token.as_ref()).chain(self.database.password.as_ref());
        let mut files: Vec<PathBuf> = secrets.filter_map(Secret::kept_in).map(PathBuf::from).collect();
        for url in [Some(&self.database.url), self.database.listen_url.as_ref()].into_iter().flatten() {
            let holds_password = has_password(url.expose_secret());
            files.extend(url.kept_in().filter(|_| holds_password).map(PathBuf::from));
            files.extend(key_files(url.expose_secret()));
        }
        files.sort();
        files.dedup();
        files
    }
}

#[derive(Debug, Clone)]
pub struct ReplicaSettings {
    pub name: ReplicaName,
    /// Scheme, host and port alone; equal endpoints are equal here, however they were written.
    pub endpoint: Url,
    pub region: String,
    pub bucket: String,
    pub path_style: bool,
    pub credentials: Credentials,
    /// What to do with a bucket that already holds data; `None`: refuse to write to it.
    pub existing: Option<Existing>,
    /// `false`: never a source.
    pub read: bool,
    /// Sent with each upload if set; no header otherwise.
    pub storage_class: Option<String>,
    /// As configured, else by the endpoint.
    pub provider: Provider,
    pub facts: StoreOverrides,
    /// Which authorities may have issued its certificate.
    pub trust: Trust,
    /// The proxy that its requests go through.
    pub proxy: Option<Proxy>,
    pub surroundings: NetworkEnvironment,
}

/// What to do with objects that a replica's bucket held before Copyhold came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Equal ones count as copies; others are not overwritten, and the copy is parked.
    Adopt,
    /// They are replaced by what the source has.
    Overwrite,
}

impl Existing {
    /// The word for it in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Adopt => "adopt",
            Self::Overwrite => "overwrite",
        }
    }
}

#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Objects in flight at most.
    pub count: usize,
    /// So many of them only for objects registered within the last ten minutes.
    pub reserved: usize,
    /// Bytes of objects held in memory at most.
    pub memory_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct LeaseSettings {
    pub timeout: Duration,
    pub heartbeat: Duration,
}

impl LeaseSettings {
    /// After this time nothing that a dead holder has sent still arrives at a store: all its requests have timed out
    /// long since, on both sides.
    #[must_use]
    pub fn settle(&self) -> Duration {
        (2 * self.timeout).max(Duration::from_mins(1))
    }
}

/// What an unregistered content at the primary may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardSettings {
    pub changed: UnregisteredChanges,
}

/// What becomes of objects that were changed at the primary without being registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnregisteredChanges {
    /// They are copied, unless there are too many at once.
    Copy,
    /// They are copied, however many there are.
    CopyAll,
    /// They are parked.
    Park,
}

impl UnregisteredChanges {
    /// As it is configured.
    pub const ALL: [(&'static str, Self); 3] =
        [("copy", Self::Copy), ("copy_all", Self::CopyAll), ("park", Self::Park)];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::CopyAll => "copy_all",
            Self::Park => "park",
        }
    }
}

#[derive(Debug, Clone)]
pub struct SweeperSettings {
    pub every: Duration,
}

/// The event log: what is written to it, for how long it is kept, and how it is read.
#[derive(Debug, Clone)]
pub struct EventSettings {
    /// Those that are written.
    pub kinds: EventKinds,
    /// What is older is dropped.
    pub keep_for: Duration,
    /// Of what is more than this, the oldest is dropped.
    pub keep_bytes: u64,
    /// Of the latest events, held in memory for readers at most.
    pub buffer_bytes: u64,
    /// Readers at the same time at most.
    pub readers: usize,
}

#[derive(Debug, Clone)]
pub struct ShutdownSettings {
    pub grace: Duration,
}

#[derive(Debug, Clone)]
pub struct HttpSettings {
    pub listen: SocketAddr,
    /// A client that sends it may append events, register objects and read events, wherever it is. `None`: no client
    /// may append events, and only this machine may register and read.
    pub token: Option<Secret>,
}

#[derive(Debug, Clone)]
pub struct LogSettings {
    pub format: LogFormat,
    /// A `tracing` filter: `info`, or `info,copyhold=debug`.
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    Text,
    Json,
}

impl From<&ReplicaSettings> for StoreSettings {
    fn from(replica: &ReplicaSettings) -> Self {
        Self {
            name: replica.name.clone(),
            endpoint: replica.endpoint.clone(),
            region: replica.region.clone(),
            bucket: replica.bucket.clone(),
            path_style: replica.path_style,
            credentials: replica.credentials.clone(),
            storage_class: replica.storage_class.clone(),
            provider: replica.provider,
            facts: replica.facts,
            trust: replica.trust.clone(),
            proxy: replica.proxy.clone(),
            surroundings: replica.surroundings.clone(),
        }
    }
}

/// The bucket that the configuration names.
impl From<&ReplicaSettings> for Pin {
    fn from(replica: &ReplicaSettings) -> Self {
        Self { endpoint: replica.endpoint.as_str().trim_end_matches('/').to_owned(), bucket: replica.bucket.clone() }
    }
}

impl From<&Config> for SchemaPlan {
    fn from(config: &Config) -> Self {
        Self {
            database: config.database.clone(),
            primary: config.primary.clone(),
            replicas: config.replicas.iter().map(|replica| (replica.name.clone(), replica.into())).collect(),
            rules: config.rules.clone(),
            event_kinds: config.events.kinds.clone(),
        }
    }
}
