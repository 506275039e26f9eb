//! Scanning a bucket: how fast, in how much memory, beside a queue at work, and killed again and again.

use std::{
    env,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use serde_json::Value;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};

use crate::common::{
    comparison::{Rates, StopCondition},
    database::{BenchDatabase, DatabaseServer},
    process,
    report::{at_least, at_most},
    stores::Stores,
};
use crate::queue::copyhold_queue;

/// Keys of the listing; `L2_OBJECTS` sets another number, for a smaller machine.
const OBJECTS: u64 = 5_000_000;
/// A fifth of the keys, to show whether memory depends on their number.
const FEWER: u64 = 5;
const PER_FOLDER: u64 = 25_000;
/// The backlog of the queue meanwhile: more than it can copy.
const BACKLOG: u32 = 1_000_000;
const TURN: Duration = Duration::from_secs(8);
const TURNS: usize = 3;
const KILLS: u32 = 10;

pub(super) async fn play() -> anyhow::Result<()> {
    let objects = env::var("L2_OBJECTS").map_or(Ok(OBJECTS), |number| number.parse()).context("L2_OBJECTS")?;
    let grounds = DatabaseServer::begin().await?;
    let fewer = Stores::elsewhere_listed(objects / FEWER, PER_FOLDER).await?;
    let few = scan(&grounds, &fewer, objects / FEWER).await?;
    let stores = Stores::elsewhere_listed(objects, PER_FOLDER).await?;
    let many = scan(&grounds, &stores, objects).await?;
    let bare = bare(&grounds, &stores, objects).await?;
    println!("{objects} keys: one bare INSERT … SELECT of the same rows {:.0}/s", per_second(objects, bare));
    at_least("L2", "keys-registered-per-second", per_second(objects, many.took), 20_000.0);
    at_most("L2", "times-the-bare-insert", many.took.as_secs_f64() / bare.as_secs_f64(), 3.0);
    at_most("L2", "peak-rss-at-all-by-peak-rss-at-a-fifth", many.peak_mib / few.peak_mib, 1.1);
    killed(&grounds, &fewer, objects / FEWER).await?;
    beside(&grounds, &stores).await?;
    fewer.end().await?;
    stores.end().await?;
    grounds.end().await
}

/// The cost of a scan.
struct ScanCost {
    took: Duration,
    peak_mib: f64,
}

fn per_second(objects: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "some millions")]
    let objects = objects as f64;
    objects / took.as_secs_f64()
}

/// Runs the command without a rate limit.
fn command(folder: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new(process::program());
    command.arg("--config").arg(folder.join("copyhold.toml")).args([
        "scan",
        "--json",
        "--requests-per-second",
        "10000",
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    Ok(command.spawn()?)
}

/// Returns the command's document, and its peak memory in MiB.
async fn ended(mut scan: Child) -> anyhow::Result<(Value, f64)> {
    let id = scan.id().context("the scan ended at once")?;
    let mut output = scan.stdout.take().context("no pipe to the scan")?;
    let (mut peak, mut text) = (0.0_f64, String::new());
    let read = output.read_to_string(&mut text);
    let mut read = std::pin::pin!(read);
    loop {
        tokio::select! {
            ended = &mut read => { ended?; break }
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        if let Ok((_, most)) = process::resident_mib(id) {
            peak = peak.max(most);
        }
    }
    let status = scan.wait().await?;
    ensure!(status.success(), "a scan ended with {status}: {text}");
    Ok((serde_json::from_str(&text)?, peak))
}

async fn scan(grounds: &DatabaseServer, stores: &Stores, objects: u64) -> anyhow::Result<ScanCost> {
    let ground = migrated(grounds, stores, "scanned").await?;
    let (folder, _) = ground.configured(stores)?;
    let (stores_before, ours_before) = (stores.cpu_seconds()?, ended_children()?);
    let begun = Instant::now();
    let (report, peak_mib) = ended(command(folder.path())?).await?;
    let took = begun.elapsed();
    ensure!(report["registered"].as_u64() == Some(objects), "{report}");
    println!(
        "{objects} keys registered in {:.1} s, {:.0}/s, peak {peak_mib:.1} MiB; CPU: scan {:.1} s, stores {:.1} s, {}",
        took.as_secs_f64(),
        per_second(objects, took),
        ended_children()? - ours_before,
        stores.cpu_seconds()? - stores_before,
        report["stores"][0]
    );
    grounds.clear(ground).await?;
    Ok(ScanCost { took, peak_mib })
}

fn ended_children() -> anyhow::Result<f64> {
    process::cpu_seconds_of_ended_children(std::process::id())
}

async fn migrated(grounds: &DatabaseServer, stores: &Stores, name: &str) -> anyhow::Result<BenchDatabase> {
    let ground = grounds.make(name).await?;
    let (_folder, config) = ground.configured(stores)?;
    copyhold_db::schema::migrate(&config).await?;
    ground.execute("CHECKPOINT").await?;
    Ok(ground)
}

/// Measures the minimal cost of registering: the same rows with the same indexes, in one statement and one transaction.
async fn bare(grounds: &DatabaseServer, stores: &Stores, objects: u64) -> anyhow::Result<Duration> {
    let ground = migrated(grounds, stores, "bare").await?;
    let begun = Instant::now();
    ground
        .execute(format!(
            "INSERT INTO copyhold.object_copies (object_key, size_bytes, b2, due_b2, wasabi, due_wasabi, scw, due_scw)
             SELECT lpad((i / {PER_FOLDER})::text, 7, '0') || '/' || lpad(i::text, 12, '0'), 1000 + i % 1000,
                    t, t, NULL, t, NULL, t
               FROM generate_series(0, {objects} - 1) i, (SELECT copyhold.now_utc_micro_seconds()) AS n(t)"
        ))
        .await?;
    let took = begun.elapsed();
    grounds.clear(ground).await?;
    Ok(took)
}

/// Kills scans at random times, and resumes them.
async fn killed(grounds: &DatabaseServer, stores: &Stores, objects: u64) -> anyhow::Result<()> {
    let ground = migrated(grounds, stores, "killed").await?;
    let (folder, _) = ground.configured(stores)?;
    for kill in 1..=KILLS {
        let mut scan = command(folder.path())?;
        // At any time: within a page, between two, or while a page is written.
        let share = i64::try_from(objects)? * i64::from(kill) / i64::from(KILLS + 1);
        while ground.count("SELECT coalesce(sum(registered), 0)::bigint FROM copyhold.scan_parts").await? < share {
            ensure!(scan.try_wait()?.is_none(), "it ended before it was killed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..20_000))).await;
        scan.kill().await?;
        // The next scan does not wait until the killed one's hold expires.
        ground.execute("UPDATE copyhold.scans SET held_until = NULL").await?;
    }
    let (report, _) = ended(command(folder.path())?).await?;
    let there = ground.count("SELECT count(*) FROM copyhold.object_copies").await?;
    let ours = ground.count("SELECT sum(registered)::bigint FROM copyhold.scan_parts").await?;
    let twice = ground.count("SELECT sum(listed - registered)::bigint FROM copyhold.scan_parts").await?;
    println!(
        "killed {KILLS} times: {there} rows, {ours} said to be registered, this run listed {}",
        report["listed_now"]
    );
    at_most("L2", "left-out-after-ten-kills", i64::try_from(objects)? - there, 0);
    at_most("L2", "counted-twice-after-ten-kills", twice + (ours - there).abs(), 0);
    grounds.clear(ground).await
}

/// The other load of the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contention {
    None,
    Scan,
    /// Processes that only compute: they show the effect of a smaller share of the CPU.
    Burners,
}

/// Runs claims and completions beside a scan of another part of the table.
async fn beside(grounds: &DatabaseServer, stores: &Stores) -> anyhow::Result<()> {
    let template = grounds.make("beside").await?;
    template.fill(stores, BACKLOG, "'backlog-' || md5(i::text)", "true").await?;
    template.pool.close().await;
    let mut rates = [Rates::default(), Rates::default(), Rates::default()];
    let mut by_cpu = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (i, other) in [Contention::None, Contention::Scan, Contention::Burners].into_iter().enumerate() {
            let ground = grounds.copy("beside").await?;
            let (folder, _) = ground.configured(stores)?;
            let others = match other {
                Contention::None => vec![],
                Contention::Scan => vec![command(folder.path())?],
                Contention::Burners => vec![burner()?, burner()?],
            };
            let (score, cpu) = turn(&ground, stores).await?;
            for mut other in others {
                ensure!(other.try_wait()?.is_none(), "who was to be beside the queue has ended");
                other.kill().await?;
            }
            rates[i].add(score);
            #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
            by_cpu[i].push(score.objects as f64 / cpu);
            grounds.clear(ground).await?;
        }
    }
    grounds.forget("beside").await?;
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [alone, scan, burners] = by_cpu.each_mut().map(median);
    println!("the queue alone {}, beside a scan {}, beside two that only compute {}", rates[0], rates[1], rates[2]);
    println!("objects per second of its own CPU: {alone:.0}, {scan:.0}, {burners:.0}");
    at_least("L2", "queue-per-cpu-second-beside-a-scan-by-beside-computing", scan / burners, 0.98);
    Ok(())
}

/// Starts a process that only computes.
fn burner() -> anyhow::Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command.spawn()?)
}

/// Returns the work of the queue, and the CPU time that it and its sessions took.
async fn turn(
    ground: &BenchDatabase,
    stores: &Stores,
) -> anyhow::Result<(crate::common::comparison::ComparisonResult, f64)> {
    let pids: Vec<i32> = {
        // All sessions of the pool, which stay open.
        let mut connections = Vec::new();
        for _ in 0..crate::common::database::CONNECTIONS {
            connections.push(ground.pool.acquire().await?);
        }
        let mut pids = Vec::new();
        for connection in &mut connections {
            pids.push(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut **connection).await?);
        }
        pids
    };
    let cpu = || -> anyhow::Result<f64> {
        let mut seconds = process::cpu_seconds(std::process::id())?;
        for pid in &pids {
            seconds += process::cpu_seconds(u32::try_from(*pid)?)?;
        }
        Ok(seconds)
    };
    let before = cpu()?;
    let score =
        copyhold_queue::play(ground, stores, &StopCondition { objects: u64::from(BACKLOG), at_most: TURN }).await?;
    let took = cpu()? - before;
    if score.objects >= u64::from(BACKLOG) {
        bail!("the backlog was too small for a turn: {score}");
    }
    Ok((score, took))
}
