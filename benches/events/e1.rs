//! Every reader gets every event once and in order: 12 writers that sleep before they commit, 50 readers that come and go.

use std::time::{Duration, Instant};

use copyhold::events::Settings;

use super::{
    common::report::{at_least, at_most},
    detector::{Found, Play, play},
    grounds::Grounds,
};

const EVENTS: i64 = 1_000_000;

pub async fn play_bar(grounds: &Grounds) -> anyhow::Result<()> {
    // It is the order of the commits that counts here, not what the disk makes of them.
    let ground = grounds.make("e1", 24).await?;
    ground.execute("ALTER DATABASE e1 SET synchronous_commit = off").await?;
    // So small that whoever pauses falls out of it.
    let settings = Settings { buffer_bytes: 1 << 20, readers: 100, poll: Duration::from_secs(5) };
    let followed = ground.follow(settings).await?;
    let plan = Play {
        writers: 12,
        readers: 50,
        events: EVENTS,
        append: 1..=50,
        sleep: 0..=2,
        leave: 100,
        pause: Duration::from_secs(2),
    };
    let begun = Instant::now();
    let Found { events, missed, twice_or_out_of_order, wrong, reconnections } =
        play(&ground.pool, &followed.log, &plan).await?;
    println!(
        "{events} events in {:.0} s; 50 readers came back {reconnections} times and had {} pages read for them",
        begun.elapsed().as_secs_f64(),
        followed.log.figures().page_queries
    );
    at_least("E1", "events", events, EVENTS);
    at_most("E1", "missed", missed, 0);
    at_most("E1", "twice-or-out-of-order", twice_or_out_of_order, 0);
    at_most("E1", "readers-with-other-events", wrong, 0);
    followed.end().await;
    grounds.clear(ground).await
}
