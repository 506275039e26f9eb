//! Tests the event log for gaps: writers sleep before they commit, readers reconnect and fall behind. Each reader must
//! get every event once and in order.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use copyhold::events::{Filter, Log, Next, Reader, Start};
use copyhold_core::domain::Cursor;
use rand::RngExt as _;
use sqlx::PgPool;
use tokio::{
    sync::{Barrier, watch},
    task::JoinSet,
};

/// The options of a run.
#[derive(Debug, Clone)]
pub struct GapTest {
    pub writers: usize,
    pub readers: usize,
    /// The least number of events.
    pub events: i64,
    /// The events of one transaction.
    pub append: RangeInclusive<i64>,
    /// The sleep between an append and its commit, in ms.
    pub sleep: RangeInclusive<u64>,
    /// One of this many batches of a reader is followed by a new connection, and one by a pause of up to `pause`.
    pub leave: u32,
    pub pause: Duration,
}

/// The result of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GapReport {
    pub events: i64,
    /// The sum of all readers.
    pub missed: i64,
    pub twice_or_out_of_order: i64,
    /// Readers that got the right number of events, but not the ones in the log.
    pub wrong: usize,
    pub reconnections: u64,
}

/// The events that a reader has received.
#[derive(Debug, Default)]
struct ReaderLog {
    last: i64,
    count: i64,
    sum: i64,
    out_of_order: i64,
    reconnections: u64,
}

pub async fn play(pool: &PgPool, log: &Log, play: &GapTest) -> anyhow::Result<GapReport> {
    let (target, end) = watch::channel(None);
    let begun = Arc::new(Barrier::new(play.readers + 1));
    let mut readers = JoinSet::new();
    for _ in 0..play.readers {
        readers.spawn(read(log.clone(), Arc::clone(&begun), end.clone(), play.clone()));
    }
    // Events written before the first reader starts could not be missed.
    begun.wait().await;
    let left = Arc::new(AtomicI64::new(play.events));
    let mut writers = JoinSet::new();
    for writer in 0..play.writers {
        writers.spawn(write(pool.clone(), writer, Arc::clone(&left), play.clone()));
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    let all = "SELECT count(*), max(id), sum(id)::bigint FROM copyhold.log";
    let (events, last, sum): (i64, i64, i64) = sqlx::query_as(all).fetch_one(pool).await?;
    target.send_replace(Some(last));
    let mut found = GapReport { events, ..GapReport::default() };
    while let Some(got) = readers.join_next().await {
        let got = got??;
        found.missed += events - got.count;
        found.twice_or_out_of_order += got.out_of_order;
        found.wrong += usize::from(events == got.count && sum != got.sum);
        found.reconnections += got.reconnections;
    }
    Ok(found)
}

async fn write(pool: PgPool, writer: usize, left: Arc<AtomicI64>, play: GapTest) -> anyhow::Result<()> {
    let append = "SELECT copyhold.append_log(ARRAY(
        SELECT jsonb_build_object('kind', 'door.opened', 'writer', $1, 'n', n) FROM generate_series(1, $2) n))";
    loop {
        let count = rand::rng().random_range(play.append.clone());
        let mut transaction = pool.begin().await?;
        let query = sqlx::query(append).bind(i64::try_from(writer)?).bind(count);
        match query.execute(&mut *transaction).await {
            Ok(_) => {}
            // The writer has waited too long for a lock, and retries, as a daemon does.
            Err(sqlx::Error::Database(refusal)) if refusal.code().as_deref() == Some("55P03") => {
                transaction.rollback().await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        let sleep = rand::rng().random_range(play.sleep.clone());
        tokio::time::sleep(Duration::from_millis(sleep)).await;
        transaction.commit().await?;
        if left.fetch_sub(count, Ordering::Relaxed) <= count {
            return Ok(());
        }
    }
}

async fn read(
    log: Log,
    begun: Arc<Barrier>,
    mut end: watch::Receiver<Option<i64>>,
    play: GapTest,
) -> anyhow::Result<ReaderLog> {
    let mut got = ReaderLog::default();
    let mut cursor = Cursor::BEGINNING;
    let mut first = log.reader(Start::After(cursor), Filter::default())?;
    if let Err(end) = first.begin().await {
        bail!("a reader cannot begin: {end:?}");
    }
    drop(first);
    begun.wait().await;
    loop {
        let mut reader = log.reader(Start::After(cursor), Filter::default())?;
        let over = follow(&mut reader, &mut end, &play, &mut got).await?;
        if over {
            return Ok(got);
        }
        cursor = reader.cursor().unwrap_or(cursor);
        drop(reader);
        got.reconnections += 1;
        pause(&play).await;
    }
}

/// Reads until the reader disconnects; `true`: it has got everything.
async fn follow(
    reader: &mut Reader,
    end: &mut watch::Receiver<Option<i64>>,
    play: &GapTest,
    got: &mut ReaderLog,
) -> anyhow::Result<bool> {
    loop {
        if end.borrow_and_update().is_some_and(|end| got.last >= end) {
            return Ok(true);
        }
        let next = tokio::select! {
            next = reader.next() => next,
            _ = end.changed() => continue,
        };
        match next {
            Next::Events(batch) => {
                for id in batch.ids() {
                    got.out_of_order += i64::from(id <= got.last);
                    got.last = id;
                    got.count += 1;
                    got.sum += id;
                }
            }
            Next::Quiet | Next::Bookmark(_) => continue,
            Next::End(end) => bail!("a reader at {} ends: {end:?}", got.last),
        }
        if rand::rng().random_ratio(1, play.leave) {
            return Ok(false);
        }
        if rand::rng().random_ratio(1, play.leave) {
            pause(play).await;
        }
    }
}

async fn pause(play: &GapTest) {
    let share = rand::rng().random_range(0.0..1.0);
    tokio::time::sleep(play.pause.mul_f64(share)).await;
}
