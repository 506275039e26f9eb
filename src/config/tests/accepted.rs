//! Tests: what a valid configuration means, and that the example has every setting.

use std::{collections::BTreeSet, path::Path, time::Duration};

use super::*;
use crate::config::{Credentials, LogFormat, Provider, StoreOverrides, UnregisteredChanges};

/// Every file in `config/`, with a value for each variable that it names.
#[test]
fn every_file_in_the_config_folder_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut loaded = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let named = text.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next());
        let config =
            load(&path, named.map(|name| (name, "a-value-of-some-length"))).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(config.replicas.len() >= 2, "{}", path.display());
        loaded += 1;
    }
    assert!(loaded >= 2);
}

#[test]
fn what_is_not_set_has_the_documented_default() {
    let config = Case::of(LEAST).config();
    assert_eq!(config.database.schema.as_str(), "copyhold");
    assert_eq!(config.workers.count, 32);
    assert_eq!(config.workers.memory_bytes, 256 << 20);
    assert_eq!(config.lease.timeout, Duration::from_secs(90));
    assert_eq!(config.lease.heartbeat, Duration::from_secs(30));
    assert_eq!(config.sweeper.every, Duration::from_secs(30));
    assert_eq!(config.shutdown.grace, Duration::from_mins(1));
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9180");
    assert!(config.http.token.is_none());
    assert_eq!(config.log.format, LogFormat::Auto);
    assert_eq!(config.log.level, "info");
    let [b2, wasabi] = config.replicas.as_slice() else { panic!("two replicas") };
    assert_eq!((b2.name.as_str(), wasabi.name.as_str()), ("b2", "wasabi"));
    assert_eq!(b2.region, "us-east-1");
    assert!(b2.path_style && b2.read && b2.existing.is_none() && b2.storage_class.is_none());
    assert!(matches!(b2.credentials, Credentials::Keys { .. }));
    assert!(matches!(wasabi.credentials, Credentials::Ambient));
}

#[test]
fn a_provider_is_known_by_its_endpoint_and_the_configuration_overrides_it() {
    let config = Case::of(LEAST).config();
    assert_eq!(config.replicas.iter().map(|r| r.provider).collect::<Vec<_>>(), [Provider::Generic, Provider::Wasabi]);
    assert_eq!(config.replicas[0].facts, StoreOverrides::default());
    let told = "credentials = \"ambient\"\nprovider = \"garage\"\nmax_parts = 900\nmax_put = \"100MiB\"\n\
                max_object = \"5TB\"\nmax_key_bytes = 960\nchecks_md5 = false\nmd5_etags = true\n\
                altered_metadata = \"accept\"\n\
                max_connections = 8";
    let config = Case::least_with("credentials = \"ambient\"", told).config();
    let wasabi = &config.replicas[1];
    assert_eq!(wasabi.provider, Provider::Garage);
    let facts = StoreOverrides {
        max_parts: Some(900),
        max_put_bytes: Some(100 << 20),
        max_object_bytes: Some(5_000_000_000_000),
        max_key_bytes: Some(960),
        checks_md5: Some(false),
        md5_etags: Some(true),
        accepts_altered_metadata: Some(true),
        max_connections: Some(8),
    };
    assert_eq!(wasabi.facts, facts);
}

#[test]
fn a_private_authority_beside_the_configuration_is_trusted_and_shown() {
    let text = LEAST.replacen("bucket = \"photos\"", "bucket = \"photos\"\nca_file = \"ca.pem\"", 1);
    let config = Case::of(text).file("ca.pem", include_str!("../../../tests/it/tls/ca.pem")).config();
    assert!(config.replicas[0].trust.ca_file().is_some_and(|path| path.ends_with("/ca.pem")));
    assert!(config.to_string().contains("/ca.pem\""), "{config}");
    assert_eq!(config.replicas[1].trust.ca_file(), None);
}

#[test]
fn unregistered_changes_are_copied_by_default() {
    assert_eq!(Case::of(LEAST).config().guard.changed, UnregisteredChanges::Copy);
    for (word, changed) in UnregisteredChanges::ALL {
        let config = Case::least_and(&format!("[guard]\nchanged = \"{word}\"")).config();
        assert_eq!((config.guard.changed, changed.as_str()), (changed, word));
    }
}

/// The example shows each setting, set or commented out, and no other.
#[test]
fn the_commented_example_names_every_setting_and_only_these() {
    let text = include_str!("../../../config/copyhold.toml");
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.split_once(" = ").is_some_and(|(key, _)| is_key(key)) => setting,
            Some(section) if section.starts_with("[[") => section,
            _ => line,
        })
        // Alternatives that exclude what the example sets, and a file that must be there.
        .filter(|line| !["credentials", "password_file", "ca_file"].iter().any(|name| line.starts_with(name)))
        .collect();
    let mut case = Case::of(uncommented.join("\n"));
    for name in text.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        case = case.env(name, "a-value-of-some-length");
    }
    case.config();
    let shown: BTreeSet<&str> = text.lines().map(|line| line.trim_start_matches("# ")).filter_map(key_of).collect();
    let known = [
        "primary",
        "url",
        "listen_url",
        "password_file",
        "schema",
        "wakeup",
        "insecure",
        "endpoint",
        "region",
        "bucket",
        "path_style",
        "access_key_id",
        "secret_access_key",
        "credentials",
        "existing",
        "read",
        "storage_class",
        "provider",
        "max_parts",
        "max_put",
        "max_object",
        "max_key_bytes",
        "checks_md5",
        "md5_etags",
        "altered_metadata",
        "max_connections",
        "ca_file",
        "prefix",
        "min_size",
        "max_size",
        "replicas",
        "count",
        "reserved",
        "memory",
        "timeout",
        "heartbeat",
        "changed",
        "every",
        "kinds",
        "keep_for",
        "keep_bytes",
        "buffer",
        "readers",
        "grace",
        "listen",
        "token",
        "format",
        "level",
    ];
    assert_eq!(shown, BTreeSet::from(known));
}

fn key_of(line: &str) -> Option<&str> {
    line.split_once(" = ").map(|(key, _)| key).filter(|key| is_key(key))
}

fn is_key(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
