//! A thousand readers of a real daemon over real sockets, at two thousand events a second; and their cost.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::common::{
    daemon::Daemon,
    environment::{Disk, Environment},
    report::{at_least, at_most},
    stores::Stores,
};

const READERS: usize = 1000;
const RATE: u32 = 2000;
/// Commits of the writer per second; the events are spread evenly over them.
const COMMITS_PER_SECOND: u32 = 100;
const FOR: Duration = Duration::from_secs(10);
const P99_MILLIS: usize = 50;
const IDLE_KIB: f64 = 64.0;

pub(super) async fn play(stores: &Stores) -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let stage = Environment::begin(Disk::Plain, stores, "[events]\nreaders = 5000\n").await?;
    let mut daemon = stage.daemon().await?;
    stage.until_idle(1).await?;
    idle(&stage, &daemon).await?;
    let mut queries = Vec::new();
    for (readers, rate) in
        [(1, RATE), (100, RATE), (READERS, 500), (READERS, RATE / 2), (READERS, RATE), (READERS, 2 * RATE)]
    {
        let seen = fan_out(&stage, &daemon, readers, rate).await?;
        daemon.check()?;
        if rate == RATE {
            queries.push(seen.queries_per_second);
            if readers == READERS {
                at_most("E2", "p99-ms", seen.p99, P99_MILLIS);
                at_most("E2", "readers-that-lack-events", seen.lacking, 0);
            }
        }
    }
    let [one, .., most] = queries[..] else { bail!("no figures") };
    at_most("E2", "queries-with-1000-readers-by-with-one", most / one, 1.5);
    daemon.end().await?;
    stage.end().await
}

/// Measures the daemon's memory per reader that only waits.
async fn idle(stage: &Environment, daemon: &Daemon) -> anyhow::Result<()> {
    let (before, _) = daemon.resident_mib()?;
    let board = Arc::new(CommitTimes::default());
    let mut readers = Readers::begin(daemon, READERS, &board).await?;
    sleep(Duration::from_secs(3)).await;
    let (with, _) = daemon.resident_mib()?;
    let listening = "SELECT count(*) FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND (query LIKE '%LISTEN %' OR query LIKE '%listener::%')";
    println!("{READERS} idle readers: {before:.1} MiB without them, {with:.1} MiB with them");
    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    at_most("E2", "kib-per-idle-reader", (with - before) * 1024.0 / READERS as f64, IDLE_KIB);
    let listening = stage.count(listening).await?;
    at_most("E2", "listening-connections", listening, 1);
    at_least("E2", "listening-connections", listening, 1);
    readers.0.shutdown().await;
    Ok(())
}

struct ReaderStats {
    /// Milliseconds from a commit to the reader's socket.
    p99: usize,
    /// The daemon's statements, without those of the appending client.
    queries_per_second: f64,
    lacking: usize,
}

async fn fan_out(stage: &Environment, daemon: &Daemon, count: usize, rate: u32) -> anyhow::Result<ReaderStats> {
    let board = Arc::new(CommitTimes::default());
    let mut readers = Readers::begin(daemon, count, &board).await?;
    // Until the tailer has started, and the earlier statistics are written.
    sleep(Duration::from_secs(2)).await;
    let (cpu, transactions) = (daemon.cpu_seconds()?, transactions(stage).await?);
    let begun = Instant::now();
    let commits = append(stage, &board, rate).await?;
    let took = begun.elapsed().as_secs_f64();
    let cpu = daemon.cpu_seconds()? - cpu;
    let mut lacking = readers.lacking(commits).await;
    // Late events arrive in the end.
    for _ in 0..100 {
        if lacking == 0 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
        lacking = readers.lacking(commits).await;
    }
    // PostgreSQL writes its statistics once a second.
    sleep(Duration::from_secs(2)).await;
    let all =
        f64::from(u32::try_from(self::transactions(stage).await? - transactions)?) - f64::from(u32::try_from(commits)?);
    let queries_per_second = all / begun.elapsed().as_secs_f64();
    let bytes = board.bytes.load(Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "a rate in millions")]
    let rate_in_mb = bytes as f64 / took / 1e6;
    let [p50, p99, longest] = [50, 99, 100].map(|percent| board.percentile(percent));
    println!(
        "{count} readers, {:.0} events/s: from commit to socket p50 {p50} ms, p99 {p99} ms, longest {longest} ms; \
         {rate_in_mb:.0} MB/s; {:.2} cores of the daemon; {queries_per_second:.1} queries/s; {lacking} lack events",
        f64::from(u32::try_from(commits)? * (rate / COMMITS_PER_SECOND)) / took,
        cpu / took,
    );
    readers.0.shutdown().await;
    Ok(ReaderStats { p99, queries_per_second, lacking })
}

async fn transactions(stage: &Environment) -> anyhow::Result<i64> {
    stage.count("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").await
}

/// Appends events like a daemon's, each with the number of its commit; returns the number of commits.
async fn append(stage: &Environment, board: &CommitTimes, rate: u32) -> anyhow::Result<usize> {
    let sql = "SELECT copyhold.append_log(ARRAY(
        SELECT jsonb_build_object('n', $1, 'kind', 'object.copied', 'object_key', 'photos/2026/11/22/' || i, 'generation', i,
                   'size_bytes', 10240, 'replicas', jsonb_build_array('wasabi', 'scw'), 'complete', true)
        FROM generate_series(1, $2) i))";
    let mut ticks = interval(Duration::from_secs(1) / COMMITS_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let begun = Instant::now();
    let mut commit = 0;
    while begun.elapsed() < FOR && commit < COMMITS {
        ticks.tick().await;
        let events = i32::try_from(rate / COMMITS_PER_SECOND)?;
        sqlx::query(sql).bind(i32::try_from(commit)?).bind(events).execute(&stage.pool).await?;
        let _ = board.committed[commit].set(Instant::now());
        commit += 1;
    }
    Ok(commit)
}

const COMMITS: usize = 4096;

/// The time of each commit, and how long readers waited for it.
struct CommitTimes {
    committed: Vec<OnceLock<Instant>>,
    /// The counts by milliseconds; the last one is for all longer waits.
    took: Vec<AtomicU64>,
    bytes: AtomicU64,
}

impl Default for CommitTimes {
    fn default() -> Self {
        Self {
            committed: (0..COMMITS).map(|_| OnceLock::new()).collect(),
            took: (0..10_000).map(|_| AtomicU64::new(0)).collect(),
            bytes: AtomicU64::new(0),
        }
    }
}

impl CommitTimes {
    /// Records that a reader has all events of these commits now. A commit that the reader has before its writer has
    /// the answer counts as 0.
    fn got(&self, commits: std::ops::Range<usize>) {
        let now = Instant::now();
        for commit in commits {
            let since = self.committed[commit].get().map_or(Duration::ZERO, |at| now.saturating_duration_since(*at));
            let millis = usize::try_from(since.as_millis()).unwrap_or(usize::MAX).min(self.took.len() - 1);
            self.took[millis].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns milliseconds, rounded up.
    fn percentile(&self, percent: u64) -> usize {
        let took: Vec<u64> = self.took.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let wanted = (took.iter().sum::<u64>() * percent).div_ceil(100);
        let mut sum = 0;
        took.iter()
            .position(|count| {
                sum += count;
                sum >= wanted
            })
            .map_or(0, |millis| millis + 1)
    }
}

/// Stopped when dropped.
struct Readers(JoinSet<anyhow::Result<()>>, Vec<Arc<AtomicUsize>>);

impl Readers {
    async fn begin(daemon: &Daemon, count: usize, board: &Arc<CommitTimes>) -> anyhow::Result<Self> {
        let said = daemon.said();
        let address = said.split_once("on http://").context("it does not say where its pages are")?.1;
        let address = address.split_whitespace().next().context("an address")?.to_owned();
        let mut readers = JoinSet::new();
        let mut commits = Vec::new();
        for _ in 0..count {
            let mut stream = TcpStream::connect(&address).await?;
            let got = Arc::new(AtomicUsize::new(0));
            stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).await?;
            if &head != b"HTTP/1.1 200" {
                bail!("a reader is refused");
            }
            commits.push(Arc::clone(&got));
            readers.spawn(read(stream, Arc::clone(board), got));
        }
        Ok(Self(readers, commits))
    }

    /// Returns how many readers lack some of this many commits.
    async fn lacking(&mut self, commits: usize) -> usize {
        tokio::task::yield_now().await;
        self.1.iter().filter(|got| got.load(Ordering::Relaxed) < commits).count()
    }
}

/// Counts bytes and commits only.
async fn read(mut stream: TcpStream, board: Arc<CommitTimes>, got: Arc<AtomicUsize>) -> anyhow::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            bail!("the daemon has ended a stream");
        }
        board.bytes.fetch_add(read as u64, Ordering::Relaxed);
        if let Some(commit) = last_commit(&buffer[..read]) {
            // Events of the next commit may still be under way, but none of the previous ones.
            board.got(got.swap(commit + 1, Ordering::Relaxed)..commit + 1);
        }
    }
}

/// Returns the number in the last complete event.
fn last_commit(bytes: &[u8]) -> Option<usize> {
    const MARK: &[u8] = b"{\"n\": ";
    let mut end = bytes.len();
    while let Some(at) = bytes[..end].windows(MARK.len()).rposition(|window| window == MARK) {
        let digits = &bytes[at + MARK.len()..];
        if let Some(length) = digits.iter().position(|b| !b.is_ascii_digit()) {
            return str::from_utf8(&digits[..length]).ok()?.parse().ok();
        }
        end = at;
    }
    None
}
