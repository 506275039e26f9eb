//! What a store is configured with, and the files beside the configuration that are read again while the process runs.
//!
//! It reads no configuration: the program does.

mod chain;
mod provider;
mod proxy;
mod trust;

use std::fmt;

use copyhold_core::{domain::ReplicaName, secret::Secret};
use url::Url;

pub use chain::{ChainFile, RefusedFile, chain_files, refused_chain_files};
pub use provider::Provider;
pub use proxy::{Proxies, Proxy};
pub use trust::{AT_MOST_BYTES as AUTHORITIES_AT_MOST_BYTES, Authorities, FileStamps, Trust};

/// A variable of the environment that cannot be used. Shows nothing of a proxy's credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {what}; {todo}")]
pub struct InvalidVariable {
    pub variable: String,
    /// Continues a sentence that the variable begins.
    pub what: String,
    pub todo: String,
}

/// How one store is reached, and what is known of it.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    pub name: ReplicaName,
    /// Scheme, host and port alone.
    pub endpoint: Url,
    pub region: String,
    pub bucket: String,
    pub path_style: bool,
    pub credentials: Credentials,
    /// Sent with each upload if set; no header otherwise.
    pub storage_class: Option<String>,
    pub provider: Provider,
    pub facts: StoreOverrides,
    /// Which authorities may have issued its certificate.
    pub trust: Trust,
    /// The proxy that its requests go through.
    pub proxy: Option<Proxy>,
    pub surroundings: NetworkEnvironment,
}

/// What the environment says of the way to other hosts.
#[derive(Debug, Clone, Default)]
pub struct NetworkEnvironment {
    pub proxies: Proxies,
    /// The authorities for whatever has no `ca_file`.
    pub trust: Trust,
}

/// What the operator knows of this store and its provider's preset does not; `None`: the preset counts.
///
/// Each exists because without it some store fails in a way that looks like something else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreOverrides {
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

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambient => f.write_str("Ambient"),
            Self::Keys { .. } => f.write_str("Keys(***)"),
        }
    }
}
