//! The cost of the log for a daemon: objects claimed and completed per second with it, relative to the rate without.

use std::{sync::Arc, time::Duration};

use copyhold::worker::LowWaterMark;
use copyhold_core::domain::{Content, ContentHash, EventKinds, Lease, Outcome, ReplicaName, Verified};
use copyhold_db::{
    Database,
    lease::{FencedWrite, Report},
};
use sqlx::postgres::PgPoolOptions;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use crate::common::{
    comparison::{ComparisonResult, Rates, Run, StopCondition},
    database::{BenchDatabase, DatabaseServer},
    environment::Disk,
    report::at_least,
    stores::Stores,
};

const OBJECTS: u32 = 400_000;
const REPETITIONS: usize = 5;
const AT_MOST: Duration = Duration::from_secs(8);
/// Rows of one claim, and the most of one completion.
const BATCH: usize = 128;
const DAEMONS: usize = 2;

pub(super) async fn play(stores: &Stores) -> anyhow::Result<()> {
    for disk in Disk::BOTH {
        let grounds = DatabaseServer::begin_on(disk).await?;
        let template = grounds.make("e6").await?;
        template.fill(stores, OBJECTS, "md5(i::text)", "true").await?;
        template.pool.close().await;
        let (mut with, mut without) = (Rates::default(), Rates::default());
        // In turns, so that other load of the machine affects both.
        for _ in 0..REPETITIONS {
            for (rates, kinds) in [(&mut with, EventKinds::all()), (&mut without, EventKinds::none())] {
                let ground = grounds.copy("e6").await?;
                let goal = StopCondition { objects: OBJECTS.into(), at_most: AT_MOST };
                rates.add(contest(&ground, stores, &goal, &kinds).await?);
                grounds.clear(ground).await?;
            }
        }
        let disk = disk.name();
        println!("{disk}, {DAEMONS} daemons, batches up to {BATCH}: with the log {with}, without {without}");
        at_least("E6", &format!("percent-of-without-log-{disk}"), 100.0 * with.median() / without.median(), 70.0);
        grounds.end().await?;
    }
    Ok(())
}

async fn contest(
    ground: &BenchDatabase,
    stores: &Stores,
    goal: &StopCondition,
    kinds: &EventKinds,
) -> anyhow::Result<ComparisonResult> {
    let (_folder, config) = ground.configured(stores)?;
    let run = goal.begin();
    let mut tasks = JoinSet::new();
    for _ in 0..DAEMONS {
        let pool = PgPoolOptions::new().max_connections(4).connect(&ground.url).await?;
        let names = config.replicas.iter().map(|r| r.name.clone()).collect();
        let queue = Database::with_events(pool, config.database.schema.clone(), names, kinds.clone());
        // As in a daemon: claims do not run far ahead of the completer.
        let (leases, done) = mpsc::channel(2 * BATCH);
        tasks.spawn(claim(queue.clone(), Arc::clone(&run), leases));
        tasks.spawn(complete(queue, Arc::clone(&run), done));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(run.score())
}

async fn claim(queue: Database, run: Arc<Run>, leases: mpsc::Sender<Lease>) -> anyhow::Result<()> {
    let daemon = queue.register_daemon("bench".to_owned(), Duration::from_mins(10)).await?;
    let lane = ReplicaName::new("wasabi")?;
    let mut low_water_mark = LowWaterMark::new();
    while run.goes_on() {
        let query = low_water_mark.query(Instant::now().into_std());
        let claimed = queue.claim(&daemon, &lane, BATCH, query.from).await?;
        low_water_mark.record_answer(
            query,
            claimed.last_position,
            claimed.leases.len() == BATCH,
            Instant::now().into_std(),
        );
        if claimed.leases.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for lease in claimed.leases {
            if leases.send(lease).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn complete(queue: Database, run: Arc<Run>, mut done: mpsc::Receiver<Lease>) -> anyhow::Result<()> {
    let targets: Vec<_> = queue.replicas().iter().filter(|r| r.as_str() != "b2").cloned().collect();
    let mut leases = Vec::new();
    while run.goes_on() && done.recv_many(&mut leases, BATCH).await > 0 {
        let report = |lease: Lease| Report {
            key: lease.key,
            generation: lease.generation,
            fence: lease.fence,
            content: Some(Content { size_bytes: 10_240, hash: ContentHash(1) }),
            outcomes: targets.iter().map(|r| (r.clone(), Outcome::recorded(Verified::Compared))).collect(),
            release: true,
            metadata: None,
            source: None,
            not_carried: None,
            survived: false,
            unsettled: Vec::new(),
        };
        let mut reports: Vec<_> = leases.drain(..).map(report).collect();
        let objects = reports.len() as u64;
        while !reports.is_empty() {
            match queue.complete(&reports).await {
                Ok(answers) => {
                    let busy = |report: &Report| {
                        answers.iter().any(|(key, _, answer)| *answer == FencedWrite::RowLocked && *key == report.key)
                    };
                    reports.retain(busy);
                }
                Err(error) if error.is_lock_timeout() => {}
                Err(error) => return Err(error.into()),
            }
        }
        run.did(objects);
    }
    Ok(())
}
