//! A thousand readers that reconnect at once, each at another position in the last 100,000 events.

use std::time::Instant;

use anyhow::{Context as _, bail};
use copyhold::{
    config::Config,
    events::{Filter, Log, Next, Start},
};
use copyhold_core::domain::Cursor;

use rand::RngExt as _;
use tokio::task::JoinSet;

use super::followed_log::FollowedLog;
use crate::common::{
    database::{BenchDatabase, DatabaseServer},
    report::{at_least, at_most},
    stores::Stores,
};

const EVENTS: i64 = 200_000;
const WITHIN: i64 = 100_000;
const READERS: usize = 1000;
/// The batch of a single reader.
const PAGE: i64 = 512;
const SHARE: f64 = 50.0;

pub(super) async fn play(stores: &Stores) -> anyhow::Result<()> {
    let grounds = DatabaseServer::begin().await?;
    let ground = grounds.make("e3").await?;
    let (_folder, config) = ground.configured(stores)?;
    copyhold_db::schema::migrate(&config).await?;
    fill(&ground).await?;
    for turn in 1..=3 {
        herd(&ground, &config, turn).await?;
    }
    grounds.clear(ground).await?;
    grounds.end().await
}

/// Appends events like a daemon's.
async fn fill(ground: &BenchDatabase) -> anyhow::Result<()> {
    for first in (1..=EVENTS).step_by(1000) {
        let append = "SELECT copyhold.append_log(ARRAY(
            SELECT jsonb_build_object('kind', 'object.copied', 'object_key', 'photos/2026/11/' || n, 'generation', n,
                       'size_bytes', 10240, 'replicas', jsonb_build_array('wasabi', 'scw'), 'complete', true)
            FROM generate_series($1, $1 + 999) n))";
        sqlx::query(append).bind(first).execute(&ground.pool).await?;
    }
    ground.execute("VACUUM ANALYZE copyhold.log").await?;
    ground.execute("CHECKPOINT").await
}

async fn herd(ground: &BenchDatabase, config: &Config, turn: u32) -> anyhow::Result<()> {
    // As in a daemon that has just started, the ring is empty.
    let followed = FollowedLog::begin(ground, config, 16 << 20).await?;
    let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM copyhold.log ORDER BY id").fetch_all(&ground.pool).await?;
    let head = *ids.last().context("events")?;
    let begun = Instant::now();
    let mut alone = 0;
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let from = head - rand::rng().random_range(1..=WITHIN);
        alone += (head - from + PAGE - 1) / PAGE;
        readers.spawn(catch_up(followed.log.clone(), from, head));
    }
    let mut caught_up = 0_usize;
    while let Some(read) = readers.join_next().await {
        let (from, got) = read??;
        let expected = &ids[ids.partition_point(|id| *id <= from)..];
        caught_up += usize::from(got == expected);
    }
    let took = begun.elapsed();
    let queries = followed.log.figures().page_queries;
    println!(
        "turn {turn}: {READERS} readers caught up with {} events on average in {:.1} s, by {queries} page queries; each by itself: {alone}",
        WITHIN / 2,
        took.as_secs_f64()
    );
    #[expect(clippy::cast_precision_loss, reason = "counted in thousands")]
    at_least("E3", "queries-alone-by-shared", alone as f64 / queries.max(1) as f64, SHARE);
    at_most("E3", "readers-that-lack-events", READERS - caught_up, 0);
    followed.end().await;
    Ok(())
}

/// The start of a reader, and the events that it got.
async fn catch_up(log: Log, from: i64, head: i64) -> anyhow::Result<(i64, Vec<i64>)> {
    let mut reader = log.reader(Start::After(Cursor { id: from, epoch: None }), Filter::default())?;
    let mut got = Vec::new();
    while got.last() != Some(&head) {
        match reader.next().await {
            Next::Events(batch) => got.extend(batch.ids()),
            Next::Quiet | Next::Bookmark(_) => {}
            Next::End(end) => bail!("a reader ends: {end:?}"),
        }
    }
    Ok((from, got))
}
