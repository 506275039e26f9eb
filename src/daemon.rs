//! The composition root of `copyhold run`: configuration → pools, stores, tasks; and the order in which they end.

mod last_words;
mod prepare;

use std::sync::Arc;

use anyhow::Context as _;
use copyhold_core::domain::ReplicaName;
use copyhold_db::{
    Database,
    connections::{Connections, Pools, Target},
    daemon::{Daemon, DaemonId, IdleKind},
    log::Retention,
};
use copyhold_s3::copy::Memory;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::{
    config::Config,
    ears::{self, Hearing},
    events, figures, http,
    lifecycle::{Endings, ExitReason, Hangups, Lifecycle},
    listener::{Listener, Pace, Wakers},
    sleeper::Sleeper,
    sweeper::{self, LogSweeper, Mover, OrphanedUploads, Reach, Sweeper},
    wake::{self, Waker},
    worker::{
        self, Allowance, Calls, Changes, Claimer, Completer, Doorkeeper, Health, Heartbeat, Held, Journals, Lanes,
        Rechecker, Runner, Slots, Standing, Stragglers, View,
    },
};
use last_words::LastWords;
use prepare::{Prepared, prepare};

/// Runs the daemon until it is asked to end.
pub async fn run(
    config: Config,
    migrate: bool,
    metrics: PrometheusHandle,
    hangups: Hangups,
) -> anyhow::Result<ExitReason> {
    // First of all, so that a port in use is told at once and nothing has to be undone.
    let door = http::bind(config.http.listen).with_context(|| {
        format!("cannot listen on {}, http.listen of the configuration: is another daemon running?", config.http.listen)
    })?;
    let (lifecycle, mut endings) = Lifecycle::new().context("cannot listen for signals")?;
    lifecycle.spawn("hangups", &lifecycle.end, hangups.log(lifecycle.end.clone()));
    let pools = Pools::new(&config.database);
    pools.check().context("database.url")?;
    let names: Vec<_> = config.replicas.iter().map(|r| r.name.clone()).collect();
    crate::metrics::initialise(&names);
    let kinds = config.events.kinds.clone();
    let queue = Database::with_events(pools.work.clone(), config.database.schema.clone(), names.clone(), kinds);
    let memory = Memory::new(config.workers.memory_bytes);
    let (events_waker, events_wake) = wake::channel();
    let (log, tailer) = events::open(queue.clone(), events::Settings::of(&config), events_wake);
    lifecycle.spawn("tailer", &lifecycle.drain, tailer.run(lifecycle.drain.clone()));
    let pages = http::Pages {
        queue: queue.clone(),
        memory: memory.clone(),
        metrics,
        log,
        auth: http::Auth::new(config.http.token.clone()),
        writes: http::Writes::default(),
        drain: lifecycle.drain.clone(),
    };
    lifecycle.spawn("http", &lifecycle.end, http::serve(door, pages, config.events.readers, lifecycle.end.clone()));

    lifecycle.spawn("figures", &lifecycle.end, figures::watch(queue.clone(), lifecycle.end.clone()));

    // Everything up to here works while PostgreSQL is away; from here on it is waited for.
    let prepared = tokio::select! {
        prepared = prepare(&config, &queue, migrate) => prepared?,
        reason = endings.first() => {
            lifecycle.end.cancel();
            return Ok(reason);
        }
    };
    let listen_target = pools.listen_target(&config.database);
    let base = Base { queue, memory, heartbeat: pools.heartbeat.clone(), listen_target, events: events_waker };
    let (reason, words) = work(config, prepared, base, &lifecycle, &mut endings).await?;
    if !words.step(pools.close()).await {
        warn!("PostgreSQL's connections did not close in time");
    }
    Ok(reason)
}

/// What was there before PostgreSQL was.
struct Base {
    queue: Database,
    memory: Memory,
    /// Heartbeats have a connection of their own.
    heartbeat: Connections,
    /// Where notices come from.
    listen_target: Target,
    /// For whoever follows the log.
    events: Waker,
}

async fn work(
    config: Config,
    prepared: Prepared,
    base: Base,
    lifecycle: &Lifecycle,
    endings: &mut Endings,
) -> anyhow::Result<(ExitReason, LastWords)> {
    let Prepared { daemon, replicas } = prepared;
    let Base { queue, memory, heartbeat, listen_target, events } = base;
    let (waker, wake) = wake::channel();
    let (replicas_waker, replicas_wake) = wake::channel();
    let lanes = Lanes::new(replicas, Stragglers::new(&memory, config.workers.count));
    let health = Health::new(queue.clone(), lanes.clone(), replicas_waker.clone(), waker.clone());
    let held = Held::default();
    let (completer, writer) = worker::completer(queue.clone());
    let (journals, recorder) = worker::journals(queue.clone());
    // The writers end when nobody can tell them anything more. That is at the end, not when the last copy is finished:
    // a task that ends earlier is an accident.
    let to_the_end = (completer.clone(), journals.clone());
    let heartbeat_queue = queue.over(heartbeat);

    // These live to the end: what is under way needs them.
    let heartbeat =
        Heartbeat { queue: heartbeat_queue, daemon: daemon.clone(), held: held.clone(), every: config.lease.heartbeat };
    lifecycle.spawn("heartbeat", &lifecycle.end, heartbeat.run(lifecycle.end.clone()));
    lifecycle.spawn("completer", &lifecycle.end, writer.run());
    lifecycle.spawn("recorder", &lifecycle.end, recorder.run());

    // These take on work, and end as soon as no more is wanted.
    let drain = &lifecycle.drain;
    let (hearing, ears) = ears::closed();
    let (notices_waker, notices) = wake::channel();
    let (inbox_waker, inbox) = wake::channel();
    let grows = events.clone();
    let wakers = Wakers { work: notices_waker, replicas: replicas_waker, inbox: inbox_waker, events };
    listen(&config, (listen_target, &queue, daemon.id), hearing, wakers, lifecycle);
    let sleeps = |of| Sleeper::new(queue.clone(), daemon.id, of, ears.clone());
    let mover = Mover { queue: queue.clone(), wake: inbox, sleeper: sleeps(IdleKind::Inbox), grows };
    look_after_the_log(&config, mover, lifecycle);
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
    watch(&queue, lifecycle);
    let (count, reserved, grace) = (config.workers.count, config.workers.reserved, config.shutdown.grace);
    let changes = Changes { queue: queue.clone(), policy: config.guard.changed, waker: waker.clone() };
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
        changes: changes.clone(),
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
        changes,
        stop: lifecycle.stop.clone(),
        freed: Arc::default(),
        waker,
    };
    let calls = Calls { own: wake, notices };
    let claimer = Claimer::new(daemon.clone(), runner, slots, running.clone(), calls, sleeps(IdleKind::Work));
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
    let words = LastWords::begin();
    finish(&queue, &daemon, lifecycle, &running, to_the_end, words).await;
    Ok((reason, words))
}

/// Starts to listen, and to wake those that wait for notices.
fn listen(
    config: &Config,
    (target, queue, daemon): (Target, &Database, DaemonId),
    hearing: Hearing,
    wakers: Wakers,
    lifecycle: &Lifecycle,
) {
    let listener = Listener {
        wakeup: config.database.wakeup,
        target,
        setting: if config.database.listen_url.is_some() { "database.listen_url" } else { "database.url" },
        queue: queue.clone(),
        daemon,
        hearing,
        wakers,
        pace: Pace::default(),
    };
    lifecycle.spawn("listener", &lifecycle.drain, listener.run(lifecycle.drain.clone()));
}

/// Starts what looks after the log: what others have put before it, and what is to go.
fn look_after_the_log(config: &Config, mover: Mover, lifecycle: &Lifecycle) {
    let sweeper = LogSweeper {
        queue: mover.queue.clone(),
        every: config.sweeper.every,
        retention: Retention { keep_for: config.events.keep_for, keep_bytes: config.events.keep_bytes },
    };
    lifecycle.spawn("inbox", &lifecycle.drain, mover.run(lifecycle.drain.clone()));
    lifecycle.spawn("log", &lifecycle.drain, sweeper.run(lifecycle.drain.clone()));
}

/// Starts what looks at the tables again and again.
fn watch(queue: &Database, lifecycle: &Lifecycle) {
    let drain = &lifecycle.drain;
    lifecycle.spawn("backlog", drain, sweeper::count_backlog(queue.clone(), drain.clone()));
    lifecycle.spawn("sequences", drain, sweeper::watch_sequences(queue.clone(), drain.clone()));
    lifecycle.spawn("differences", drain, sweeper::watch_differences(queue.clone(), drain.clone()));
}

fn orphaned_uploads(config: &Config, queue: Database, lanes: Lanes) -> OrphanedUploads {
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
async fn finish(
    queue: &Database,
    daemon: &Daemon,
    lifecycle: &Lifecycle,
    running: &TaskTracker,
    to_the_end: (Completer, Journals),
    words: LastWords,
) {
    let farewell = async {
        running.wait().await;
        lifecycle.end.cancel();
        drop(to_the_end);
        lifecycle.all_ended().await;
        // Not before the last heartbeat: that would enter it again, as one that lives.
        if let Err(error) = queue.deregister_daemon(daemon.id).await {
            warn!(error = %error, "Could not leave the list of daemons; the others will notice");
        }
    };
    if !words.step(farewell).await {
        warn!("Some work did not stop in time; its leases will be swept");
        lifecycle.end.cancel();
    }
}
