//! Ids are drawn before they are seen: what makes reading by them safe is the log's trigger, and nothing else.

use std::time::Duration;

use copyhold::events::Settings;
use copyhold_testkit::gap_detector::{GapReport, GapTest, play};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{
    events_follow::Followed,
    harness::{Harness, soon},
};

/// So small that a reader that pauses falls out of it.
const SETTINGS: Settings = Settings { buffer_bytes: 100_000, readers: 100, poll: Duration::from_millis(20) };
const PLAY: GapTest = GapTest {
    writers: 12,
    readers: 20,
    events: 10_000,
    append: 1..=50,
    sleep: 0..=5,
    leave: 5,
    pause: Duration::from_millis(300),
};

/// A connection for each writer.
async fn writers(harness: &Harness) -> PgPool {
    let options = (*harness.pool.connect_options()).clone();
    PgPoolOptions::new().max_connections(12).connect_with(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_gets_every_event_once_and_in_order_however_late_they_are_committed() {
    let harness = Harness::new().await;
    let followed = Followed::of(&harness, SETTINGS);
    let found = soon("all is read", play(&writers(&harness).await, &followed.log, &PLAY)).await.unwrap();
    let GapReport { events, missed, twice_or_out_of_order, wrong, reconnections } = found;
    assert!(events >= PLAY.events && reconnections > 20, "{events} events, {reconnections} reconnections");
    assert_eq!((missed, twice_or_out_of_order, wrong), (0, 0, 0));
    assert!(followed.log.figures().page_queries > 0);
    followed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_trigger_events_are_lost_and_it_is_noticed() {
    let harness = Harness::new().await;
    harness.execute("DROP TRIGGER log_in_order ON copyhold.log").await;
    let followed = Followed::of(&harness, SETTINGS);
    // No commit waits for another now, so that each read of the log comes amid some.
    let longer = GapTest { events: 20_000, sleep: 0..=50, ..PLAY };
    let found = soon("all is read", play(&writers(&harness).await, &followed.log, &longer)).await.unwrap();
    assert!(found.missed > 0, "{found:?}");
    followed.end().await;
}
