//! Daemons that die all the time: played for a minute by a test, for five by a benchmark.
//!
//! Four daemons copy what an application uploads and registers. Random ones are killed every second, others are
//! stopped for longer than their leases and go on as zombies; connections break, PostgreSQL crashes and comes back,
//! a transaction of another program locks leased rows, and one store call in ten fails. Where keys may change, rows are deleted and
//! inserted again, other replicas become the primary, and writes land long after their connections have ended. All the while an observer compares
//! rows with stores, and triggers hold each write of a daemon against whose lease it was made under. The rule: only
//! what is wrong is an error, never what is slow. Accidents are drawn from a seed; what the processes make of them
//! is their own affair.

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
/// Of every daemon: the shortest there is, so that many deaths fit into a minute.
const LEASE: Duration = Duration::from_secs(3);
/// Without any step forward. Far more than anything takes that goes well.
const PATIENCE: Duration = Duration::from_mins(5);

/// What happened. That nothing went wrong needs no figure: anything that did is an error.
#[derive(Debug)]
pub struct ChaosReport {
    objects: usize,
    /// Rows that were deleted and inserted again.
    deleted: usize,
    promoted: u32,
    exact: LateWrites,
    launched: usize,
    killed: usize,
    zombies: StoppedDaemons,
    broken_connections: u64,
    /// Leases that were not given back by their holders.
    taken: i64,
    /// Recorded copies that the observer looked for.
    looked_for: u64,
    accidents: Duration,
    afterwards: Duration,
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoppedDaemons { stopped, taken, noticed } = self.zombies;
        let LateWrites { registered, deleted, killed, refused, recorded_before } = self.exact;
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
            self.accidents.as_secs_f64(),
            self.afterwards.as_secs_f64()
        )
    }
}

/// Plays for so long with this program, then waits until everything is copied, and compares.
pub async fn play(program: &Path, keys: Keys, seed: u64, lasts: Duration) -> anyhow::Result<ChaosReport> {
    let (stage, mut cluster) = Environment::setup().await?;
    let played = Box::pin(play_on(&stage, &mut cluster, program, keys, seed, lasts)).await;
    stage.teardown().await;
    cluster.stop().await?;
    played.with_context(|| format!("with the seed {seed}"))
}

async fn play_on(
    stage: &Environment,
    cluster: &mut Cluster,
    program: &Path,
    keys: Keys,
    seed: u64,
    lasts: Duration,
) -> anyhow::Result<ChaosReport> {
    let mut rng = StdRng::seed_from_u64(seed);
    stage.fail_at_random(keys, &mut rng);
    let (application, over, up) = (Application::new(), AtomicBool::new(false), RwLock::new(()));
    let fleet = Fleet::launch(program, stage)?;
    let begun = Instant::now();
    let scene = Chaos { stage, fleet: &fleet, application: &application, program, keys, end: begun + lasts, up: &up };
    let seeds: [u64; 6] = rng.random();
    let accidents = async {
        let happened = tokio::try_join!(
            scene.kill(seeds[0]),
            scene.break_connections(seeds[1]),
            scene.haunt(seeds[2]),
            scene.hold_rows(),
            scene.restart(cluster),
            scene.promote(seeds[4]),
            scene.run_late_writes(seeds[5]),
        );
        over.store(true, Ordering::Relaxed);
        happened
    };
    let ((killed, broken_connections, zombies, (), (), promoted, exact), (), looked_for) = tokio::try_join!(
        accidents,
        application.run(stage, keys, seeds[3], &over),
        observer::observe(stage, &application, &over)
    )?;
    let accidents = begun.elapsed();
    stage.heal();
    let quiet = Instant::now();
    observer::until_all_is_copied(stage, keys).await?;
    let afterwards = quiet.elapsed();
    fleet.check().await?;
    observer::compare(stage, &application).await?;
    let taken = patiently(|| sqlx::query_scalar("SELECT count(*) FROM chaos.taken").fetch_one(&stage.pool)).await?;
    let launched = fleet.launched();
    fleet.end().await?;
    let (objects, deleted) = (application.latest().len(), application.deleted());
    Ok(ChaosReport {
        objects,
        deleted,
        promoted,
        exact,
        launched,
        killed,
        zombies,
        broken_connections,
        taken,
        looked_for,
        accidents,
        afterwards,
    })
}

/// Asks again while PostgreSQL is away.
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
