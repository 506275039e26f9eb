//! Numbers the looks of the tailer, so that a reader can wait for a later one.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{error::Elapsed, timeout},
};

/// The tailer's looks into the log, numbered, so that a reader can wait for one that begins later.
#[derive(Debug)]
pub(super) struct PollRounds {
    begun: AtomicU64,
    /// The last that has ended.
    done: watch::Sender<u64>,
    wanted: Notify,
}

impl PollRounds {
    pub(super) fn none() -> Self {
        Self { begun: AtomicU64::new(0), done: watch::Sender::new(0), wanted: Notify::new() }
    }

    /// Before the database is asked.
    pub(super) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// After the ring has what was found.
    pub(super) fn end(&self, look: u64) {
        self.done.send_replace(look);
    }

    /// Returns when a reader waits for another round.
    pub(super) async fn requested(&self) {
        self.wanted.notified().await;
    }

    /// Returns when one has ended that began after this was called: what was committed before that, the ring has.
    pub(super) async fn next_round(&self, within: Duration) -> Result<(), Elapsed> {
        let mut done = self.done.subscribe();
        let so_far = self.begun.load(Ordering::Relaxed);
        self.wanted.notify_one();
        // Cannot fail: the sender is in what we hold ourselves.
        timeout(within, done.wait_for(|done| *done > so_far)).await.map(|_| ())
    }
}
