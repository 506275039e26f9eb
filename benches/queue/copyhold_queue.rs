use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use copyhold::worker::LowWaterMark;
use copyhold_core::domain::{Content, ContentHash, Lease, MetadataHash, Outcome, ReplicaName, SourceReading, Verified};
use copyhold_db::{
    Database,
    daemon::Daemon,
    lease::{Claimed, FencedWrite, Report},
};
use tokio::task::JoinSet;

use crate::common::{
    comparison::{ComparisonResult, StopCondition},
    database::{BenchDatabase, CONNECTIONS},
    stores::Stores,
};

/// Rows of one claim, and of one completion.
const BATCH: usize = 128;

/// Claims and completes with Copyhold's library, as a daemon does but without copies, with several claimers at once.
pub(crate) async fn play(
    ground: &BenchDatabase,
    stores: &Stores,
    goal: &StopCondition,
) -> anyhow::Result<ComparisonResult> {
    let (_folder, config) = ground.configured(stores)?;
    let (queue, lane) = ground.queue(&config)?;
    let daemon = queue.register_daemon("bench".to_owned(), Duration::from_mins(10)).await?;
    let run = goal.begin();
    let mut claimers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (mut claimer, run) = (Claimer::new(queue.clone(), daemon.clone(), lane.clone()), Arc::clone(&run));
        claimers.spawn(async move {
            while run.goes_on() {
                let leases = claimer.claim(BATCH).await?.leases;
                if leases.is_empty() {
                    tokio::time::sleep(claimer.pause()).await;
                    continue;
                }
                run.did(claimer.complete(leases).await?);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = claimers.join_next().await {
        ended??;
    }
    Ok(run.score())
}

/// One claimer and its low-water mark, as in a daemon.
pub(super) struct Claimer {
    queue: Database,
    daemon: Daemon,
    lane: ReplicaName,
    low_water_mark: LowWaterMark,
}

impl Claimer {
    pub(super) fn new(queue: Database, daemon: Daemon, lane: ReplicaName) -> Self {
        Self { queue, daemon, lane, low_water_mark: LowWaterMark::new() }
    }

    pub(super) async fn claim(&mut self, rows: usize) -> anyhow::Result<Claimed> {
        let query = self.low_water_mark.query(Instant::now());
        let claimed = self.queue.claim(&self.daemon, &self.lane, rows, query.from).await?;
        self.low_water_mark.record_answer(query, claimed.last_position, claimed.leases.len() == rows, Instant::now());
        Ok(claimed)
    }

    /// The wait after an empty claim; short, because other claimers may have done the rest.
    fn pause(&self) -> Duration {
        self.low_water_mark.until_beginning(Instant::now()).clamp(Duration::from_millis(1), Duration::from_millis(100))
    }

    /// Records all claimed objects at both targets; returns how many.
    pub(super) async fn complete(&self, leases: Vec<Lease>) -> anyhow::Result<u64> {
        let targets = || self.queue.replicas().iter().filter(|r| r.as_str() != "b2");
        let source = ReplicaName::new("b2")?;
        let report = |lease: Lease| Report {
            key: lease.key,
            generation: lease.generation,
            fence: lease.fence,
            content: Some(Content { size_bytes: 10_240, hash: ContentHash(1) }),
            outcomes: targets().map(|r| (r.clone(), Outcome::recorded(Verified::Compared))).collect(),
            release: true,
            metadata: Some(MetadataHash(2)),
            source: Some(SourceReading {
                replica: source.clone(),
                modified_us: Some(1_700_000_000_000_000),
                tag: Some(3),
            }),
            not_carried: None,
            survived: false,
            unsettled: Vec::new(),
        };
        let mut reports: Vec<_> = leases.into_iter().map(report).collect();
        let objects = reports.len() as u64;
        while !reports.is_empty() {
            let answers = match self.queue.complete(&reports).await {
                // Retried as in a daemon: another completion held the log's lock for long, while it waited for a
                // processor.
                Err(error) if error.is_lock_timeout() => continue,
                answers => answers?,
            };
            if let Some((key, ..)) = answers.iter().find(|(.., answer)| *answer == FencedWrite::Superseded) {
                bail!("the lease of {key} was lost although there is no other daemon");
            }
            // Another claim came too late for the row, and locks it until its transaction ends.
            let busy = |report: &Report| {
                answers.iter().any(|(k, _, answer)| *answer == FencedWrite::RowLocked && *k == report.key)
            };
            reports.retain(busy);
        }
        Ok(objects)
    }
}
