//! Late writes at an exact point: a store executes a PUT after its object was replaced, deleted or promoted.

use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::{SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use sqlx::AssertSqlSafe;
use tokio::time::{Instant, sleep, timeout};

use super::{
    DAEMONS,
    application::ReRegistration,
    environment::{LATE, targets},
    failures::Chaos,
    fleet::Replacement,
    patiently,
    promotions::command,
};

/// How long to wait for the PUT. Failing stores may take longer, and then nothing is learnt.
const SENT_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often each case happened at the point at which it matters: the store had received a PUT, and neither answered
/// nor executed it yet.
#[derive(Debug, Default)]
pub(super) struct LateWrites {
    /// The object got new content and was registered again.
    pub(super) registered: usize,
    /// The object's row was deleted and inserted again, with new content.
    pub(super) deleted: usize,
    /// All daemons were killed, and the object got new content.
    pub(super) killed: usize,
    /// The promotion of that replica was refused.
    pub(super) refused: usize,
    /// The new content was recorded there before the old one arrived.
    pub(super) recorded_before: usize,
}

#[derive(Debug, Clone, Copy)]
enum LateWriteCase {
    Replace(ReRegistration),
    KillAll,
    Promote,
}

const ACTS: [LateWriteCase; 5] = [
    LateWriteCase::Replace(ReRegistration::Registered),
    LateWriteCase::Replace(ReRegistration::AtOnce),
    LateWriteCase::Replace(ReRegistration::Later),
    LateWriteCase::KillAll,
    LateWriteCase::Promote,
];

impl Chaos<'_> {
    /// Has the first PUT of one object after the other executed after something else has happened to the object. The
    /// result is compared with all other objects at the end.
    pub(super) async fn run_late_writes(&self, seed: u64) -> anyhow::Result<LateWrites> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut results = LateWrites::default();
        let mut number = 0;
        while Instant::now() < self.end {
            number += 1;
            self.land_late(&format!("exact-{number}"), &mut rng, &mut results).await?;
        }
        Ok(results)
    }

    async fn land_late(&self, key: &str, rng: &mut StdRng, results: &mut LateWrites) -> anyhow::Result<()> {
        let primary = *self.application.primary().await;
        let target = *targets(primary.name).choose(rng).context("there are two")?;
        let act = *ACTS.choose(rng).context("there are some")?;
        let (gate, order) = self.environment.carry_out_late(target, key);
        let uploaded_to = {
            // No promotion before the object is registered where it was uploaded.
            let now = self.application.primary().await;
            if now.name == target {
                return Ok(());
            }
            self.application.add(self.environment, rng, key, *now).await?;
            now.name
        };
        if timeout(SENT_WITHIN, gate.came(1)).await.is_err() {
            gate.open();
            order.clear();
            return Ok(());
        }
        // By assumption the PUT arrives no later.
        let lands = Instant::now() + LATE;
        {
            let now = self.application.primary().await;
            if now.name != target {
                match act {
                    // An object at a former primary is left alone if its row was deleted since.
                    LateWriteCase::Replace(_) if now.name != uploaded_to => {
                        self.application.replace(self.environment, rng, key, ReRegistration::Registered, *now).await?;
                        results.registered += 1;
                    }
                    LateWriteCase::Replace(how) => {
                        self.application.replace(self.environment, rng, key, how, *now).await?;
                        match how {
                            ReRegistration::Registered => results.registered += 1,
                            ReRegistration::AtOnce | ReRegistration::Later => results.deleted += 1,
                        }
                    }
                    LateWriteCase::KillAll => {
                        for slot in 0..DAEMONS {
                            self.fleet.replace(slot, self.environment, Replacement::Fair).await?;
                        }
                        self.application.replace(self.environment, rng, key, ReRegistration::Registered, *now).await?;
                        results.killed += 1;
                    }
                    // This case has waited for a promotion: the command might run when nothing can arrive any more.
                    LateWriteCase::Promote if Instant::now() + LATE / 2 > lands => {}
                    LateWriteCase::Promote => {
                        // The time from the PUT to the command is far shorter than the time until the PUT is settled.
                        let output = command(self.program, self.environment, &["promote", target]).output().await?;
                        if output.status.success() {
                            bail!("{target} was promoted though {key} may still arrive there");
                        }
                        results.refused += 1;
                    }
                }
            }
        }
        results.recorded_before += usize::from(self.recorded(key, target, lands).await?);
        gate.open();
        gate.empty().await;
        Ok(())
    }

    /// Waits for the copy to be recorded, within this time; returns whether it is.
    async fn recorded(&self, key: &str, replica: &str, until: Instant) -> anyhow::Result<bool> {
        let sql = format!("SELECT {replica} IS NOT NULL FROM copyhold.object_copies WHERE object_key = $1");
        while Instant::now() < until {
            let ask =
                || sqlx::query_scalar(AssertSqlSafe(sql.clone())).bind(key).fetch_optional(&self.environment.pool);
            if patiently(ask).await?.unwrap_or(false) {
                return Ok(true);
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(false)
    }
}
