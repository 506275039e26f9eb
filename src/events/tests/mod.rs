//! Tailer, ring, pages and readers together, on a log in memory and a clock that is not waited for.

mod ends;
mod model;
mod places;
mod property;
mod waiting;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Batch, Cursor, End, Filter, Log, Next, Reader, Settings, Start, open_on};
use crate::wakeup::wake_channel::{self, WakeSender};
use model::Model;

const SETTINGS: Settings = Settings { buffer_bytes: 16 << 20, readers: 2000, poll: Duration::from_secs(5) };

/// A log that is followed.
struct Followed {
    model: Model,
    log: Log,
    waker: WakeSender,
    stop: CancellationToken,
    tailer: JoinHandle<()>,
}

impl Followed {
    fn new() -> Self {
        Self::of(Model::default(), SETTINGS)
    }

    fn of(model: Model, settings: Settings) -> Self {
        let (waker, wake) = wake_channel::channel();
        let (log, tailer) = open_on(Arc::new(model.clone()), settings, wake);
        let stop = CancellationToken::new();
        let tailer = tokio::spawn(tailer.run(stop.clone()));
        Self { model, log, waker, stop, tailer }
    }

    /// With a ring that has seen the log as it is.
    async fn begun(model: Model, settings: Settings) -> (Self, Reader) {
        let followed = Self::of(model, settings);
        let mut reader = followed.reader(Start::Now);
        assert!(reader.begin().await.is_ok());
        (followed, reader)
    }

    fn reader(&self, start: Start) -> Reader {
        self.log.reader(start, Filter::default()).unwrap()
    }

    /// Appends and notifies; returns the last event's id.
    fn append(&self, gap: i64, count: i64) -> i64 {
        let last = self.model.append(gap, count);
        self.waker.wake();
        last
    }

    /// Waits until the ring has everything.
    async fn settle(&self) {
        self.waker.wake();
        let last = self.model.state().last;
        let mut positions = self.log.0.positions.subscribe();
        positions.wait_for(|position| position.is_some_and(|position| position.head == last)).await.unwrap();
    }

    fn pages(&self) -> usize {
        self.model.state().pages
    }

    async fn end(self) {
        self.stop.cancel();
        self.tailer.await.unwrap();
    }
}

fn after(id: i64) -> Start {
    Start::After(Cursor { id, epoch: None })
}

/// Returns the next events; skips all other messages before them.
async fn batch(reader: &mut Reader) -> Batch {
    loop {
        match reader.next().await {
            Next::Events(batch) => break batch,
            Next::Quiet | Next::Bookmark(_) => {}
            Next::End(end) => panic!("the reader ends: {end:?}"),
        }
    }
}

/// All events until nothing has come for a while, or why there are no more.
async fn drain(reader: &mut Reader) -> (Vec<i64>, Option<End>) {
    let mut ids = Vec::new();
    loop {
        match reader.next().await {
            Next::Events(batch) => ids.extend(batch.ids()),
            Next::Bookmark(_) => {}
            Next::Quiet => break (ids, None),
            Next::End(end) => break (ids, Some(end)),
        }
    }
}
