//! Tracks whether the requests of one copy move bytes, so that the worker detects a copy that is stuck.
//! It decides nothing.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use copyhold_core::domain::ObjectKey;

use super::adaptive_limit::Prefixes;

/// A request that has moved no byte for this long counts as stuck: another request could use its slot.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// The activity of the copy that the running task works on.
    static CURRENT: Activity;
}

/// The most prefixes of a key that are distinguished.
const LEVELS: usize = 8;
/// Prefixes end in front of these characters.
const DELIMITERS: [char; 3] = ['/', '-', '_'];

/// Returns the prefixes of an object's key, the shortest first: stores throttle by prefix.
pub(super) fn prefixes_of(key: &ObjectKey) -> Prefixes {
    let ends = key.as_str().match_indices(DELIMITERS).map(|(at, _)| at).take(LEVELS);
    let prefix = |end: usize| {
        let mut hasher = DefaultHasher::new();
        key.as_str()[..end].hash(&mut hasher);
        hasher.finish()
    };
    ends.map(prefix).collect()
}

/// The requests of one copy. Clones share one state.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: u64,
    prefixes: Prefixes,
    /// Requests that wait for their store.
    waiting: AtomicUsize,
    moved_at: Mutex<Instant>,
}

/// A request that waits for its store.
#[derive(Debug)]
pub struct Request(Option<Activity>);

impl Activity {
    #[must_use]
    pub fn of(key: &ObjectKey) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let moved_at = Mutex::new(Instant::now());
        Self(Arc::new(Inner {
            object: hasher.finish(),
            prefixes: prefixes_of(key),
            waiting: AtomicUsize::new(0),
            moved_at,
        }))
    }

    /// Runs `work`, whose requests count as this copy's. Tasks that it spawns must be [`within_current`].
    pub async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self.clone(), work).await
    }

    /// Returns since when the requests under way have moved no byte; `None`: no request is under way.
    #[must_use]
    pub fn still_since(&self) -> Option<Instant> {
        (self.0.waiting.load(Ordering::Relaxed) > 0).then(|| *self.moved_at())
    }

    /// Begins a request, which waits for its store until it is dropped.
    #[must_use]
    pub fn begin_request(&self) -> Request {
        Request::of(Some(self))
    }

    pub(super) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Returns a number that distinguishes objects.
    pub(super) fn object(&self) -> u64 {
        self.0.object
    }

    /// Returns the prefixes of the object's key.
    pub(super) fn prefixes(&self) -> &Prefixes {
        &self.0.prefixes
    }

    pub(super) fn moved(&self) {
        *self.moved_at() = Instant::now();
    }

    /// A poisoned lock is usable: no step under it leaves the value inconsistent.
    fn moved_at(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.0.moved_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    /// Begins a request, which ends when it is dropped.
    pub(super) fn of(activity: Option<&Activity>) -> Self {
        if let Some(activity) = activity {
            activity.moved();
            activity.0.waiting.fetch_add(1, Ordering::Relaxed);
        }
        Self(activity.cloned())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(activity) = &self.0 {
            activity.0.waiting.fetch_sub(1, Ordering::Relaxed);
            activity.moved();
        }
    }
}

/// Makes `work` part of the caller's copy, wherever it is spawned.
pub fn within_current<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let current = Activity::current();
    async move {
        match current {
            Some(current) => current.watch(work).await,
            None => work.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_stands_still_only_while_a_request_waits_for_its_store() {
        let activity = Activity::of(&ObjectKey::new("k").unwrap());
        assert_eq!(activity.still_since(), None, "it waits for nothing but us");
        activity
            .watch(async {
                let request = Request::of(Activity::current().as_ref());
                let since = activity.still_since().unwrap();
                activity.moved();
                assert!(activity.still_since().unwrap() >= since);
                drop(request);
                assert_eq!(activity.still_since(), None);
                let spawned = tokio::spawn(within_current(async { Activity::current().map(|a| a.object()) }));
                assert_eq!(spawned.await.unwrap(), Some(activity.object()));
            })
            .await;
        assert!(Activity::current().is_none());
    }
}
