//! The configuration: read ([`load()`]), then checked, then trusted ([`Config`]).
//!
//! Whoever holds a [`Config`] need not check anything again. Secrets are
//! [`Secret`]s; the configuration prints them as `***`.

mod chain;
mod database;
mod database_url;
mod document;
mod endpoint;
mod events;
mod load;
mod net;
mod overrides;
mod place;
mod problem;
mod process;
mod provider;
mod proxy;
mod reader;
mod replica;
mod rules;
mod secret;
mod setting;
mod show;
mod suggest;
#[cfg(test)]
mod tests;
mod trust;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use chain::{ChainFile, chain_files};
pub use database_url::{
    ServerUrl, each_server, has_password as url_has_password, masked as masked_url, root_certificates,
};
pub use load::load;
pub use place::Place;
pub use problem::{ConfigErrors, Problem};
pub use provider::Provider;
pub use proxy::{Proxies, Proxy};
pub use rules::Rule;
pub use secret::Secret;
pub use suggest::among as did_you_mean;
pub use trust::{Authorities, Stamps, Trust};

use secrecy::ExposeSecret as _;
use url::Url;

use crate::domain::{EventKinds, ReplicaName, SchemaName};

/// Everything that the operator decided, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The preferred source; one of `replicas`.
    pub primary: ReplicaName,
    pub database: Database,
    /// In the order of their names.
    pub replicas: Vec<Replica>,
    /// Which of them objects are wanted at: the first that fits counts; without one, all.
    pub rules: Vec<Rule>,
    pub workers: Workers,
    pub lease: Lease,
    pub guard: Guard,
    pub sweeper: Sweeper,
    pub events: Events,
    pub shutdown: Shutdown,
    pub http: Http,
    pub log: Log,
}

impl Config {
    /// The section of one replica.
    #[must_use]
    pub fn replica(&self, name: &ReplicaName) -> Option<&Replica> {
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
            let has_password = database_url::has_password(url.expose_secret());
            files.extend(url.kept_in().filter(|_| has_password).map(PathBuf::from));
            files.extend(database_url::key_files(url.expose_secret()));
        }
        files.sort();
        files.dedup();
        files
    }
}

#[derive(Clone)]
pub struct Database {
    /// `postgres://…`, of one server or several; may be a transaction pooler. Carries the password if there is one.
    pub url: Secret,
    /// A direct connection for LISTEN, where a pooler stands in front.
    pub listen_url: Option<Secret>,
    /// From `password_file`; used instead of a password in the URLs.
    pub password: Option<Secret>,
    pub schema: SchemaName,
    pub wakeup: Wakeup,
}

/// How daemons learn that there is something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    /// As `Notify`; but as `Poll` where the server allows prepared transactions, which may not have notified.
    Auto,
    /// They listen to PostgreSQL's notices, and look by themselves besides.
    Notify,
    /// They only look, once a second; nobody ever sends a notice for them.
    Poll,
}

#[derive(Debug, Clone)]
pub struct Replica {
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
    pub facts: Facts,
    /// Which authorities may have issued its certificate.
    pub trust: Trust,
    /// The proxy that its requests go through.
    pub proxy: Option<Proxy>,
    pub surroundings: Surroundings,
}

/// What the environment says of the way to other hosts.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    pub proxies: Proxies,
    /// The authorities for whatever has no `ca_file`.
    pub trust: Trust,
}

/// What the operator knows of this store and its provider's preset does not; `None`: the preset counts.
///
/// Each exists because without it some store fails in a way that looks like something else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// A gateway that keeps fewer parts refuses a big object only with its last part.
    pub max_parts: Option<u32>,
    /// Bytes of one request. A proxy in front of the store cuts off what is larger, which looks like a broken connection.
    pub max_put_bytes: Option<u64>,
    /// A store that has room for less says so when everything has been sent.
    pub max_object_bytes: Option<u64>,
    /// Stores that keep keys as file names or in small pages answer longer ones with 500 or 503, as if they were sick.
    pub max_key_bytes: Option<usize>,
    /// It was seen to refuse a wrong Content-MD5 and to keep nothing: a copy whose ETag is no MD5 need not be read back.
    pub checks_md5: Option<bool>,
    /// Its ETags were seen to be MD5s, of a PUT and of the parts' MD5s: else every copy that a scan finds there is read to
    /// be adopted.
    pub md5_etags: Option<bool>,
    /// It stores other metadata than it is sent, `a-b` for `a_b`: whether its copies count all the same.
    pub accepts_altered_metadata: Option<bool>,
    /// A store or a line that takes fewer connections lets the others wait, which looks like a store that hangs.
    pub max_connections: Option<usize>,
}

#[derive(Clone)]
pub enum Credentials {
    /// The AWS chain: environment, profile, container or instance role.
    Ambient,
    Keys {
        access_key_id: Secret,
        secret_access_key: Secret,
    },
}

/// What to do with objects that a replica's bucket held before Copyhold came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Equal ones count as copies, others are left alone and the copy is parked.
    Adopt,
    /// They are replaced by what the source has.
    Overwrite,
}

#[derive(Debug, Clone)]
pub struct Workers {
    /// Objects in flight at most.
    pub count: usize,
    /// So many of them only for objects registered within the last ten minutes.
    pub reserved: usize,
    /// Bytes of objects held in memory at most.
    pub memory_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Lease {
    pub timeout: Duration,
    pub heartbeat: Duration,
}

impl Lease {
    /// After this time nothing that a dead holder has sent still arrives at a store: all its requests have timed out
    /// long since, on both sides.
    #[must_use]
    pub fn settle(&self) -> Duration {
        (2 * self.timeout).max(Duration::from_mins(1))
    }
}

/// What a content at the primary that nobody registered may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
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
pub struct Sweeper {
    pub every: Duration,
}

/// The event log: what is written to it, for how long it is kept, and how it is read.
#[derive(Debug, Clone)]
pub struct Events {
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
pub struct Shutdown {
    pub grace: Duration,
}

#[derive(Debug, Clone)]
pub struct Http {
    pub listen: SocketAddr,
    /// Whoever sends it may append events, and read them from another machine. `None`: nobody may do either.
    pub token: Option<Secret>,
}

#[derive(Debug, Clone)]
pub struct Log {
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
