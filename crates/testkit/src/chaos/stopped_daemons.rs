//! Stops daemons for longer than their leases, and has them continue.

use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{
    DAEMONS, LEASE, PATIENCE,
    application::ReRegistration,
    environment::{Environment, role},
    failures::Chaos,
    fleet::Replacement,
    keys::Keys,
    patiently,
};

/// Log messages of a daemon that got no answer to a statement: it may hold leases that it does not know of.
const NOT_ANSWERED: [&str; 3] = ["Could not look for work", "heartbeat failed", "Could not record results"];
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The results of the daemons that were stopped for longer than their leases.
#[derive(Debug, Default)]
pub(super) struct StoppedDaemons {
    pub(super) stopped: usize,
    /// Leases that others reclaimed meanwhile.
    pub(super) taken: u64,
    /// Lost leases that they detected themselves, afterwards.
    pub(super) noticed: u64,
}

impl Chaos<'_> {
    /// Stops a daemon in the middle of its work, has others take over, and lets it continue: it must detect each lease
    /// that it lost. Triggers in the database check that it wrote nothing under them.
    pub(super) async fn stop_and_continue(&self, seed: u64) -> anyhow::Result<StoppedDaemons> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut results = StoppedDaemons::default();
        while results.stopped == 0 || Instant::now() < self.end {
            let slot = rng.random_range(0..DAEMONS);
            {
                let _up = self.up.read().await;
                self.stop_one(slot, &mut rng, &mut results).await?;
            }
            sleep(Duration::from_millis(rng.random_range(100..1000))).await;
        }
        Ok(results)
    }

    async fn stop_one(&self, slot: usize, rng: &mut StdRng, results: &mut StoppedDaemons) -> anyhow::Result<()> {
        let before = last_daemon(self.environment, slot).await?;
        // A daemon whose connections are intact: it knows of all its leases.
        self.fleet.replace(slot, self.environment, Replacement::Spared).await?;
        let daemon = until("a daemon enters itself", async || {
            let last = last_daemon(self.environment, slot).await?;
            Ok(last.filter(|_| last > before))
        })
        .await?;
        let works = until("it is at work", async || Ok((leases(self.environment, daemon).await? > 0).then_some(())));
        if let Err(error) = works.await {
            let said = self.fleet.slot(slot).lock().await.said();
            bail!("{error}: daemon {daemon}; replicas:\n{}\nit said\n{said}", replicas(self.environment).await?);
        }
        self.fleet.slot(slot).lock().await.signal(Signal::STOP)?;
        if self.keys == Keys::MayChange {
            // When it continues, it sends the object's older content.
            let held = held(self.environment, daemon).await?;
            let primary = self.application.primary().await;
            for key in held {
                self.application.replace(self.environment, rng, &key, ReRegistration::Registered, *primary).await?;
            }
        }
        sleep(LEASE).await;
        until("others take its work", async || Ok((leases(self.environment, daemon).await? == 0).then_some(())))
            .await?;
        let taken = taken(self.environment, daemon).await?;
        self.fleet.slot(slot).lock().await.signal(Signal::CONT)?;
        results.stopped += 1;
        let deadline = Instant::now() + PATIENCE;
        let noticed = loop {
            let mut process = self.fleet.slot(slot).lock().await;
            let said = process.said();
            let late = u64::try_from(said.matches("Discarded result for ").count())?;
            // A daemon that serves its metrics slowly is asked again.
            let lost = process.metric("copyhold_leases_lost_total").await.ok().flatten();
            let noticed = lost.unwrap_or(0) + late;
            if noticed >= taken || NOT_ANSWERED.iter().any(|words| said.contains(words)) {
                process.spared = false;
                break noticed;
            }
            if Instant::now() > deadline {
                bail!(
                    "daemon {daemon} lost {taken} leases while it was stopped, and noticed {noticed}; it said\n{said}"
                );
            }
            drop(process);
            sleep(LOOK_EVERY).await;
        };
        results.taken += taken;
        results.noticed += noticed;
        Ok(())
    }
}

async fn last_daemon(environment: &Environment, slot: usize) -> anyhow::Result<Option<i32>> {
    let sql = "SELECT max(id) FROM chaos.daemons WHERE role = $1";
    patiently(|| sqlx::query_scalar(sql).bind(role(slot)).fetch_one(&environment.pool)).await
}

/// Returns the table of replicas as text, for an error.
async fn replicas(environment: &Environment) -> anyhow::Result<String> {
    let sql = "SELECT string_agg(r::text, E'\\n') FROM copyhold.replicas r";
    patiently(|| sqlx::query_scalar(sql).fetch_one(&environment.pool)).await
}

async fn held(environment: &Environment, daemon: i32) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT object_key FROM copyhold.object_copies WHERE lock IS NOT NULL AND lease >> 40 = $1";
    patiently(|| sqlx::query_scalar(sql).bind(daemon).fetch_all(&environment.pool)).await
}

async fn leases(environment: &Environment, daemon: i32) -> anyhow::Result<usize> {
    Ok(held(environment, daemon).await?.len())
}

async fn taken(environment: &Environment, daemon: i32) -> anyhow::Result<u64> {
    let sql = "SELECT count(*) FROM chaos.taken WHERE daemon = $1";
    let count: i64 = patiently(|| sqlx::query_scalar(sql).bind(daemon).fetch_one(&environment.pool)).await?;
    u64::try_from(count).context("a count")
}

async fn until<T>(what: &str, look: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        sleep(LOOK_EVERY).await;
    }
    bail!("never came true: {what}")
}
