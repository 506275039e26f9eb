//! Chaos runs, in which daemons are killed all the time: a minute in a test, five in a benchmark.
//!
//! Four daemons copy what an application uploads and registers. Every second a random daemon is killed. Others are
//! stopped for longer than their leases, and continue without them. Connections break, PostgreSQL crashes and restarts,
//! a transaction of another program locks leased rows, and one store call in ten fails. If keys may change, rows are
//! deleted and inserted again, other replicas become the primary, and writes arrive long after their connections ended.
//!
//! Meanwhile an observer compares rows with stores, and triggers check that each write of a daemon was made under its
//! own lease. The rule: only a wrong state is an error, never a slow one. The failures follow from a seed; the timing
//! of the processes does not.

mod application;
mod environment;
mod failures;
mod fleet;
mod keys;
mod late_writes;
mod observer;
mod promotions;
mod stopped_daemons;

use std::{
    fmt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use application::Application;
use copyhold_sandbox::postgres::Cluster;
use environment::Environment;
use failures::Chaos;
use fleet::Fleet;
pub use keys::Keys;
use late_writes::LateWrites;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use stopped_daemons::StoppedDaemons;
use tokio::{
    sync::RwLock,
    time::{Instant, sleep},
};

const DAEMONS: usize = 4;
/// The lease of every daemon: the shortest possible, so that many deaths fit into a minute.
const LEASE: Duration = Duration::from_secs(3);
/// The longest time without progress, far more than any healthy step takes.
const PATIENCE: Duration = Duration::from_mins(5);

/// What happened in a run. Nothing here counts wrong states, because each is an error.
#[derive(Debug)]
pub struct ChaosReport {
    objects: usize,
    /// Rows that were deleted and inserted again.
    deleted: usize,
    promoted: u32,
    late_writes: LateWrites,
    launched: usize,
    killed: usize,
    stopped_daemons: StoppedDaemons,
    broken_connections: u64,
    /// Leases that their holders did not release.
    taken: i64,
    /// Recorded copies that the observer checked.
    looked_for: u64,
    failures: Duration,
    afterwards: Duration,
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoppedDaemons { stopped, taken, noticed } = self.stopped_daemons;
        let LateWrites { registered, deleted, killed, refused, recorded_before } = self.late_writes;
        write!(
            f,
            "{} rows deleted and inserted again, {} promotions; while a PUT was taken and not carried out yet: {registered} \
             objects registered again, {deleted} deleted and inserted again, {killed} times all daemons killed, {refused} promotions \
             refused, {recorded_before} times another content recorded before it landed; ",
            self.deleted, self.promoted
        )?;
        write!(
            f,
            "{} objects; {} daemons launched, {} killed, {stopped} stopped for longer than their leases: these lost {taken} leases \
             and noticed {noticed}; {} leases were swept in all, {} connections broken; {} recorded copies were looked for and \
             found; accidents for {:.0} s, all was copied {:.0} s later",
            self.objects,
            self.launched,
            self.killed,
            self.taken,
            self.broken_connections,
            self.looked_for,
            self.failures.as_secs_f64(),
            self.afterwards.as_secs_f64()
        )
    }
}

/// Runs this program for the given time, then waits until everything is copied, and compares.
pub async fn play(program: &Path, keys: Keys, seed: u64, lasts: Duration) -> anyhow::Result<ChaosReport> {
    let (environment, mut cluster) = Environment::setup().await?;
    let played = Box::pin(play_on(&environment, &mut cluster, program, keys, seed, lasts)).await;
    environment.teardown().await;
    cluster.stop().await?;
    played.with_context(|| format!("with the seed {seed}"))
}

async fn play_on(
    environment: &Environment,
    cluster: &mut Cluster,
    program: &Path,
    keys: Keys,
    seed: u64,
    lasts: Duration,
) -> anyhow::Result<ChaosReport> {
    let mut rng = StdRng::seed_from_u64(seed);
    environment.fail_at_random(keys, &mut rng);
    let (application, over, up) = (Application::new(), AtomicBool::new(false), RwLock::new(()));
    let fleet = Fleet::launch(program, environment)?;
    let begun = Instant::now();
    let chaos =
        Chaos { environment, fleet: &fleet, application: &application, program, keys, end: begun + lasts, up: &up };
    let seeds: [u64; 6] = rng.random();
    let failures = async {
        let happened = tokio::try_join!(
            chaos.kill(seeds[0]),
            chaos.break_connections(seeds[1]),
            chaos.stop_and_continue(seeds[2]),
            chaos.hold_rows(),
            chaos.restart(cluster),
            chaos.promote(seeds[4]),
            chaos.run_late_writes(seeds[5]),
        );
        over.store(true, Ordering::Relaxed);
        happened
    };
    let ((killed, broken_connections, stopped_daemons, (), (), promoted, late_writes), (), looked_for) = tokio::try_join!(
        failures,
        application.run(environment, keys, seeds[3], &over),
        observer::observe(environment, &application, &over)
    )?;
    let failures = begun.elapsed();
    environment.heal();
    let quiet = Instant::now();
    observer::until_all_is_copied(environment, keys).await?;
    let afterwards = quiet.elapsed();
    fleet.check().await?;
    observer::compare(environment, &application).await?;
    let taken =
        patiently(|| sqlx::query_scalar("SELECT count(*) FROM chaos.taken").fetch_one(&environment.pool)).await?;
    let launched = fleet.launched();
    fleet.end().await?;
    let (objects, deleted) = (application.latest().len(), application.deleted());
    Ok(ChaosReport {
        objects,
        deleted,
        promoted,
        late_writes,
        launched,
        killed,
        stopped_daemons,
        broken_connections,
        taken,
        looked_for,
        failures,
        afterwards,
    })
}

/// Repeats a query while PostgreSQL is unavailable.
async fn patiently<T, F>(ask: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = sqlx::Result<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(sqlx::Error::Database(error)) if !error.code().is_some_and(|code| code.starts_with("57P")) => {
                return Err(sqlx::Error::Database(error).into());
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}
