//! The configuration in force as TOML, every default filled in and every secret as `***`.

use std::fmt;

use copyhold_core::domain::size_text;
use secrecy::ExposeSecret as _;

use super::{
    Config, ConnectionSettings, Credentials, Existing, LogFormat, ReplicaSettings, Secret, StoreOverrides, Wakeup,
    database_url, masked_url, net, value_types::duration_text,
};

/// What a file would have to say to be read as this configuration, but for the secrets.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "primary = {:?}\n\n{}", self.primary.as_str(), DatabaseSection(&self.database))?;
        for replica in &self.replicas {
            writeln!(f, "{replica}")?;
        }
        for rule in &self.rules {
            writeln!(f, "{rule}")?;
        }
        writeln!(f, "[workers]\ncount = {}", self.workers.count)?;
        writeln!(f, "reserved = {}", self.workers.reserved)?;
        writeln!(f, "memory = {:?}\n", size_text(self.workers.memory_bytes))?;
        writeln!(f, "[lease]\ntimeout = {:?}", duration_text(self.lease.timeout))?;
        writeln!(f, "heartbeat = {:?}\n", duration_text(self.lease.heartbeat))?;
        writeln!(f, "[guard]\nchanged = {:?}\n", self.guard.changed.as_str())?;
        writeln!(f, "[sweeper]\nevery = {:?}\n", duration_text(self.sweeper.every))?;
        let events = &self.events;
        writeln!(f, "[events]\nkinds = {:?}", events.kinds.to_string())?;
        writeln!(f, "keep_for = {:?}", duration_text(events.keep_for))?;
        writeln!(f, "keep_bytes = {:?}", size_text(events.keep_bytes))?;
        writeln!(f, "buffer = {:?}", size_text(events.buffer_bytes))?;
        writeln!(f, "readers = {}\n", events.readers)?;
        writeln!(f, "[shutdown]\ngrace = {:?}\n", duration_text(self.shutdown.grace))?;
        writeln!(f, "[http]\nlisten = {:?}", self.http.listen.to_string())?;
        if self.http.token.is_some() {
            writeln!(f, "token = \"***\"")?;
        }
        writeln!(f)?;
        let format = match self.log.format {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        writeln!(f, "[log]\nformat = {format:?}\nlevel = {:?}", self.log.level)
    }
}

/// The section `[database]`.
struct DatabaseSection<'a>(&'a ConnectionSettings);

impl fmt::Display for DatabaseSection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(database) = self;
        let masked = |url: &Secret| masked_url(url.expose_secret());
        writeln!(f, "[database]\nurl = {:?}", masked(&database.url))?;
        if let Some(url) = &database.listen_url {
            writeln!(f, "listen_url = {:?}", masked(url))?;
        }
        let urls = [Some(&database.url), database.listen_url.as_ref()];
        if urls.into_iter().flatten().any(|url| database_url::is_insecure(url.expose_secret())) {
            writeln!(f, "insecure = true")?;
        }
        if database.password.is_some() {
            writeln!(f, "# password_file gave a password: ***")?;
        }
        let wakeup = match database.wakeup {
            Wakeup::Auto => "auto",
            Wakeup::Notify => "notify",
            Wakeup::Poll => "poll",
        };
        writeln!(f, "schema = {:?}\nwakeup = {wakeup:?}", database.schema.as_str())
    }
}

impl fmt::Display for ReplicaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[replicas.{}]\nendpoint = {:?}", self.name, self.endpoint.as_str().trim_end_matches('/'))?;
        if net::is_plain_to_another_host(&self.endpoint) {
            writeln!(f, "insecure = true")?;
        }
        writeln!(f, "region = {:?}\nbucket = {:?}\npath_style = {}", self.region, self.bucket, self.path_style)?;
        match &self.credentials {
            Credentials::Ambient => writeln!(f, "credentials = \"ambient\"")?,
            Credentials::Keys { .. } => writeln!(f, "access_key_id = \"***\"\nsecret_access_key = \"***\"")?,
        }
        match self.existing {
            Some(Existing::Adopt) => writeln!(f, "existing = \"adopt\"")?,
            Some(Existing::Overwrite) => writeln!(f, "existing = \"overwrite\"")?,
            None => {}
        }
        writeln!(f, "read = {}", self.read)?;
        if let Some(class) = &self.storage_class {
            writeln!(f, "storage_class = {class:?}")?;
        }
        if let Some(path) = self.trust.ca_file() {
            writeln!(f, "ca_file = {path:?}")?;
        }
        write!(f, "provider = {:?}\n{}", self.provider.as_str(), StoreFacts(&self.facts))
    }
}

/// Those that were set; the others are the preset's.
struct StoreFacts<'a>(&'a StoreOverrides);

impl fmt::Display for StoreFacts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(StoreOverrides {
            max_parts,
            max_put_bytes,
            max_object_bytes,
            max_key_bytes,
            checks_md5,
            md5_etags,
            accepts_altered_metadata,
            max_connections,
        }) = self;
        let altered = |accepts: bool| if accepts { "\"accept\"" } else { "\"refuse\"" };
        let size = |bytes: &Option<u64>| bytes.map(|bytes| format!("{:?}", size_text(bytes)));
        let set = [
            ("max_parts", max_parts.map(|parts| parts.to_string())),
            ("max_put", size(max_put_bytes)),
            ("max_object", size(max_object_bytes)),
            ("max_key_bytes", max_key_bytes.map(|bytes| bytes.to_string())),
            ("checks_md5", checks_md5.map(|checks| checks.to_string())),
            ("md5_etags", md5_etags.map(|etags| etags.to_string())),
            ("altered_metadata", accepts_altered_metadata.map(|accepts| altered(accepts).to_owned())),
            ("max_connections", max_connections.map(|connections| connections.to_string())),
        ];
        for (name, value) in set {
            if let Some(value) = value {
                writeln!(f, "{name} = {value}")?;
            }
        }
        Ok(())
    }
}
