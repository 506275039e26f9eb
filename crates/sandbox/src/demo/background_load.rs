use std::{collections::HashMap, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    Comparison, Progress, Waits,
    objects::{Metadata, Object},
    scenario::Scenario,
};
use crate::s3::Synthetic;

/// Three or four objects a second.
const EVERY: Duration = Duration::from_millis(300);
/// After this many keys the first one gets new content, so that the load can run for days.
const KEYS: u64 = 500;
const MOST_BYTES: u64 = 16 << 10;
/// The figures cover this many µs.
const WINDOW: i64 = 60_000_000;

/// Registers an object now and then, and compares each one that is recorded everywhere. Runs until it is stopped.
pub(super) async fn run(scenario: &Scenario<'_>) -> anyhow::Result<()> {
    scenario.start_daemon().await?;
    scenario.display.say("a trickle goes on until Ctrl-C; look at it from another terminal:");
    for way in scenario.environment.ways_to_look() {
        scenario.display.say(&format!("    {way}"));
    }
    let before = scenario.application.registered();
    let begun = scenario.rows.now().await?;
    let mut comparison = Comparison::default();
    let mut under_way = HashMap::<String, Object>::new();
    let mut everywhere = 0;
    let mut tick = interval(EVERY);
    // A slow store does not make the next objects come faster.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        tick.tick().await;
        scenario.daemons.check(scenario.environment)?;
        let object = object(number);
        if number < KEYS {
            scenario.application.bring(std::slice::from_ref(&object)).await?;
        } else {
            scenario.application.bring_again(&object).await?;
        }
        under_way.insert(object.key.clone(), object);

        let keys: Vec<String> = under_way.keys().cloned().collect();
        let there: Vec<Object> =
            scenario.rows.which_are_everywhere(&keys).await?.iter().filter_map(|key| under_way.remove(key)).collect();
        everywhere += there.len();
        comparison.add(scenario.reader.compare(there.iter(), |_| ()).await);
        let since = begun.max(scenario.rows.now().await? - WINDOW);
        let waits = scenario.rows.waits(since).await?;
        scenario.display.show(&Progress::Trickling {
            registered: scenario.application.registered() - before,
            everywhere,
            wrong: comparison.wrong + comparison.missing,
            waits: Waits::of(waits.into_iter().map(|(wasabi, scw)| wasabi.max(scw)).collect()),
        });
    }
    Ok(())
}

fn object(number: u64) -> Object {
    Object {
        key: format!("trickle/{:03}", number % KEYS),
        content: Synthetic::new(number, 1 + number.wrapping_mul(7919) % MOST_BYTES),
        metadata: Metadata::default(),
    }
}
