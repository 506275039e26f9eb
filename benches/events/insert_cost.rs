//! The cost of the trigger for the application: its inserts per second with it, relative to the rate without.

use std::time::{Duration, Instant};

use copyhold_db::daemon::{DaemonId, IdleKind};
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::task::JoinSet;

use crate::common::{
    environment::{Disk, Environment},
    report::at_least,
    stores::Stores,
};

const CLIENTS: u32 = 16;
const DAEMONS: usize = 2;
const TURNS: usize = 7;
const EACH: Duration = Duration::from_secs(3);

/// The state of the daemons while the application inserts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// There is no trigger.
    Without,
    /// All daemons work, and listen.
    Busy,
    /// All daemons are idle, listen, and get a notification for each insert.
    Sleeping,
    /// `wakeup = "poll"`: no daemon listens or registers as idle.
    Poll,
}

impl Case {
    const ALL: [Self; 4] = [Self::Without, Self::Busy, Self::Sleeping, Self::Poll];
}

pub(super) async fn play() -> anyhow::Result<()> {
    for disk in Disk::BOTH {
        let stores = Stores::here().await?;
        let stage = Environment::begin(disk, &stores, "").await?;
        let queue = stage.queue();
        let mut daemons = Vec::new();
        for _ in 0..DAEMONS {
            daemons.push(queue.register_daemon("bench".to_owned(), Duration::from_hours(1)).await?.id);
        }
        let mut rates = Case::ALL.map(|case| (case, Vec::new()));
        // In turns, so that other load of the machine affects all.
        for _ in 0..TURNS {
            for (case, rates) in &mut rates {
                rates.push(turn(&stage, &daemons, *case).await?);
            }
        }
        let medians = rates.map(|(case, mut rates)| {
            rates.sort_by(f64::total_cmp);
            println!(
                "{}, {case:?}: {:.0} inserts/s ({:.0} to {:.0})",
                disk.name(),
                rates[TURNS / 2],
                rates[0],
                rates[TURNS - 1]
            );
            rates[TURNS / 2]
        });
        let [without, busy, sleeping, poll] = medians;
        let bar = |name: &str| format!("{name}-percent-of-without-{}", disk.name());
        at_least("E5", &bar("busy"), 100.0 * busy / without, 80.0);
        at_least("E5", &bar("poll"), 100.0 * poll / without, 90.0);
        println!("{}: while all sleep {:.2} of without", disk.name(), sleeping / without);
        stage.end().await?;
        stores.end().await?;
    }
    Ok(())
}

/// Returns inserts per second of all clients together, each in its own transaction.
async fn turn(stage: &Environment, daemons: &[DaemonId], case: Case) -> anyhow::Result<f64> {
    let queue = stage.queue();
    for daemon in daemons {
        queue.set_idle(*daemon, IdleKind::Work, case == Case::Sleeping).await?;
    }
    let able = if case == Case::Without { "DISABLE" } else { "ENABLE" };
    let sql = format!(
        "TRUNCATE copyhold.object_copies; ALTER TABLE copyhold.object_copies {able} TRIGGER wake_sleepers; CHECKPOINT"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&stage.pool).await?;
    let mut ears = JoinSet::new();
    if matches!(case, Case::Busy | Case::Sleeping) {
        for _ in daemons {
            let mut listener = PgListener::connect_with(&stage.pool).await?;
            listener.listen("copyhold_work").await?;
            ears.spawn(async move { while listener.recv().await.is_ok() {} });
        }
    }
    let options = stage.pool.connect_options().as_ref().clone();
    let pool = PgPoolOptions::new().min_connections(CLIENTS).max_connections(CLIENTS).connect_with(options).await?;
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for client in 0..CLIENTS {
        let pool = pool.clone();
        clients.spawn(async move {
            let mut connection = pool.acquire().await?;
            let mut inserts = 0_u32;
            while begun.elapsed() < EACH {
                sqlx::query(
                    "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ($1, copyhold.now_utc_micro_seconds())",
                )
                .bind(format!("photos/{client}/{inserts}.jpg"))
                .execute(&mut *connection)
                .await?;
                inserts += 1;
            }
            anyhow::Ok(inserts)
        });
    }
    let mut all = 0.0;
    while let Some(inserts) = clients.join_next().await {
        all += f64::from(inserts??);
    }
    let rate = all / begun.elapsed().as_secs_f64();
    pool.close().await;
    ears.shutdown().await;
    Ok(rate)
}
