//! The cost of one object in a claim and in a completion: buffers touched and bytes of WAL, by PostgreSQL's own
//! counters. Run `ARGS=cost` with two builds to compare them.

use std::time::Duration;

use super::copyhold_queue::Claimer;
use crate::common::{database::DatabaseServer, environment::Disk, stores::Stores};

const OBJECTS: u32 = 12_800;
/// Rows of one claim and of one completion: the number for small objects, and few.
const BATCHES: [usize; 2] = [64, 8];
/// Without full-page writes, which would hide the other WAL after a checkpoint.
const SETTINGS: [(&str, &str); 4] = [
    ("shared_preload_libraries", "pg_stat_statements"),
    ("full_page_writes", "off"),
    ("autovacuum", "off"),
    ("checkpoint_timeout", "1h"),
];
const STATEMENTS: [&str; 2] = ["claim", "complete"];

pub(super) async fn play() -> anyhow::Result<()> {
    let grounds = DatabaseServer::begin_with(Disk::Plain, &SETTINGS).await?;
    let stores = Stores::here().await?;
    let template = grounds.make("cost").await?;
    template.execute("CREATE EXTENSION pg_stat_statements").await?;
    template.fill(&stores, OBJECTS, "'object-' || i", "true").await?;
    template.pool.close().await;
    for batch in BATCHES {
        let ground = grounds.copy("cost").await?;
        let (_folder, config) = ground.configured(&stores)?;
        let (queue, lane) = ground.queue(&config)?;
        let daemon = queue.register_daemon("bench".to_owned(), Duration::from_mins(10)).await?;
        ground.execute("SELECT pg_stat_statements_reset()").await?;
        let mut claimer = Claimer::new(queue, daemon, lane);
        let mut objects = 0;
        while objects < u64::from(OBJECTS) {
            let leases = claimer.claim(batch).await?.leases;
            objects += claimer.complete(leases).await?;
        }
        for statement in STATEMENTS {
            let sql = "SELECT (sum(shared_blks_hit + shared_blks_read) / $2)::double precision,
       (sum(wal_bytes) / $2)::double precision, sum(calls)::bigint
  FROM pg_stat_statements WHERE query LIKE '%lease::' || $1 || '%'";
            let counted: (f64, f64, i64) =
                sqlx::query_as(sql).bind(statement).bind(i64::from(OBJECTS)).fetch_one(&ground.pool).await?;
            let (buffers, wal, calls) = counted;
            println!(
                "{statement}, {batch} at once: {buffers:.2} buffers and {wal:.0} bytes of WAL per object, {calls} calls"
            );
        }
        grounds.clear(ground).await?;
    }
    grounds.forget("cost").await?;
    stores.end().await?;
    grounds.end().await
}
