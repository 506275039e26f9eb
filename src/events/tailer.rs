//! Reads what is new in the log, for all readers of this process at once.

use std::{sync::Arc, time::Duration};

use copyhold_db::{DatabaseError, log::LogHead};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Shared, chunk::Chunk, log_position::LogPosition};
use crate::{metrics, wakeup::wake_channel::WakeReceiver};

/// Of one query.
const BYTES: i64 = 1 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// Between two queries: many commits are one look.
const TICK: Duration = Duration::from_millis(20);
/// After the last reader has left: most come back.
const LINGER: Duration = Duration::from_secs(30);
/// Between two checks of which log this is, however many readers doubt it.
const DOUBT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The one task that fills the ring.
#[derive(Debug)]
pub struct Tailer {
    shared: Arc<Shared>,
    poll: Duration,
    wake: WakeReceiver,
    /// What it saw last, also before it slept: a log that is shorter now is another one.
    known: Option<LogPosition>,
    unsure: bool,
    blind: bool,
}

impl Tailer {
    pub(super) fn new(shared: Arc<Shared>, poll: Duration, wake: WakeReceiver) -> Self {
        Self { shared, poll, wake, known: None, unsure: false, blind: false }
    }

    /// Runs until `drain`. Sends no statement while there is no reader.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut readers = self.shared.readers.subscribe();
        loop {
            tokio::select! {
                () = drain.cancelled() => break,
                // Cannot fail: the sender is in what we hold ourselves.
                _ = readers.wait_for(|readers| *readers > 0) => {}
            }
            tokio::select! {
                () = drain.cancelled() => break,
                () = self.tail() => {}
            }
            // The next reader waits until the log is read again.
            self.shared.positions.send_replace(None);
            self.shared.ring.write().expect("nothing panics under it").end();
            metrics::event_ring_bytes(0);
        }
    }

    /// Ends when there has been no reader for a while.
    async fn tail(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut failures = 0;
        // When it was found out last which log this is; `None`: it must be.
        let mut begun: Option<Instant> = None;
        let mut doubted = false;
        let mut empty: Option<Instant> = None;
        loop {
            if doubted && begun.is_some_and(|begun| begun.elapsed() >= DOUBT) {
                begun = None;
            }
            self.wake.arm();
            let looked = Instant::now();
            let look = shared.rounds.begin();
            let done = if begun.is_some() { self.catch_up().await } else { self.begin().await };
            match done {
                Ok(()) => {
                    shared.rounds.end(look);
                    if failures > 0 {
                        info!("The event log can be read again");
                    }
                    failures = 0;
                    if begun.is_none() {
                        (begun, doubted) = (Some(looked), false);
                    }
                    sleep_until(looked + TICK).await;
                }
                Err(error) => {
                    metrics::database_error("log_tail");
                    if failures == 0 {
                        warn!(error = %error, "Cannot read the event log; readers wait");
                    }
                    // Whatever answers next may be another server.
                    begun = None;
                    let pause = (FIRST_PAUSE * 2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
                    failures += 1;
                    // A notification is no evidence about a server that does not answer.
                    sleep_until(looked + pause).await;
                    continue;
                }
            }
            if *shared.readers.borrow() > 0 {
                empty = None;
            } else if empty.get_or_insert(looked).elapsed() >= LINGER {
                return;
            }
            let identify = begun.map_or(looked, |begun| begun + DOUBT);
            tokio::select! {
                _ = self.wake.wait(self.poll) => {}
                () = shared.rounds.requested() => {}
                () = shared.doubt.notified(), if !doubted => doubted = true,
                () = sleep_until(identify), if doubted => {}
            }
        }
    }

    /// Finds out which log this is, and continues with it or begins again.
    async fn begin(&mut self) -> Result<(), DatabaseError> {
        let mut head = self.shared.source.head().await?;
        if !head.sure && !std::mem::replace(&mut self.unsure, true) {
            warn!(
                "This role may not execute pg_control_system(): readers will not notice when they read a copy of the \
                 database on another server"
            );
        }
        if !head.sees_failover && !std::mem::replace(&mut self.blind, true) {
            warn!(
                "This role cannot find out which timeline PostgreSQL writes (pg_walfile_name, pg_current_wal_lsn): after a \
                 failover that lost commits, run `copyhold events new-epoch` before daemons are started"
            );
        }
        if let Some(known) = self.known
            && known.epoch == head.epoch
            && head.mark.last < known.head
        {
            head = self.next_round(known, head).await?;
        }
        let position = LogPosition {
            epoch: head.epoch,
            incarnation: head.mark.incarnation,
            head: head.mark.last,
            dropped_through: head.mark.dropped_through,
        };
        let current = *self.shared.positions.borrow();
        if current.is_some_and(|current| current.epoch == position.epoch) {
            return self.catch_up().await;
        }
        self.shared.ring.write().expect("nothing panics under it").begin(position.epoch, position.head);
        self.show(position);
        Ok(())
    }

    /// The log ends before what was read from it: events that readers have seen are not there any more, and their ids
    /// will be given to others.
    async fn next_round(&self, known: LogPosition, head: LogHead) -> Result<LogHead, DatabaseError> {
        error!(
            seen = known.head,
            found = head.mark.last,
            "The event log ends at {}, and was read up to {} before: the database was restored, or has lost commits. Readers \
             are told that this is another log",
            head.mark.last,
            known.head
        );
        // Of all daemons one does it.
        self.shared.source.raise_incarnation(head.mark.incarnation).await?;
        self.shared.source.head().await
    }

    /// Reads until there is nothing more.
    async fn catch_up(&mut self) -> Result<(), DatabaseError> {
        loop {
            // Cannot fail: it was begun.
            let position = self.known.expect("a log that was begun");
            let part = self.shared.source.tail(position.head, BYTES).await?;
            if !part.mark.is_of(position.incarnation) || part.mark.last < position.head {
                return Box::pin(self.begin()).await;
            }
            let chunks = Chunk::build(part.events, position.epoch, CHUNK_BYTES);
            {
                let mut ring = self.shared.ring.write().expect("nothing panics under it");
                if part.mark.dropped_through > position.head {
                    // Dropped before it was read here: what the ring has does not reach to what comes next.
                    ring.begin(position.epoch, part.mark.dropped_through);
                }
                ring.push(chunks, part.through);
                metrics::event_ring_bytes(ring.bytes());
            }
            self.show(LogPosition { head: part.through, dropped_through: part.mark.dropped_through, ..position });
            if part.through >= part.mark.last {
                return Ok(());
            }
        }
    }

    /// Tells the readers, after the ring has it.
    fn show(&mut self, position: LogPosition) {
        self.known = Some(position);
        self.shared.positions.send_if_modified(|shown| {
            let new = *shown != Some(position);
            *shown = Some(position);
            new
        });
    }
}
