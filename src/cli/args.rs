//! Checks the arguments of commands, and reports all that is wrong at once.

use std::{collections::BTreeSet, num::NonZeroUsize, time::Duration};

use anyhow::bail;
use copyhold_core::domain::{ObjectKey, ReplicaName};
use copyhold_db::replica::ReplicaRow;

use crate::config::Config;

/// A number from 1 to `MOST`.
pub(super) fn up_to<const MOST: usize>(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= MOST);
    number.ok_or_else(|| format!("a number from 1 to {MOST}"))
}

/// A length of time.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write a number with its unit, like 90s, 5m or 2h 15m".to_owned())
}

/// The replica of that name in the configuration; `place` names where the name was given.
pub(super) fn replica(config: &Config, place: &str, name: &str) -> anyhow::Result<ReplicaName> {
    if let Some(known) = config.replicas.iter().find(|r| r.name.as_str() == name) {
        return Ok(known.name.clone());
    }
    let names: Vec<_> = config.replicas.iter().map(|r| r.name.as_str()).collect();
    bail!("{place}there is no replica \"{}\"; the configuration has {}", name.escape_default(), names.join(", "))
}

/// The replica of that name in the database, whatever the configuration has.
pub(super) fn row<'r>(rows: &'r [ReplicaRow], name: &str) -> anyhow::Result<&'r ReplicaRow> {
    if let Some(known) = rows.iter().find(|row| row.name.as_str() == name) {
        return Ok(known);
    }
    let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
    bail!("there is no replica \"{}\"; the database has {}", name.escape_default(), names.join(", "))
}

/// The named replica alone, or all.
pub(super) fn replica_or_all(config: &Config, name: Option<&str>) -> anyhow::Result<Vec<ReplicaName>> {
    match name {
        Some(name) => Ok(vec![replica(config, "--replica: ", name)?]),
        None => Ok(config.replicas.iter().map(|r| r.name.clone()).collect()),
    }
}

/// Reports all invalid keys at once; then nothing is done, and `undone` names what was left undone.
pub(super) fn keys(keys: Vec<String>, undone: &str) -> anyhow::Result<Vec<ObjectKey>> {
    numbered_keys((1..).zip(keys), "key", undone)
}

/// The same of keys that have numbers, of `what`.
pub(super) fn numbered_keys(
    keys: impl IntoIterator<Item = (u64, String)>,
    what: &str,
    undone: &str,
) -> anyhow::Result<Vec<ObjectKey>> {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for (number, key) in keys {
        match ObjectKey::new(key) {
            Ok(key) => good.push(key),
            Err(why) => bad.push(format!("{what} {number}: {why}")),
        }
    }
    if bad.is_empty() {
        return Ok(good);
    }
    let more = bad.len().saturating_sub(10);
    bad.truncate(10);
    if more > 0 {
        bad.push(format!("and {more} more"));
    }
    bail!("{undone}: {}", bad.join("; "))
}

/// As [`keys`], each once.
pub(super) fn distinct_keys(given: Vec<String>, undone: &str) -> anyhow::Result<Vec<ObjectKey>> {
    Ok(keys(given, undone)?.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
}

/// The error for a replica of the configuration that the database does not know.
pub(super) fn not_migrated(replica: &ReplicaName) -> String {
    format!("the database does not know replica {replica} yet; run `copyhold migrate`")
}

/// The error for a key that has no row.
pub(super) fn not_registered(key: &ObjectKey) -> anyhow::Error {
    anyhow::anyhow!(
        "\"{key}\" is not registered; is it spelt right? `copyhold enqueue KEY` registers what is at the primary"
    )
}

/// Requests per second.
pub(super) fn per_second(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n| (0.01..=10_000.0).contains(n));
    number.ok_or_else(|| "a number from 0.01 to 10000".to_owned())
}
