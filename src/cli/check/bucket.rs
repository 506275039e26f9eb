//! Checks one replica's store: access, the contents of the bucket, paths, clock.
//!
//! It draws no conclusion from what only the database can tell while that does not answer.

use std::time::Duration;

use copyhold_db::pin::Pin;
use copyhold_db::replica::ReplicaRow;
use copyhold_s3::store::Store;

use super::{
    clock::Exchange,
    finding::{Finding, Outcome, finding},
};
use crate::config::ReplicaSettings;

/// Whether what the bucket holds has a place in the configuration.
pub(super) const HOLDS: &str = "holds";
const NOT_KNOWN: &str = "cannot be said while PostgreSQL does not answer";

/// What the database has on record of a replica.
#[derive(Debug, Clone, Copy)]
pub(super) struct BucketFacts<'a> {
    /// The database answers; else nothing is known.
    pub(super) database: bool,
    pub(super) row: Option<&'a ReplicaRow>,
    /// It is the primary in force, or by the configuration while the database does not answer.
    pub(super) primary: bool,
}

/// How long a store may take with each answer: one that hangs must not keep the other findings.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Read access by a listing of one key, write access by a multipart upload that is begun and aborted.
pub(super) async fn check(replica: &ReplicaSettings, known: BucketFacts<'_>) -> Vec<Finding> {
    let of = replica.name.as_str();
    let pin = known.row.and_then(|row| row.pin.as_ref());
    if let Some(why) = pin.and_then(|pin| pin.forbids(&Pin::from(replica), &replica.name)) {
        return vec![finding(of, "bucket", Err(why))];
    }
    let store = match Store::connect(&replica.into(), 1).await {
        Ok(store) => store,
        Err(error) => return vec![finding(of, "connect", Err(error.to_string()))],
    };
    let mut findings = Vec::new();
    let through = |proxy| finding(of, "proxy", Ok(format!("requests go through the proxy {proxy}")));
    findings.extend(store.proxy().map(through));
    if let Err(NoAnswer { what }) = look(replica, &store, known, &mut findings).await {
        let says = format!(
            "no answer from {} within {} s: is endpoint right, and does something on the way swallow requests?",
            replica.endpoint,
            ANSWER_WITHIN.as_secs()
        );
        findings.push(finding(of, what, Err(says)));
    }
    findings.extend(hint(replica, &store).map(|hint| finding(of, "class", Ok(hint))));
    findings
}

/// What was asked of a store that does not answer.
#[derive(Debug)]
struct NoAnswer {
    what: &'static str,
}

async fn within<T>(what: &'static str, answer: impl Future<Output = T>) -> Result<T, NoAnswer> {
    tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(|_| NoAnswer { what })
}

/// Sends one request after the other, until one is not answered.
async fn look(
    replica: &ReplicaSettings,
    store: &Store,
    known: BucketFacts<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), NoAnswer> {
    let of = replica.name.as_str();
    let (first, exchange) = within("list", Exchange::of(store.first_key_and_date())).await?;
    let (first, date) = match first {
        Ok(first) => first,
        Err(error) => {
            findings.push(finding(of, "list", Err(error.to_string())));
            return Ok(());
        }
    };
    findings.push(holds(replica, first.is_some(), known));
    findings.extend(date.and_then(|date| exchange.warning(of, date)));
    findings.push(within("write", write(replica, store, known)).await?);
    if let Err(error) = within("paths", store.check_paths()).await? {
        // Nothing is wrong with other keys, and many applications have no such.
        findings.push(finding(of, "paths", Ok(format!("objects with odd keys will be parked: {error}"))));
    }
    Ok(())
}

async fn write(replica: &ReplicaSettings, store: &Store, known: BucketFacts<'_>) -> Finding {
    let of = replica.name.as_str();
    match store.check_write().await {
        Ok(()) => finding(of, "write", Ok("a multipart upload was begun and aborted".into())),
        Err(error) if known.primary && !known.database => {
            let says = format!("not allowed; whether something is to be written there {NOT_KNOWN} ({error})");
            Finding::new(of, "write", Outcome::Unknown, says)
        }
        // Nothing needs to be written to a primary that lacks nothing.
        Err(error) if known.primary => {
            finding(of, "write", Ok(format!("not allowed, which a primary that lacks nothing does not need ({error})")))
        }
        Err(error) => finding(of, "write", Err(error.to_string())),
    }
}

/// Nothing is wrong with such a replica, but each attempt to read from it fails.
fn hint(replica: &ReplicaSettings, store: &Store) -> Option<String> {
    let class = replica.storage_class.as_deref().filter(|class| replica.read && store.profile().is_cold(class))?;
    Some(format!("{class} must be restored before it can be read: say read = false in [replicas.{}]", replica.name))
}

fn holds(replica: &ReplicaSettings, something: bool, known: BucketFacts<'_>) -> Finding {
    let of = replica.name.as_str();
    let in_use = known.row.is_some_and(|row| row.admission.is_some());
    let result = match (something, known.database, replica.existing) {
        (false, _, _) => Ok("the bucket is empty".into()),
        (true, false, _) => {
            let says = format!("the bucket holds data; whether it may {NOT_KNOWN}");
            return Finding::new(of, HOLDS, Outcome::Unknown, says);
        }
        (true, _, _) if in_use => Ok("the bucket is in use by Copyhold".into()),
        (true, _, _) if known.primary => Ok("the bucket holds data".into()),
        (true, _, Some(existing)) => {
            Ok(format!("the bucket holds data, existing = \"{}\" says what to do with it", existing.as_str()))
        }
        (true, _, None) => Err(format!(
            "the bucket already holds data: say existing = \"adopt\" or \"overwrite\" in [replicas.{}]",
            replica.name
        )),
    };
    finding(of, HOLDS, result)
}
