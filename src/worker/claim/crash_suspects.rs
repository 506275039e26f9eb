//! Admits objects whose holders died twice in a row one at a time.

use std::{sync::Arc, time::Duration};

use copyhold_core::domain::Lease;
use rand::RngExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Holders in a row that died with an object before it is suspected to be the cause.
const SUSPECTED_FROM: u32 = 2;

/// How long a suspect is deferred while another one is worked on, in seconds. Spread wide: however many there are, they
/// come back one after the other, and a long copy of one costs the others a few updates a second.
const REST: std::ops::Range<f64> = 2.0..10.0;

/// Objects whose holders died twice in a row: only one of them at a time is worked on. If it crashes this process, only
/// that one is counted again. Objects that were merely under way during the crash complete one by one.
#[derive(Debug, Clone)]
pub(super) struct CrashSuspects(Arc<Semaphore>);

/// Whether an object may be worked on now.
#[derive(Debug)]
pub(super) enum SuspectAdmission {
    /// It may; a suspect holds the permit meanwhile.
    Admitted(Option<OwnedSemaphorePermit>),
    /// It is to be deferred for so long: another suspect is under way.
    Deferred(Duration),
}

impl CrashSuspects {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    pub(super) fn admit(&self, lease: &Lease) -> SuspectAdmission {
        if lease.swept.is_none_or(|times| times < SUSPECTED_FROM) {
            return SuspectAdmission::Admitted(None);
        }
        match Arc::clone(&self.0).try_acquire_owned() {
            Ok(permit) => SuspectAdmission::Admitted(Some(permit)),
            Err(_) => SuspectAdmission::Deferred(Duration::from_secs_f64(rand::rng().random_range(REST))),
        }
    }
}
