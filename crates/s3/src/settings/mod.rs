//! The settings of a store, and the files beside the configuration that are read again while the process runs.
//!
//! It does not read the configuration; the program does.

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
    /// What is wrong, as the rest of a sentence that begins with the variable.
    pub what: String,
    pub todo: String,
}

/// How to reach one store, and what the operator knows of it.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    pub name: ReplicaName,
    /// Scheme, host and port only.
    pub endpoint: Url,
    pub region: String,
    pub bucket: String,
    pub path_style: bool,
    pub credentials: Credentials,
    /// Sent with each upload; `None`: without the header.
    pub storage_class: Option<String>,
    pub provider: Provider,
    pub facts: StoreOverrides,
    /// The authorities that may have issued its certificate.
    pub trust: Trust,
    /// The proxy that its requests go through.
    pub proxy: Option<Proxy>,
    pub surroundings: NetworkEnvironment,
}

/// What the environment variables set for connections to other hosts.
#[derive(Debug, Clone, Default)]
pub struct NetworkEnvironment {
    pub proxies: Proxies,
    /// The authorities for stores without a `ca_file`.
    pub trust: Trust,
}

/// Properties of this store that the operator sets; `None`: the preset of its provider applies.
///
/// Each exists because some store fails without it, with a symptom that suggests another cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreOverrides {
    /// A gateway with a lower limit refuses a large object only at its last part.
    pub max_parts: Option<u32>,
    /// The largest request. A proxy in front of the store cuts off larger ones, which looks like a broken connection.
    pub max_put_bytes: Option<u64>,
    /// A store with a lower limit refuses the object only after everything was sent.
    pub max_object_bytes: Option<u64>,
    /// Stores that keep keys as file names or in small pages answer longer ones with 500 or 503, as if they were
    /// unhealthy.
    pub max_key_bytes: Option<usize>,
    /// The store refuses a wrong Content-MD5 and keeps nothing of it: a copy whose ETag is not an MD5 need not be read
    /// back.
    pub checks_md5: Option<bool>,
    /// The store's ETags are MD5s, of a PUT and of the parts' MD5s. Otherwise every copy that a scan finds there is
    /// read before it is adopted.
    pub md5_etags: Option<bool>,
    /// The store alters metadata, such as `a-b` for `a_b`, and its copies count all the same.
    pub accepts_altered_metadata: Option<bool>,
    /// A store or line with a lower limit makes further connections wait, which looks like a store that hangs.
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
