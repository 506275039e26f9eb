//! Every reader gets every event once and in order: 12 writers that sleep before they commit, 50 readers that
//! reconnect.

use std::time::{Duration, Instant};

use copyhold_testkit::gap_detector::{self, GapReport, GapTest};
use sqlx::postgres::PgPoolOptions;

use super::followed_log::FollowedLog;
use crate::common::{
    database::DatabaseServer,
    report::{at_least, at_most},
    stores::Stores,
};

const EVENTS: i64 = 1_000_000;
/// So small that a pausing reader falls behind it.
const BUFFER: usize = 1 << 20;
const PLAY: GapTest = GapTest {
    writers: 12,
    readers: 50,
    events: EVENTS,
    append: 1..=50,
    sleep: 0..=2,
    leave: 100,
    pause: Duration::from_secs(2),
};

pub(super) async fn play(stores: &Stores) -> anyhow::Result<()> {
    let grounds = DatabaseServer::begin().await?;
    let ground = grounds.make("e1").await?;
    let (_folder, config) = ground.configured(stores)?;
    copyhold_db::schema::migrate(&config).await?;
    // Only the order of the commits counts here, not the disk.
    ground.execute("ALTER DATABASE e1 SET synchronous_commit = off").await?;
    let writers = PgPoolOptions::new().max_connections(12).connect(&ground.url).await?;
    let followed = FollowedLog::begin(&ground, &config, BUFFER).await?;
    let begun = Instant::now();
    let GapReport { events, missed, twice_or_out_of_order, wrong, reconnections } =
        gap_detector::play(&writers, &followed.log, &PLAY).await?;
    println!(
        "{events} events in {:.0} s; {} readers came back {reconnections} times, and {} pages were read for them",
        begun.elapsed().as_secs_f64(),
        PLAY.readers,
        followed.log.figures().page_queries
    );
    at_least("E1", "events", events, EVENTS);
    at_most("E1", "missed", missed, 0);
    at_most("E1", "twice-or-out-of-order", twice_or_out_of_order, 0);
    at_most("E1", "readers-with-other-events", wrong, 0);
    followed.end().await;
    writers.close().await;
    grounds.clear(ground).await?;
    grounds.end().await
}
