//! Sends a store a simple request: a listing or, where that is refused, HEAD for objects that are recorded there.
//! Writes nothing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use copyhold_core::domain::{FailureClass, FailureScope, ObjectKey, PingResult, ReplicaName};
use copyhold_db::Breakers;
use copyhold_s3::store::{Reason, Store, StoreError};
use tracing::warn;

use crate::metrics;

/// How long a store may take to answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How much of an object is read to see whether it can be.
const READS_BYTES: u64 = 64 << 10;

/// Asks for a listing and, where the store refuses that, for objects that are recorded there. `lists`: whether its
/// bucket was ever listed.
pub(super) async fn ask(breakers: &Breakers, replica: &ReplicaName, store: &Store, lists: &AtomicBool) -> PingResult {
    let listed = list(store, lists).await;
    let PingResult::Fails(class) = listed else { return listed };
    if class == FailureClass::Throttled {
        return listed;
    }
    let keys = breakers.recorded_keys(replica).await.unwrap_or_else(|error| {
        metrics::database_error("replica::recorded_keys");
        warn!(replica.id = %replica, error = %error, "Could not query objects that are recorded at {replica}");
        Vec::new()
    });
    for key in &keys {
        match head(store, key).await {
            PingResult::Answers => return PingResult::Answers,
            // For the others it would not answer either.
            PingResult::Unreachable => return PingResult::Unreachable,
            PingResult::Fails(_) => {}
        }
    }
    // Nothing shows that listing is more than a right that we never had.
    let never_had = keys.is_empty() && class == FailureClass::Denied && !lists.load(Ordering::Relaxed);
    if never_had { PingResult::Answers } else { listed }
}

/// Asks for a listing.
pub(super) async fn list(store: &Store, lists: &AtomicBool) -> PingResult {
    let listed = within(ANSWER_WITHIN, store.check_list()).await;
    if listed == PingResult::Answers {
        lists.store(true, Ordering::Relaxed);
    }
    listed
}

async fn head(store: &Store, key: &ObjectKey) -> PingResult {
    within(ANSWER_WITHIN, store.head(key)).await
}

/// Reads the beginning of an object. `None`: the result is no evidence about the store.
pub(super) async fn read(store: &Store, key: &ObjectKey) -> Option<bool> {
    let read = async {
        let mut get = store.get(key, Some(0..READS_BYTES), None).await?;
        while get.body.next().await?.is_some() {}
        Ok::<_, StoreError>(())
    };
    match tokio::time::timeout(ANSWER_WITHIN, read).await {
        Ok(Ok(())) => Some(true),
        // It is empty.
        Ok(Err(error)) if error.reason() == Reason::OutsideRange => Some(true),
        Ok(Err(error)) if error.scope() == FailureScope::Object => None,
        Ok(Err(_)) | Err(_) => Some(false),
    }
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, StoreError>>) -> PingResult {
    match tokio::time::timeout(limit, asked).await {
        Err(_) => PingResult::Unreachable,
        Ok(Err(error)) if error.is_unanswered() => PingResult::Unreachable,
        Ok(Err(error)) if error.class().may_be_of_the_store() || error.scope() != FailureScope::Object => {
            PingResult::Fails(error.class())
        }
        // An answer, even if it is not always a success.
        Ok(_) => PingResult::Answers,
    }
}
