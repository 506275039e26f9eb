//! Ten million missing objects: claims, `status`, and a daemon's memory, against ten thousand.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::bail;
use copyhold_sandbox::s3::{Fault, Op, When};
use tempfile::TempDir;
use tokio::process::Command;

use super::copyhold_queue::Claimer;
use crate::common::{
    daemon::Daemon,
    database::{BenchDatabase, DatabaseServer},
    report::{at_most, percentile},
    stores::Stores,
};

const FEW: u32 = 10_000;
const MANY: u32 = 10_000_000;
/// A small batch, so that ten thousand objects are enough for a thousand claims.
const ROWS: usize = 8;
/// Objects to copy, more than the run copies.
const THERE: u32 = 30_000;
const BYTES: u64 = 1024;
const CLAIMS: usize = 1_000;
/// Claims of one turn. The tables take turns, so that both see the same noise.
const CLAIMS_A_TURN: usize = 50;
const DAEMON_WORKS_FOR: Duration = Duration::from_secs(25);
const DISTANCE: Duration = Duration::from_millis(200);
const STATUSES: usize = 20;

pub(super) async fn play(grounds: &DatabaseServer) -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(THERE, BYTES)?;
    let begun = Instant::now();
    for (name, rows) in [("few", FEW), ("many", MANY)] {
        let template = grounds.make(name).await?;
        template.fill(&stores, rows, "'object-' || i", "true").await?;
        template.pool.close().await;
    }
    println!("{MANY} rows were made in {:.0} s", begun.elapsed().as_secs_f64());
    let few = grounds.copy("few").await?;
    // The table is too large for a copy that is not needed.
    let many = grounds.open("many")?;
    claims(&few, &many, &stores).await?;
    grounds.clear(few).await?;
    let few = grounds.copy("few").await?;
    let others = Stores::here().await?;
    others.fill(THERE, BYTES)?;
    daemons((&few, &stores), (&many, &others)).await?;
    others.end().await?;
    grounds.clear(few).await?;
    grounds.clear(many).await?;
    grounds.forget("few").await?;
    stores.end().await
}

async fn claims(few: &BenchDatabase, many: &BenchDatabase, stores: &Stores) -> anyhow::Result<()> {
    let claimer = async |ground: &BenchDatabase| {
        let (_folder, config) = ground.configured(stores)?;
        let (queue, lane) = ground.queue(&config)?;
        let daemon = queue.register_daemon("bench".to_owned(), Duration::from_mins(10)).await?;
        anyhow::Ok(Claimer::new(queue, daemon, lane))
    };
    let mut both = [(claimer(few).await?, Vec::new()), (claimer(many).await?, Vec::new())];
    for _ in 0..CLAIMS / CLAIMS_A_TURN {
        for (claimer, took) in &mut both {
            for _ in 0..CLAIMS_A_TURN {
                let asked = Instant::now();
                let leases = claimer.claim(ROWS).await?.leases;
                took.push(asked.elapsed().as_secs_f64() * 1000.0);
                if leases.len() < ROWS {
                    bail!("there was more than that");
                }
                claimer.complete(leases).await?;
            }
        }
    }
    let [few, many] = both.map(|(_, mut took)| {
        took.sort_by(f64::total_cmp);
        (percentile(&took, 50), percentile(&took, 99))
    });
    println!(
        "claims of {ROWS} rows: p50 {:.2} ms, p99 {:.2} ms at {FEW} missing; p50 {:.2} ms, p99 {:.2} ms at {MANY}",
        few.0, few.1, many.0, many.1
    );
    at_most("Q3", "claim-p99-by-that-at-10k", many.1 / few.1, 2.0);
    Ok(())
}

/// Runs the same daemon on both tables. Its empty targets have such a latency that it is never idle. `status` runs
/// beside the second.
async fn daemons(
    (few, its_stores): (&BenchDatabase, &Stores),
    (many, others): (&BenchDatabase, &Stores),
) -> anyhow::Result<()> {
    for stores in [its_stores, others] {
        for target in ["wasabi", "scw"] {
            stores.bucket(target)?.order(Fault::Delay(DISTANCE), When::op(Op::PutObject));
        }
    }
    let (folder, _) = few.configured(its_stores)?;
    let daemon = Daemon::start(folder.path()).await?;
    tokio::time::sleep(DAEMON_WORKS_FOR).await;
    let small = daemon.resident_mib()?;
    daemon.end().await?;

    let (folder, _) = many.configured(others)?;
    let daemon = Daemon::start(folder.path()).await?;
    tokio::time::sleep(DAEMON_WORKS_FOR).await;
    status(many, &folder).await?;
    let large = daemon.resident_mib()?;
    daemon.end().await?;
    println!("a working daemon's memory, now and at most: {small:.1?} MiB at {FEW} missing, {large:.1?} MiB at {MANY}");
    at_most("Q3", "peak-rss-by-that-at-10k", large.1 / small.1, 1.1);
    Ok(())
}

async fn status(ground: &BenchDatabase, folder: &TempDir) -> anyhow::Result<()> {
    let counted = "SELECT count(*) FROM copyhold.backlog";
    let deadline = Instant::now() + Duration::from_mins(2);
    while ground.count(counted).await? == 0 {
        if Instant::now() > deadline {
            bail!("the backlog was never counted");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut took = Vec::new();
    for _ in 0..STATUSES {
        let asked = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_copyhold"))
            .arg("--config")
            .arg(folder.path().join("copyhold.toml"))
            .arg("status")
            .stdout(Stdio::null())
            .status()
            .await?;
        took.push(asked.elapsed().as_secs_f64() * 1000.0);
        if !status.success() {
            bail!("status failed: {status}");
        }
    }
    took.sort_by(f64::total_cmp);
    println!("status at {MANY} missing: p50 {:.0} ms, longest {:.0} ms", percentile(&took, 50), percentile(&took, 100));
    at_most("Q3", "status-p95-ms", percentile(&took, 95), 200.0);
    // Counting takes a fiftieth of the time, and starts about every two seconds. The rows of one count are
    // written one after the other, so the last one shows how long it took.
    let age = "SELECT (1000 * extract(epoch FROM max(now() - as_of))
                      / extract(epoch FROM greatest(interval '2 s', max(took) * 50) + interval '2.4 s' + max(took)))::bigint
               FROM copyhold.backlog";
    let counting = ground.count("SELECT (1000 * max(extract(epoch FROM took)))::bigint FROM copyhold.backlog").await?;
    println!("counting the backlog took {counting} ms");
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    at_most("Q3", "age-of-the-backlog-by-its-interval", ground.count(age).await? as f64 / 1000.0, 1.0);
    Ok(())
}
