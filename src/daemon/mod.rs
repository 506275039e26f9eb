//! The composition root of `copyhold run`: configuration → pools, stores, tasks; and the order in which they end.

mod final_deadline;
pub mod shutdown;
mod startup;

use std::sync::Arc;

use anyhow::Context as _;
use copyhold_core::domain::ReplicaName;
use copyhold_db::queue::{Connections, Daemon, DaemonId, Pools, Queue, Retention, SleepsFor, Target};
use copyhold_s3::copy::Memory;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::{
    config::Config,
    daemon::shutdown::{ExitReason, Hangups, Lifecycle, ShutdownWatch},
    events, figures, http,
    sweeper::{self, AbortScope, InboxMover, LogSweeper, OrphanedUploads, Sweeper},
    wakeup::idle::IdleRegistration,
    wakeup::listen_status::{self, ListenStatusSender},
    wakeup::listener::{Listener, ListenerTiming, WakeSenders},
    wakeup::wake_channel::{self, WakeSender},
    worker::{
        self, ClaimWakeups, Claimer, Completer, ContentChanges, HealthMonitor, Heartbeat, HeldLeases, Journals,
        Rechecker, ReplicaAccess, ReplicaGate, ReplicaRegistry, ReplicaSnapshot, Runner, Slots, SlowCopies, TimeLimit,
    },
};
use final_deadline::FinalDeadline;
use startup::{Prepared, prepare};

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
    let (lifecycle, mut shutdown) = Lifecycle::new().context("cannot listen for signals")?;
    lifecycle.spawn("hangups", &lifecycle.end, hangups.log(lifecycle.end.clone()));
    let pools = Pools::new(&config.database);
    pools.check().context("database.url")?;
    let names: Vec<_> = config.replicas.iter().map(|r| r.name.clone()).collect();
    crate::metrics::initialise(&names);
    let kinds = config.events.kinds.clone();
    let queue = Queue::telling(pools.work.clone(), config.database.schema.clone(), names.clone(), kinds);
    let memory = Memory::new(config.workers.memory_bytes);
    let (events_waker, events_wake) = wake_channel::channel();
    let (log, tailer) = events::open(queue.clone(), events::Settings::of(&config), events_wake);
    lifecycle.spawn("tailer", &lifecycle.drain, tailer.run(lifecycle.drain.clone()));
    let pages = http::AppState {
        queue: queue.clone(),
        memory: memory.clone(),
        metrics,
        log,
        auth: http::Auth::new(config.http.token.clone()),
        write_limits: http::WriteLimits::default(),
        drain: lifecycle.drain.clone(),
    };
    lifecycle.spawn("http", &lifecycle.end, http::serve(door, pages, config.events.readers, lifecycle.end.clone()));

    lifecycle.spawn("figures", &lifecycle.end, figures::watch(queue.clone(), lifecycle.end.clone()));

    // Everything up to here works while PostgreSQL is away; from here on it is waited for.
    let prepared = tokio::select! {
        prepared = prepare(&config, &queue, migrate) => prepared?,
        reason = shutdown.first() => {
            lifecycle.end.cancel();
            return Ok(reason);
        }
    };
    let listen_target = pools.listen_target(&config.database);
    let base = Base { queue, memory, heartbeat: pools.heartbeat.clone(), listen_target, events: events_waker };
    let (reason, deadline) = work(config, prepared, base, &lifecycle, &mut shutdown).await?;
    if !deadline.step(pools.close()).await {
        warn!("PostgreSQL's connections did not close in time");
    }
    Ok(reason)
}

/// What was there before PostgreSQL was.
struct Base {
    queue: Queue,
    memory: Memory,
    /// Heartbeats have a connection of their own.
    heartbeat: Connections,
    /// Where notices come from.
    listen_target: Target,
    /// For whoever follows the log.
    events: WakeSender,
}

async fn work(
    config: Config,
    prepared: Prepared,
    base: Base,
    lifecycle: &Lifecycle,
    shutdown: &mut ShutdownWatch,
) -> anyhow::Result<(ExitReason, FinalDeadline)> {
    let Prepared { daemon, replicas } = prepared;
    let Base { queue, memory, heartbeat, listen_target, events } = base;
    let (waker, wake) = wake_channel::channel();
    let (replicas_waker, replicas_wake) = wake_channel::channel();
    let registry = ReplicaRegistry::new(replicas, SlowCopies::new(&memory, config.workers.count));
    let health = HealthMonitor::new(queue.clone(), registry.clone(), replicas_waker.clone(), waker.clone());
    let held = HeldLeases::default();
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
    let (status_sender, listen_status) = listen_status::channel();
    let (work_sender, notifications) = wake_channel::channel();
    let (inbox_waker, inbox) = wake_channel::channel();
    let grows = events.clone();
    let wake_senders = WakeSenders { work: work_sender, replicas: replicas_waker, inbox: inbox_waker, events };
    listen(&config, (listen_target, &queue, daemon.id), status_sender, wake_senders, lifecycle);
    let sleeps = |of| IdleRegistration::new(queue.clone(), daemon.id, of, listen_status.clone());
    let mover = InboxMover { queue: queue.clone(), wake: inbox, idle: sleeps(SleepsFor::Inbox), grows };
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
    let uploads = orphaned_uploads(&config, queue.clone(), registry.clone());
    lifecycle.spawn("orphaned uploads", drain, uploads.run(drain.clone()));
    watch(&queue, lifecycle);
    let (count, reserved, grace) = (config.workers.count, config.workers.reserved, config.shutdown.grace);
    let changes = ContentChanges { queue: queue.clone(), policy: config.guard.changed, wake_claimer: waker.clone() };
    let gate = ReplicaGate {
        config,
        queue: queue.clone(),
        registry: registry.clone(),
        health: health.clone(),
        waker: waker.clone(),
        wake: replicas_wake,
    };
    lifecycle.spawn("gate", drain, gate.run(drain.clone()));

    let slots = Slots::new(count, reserved);
    let rechecker = Rechecker {
        queue: queue.clone(),
        daemon: daemon.clone(),
        held: held.clone(),
        completer: completer.clone(),
        registry: registry.clone(),
        slots: slots.clone(),
        time_limit: TimeLimit::default(),
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
        registry: registry.clone(),
        health,
        memory,
        time_limit: TimeLimit::default(),
        settle,
        changes,
        stop: lifecycle.stop.clone(),
        freed: Arc::default(),
        wake_claimer: waker,
    };
    let calls = ClaimWakeups { own: wake, notifications };
    let claimer = Claimer::new(daemon.clone(), runner, slots, running.clone(), calls, sleeps(SleepsFor::Work));
    lifecycle.spawn("claimer", drain, claimer.run(drain.clone()));

    let reason = shutdown.first().await;
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
    shutdown.drain(lifecycle, grace, running.wait()).await;
    let deadline = FinalDeadline::begin();
    finish(&queue, &daemon, lifecycle, &running, to_the_end, deadline).await;
    Ok((reason, deadline))
}

/// Starts to listen, and to wake those that wait for notices.
fn listen(
    config: &Config,
    (target, queue, daemon): (Target, &Queue, DaemonId),
    status_sender: ListenStatusSender,
    wake_senders: WakeSenders,
    lifecycle: &Lifecycle,
) {
    let listener = Listener {
        wakeup: config.database.wakeup,
        target,
        setting: if config.database.listen_url.is_some() { "database.listen_url" } else { "database.url" },
        queue: queue.clone(),
        daemon,
        status: status_sender,
        wake_senders,
        timing: ListenerTiming::default(),
    };
    lifecycle.spawn("listener", &lifecycle.drain, listener.run(lifecycle.drain.clone()));
}

/// Starts what looks after the log: what others have put before it, and what is to go.
fn look_after_the_log(config: &Config, mover: InboxMover, lifecycle: &Lifecycle) {
    let sweeper = LogSweeper {
        queue: mover.queue.clone(),
        every: config.sweeper.every,
        retention: Retention { keep_for: config.events.keep_for, keep_bytes: config.events.keep_bytes },
    };
    lifecycle.spawn("inbox", &lifecycle.drain, mover.run(lifecycle.drain.clone()));
    lifecycle.spawn("log", &lifecycle.drain, sweeper.run(lifecycle.drain.clone()));
}

/// Starts what looks at the tables again and again.
fn watch(queue: &Queue, lifecycle: &Lifecycle) {
    let drain = &lifecycle.drain;
    lifecycle.spawn("backlog", drain, sweeper::count_backlog(queue.clone(), drain.clone()));
    lifecycle.spawn("sequences", drain, sweeper::watch_sequences(queue.clone(), drain.clone()));
    lifecycle.spawn("differences", drain, sweeper::watch_differences(queue.clone(), drain.clone()));
}

fn orphaned_uploads(config: &Config, queue: Queue, registry: ReplicaRegistry) -> OrphanedUploads {
    OrphanedUploads {
        queue,
        stores: registry.replicas().iter().map(|replica| Arc::clone(&replica.store)).collect(),
        scope: Box::new(move |replica| abort_scope(&registry.snapshot(), replica)),
        every: config.sweeper.every,
        quiet: config.lease.timeout + config.lease.settle(),
    }
}

/// Nothing is aborted before it is known that a replica's bucket is the one that the uploads are in.
fn abort_scope(snapshot: &ReplicaSnapshot, replica: &ReplicaName) -> AbortScope {
    match snapshot.access.get(replica) {
        None | Some(ReplicaAccess::Blocked { .. } | ReplicaAccess::Unavailable { .. }) => AbortScope::None,
        // Also one that is full, which it helps.
        Some(ReplicaAccess::ReadOnly { .. } | ReplicaAccess::Writable(_))
            if snapshot.primary.as_ref() == Some(replica) =>
        {
            AbortScope::Named
        }
        Some(ReplicaAccess::ReadOnly { .. } | ReplicaAccess::Writable(_)) => AbortScope::All,
    }
}

/// Copies have been told to stop: they abort their uploads and give their rows back, then the rest ends.
async fn finish(
    queue: &Queue,
    daemon: &Daemon,
    lifecycle: &Lifecycle,
    running: &TaskTracker,
    to_the_end: (Completer, Journals),
    deadline: FinalDeadline,
) {
    let farewell = async {
        running.wait().await;
        lifecycle.end.cancel();
        drop(to_the_end);
        lifecycle.all_ended().await;
        // Not before the last heartbeat: that would enter it again, as one that lives.
        if let Err(error) = queue.leave(daemon.id).await {
            warn!(error = %error, "Could not leave the list of daemons; the others will notice");
        }
    };
    if !deadline.step(farewell).await {
        warn!("Some work did not stop in time; its leases will be swept");
        lifecycle.end.cancel();
    }
}
