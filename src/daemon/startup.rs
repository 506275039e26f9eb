//! Prepares a daemon: waits for a schema that fits, registers the daemon, makes a client per store.

use std::time::Duration;

use anyhow::Context as _;
use copyhold_db::{
    Database, DatabaseError,
    connections::LogThrottle,
    daemon::{Daemon, PublishedConfig},
    schema::SchemaFit,
};
use copyhold_s3::{copy, store::Store};
use tracing::{error, info, warn};

use crate::{config::Config, metrics, sweeper, worker::Replica};

const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a daemon has after its startup.
pub(super) struct Prepared {
    pub(super) daemon: Daemon,
    pub(super) replicas: Vec<Replica>,
}

/// Checks the schema, registers the daemon and connects to each store.
pub(super) async fn prepare(config: &Config, database: &Database, migrate: bool) -> anyhow::Result<Prepared> {
    until_available("look at the schema", || fit(config, database, migrate)).await?;
    until_available("look at the plans", || check_plans(database)).await?;
    until_available("look at the sequences", || check_sequences(database)).await?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let timeout = config.lease.timeout;
    let daemon = until_available("enter the list of daemons", || async {
        database
            .register_daemon_as(host.clone(), timeout, Some(PublishedConfig::of(config)))
            .await
            .map_err(StartupError::from)
    })
    .await?;
    let mut replicas = Vec::new();
    for replica in &config.replicas {
        // Each object has one request under way at a store, a large one as many as there is memory for its parts.
        let parts = usize::try_from(config.workers.memory_bytes / copy::WHOLE_UP_TO).unwrap_or(usize::MAX);
        let store = Store::connect(&replica.into(), config.workers.count.saturating_add(parts))
            .await
            .with_context(|| format!("the client of replica {}", replica.name))?;
        if let Some(proxy) = store.proxy() {
            info!(replica = %replica.name, "Requests to {} go through the proxy {proxy}", replica.name);
        }
        replicas.push(Replica::new(store, replica.read, config.workers.count, config.workers.reserved));
    }
    info!(
        daemon = daemon.id.number(),
        "Daemon {} has {} workers for {} replicas",
        daemon.id,
        config.workers.count,
        replicas.len()
    );
    Ok(Prepared { daemon, replicas })
}

async fn fit(config: &Config, database: &Database, migrate: bool) -> Result<(), StartupError> {
    if migrate {
        match copyhold_db::schema::migrate(config).await {
            Ok(done) => info!(from_version = done.from_version, "The schema is up to date"),
            Err(copyhold_db::schema::MigrateError::Database(error)) => return Err(error.into()),
            Err(error) => return Err(StartupError::Permanent(error.into())),
        }
    }
    match database.schema_fit().await? {
        SchemaFit::Fits => {}
        unfit => return Err(StartupError::Permanent(unfit.into())),
    }
    let known = database.replica_rows().await?;
    let missing: Vec<_> =
        database.replicas().iter().filter(|r| !known.iter().any(|k| k.name == **r)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(StartupError::Permanent(anyhow::anyhow!(
        "the schema has no columns for replica {}; run `copyhold migrate` with this configuration (or `copyhold run --migrate`)",
        missing.join(", ")
    )))
}

/// Logs every plan that finds work slowly, and continues: slow work is done all the same. A missing function is fatal,
/// since no work can be found without it.
async fn check_plans(database: &Database) -> Result<(), StartupError> {
    let all = match database.plans().await {
        Ok(all) => all,
        Err(error) if error.is_unavailable() => return Err(error.into()),
        Err(error) => {
            warn!(error = %error, "Could not check the plans of the claims");
            return Ok(());
        }
    };
    for planned in &all {
        let of = planned.lane.as_deref().unwrap_or("all lanes");
        metrics::plan_wrong(of, !planned.flaws.is_empty());
        for flaw in &planned.flaws {
            error!(
                lane = of,
                "Finding the work of {of} is slow or fails: {flaw}; run `copyhold migrate`, then see `copyhold explain --plan`"
            );
        }
    }
    match all.iter().flat_map(|planned| &planned.flaws).find(|flaw| flaw.is_fatal()) {
        Some(flaw) => Err(StartupError::Permanent(anyhow::anyhow!("{flaw}; {}", flaw.remedy()))),
        None => Ok(()),
    }
}

/// Before anything is registered or written: a sequence that began again would assign its numbers twice.
async fn check_sequences(database: &Database) -> Result<(), StartupError> {
    match sweeper::mend_sequences(&database.duties()).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_unavailable() || error.is_conflict() => Err(error.into()),
        Err(error) => {
            warn!(error = %error, "Could not check whether sequences are behind their tables");
            Ok(())
        }
    }
}

/// An error that may pass, or one that only an operator can mend.
enum StartupError {
    Transient(anyhow::Error),
    Permanent(anyhow::Error),
}

impl From<DatabaseError> for StartupError {
    fn from(error: DatabaseError) -> Self {
        let passes = error.is_unavailable() || error.is_conflict();
        if passes { Self::Transient(error.into()) } else { Self::Permanent(error.into()) }
    }
}

/// Retries while PostgreSQL is unavailable, less and less often, up to two seconds, so that work begins soon after it
/// is back.
async fn until_available<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, StartupError>>,
{
    let mut pause = Duration::from_millis(200);
    let throttle = LogThrottle::new();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(StartupError::Permanent(error)) => return Err(error),
            Err(StartupError::Transient(error)) => {
                throttle.fails(|times| {
                    warn!(times, "Could not {what}, trying again every {LONGEST_PAUSE:?} at most: {error}");
                });
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
