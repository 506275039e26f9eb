//! A log in memory that answers as the database does, for tests.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use copyhold_core::domain::Epoch;
use copyhold_db::{
    DatabaseError,
    log::{LogHead, LogMark, LogPart, LoggedEvent},
};
use futures::future::{BoxFuture, FutureExt as _};
use tokio::time::sleep;

use super::super::{chunk::tests::event, source::Source};

/// A log in memory, which answers as the database does.
#[derive(Debug, Clone, Default)]
pub(super) struct Model(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    /// All that are left, in order.
    pub(super) events: Vec<LoggedEvent>,
    /// Of all that were ever appended.
    pub(super) last: i64,
    pub(super) dropped_through: i64,
    pub(super) incarnation: i32,
    /// Another server answers, and nobody has raised the incarnation for it.
    pub(super) failed_over: bool,
    /// It does not answer.
    pub(super) away: bool,
    /// Questions so far.
    pub(super) heads: usize,
    pub(super) tails: usize,
    pub(super) pages: usize,
}

impl Model {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Appends so many, whose first id leaves out `gap` of them; the last one's id.
    pub(super) fn append(&self, gap: i64, count: i64) -> i64 {
        self.append_all(gap, (0..count).map(|n| event(0, &format!(r#"{{"n": {n}}}"#))))
    }

    pub(super) fn append_all(&self, gap: i64, events: impl IntoIterator<Item = LoggedEvent>) -> i64 {
        let mut state = self.state();
        state.last += gap;
        for event in events {
            state.last += 1;
            let id = state.last;
            state.events.push(LoggedEvent { id, ..event });
        }
        state.last = state.events.last().map_or(state.dropped_through, |event| event.id);
        state.last
    }

    /// Another server answers from now on, which lacks what came behind `id`.
    pub(super) fn fail_over_to(&self, id: i64) {
        let mut state = self.state();
        state.events.retain(|event| event.id <= id);
        state.last = id;
        state.failed_over = true;
    }

    /// Drops all up to and with `through`.
    pub(super) fn drop_through(&self, through: i64) {
        let mut state = self.state();
        if let Some(dropped) = state.events.iter().rfind(|event| event.id <= through).map(|event| event.id) {
            state.dropped_through = dropped;
            state.events.retain(|event| event.id > dropped);
        }
    }

    pub(super) fn ids_behind(&self, id: i64) -> Vec<i64> {
        self.state().events.iter().map(|event| event.id).filter(|other| *other > id).collect()
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(u32::try_from(self.state().incarnation).unwrap())
    }
}

impl State {
    fn answers(&self, statement: &'static str) -> Result<LogMark, DatabaseError> {
        if self.away {
            return Err(DatabaseError::Inconsistent { statement, what: "nothing, it is away".into() });
        }
        let Self { incarnation, last, dropped_through, .. } = *self;
        Ok(LogMark { incarnation, is_in_force: !self.failed_over, last, dropped_through })
    }

    fn part(&self, mark: LogMark, from: i64, end: i64, most: i64, most_bytes: i64) -> LogPart {
        let mut found = self.events.iter().filter(|event| event.id >= from && event.id < end).peekable();
        let next = self.events.iter().find(|event| event.id >= end).map(|event| event.id);
        let mut events: Vec<LoggedEvent> = Vec::new();
        let mut bytes = 0;
        while i64::try_from(events.len()).unwrap() < most
            && bytes < most_bytes
            && let Some(event) = found.next()
        {
            bytes += i64::try_from(event.data.len()).unwrap();
            events.push(event.clone());
        }
        let through = match events.last() {
            Some(last) if found.peek().is_some() => last.id,
            _ => next.map_or(mark.last, |next| next - 1),
        };
        LogPart { mark, events, through }
    }
}

/// As over a wire: another task may run before and after.
async fn elsewhere<T>(ask: impl FnOnce() -> T + Send) -> T {
    tokio::task::yield_now().await;
    let answer = ask();
    tokio::task::yield_now().await;
    answer
}

impl Source for Model {
    fn head(&self) -> BoxFuture<'_, Result<LogHead, DatabaseError>> {
        elsewhere(|| {
            let mut state = self.state();
            state.heads += 1;
            state.answers("head")?;
            if std::mem::take(&mut state.failed_over) {
                state.incarnation += 1;
            }
            let mark = state.answers("head")?;
            let epoch = Epoch(mark.incarnation.cast_unsigned());
            Ok(LogHead { epoch, sure: true, sees_failover: true, mark })
        })
        .boxed()
    }

    fn tail(&self, after: i64, most_bytes: i64) -> BoxFuture<'_, Result<LogPart, DatabaseError>> {
        elsewhere(move || {
            let mut state = self.state();
            state.tails += 1;
            let mark = state.answers("tail")?;
            Ok(state.part(mark, after + 1, i64::MAX, 1000, most_bytes))
        })
        .boxed()
    }

    fn page(&self, from: i64, end: i64, most_bytes: i64) -> BoxFuture<'_, Result<LogPart, DatabaseError>> {
        // Readers meet because a page takes its time.
        sleep(Duration::from_millis(5))
            .then(move |()| {
                elsewhere(move || {
                    let mut state = self.state();
                    state.pages += 1;
                    let mark = state.answers("page")?;
                    Ok(state.part(mark, from, end, end - from, most_bytes))
                })
            })
            .boxed()
    }

    fn raise_incarnation(&self, seen: i32) -> BoxFuture<'_, Result<bool, DatabaseError>> {
        elsewhere(move || {
            let mut state = self.state();
            state.answers("raise")?;
            let raise = state.incarnation == seen;
            state.incarnation += i32::from(raise);
            Ok(raise)
        })
        .boxed()
    }
}
