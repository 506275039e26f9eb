//! Promotes replicas while failures happen, as the documentation tells operators to.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use rand::{SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::{
    PATIENCE, environment::Environment, environment::targets, failures::Chaos, keys::Keys,
    observer::settle_what_cannot_arrive,
};

/// How often a replica is promoted while failures happen.
const PROMOTIONS: u32 = 2;
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const SETTLE_EVERY: Duration = Duration::from_secs(5);

impl Chaos<'_> {
    /// Changes the primary at even intervals, as documented: the application stops, the replica is promoted when it
    /// lacks nothing, and the application continues there. Daemons are killed meanwhile. Returns the number of
    /// promotions.
    pub(super) async fn promote(&self, seed: u64) -> anyhow::Result<u32> {
        if self.keys == Keys::NeverChange {
            return Ok(0);
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let distance = self.end.saturating_duration_since(Instant::now()) / (PROMOTIONS + 1);
        for _ in 0..PROMOTIONS {
            sleep(distance).await;
            // No daemon is stopped for longer than a lease meanwhile, and PostgreSQL stays up.
            let _alone = self.up.write().await;
            let mut primary = self.application.stop().await;
            let next = *targets(primary.name).choose(&mut rng).context("there are two")?;
            tokio::select! {
                promoted = self.until_promoted(next) => promoted?,
                failed = keep_settling(self.environment) => failed?,
            }
            primary.promoted(next);
        }
        Ok(PROMOTIONS)
    }

    async fn until_promoted(&self, replica: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            // The replica's breaker may be open, or a call of the command itself may fail.
            let output =
                command(self.program, self.environment, &["promote", replica, "--wait", "1m"]).output().await?;
            if output.status.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("{replica} is not promoted for {:?}: {said}", 2 * PATIENCE);
            }
            sleep(AGAIN_AFTER).await;
        }
    }
}

async fn keep_settling(environment: &Environment) -> anyhow::Result<()> {
    loop {
        settle_what_cannot_arrive(environment).await?;
        sleep(SETTLE_EVERY).await;
    }
}

/// Runs the program as an operator does.
pub(super) fn command(program: &Path, environment: &Environment, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg("--config").arg(environment.owner()).args(arguments);
    command.env_remove("COPYHOLD_CONFIG").stdin(Stdio::null()).kill_on_drop(true);
    command
}
