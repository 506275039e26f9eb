//! A replica is added to a large table while the queue works, the application inserts, and another transaction that has
//! read the table stays open: how much longer do claims and INSERTs take than without the migration?

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use copyhold::config::{self, Config};
use copyhold_core::domain::{Content, ContentHash, Lease, Outcome, ReplicaName, Verified};
use copyhold_db::{
    Database,
    lease::{LanePosition, Report},
};
use sqlx::Connection as _;
use tokio::{task::JoinSet, time::Instant};

use crate::common::{
    database::{BenchDatabase, DatabaseServer},
    report::{at_most, percentile},
    stores::Stores,
};

/// Rows of the table, of which one in a hundred lacks its copies.
const ROWS: u32 = 10_000_000;
const BASELINE: Duration = Duration::from_secs(30);
/// How long the other transaction stays open after it has read the table.
const OPEN: Duration = Duration::from_secs(20);
const BATCH: usize = 32;
const INSERTERS: usize = 2;
/// How much longer a statement may take than any statement without the migration.
const LIMIT_MS: f64 = 100.0;

/// The start and the duration of one statement of the workload.
#[derive(Debug, Clone, Copy)]
struct StatementTime {
    what: &'static str,
    at: Instant,
    ms: f64,
}

/// The state that the workload's tasks share.
struct Work {
    over: AtomicBool,
    inserted: AtomicU64,
    took: Mutex<Vec<StatementTime>>,
}

/// The environment variable `ROWS` sets another number of rows.
pub(super) async fn play(stores: &Stores) -> anyhow::Result<()> {
    let rows = match std::env::var("ROWS") {
        Ok(rows) => rows.parse().context("ROWS is a number of rows")?,
        Err(_) => ROWS,
    };
    let grounds = DatabaseServer::begin().await?;
    let ground = grounds.make("l1").await?;
    let filled = Instant::now();
    ground.fill(stores, rows, "'object-' || i", "i % 100 = 0").await?;
    println!("-- {rows} rows made in {:.0} s", filled.elapsed().as_secs_f64());
    let (folder, config) = ground.configured(stores)?;
    let work = Arc::new(Work { over: AtomicBool::new(false), inserted: AtomicU64::new(0), took: Mutex::default() });
    let mut tasks = JoinSet::new();
    tasks.spawn(copy(ground.queue(&config)?.0, Arc::clone(&work)));
    for _ in 0..INSERTERS {
        tasks.spawn(insert(ground.pool.clone(), Arc::clone(&work)));
    }
    tokio::time::sleep(BASELINE).await;
    let begun = Instant::now();
    let watched = migrate_beside_a_reader(&ground, &with_cold(&folder, stores)?).await?;
    work.over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let took = std::mem::take(&mut *work.took.lock().expect("not poisoned"));
    report(&took, begun, &watched);
    ground.pool.close().await;
    grounds.end().await
}

/// Returns the configuration with one more replica.
fn with_cold(folder: &tempfile::TempDir, stores: &Stores) -> anyhow::Result<Config> {
    let path = folder.path().join("copyhold.toml");
    let text = std::fs::read_to_string(&path)?;
    let from = text.find("[replicas.scw]").context("a replica to take as a model")?;
    let to = text[from..].find("[http]").context("what follows it")? + from;
    let section = text[from..to].replace("[replicas.scw]", "[replicas.cold]").replace("-scw", "-cold");
    stores.anew("cold", copyhold_sandbox::s3::BucketOptions::default())?;
    std::fs::write(&path, format!("{}{section}{}", &text[..to], &text[to..]))?;
    Ok(config::load(&path, Vec::<(String, String)>::new())?)
}

async fn copy(queue: Database, work: Arc<Work>) -> anyhow::Result<()> {
    let daemon = queue.register_daemon("bench".to_owned(), Duration::from_mins(10)).await?;
    let lane = ReplicaName::new("wasabi")?;
    while !work.over.load(Ordering::Relaxed) {
        let leases = work.timed("claim", queue.claim(&daemon, &lane, BATCH, LanePosition::BEGINNING)).await?.leases;
        if leases.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let reports: Vec<_> = leases.into_iter().map(|lease| recorded(&queue, lease)).collect();
        match work.timed("completion", queue.complete(&reports)).await {
            // Left to expire, unlike in a daemon.
            Err(error) if !error.is_lock_timeout() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn recorded(queue: &Database, lease: Lease) -> Report {
    let targets = queue.replicas().iter().filter(|r| r.as_str() != "b2");
    Report {
        key: lease.key,
        generation: lease.generation,
        fence: lease.fence,
        content: Some(Content { size_bytes: 10_240, hash: ContentHash(1) }),
        outcomes: targets.map(|r| (r.clone(), Outcome::recorded(Verified::Compared))).collect(),
        release: true,
        metadata: None,
        source: None,
        not_carried: None,
        survived: false,
        unsettled: Vec::new(),
    }
}

async fn insert(pool: sqlx::PgPool, work: Arc<Work>) -> anyhow::Result<()> {
    while !work.over.load(Ordering::Relaxed) {
        let key = format!("new-{}", work.inserted.fetch_add(1, Ordering::Relaxed));
        let sql = "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ($1, copyhold.now_utc_micro_seconds())";
        work.timed("INSERT", sqlx::query(sql).bind(key).execute(&pool)).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

impl Work {
    async fn timed<T>(&self, what: &'static str, statement: impl Future<Output = T>) -> T {
        let at = Instant::now();
        let answer = statement.await;
        let ms = at.elapsed().as_secs_f64() * 1000.0;
        self.took.lock().expect("not poisoned").push(StatementTime { what, at, ms });
        answer
    }
}

/// What was observed of the migration.
struct MigrationTrace {
    took: Duration,
    /// The time and the running statement of each observation.
    statements: Vec<(Instant, String)>,
    /// The strongest locks on the table that the migration held or waited for, each with its number of observations.
    locks: BTreeMap<String, u32>,
    looks: u32,
}

/// Migrates while another transaction that has read the table stays open.
async fn migrate_beside_a_reader(ground: &BenchDatabase, config: &Config) -> anyhow::Result<MigrationTrace> {
    let mut reader = ground.connect().await?;
    let mut transaction = reader.begin().await?;
    let read = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM copyhold.object_copies LIMIT 1";
    sqlx::raw_sql(read).execute(&mut *transaction).await?;
    let mut watcher = ground.connect().await?;
    let (begun, mut statements, mut locks, mut times) = (Instant::now(), Vec::new(), BTreeMap::new(), 0);
    let mut open = Some(transaction);
    let mut migration = std::pin::pin!(copyhold_db::schema::migrate(config));
    let migrated = loop {
        tokio::select! {
            migrated = &mut migration => break migrated?,
            () = tokio::time::sleep(Duration::from_millis(5)) => {
                if begun.elapsed() > OPEN && let Some(transaction) = open.take() {
                    transaction.rollback().await?;
                }
                times += 1;
                let seen: Vec<(String, Option<String>)> = sqlx::query_as(
                    "SELECT regexp_replace(left(a.query, 120), '\\s+', ' ', 'g') || coalesce(' (waits: ' || a.wait_event || ')', ''),
                            (SELECT string_agg(l.mode || CASE WHEN l.granted THEN '' ELSE ' (wanted)' END, ', ' ORDER BY l.mode)
                               FROM pg_locks l WHERE l.pid = a.pid AND l.relation = 'copyhold.object_copies'::regclass)
                       FROM pg_stat_activity a
                      WHERE a.application_name = 'copyhold' AND a.state <> 'idle' AND a.pid <> pg_backend_pid()",
                )
                .fetch_all(&mut watcher)
                .await?;
                for (statement, modes) in seen {
                    statements.push((Instant::now(), statement));
                    *locks.entry(modes.unwrap_or_else(|| "none".into())).or_insert(0) += 1;
                }
            }
        }
    };
    println!("-- {migrated:?}");
    Ok(MigrationTrace { took: begun.elapsed(), statements, locks, looks: times })
}

fn report(took: &[StatementTime], begun: Instant, watched: &MigrationTrace) {
    println!(
        "the migration took {:.1} s, of which a reader's transaction was open for {:.0} s",
        watched.took.as_secs_f64(),
        OPEN.as_secs_f64().min(watched.took.as_secs_f64())
    );
    println!("locks on the table in {} looks, one each 5 ms:", watched.looks);
    for (modes, looks) in &watched.locks {
        println!("  {looks:>6}  {modes}");
    }
    for what in ["INSERT", "claim", "completion"] {
        let mut sorted = [Vec::new(), Vec::new()];
        for one in took.iter().filter(|one| one.what == what) {
            sorted[usize::from(one.at >= begun)].push(one.ms);
        }
        for of in &mut sorted {
            of.sort_by(f64::total_cmp);
        }
        let [before, during] = &sorted;
        if before.is_empty() || during.is_empty() {
            println!("{what}: nothing was measured");
            continue;
        }
        let figures = |of: &[f64]| {
            format!(
                "{} with p50 {:.1}, p99 {:.1}, longest {:.1} ms",
                of.len(),
                percentile(of, 50),
                percentile(of, 99),
                percentile(of, 100)
            )
        };
        println!("{what}: before {}; during {}", figures(before), figures(during));
        let beyond = percentile(during, 100) - percentile(before, 100);
        at_most("L1", &format!("{}-longest-beyond-baseline-ms", what.to_lowercase()), beyond, LIMIT_MS);
    }
    let mut longest: Vec<_> = took.iter().filter(|one| one.at >= begun).collect();
    longest.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    for one in longest.iter().take(5) {
        let end = one.at + Duration::from_secs_f64(one.ms / 1000.0);
        let beside = watched.statements.iter().rfind(|(at, _)| *at <= end).map_or("", |(_, statement)| statement);
        println!(
            "  {} of {:.1} ms, {:.1} s after it began, beside: {beside}",
            one.what,
            one.ms,
            (one.at - begun).as_secs_f64()
        );
    }
}
