//! The composition root of `copyhold run`: configuration → pools, stores, tasks; and the order in which they end.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::{
    config::Config,
    copy::{self, Memory},
    domain::ReplicaName,
    ears::{self, Ears},
    http,
    lifecycle::{Endings, ExitReason, Lifecycle},
    listener::{Listener, Pace, Wakers},
    metrics,
    queue::{self, Daemon, Pools, Queue, QueueError, Retention, SchemaFit, Shared},
    store::Store,
    sweeper::{self, LogSweeper, Mover, OrphanedUploads, Reach, Sweeper},
    wake::{self, Wake, Waker},
    worker::{
        self, Allowance, Calls, Claimer, Doorkeeper, Health, Heartbeat, Held, Lanes, Rechecker, Replica, Runner, Slots,
        Standing, Stragglers, View,
    },
};

/// How long the last words, releases and farewells, may take after everything else has ended.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Runs the daemon until it is asked to end.
pub async fn run(config: Config, migrate: bool, metrics: PrometheusHandle) -> anyhow::Result<ExitReason> {
    // First of all, so that a port in use is told at once and nothing has to be undone.
    let door = http::bind(config.http.listen).await.with_context(|| {
        format!("cannot listen on {}, http.listen of the configuration: is another daemon running?", config.http.listen)
    })?;
    let (lifecycle, mut endings) = Lifecycle::new().context("cannot listen for signals")?;
    let pools = Pools::new(&config.database).context("database.url")?;
    let names: Vec<_> = config.replicas.iter().map(|r| r.name.clone()).collect();
    let kinds = config.events.kinds.clone();
    let queue = Queue::telling(pools.work.clone(), config.database.schema.clone(), names.clone(), kinds);
    let memory = Memory::new(config.workers.memory_bytes);
    let pages = http::Pages { queue: queue.clone(), memory: memory.clone(), metrics, drain: lifecycle.drain.clone() };
    lifecycle.spawn("http", &lifecycle.end, http::serve(door, pages, lifecycle.end.clone()));

    // Everything up to here works while PostgreSQL is away; from here on it is waited for.
    let prepared = tokio::select! {
        prepared = prepare(&config, &queue, migrate) => prepared?,
        reason = endings.first() => {
            lifecycle.end.cancel();
            return Ok(reason);
        }
    };
    let reason = work(config, prepared, queue, memory, &pools, &lifecycle, &mut endings).await?;
    if tokio::time::timeout(LAST_WORDS, pools.close()).await.is_err() {
        warn!("PostgreSQL's connections did not close in time");
    }
    Ok(reason)
}

struct Prepared {
    daemon: Daemon,
    replicas: Vec<Replica>,
}

/// A fitting schema, an entry among the daemons, a client per store.
async fn prepare(config: &Config, queue: &Queue, migrate: bool) -> anyhow::Result<Prepared> {
    patiently("look at the schema", || fit(config, queue, migrate)).await?;
    patiently("look at the plans", || look_at_plans(queue)).await?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let timeout = config.lease.timeout;
    let daemon = patiently("enter the list of daemons", || async {
        queue.enlist_as(host.clone(), timeout, Some(Shared::of(config))).await.map_err(Trouble::from)
    })
    .await?;
    let mut replicas = Vec::new();
    for replica in &config.replicas {
        // Each object has one request under way at a store, a large one as many as there is memory for its parts.
        let parts = usize::try_from(config.workers.memory_bytes / copy::WHOLE_UP_TO).unwrap_or(usize::MAX);
        let store = Store::connect(replica, config.workers.count.saturating_add(parts))
            .await
            .with_context(|| format!("the client of replica {}", replica.name))?;
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

async fn fit(config: &Config, queue: &Queue, migrate: bool) -> Result<(), Trouble> {
    if migrate {
        match queue::migrate(config).await {
            Ok(done) => info!(?done, "The schema is up to date"),
            Err(queue::MigrateError::Queue(error)) => return Err(error.into()),
            Err(error) => return Err(Trouble::Lasting(error.into())),
        }
    }
    match SchemaFit::of(queue.pool(), queue.schema()).await? {
        SchemaFit::Fits => {}
        unfit => return Err(Trouble::Lasting(unfit.into())),
    }
    let known = queue.replica_rows().await?;
    let missing: Vec<_> =
        queue.replicas().iter().filter(|r| !known.iter().any(|k| k.name == **r)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Trouble::Lasting(anyhow::anyhow!(
        "the schema has no columns for replica {}; run `copyhold migrate` with this configuration (or `copyhold run --migrate`)",
        missing.join(", ")
    )))
}

/// Work that is found slowly is found all the same: what is wrong is said loudly, and stops nobody. Without a function
/// there is nothing to find it with.
async fn look_at_plans(queue: &Queue) -> Result<(), Trouble> {
    let all = match queue.plans().await {
        Ok(all) => all,
        Err(error) if error.is_away() => return Err(error.into()),
        Err(error) => {
            warn!(error = %error, "Could not look at the plans of the claims");
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
        Some(flaw) => Err(Trouble::Lasting(anyhow::anyhow!("{flaw}; {}", flaw.remedy()))),
        None => Ok(()),
    }
}

async fn work(
    config: Config,
    prepared: Prepared,
    queue: Queue,
    memory: Memory,
    pools: &Pools,
    lifecycle: &Lifecycle,
    endings: &mut Endings,
) -> anyhow::Result<ExitReason> {
    let Prepared { daemon, replicas } = prepared;
    let (waker, wake) = wake::channel();
    let (replicas_waker, replicas_wake) = wake::channel();
    let lanes = Lanes::new(replicas, Stragglers::new(&memory));
    let health = Health::new(queue.clone(), lanes.clone(), replicas_waker.clone());
    let held = Held::default();
    let (completer, writer) = worker::completer(queue.clone());
    let (journals, recorder) = worker::journals(queue.clone());
    let heartbeat_queue = queue.over(pools.heartbeat.clone());

    // These live to the end: what is under way needs them.
    let heartbeat =
        Heartbeat { queue: heartbeat_queue, daemon: daemon.clone(), held: held.clone(), every: config.lease.heartbeat };
    lifecycle.spawn("heartbeat", &lifecycle.end, heartbeat.run(lifecycle.end.clone()));
    lifecycle.spawn("completer", &lifecycle.end, writer.run());
    lifecycle.spawn("recorder", &lifecycle.end, recorder.run());

    // These take on work, and end as soon as no more is wanted.
    let drain = &lifecycle.drain;
    let Notified { work: notices, ears, .. } = listen(&config, &queue, &daemon, replicas_waker, lifecycle)?;
    let settle = config.lease.settle();
    let sweeper = Sweeper {
        queue: queue.clone(),
        every: config.sweeper.every,
        lease_time: config.lease.timeout,
        settle,
        waker: waker.clone(),
    };
    lifecycle.spawn("sweeper", drain, sweeper.run(drain.clone()));
    let uploads = orphaned_uploads(&config, queue.clone(), lanes.clone());
    lifecycle.spawn("orphaned uploads", drain, uploads.run(drain.clone()));
    lifecycle.spawn("backlog", drain, sweeper::count_backlog(queue.clone(), drain.clone()));
    lifecycle.spawn("differences", drain, sweeper::watch_differences(queue.clone(), drain.clone()));
    let (count, reserved, grace) = (config.workers.count, config.workers.reserved, config.shutdown.grace);
    let doorkeeper = Doorkeeper {
        config,
        queue: queue.clone(),
        lanes: lanes.clone(),
        health: health.clone(),
        waker: waker.clone(),
        wake: replicas_wake,
    };
    lifecycle.spawn("doorkeeper", drain, doorkeeper.run(drain.clone()));

    let slots = Slots::new(count, reserved);
    let rechecker = Rechecker {
        queue: queue.clone(),
        daemon: daemon.clone(),
        held: held.clone(),
        completer: completer.clone(),
        lanes: lanes.clone(),
        slots: slots.clone(),
        allowance: Allowance::default(),
        settle,
        stop: lifecycle.stop.clone(),
        waker: waker.clone(),
    };
    lifecycle.spawn("rechecker", drain, rechecker.run(drain.clone()));

    let running = TaskTracker::new();
    let runner = Runner {
        queue: queue.clone(),
        held,
        completer,
        journals,
        lanes: lanes.clone(),
        health,
        memory,
        allowance: Allowance::default(),
        settle,
        stop: lifecycle.stop.clone(),
        freed: Arc::default(),
        waker,
    };
    let calls = Calls { own: wake, notices, ears };
    let claimer = Claimer::new(daemon.clone(), runner, slots, running.clone(), calls);
    lifecycle.spawn("claimer", drain, claimer.run(drain.clone()));

    let reason = endings.first().await;
    // Before it is said.
    lifecycle.drain.cancel();
    match &reason {
        ExitReason::Signal => info!(
            objects = running.len(),
            "Asked to end: no more is claimed, {} objects are finished first",
            running.len()
        ),
        ExitReason::TaskEnded(name) => error!(task = name, "Task {name} has ended, which it must not: the daemon ends"),
    }
    running.close();
    endings.drain(lifecycle, grace, running.wait()).await;
    finish(&queue, &daemon, lifecycle, &running).await;
    Ok(reason)
}

/// What the listener wakes, and whether it can.
struct Notified {
    work: Wake,
    /// The log has grown.
    #[expect(dead_code, reason = "for whoever follows the log")]
    events: Wake,
    ears: Ears,
}

/// Starts to listen, and what looks after the log: what others have put before it, and what is to go.
fn listen(
    config: &Config,
    queue: &Queue,
    daemon: &Daemon,
    replicas: Waker,
    lifecycle: &Lifecycle,
) -> anyhow::Result<Notified> {
    let (work_waker, work) = wake::channel();
    let (inbox_waker, inbox) = wake::channel();
    let (events_waker, events) = wake::channel();
    let (hearing, ears) = ears::closed();
    let drain = &lifecycle.drain;
    let listener = Listener {
        wakeup: config.database.wakeup,
        options: queue::direct_options(&config.database).context("database.listen_url")?,
        setting: if config.database.listen_url.is_some() { "database.listen_url" } else { "database.url" },
        queue: queue.clone(),
        daemon: daemon.id,
        hearing,
        wakers: Wakers { work: work_waker, replicas, inbox: inbox_waker, events: events_waker },
        pace: Pace::default(),
    };
    lifecycle.spawn("listener", drain, listener.run(drain.clone()));
    let mover = Mover { queue: queue.clone(), daemon: daemon.id, wake: inbox, ears: ears.clone() };
    lifecycle.spawn("inbox", drain, mover.run(drain.clone()));
    let log = LogSweeper {
        queue: queue.clone(),
        every: config.sweeper.every,
        retention: Retention { keep_for: config.events.keep_for, keep_bytes: config.events.keep_bytes },
    };
    lifecycle.spawn("log", drain, log.run(drain.clone()));
    Ok(Notified { work, events, ears })
}

fn orphaned_uploads(config: &Config, queue: Queue, lanes: Lanes) -> OrphanedUploads {
    OrphanedUploads {
        queue,
        stores: lanes.replicas().iter().map(|replica| Arc::clone(&replica.store)).collect(),
        reach: Box::new(move |replica| reach(&lanes.view(), replica)),
        every: config.sweeper.every,
        quiet: config.lease.timeout + config.lease.settle(),
    }
}

/// Nothing is aborted before it is known that a replica's bucket is the one that the uploads are in.
fn reach(view: &View, replica: &ReplicaName) -> Reach {
    match view.standings.get(replica) {
        None | Some(Standing::Barred { .. } | Standing::Away { .. }) => Reach::No,
        // Also one that is full, which it helps.
        Some(Standing::ReadOnly { .. } | Standing::Open(_)) if view.primary.as_ref() == Some(replica) => Reach::Named,
        Some(Standing::ReadOnly { .. } | Standing::Open(_)) => Reach::All,
    }
}

/// Copies have been told to stop: they abort their uploads and give their rows back, then the rest ends.
async fn finish(queue: &Queue, daemon: &Daemon, lifecycle: &Lifecycle, running: &TaskTracker) {
    let last_words = async {
        running.wait().await;
        if let Err(error) = queue.leave(daemon.id).await {
            warn!(error = %error, "Could not leave the list of daemons; the others will notice");
        }
        lifecycle.end.cancel();
        lifecycle.all_ended().await;
    };
    if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
        warn!("Some work did not stop in time; its leases will be swept");
        lifecycle.end.cancel();
    }
}

/// An error to wait out, or one that only an operator can mend.
enum Trouble {
    Passing(anyhow::Error),
    Lasting(anyhow::Error),
}

impl From<QueueError> for Trouble {
    fn from(error: QueueError) -> Self {
        if error.is_away() { Self::Passing(error.into()) } else { Self::Lasting(error.into()) }
    }
}

/// Waits out a PostgreSQL that is away: longer and longer, up to ten seconds.
async fn patiently<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, Trouble>>,
{
    let mut pause = Duration::from_millis(200);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(Trouble::Lasting(error)) => return Err(error),
            Err(Trouble::Passing(error)) => {
                warn!("Could not {what}, next try in {pause:?}: {error}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        }
    }
}
