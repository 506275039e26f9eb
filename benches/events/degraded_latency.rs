//! How long objects and events wait during a fault of the listening connection, of PostgreSQL, or of another program:
//! from their commit until the object's lease is visible, and until a reader over HTTP gets the event.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use copyhold_testkit::{
    pooler::{Pooler, skipped},
    proxy::{Proxy, Transfer},
};
use secrecy::ExposeSecret as _;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::common::{
    environment::{Disk, Environment},
    report::{at_most, percentile},
    stores::Stores,
};

const OBJECTS: u32 = 4_000;
const OBJECT_EVERY: Duration = Duration::from_millis(200);
const EVENT_EVERY: Duration = Duration::from_millis(50);
/// The poll interval with LISTEN, and without it, each with its fifth and a busy machine's tenth of a
/// second. The process that moves an event wakes its own readers.
const UNNOTICED_MS: f64 = 6_100.0;
const NOTICED_MS: f64 = 1_300.0;
/// A silent connection is probed after 10 s, for 5 s.
const UNTIL_NOTICED: Duration = Duration::from_secs(15);
/// The time between two attempts to connect, and for one.
const UNTIL_BACK_MS: f64 = 15_000.0;

pub(super) async fn play() -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(OBJECTS, 1024)?;
    let mut stage = Environment::begin(Disk::Plain, &stores, "").await?;
    let url = stage.config.database.url.expose_secret().to_owned();
    let proxy = Proxy::before(stage.cluster().port()).await;
    stage.configure_database(&format!("listen_url = \"{}\"", proxy.url(&url)))?;
    let daemon = stage.daemon().await?;
    until_heard(&stage.pool).await?;
    let (address, addresses) = watch::channel(daemon.address()?);
    let load = Load::begin(&stage.pool, addresses);

    let (objects, events) = load.during(Duration::from_secs(10)).await;
    tell("nothing wrong", &objects, &events);

    let from = Instant::now();
    let listens = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'copyhold' AND query ~ 'LISTEN|listener::'";
    sqlx::raw_sql(listens).execute(&stage.pool).await?;
    bars("terminated", &load.since(from, Duration::from_secs(5)).await, NOTICED_MS);
    until_heard(&stage.pool).await?;

    let from = Instant::now();
    proxy.reset();
    bars("reset", &load.since(from, Duration::from_secs(5)).await, NOTICED_MS);
    until_heard(&stage.pool).await?;

    let from = Instant::now();
    proxy.set(Transfer::Hole);
    bars("hole-unnoticed", &load.since(from, UNTIL_NOTICED).await, UNNOTICED_MS);
    bars("hole-noticed", &load.during(Duration::from_secs(45)).await, NOTICED_MS);
    println!(
        "the hole took {:.1} s; the daemon's word is \"{}\"",
        from.elapsed().as_secs_f64(),
        wakeup(&stage.pool).await?
    );
    let from = Instant::now();
    proxy.set(Transfer::Pass);
    until_heard(&stage.pool).await?;
    at_most("E7", "ms-until-heard-again-after-the-hole", from.elapsed().as_secs_f64() * 1000.0, UNTIL_BACK_MS);

    stage.cluster().kill_server().await?;
    stage.cluster().restart().await?;
    let from = Instant::now();
    // Waits that began before belong to the outage.
    bars("restart", &load.since(from, Duration::from_secs(10)).await, NOTICED_MS);
    until_heard(&stage.pool).await?;
    println!("heard again {:.1} s after PostgreSQL's restart", from.elapsed().as_secs_f64());

    let mut stuck = PgConnection::connect(&url).await?;
    let mut stuck = stuck.begin().await?;
    sqlx::raw_sql("SELECT copyhold.append_event('{\"kind\": \"stuck\"}')").execute(&mut *stuck).await?;
    bars("append-never-commits", &load.during(Duration::from_secs(20)).await, 1_000.0);
    stuck.commit().await?;
    daemon.end().await?;

    match Pooler::before(&url).await {
        Err(why) => skipped(&why),
        Ok(pooler) => {
            let text = std::fs::read_to_string(stage.config_path())?;
            std::fs::write(stage.config_path(), text.replace(&proxy.url(&url), &pooler.url(&url)))?;
            let daemon = stage.daemon().await?;
            address.send_replace(daemon.address()?);
            // Its reader reconnects, and the daemon begins to copy.
            load.during(Duration::from_secs(3)).await;
            bars("transaction-pooler", &load.during(Duration::from_secs(20)).await, NOTICED_MS);
            println!("through PgBouncer in transaction mode its word was \"{}\"", wakeup(&stage.pool).await?);
            daemon.end().await?;
        }
    }
    let daemon = stage.daemon().await?;
    address.send_replace(daemon.address()?);
    load.end(&stage).await?;
    daemon.end().await?;
    stage.end().await?;
    stores.end().await
}

type WaitTimes = (Vec<f64>, Vec<f64>);

fn bars(fault: &str, (objects, events): &WaitTimes, limit: f64) {
    tell(fault, objects, events);
    at_most("E7", &format!("{fault}-longest-object-ms"), percentile(objects, 100), limit);
    at_most("E7", &format!("{fault}-longest-event-ms"), percentile(events, 100), limit);
}

fn tell(what: &str, objects: &[f64], events: &[f64]) {
    let of = |waits: &[f64]| {
        format!("p50 {:.1}, longest {:.1} ms of {}", percentile(waits, 50), percentile(waits, 100), waits.len())
    };
    println!("{what}: objects {}; events {}", of(objects), of(events));
}

async fn wakeup(pool: &PgPool) -> anyhow::Result<String> {
    let word = "SELECT coalesce((SELECT wakeup FROM copyhold.daemons ORDER BY id DESC LIMIT 1), '')";
    Ok(sqlx::query_scalar(word).fetch_one(pool).await?)
}

/// Waits until LISTEN works and the daemon has registered as idle.
async fn until_heard(pool: &PgPool) -> anyhow::Result<()> {
    let heard = "SELECT EXISTS (SELECT FROM copyhold.daemons WHERE wakeup = 'notify' AND inbox_sleeping AND sleeping)";
    while !sqlx::query_scalar::<_, bool>(heard).fetch_one(pool).await? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// An application that registers objects and appends events, one after the other, and measures how long each waits.
struct Load {
    objects: Samples,
    events: Samples,
    /// Events that the reader did not get in order, exactly once.
    wrong: Arc<AtomicI64>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<u32>>,
    /// Stopped when dropped.
    _reader: JoinSet<()>,
}

/// The commit of each object or event, and its wait in milliseconds.
#[derive(Clone, Default)]
struct Samples(Arc<Mutex<Vec<(Instant, f64)>>>);

impl Samples {
    fn add(&self, committed: Instant) {
        let waited = committed.elapsed().as_secs_f64() * 1000.0;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((committed, waited));
    }

    /// Returns the waits of those committed in this time, sorted. Blocks until all of them are known.
    async fn between(&self, from: Instant, to: Instant) -> Vec<f64> {
        loop {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if all.last().is_some_and(|(committed, _)| *committed > to) {
                let mut waits: Vec<_> =
                    all.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, ms)| *ms).collect();
                waits.sort_by(f64::total_cmp);
                return waits;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Load {
    fn begin(pool: &PgPool, addresses: watch::Receiver<String>) -> Self {
        let (objects, events, wrong) = (Samples::default(), Samples::default(), Arc::default());
        let (stop, mut tasks, mut reader) = (CancellationToken::new(), JoinSet::new(), JoinSet::new());
        let (tells, seen) = watch::channel(0);
        reader.spawn(read(addresses, tells, Arc::clone(&wrong)));
        tasks.spawn(register(pool.clone(), objects.clone(), stop.clone()));
        tasks.spawn(append(pool.clone(), seen, events.clone(), stop.clone()));
        Self { objects, events, wrong, stop, tasks, _reader: reader }
    }

    async fn during(&self, time: Duration) -> WaitTimes {
        self.since(Instant::now(), time).await
    }

    async fn since(&self, from: Instant, time: Duration) -> WaitTimes {
        let to = from + time;
        tokio::time::sleep_until(to.into()).await;
        (self.objects.between(from, to).await, self.events.between(from, to).await)
    }

    /// Checks that everything has arrived, exactly once.
    async fn end(mut self, stage: &Environment) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        while stage.unfinished().await? > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let events = stage.count("SELECT count(*) FROM copyhold.log WHERE event_data ->> 'kind' = 'bench'").await?;
        let objects = stage.count("SELECT count(*) FROM copyhold.object_copies").await?;
        let told = "SELECT count(*) FROM copyhold.object_copies o WHERE NOT EXISTS (
                        SELECT FROM copyhold.log WHERE event_data ->> 'kind' = 'object.copied' AND event_data ->> 'object_key' = o.object_key)";
        println!("{objects} objects copied, {events} events of another program");
        ensure!(events > 0, "no event was appended");
        at_most("E7", "events-lost-or-doubled-or-out-of-order", self.wrong.load(Ordering::Relaxed), 0);
        at_most("E7", "objects-whose-copies-were-not-told", stage.count(told).await?, 0);
        Ok(())
    }
}

/// Repeats an idempotent statement while PostgreSQL is unavailable: it may have been committed without an answer.
async fn persistently(pool: &PgPool, sql: &'static str, bind: String) {
    while sqlx::query(sql).bind(&bind).execute(pool).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_true(pool: &PgPool, sql: &'static str, bind: &str) {
    while !sqlx::query_scalar::<_, bool>(sql).bind(bind).fetch_one(pool).await.unwrap_or(false) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn register(pool: PgPool, samples: Samples, stop: CancellationToken) -> anyhow::Result<u32> {
    let insert = "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ($1, copyhold.now_utc_micro_seconds())
                  ON CONFLICT DO NOTHING";
    let claimed = "SELECT lock IS NOT NULL OR wasabi IS NOT NULL FROM copyhold.object_copies WHERE object_key = $1";
    for i in 1..=OBJECTS {
        let key = format!("object-{i}");
        persistently(&pool, insert, key.clone()).await;
        let committed = Instant::now();
        until_true(&pool, claimed, &key).await;
        samples.add(committed);
        if stop.run_until_cancelled(tokio::time::sleep(OBJECT_EVERY)).await.is_none() {
            return Ok(i);
        }
    }
    Err(anyhow::anyhow!("all objects are registered")).context("the bench takes longer than it was made for")
}

/// Reads the events in order; after a lost connection it resumes after the last event, at the current daemon.
async fn read(addresses: watch::Receiver<String>, seen: watch::Sender<i64>, wrong: Arc<AtomicI64>) {
    let mut after = 0;
    loop {
        let address = addresses.borrow().clone();
        if let Ok(mut stream) = TcpStream::connect(address).await {
            // An answer to HTTP/1.0 is not chunked.
            let request = format!("GET /v1/events?after={after}&format=ndjson HTTP/1.0\r\nHost: localhost\r\n\r\n");
            let _ = stream.write_all(request.as_bytes()).await;
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // The answer's head and its keep-alive lines contain no event.
                let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
                let Some(id) = event["id"].as_i64() else { continue };
                after = id;
                if event["event_data"]["kind"] == "bench" {
                    let n = event["event_data"]["n"].as_i64().unwrap_or_default();
                    let last = seen.send_replace(n);
                    wrong.fetch_add(i64::from(n != last + 1), Ordering::Relaxed);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn append(
    pool: PgPool,
    mut seen: watch::Receiver<i64>,
    samples: Samples,
    stop: CancellationToken,
) -> anyhow::Result<u32> {
    // Appended once, although it is sent again after a lost answer.
    let appends = "SELECT copyhold.append_event(jsonb_build_object('kind', 'bench', 'n', $1::int))
                   WHERE NOT EXISTS (SELECT FROM copyhold.log_inbox WHERE event_data ->> 'n' = $1)
                     AND NOT EXISTS (SELECT FROM copyhold.log WHERE event_data ->> 'kind' = 'bench' AND event_data ->> 'n' = $1)";
    for n in 1_u32.. {
        persistently(&pool, appends, n.to_string()).await;
        let committed = Instant::now();
        seen.wait_for(|last| *last >= i64::from(n)).await.context("the reader has ended")?;
        samples.add(committed);
        if stop.run_until_cancelled(tokio::time::sleep(EVENT_EVERY)).await.is_none() {
            return Ok(n);
        }
    }
    unreachable!("events are numbered without end")
}
