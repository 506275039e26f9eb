//! The composition root of `copyhold run`: makes pools, stores and tasks from the configuration, and ends them in
//! order.

mod final_deadline;
pub mod shutdown;
mod startup;

use std::sync::Arc;

use anyhow::Context as _;
use copyhold_core::domain::ReplicaName;
use copyhold_db::{
    Database,
    connections::{Connections, Pools, Target},
    daemon::{Daemon, IdleKind},
    log::Retention,
};
use copyhold_s3::copy::Memory;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    config::Config,
    events, figures, http,
    sweeper::{self, AbortScope, InboxMover, LogSweeper, OrphanedUploads, Sweeper},
    wakeup::{
        idle::IdleRegistration,
        listen_status::{self, ListenStatus, ListenStatusSender},
        listener::{Listener, ListenerTiming, WakeSenders},
        wake_channel::{self, WakeReceiver, WakeSender},
    },
    worker::{
        self, ClaimWakeups, Claimer, Completer, ContentChanges, HealthMonitor, Heartbeat, HeldLeases, Journals,
        Rechecker, ReplicaAccess, ReplicaGate, ReplicaRegistry, ReplicaSnapshot, Runner, Slots, SlowCopies, TimeLimit,
    },
};
use final_deadline::FinalDeadline;
use shutdown::{ExitReason, Hangups, Lifecycle, ShutdownWatch};
use startup::{Prepared, prepare};

/// Runs the daemon until it is asked to shut down.
pub async fn run(
    config: Config,
    migrate: bool,
    metrics: PrometheusHandle,
    hangups: Hangups,
) -> anyhow::Result<ExitReason> {
    // First of all, so that a port in use is reported at once and nothing has to be undone.
    let listener = http::bind(config.http.listen).with_context(|| {
        format!("cannot listen on {}, http.listen of the configuration: is another daemon running?", config.http.listen)
    })?;
    let (lifecycle, mut shutdown) = Lifecycle::new().context("cannot listen for signals")?;
    lifecycle.spawn("hangups", &lifecycle.end, hangups.log(lifecycle.end.clone()));
    let pools = Pools::new(&config.database);
    pools.check().context("database.url")?;
    let names: Vec<_> = config.replicas.iter().map(|r| r.name.clone()).collect();
    crate::metrics::initialise(&names);
    let kinds = config.events.kinds.clone();
    let database = Database::with_events(pools.work.clone(), config.database.schema.clone(), names.clone(), kinds);
    let memory = Memory::new(config.workers.memory_bytes);
    let (events_waker, events_wake) = wake_channel::channel();
    let (log, tailer) = events::open(database.event_log(), events::Settings::of(&config), events_wake);
    lifecycle.spawn("tailer", &lifecycle.drain, tailer.run(lifecycle.drain.clone()));
    let state = http::AppState {
        database: database.clone(),
        memory: memory.clone(),
        metrics,
        log,
        auth: http::Auth::new(config.http.token.clone()),
        write_limits: http::WriteLimits::default(),
        drain: lifecycle.drain.clone(),
    };
    lifecycle.spawn("http", &lifecycle.end, http::serve(listener, state, config.events.readers, lifecycle.end.clone()));

    lifecycle.spawn("figures", &lifecycle.end, figures::watch(database.duties(), lifecycle.end.clone()));

    // Everything up to here works while PostgreSQL is unavailable; from here on the daemon waits for it.
    let prepared = tokio::select! {
        prepared = prepare(&config, &database, migrate) => prepared?,
        reason = shutdown.first() => {
            lifecycle.end.cancel();
            return Ok(reason);
        }
    };
    let listen_target = pools.listen_target(&config.database);
    let base = Base { database, memory, heartbeat: pools.heartbeat.clone(), listen_target, events: events_waker };
    let (reason, deadline) = work(config, prepared, base, &lifecycle, &mut shutdown).await?;
    if !deadline.step(pools.close()).await {
        warn!("PostgreSQL's connections did not close in time");
    }
    Ok(reason)
}

/// What exists before PostgreSQL is reachable.
struct Base {
    database: Database,
    memory: Memory,
    /// Heartbeats have a connection of their own.
    heartbeat: Connections,
    /// Where notifications come from.
    listen_target: Target,
    /// Wakes the tailer of the event log.
    events: WakeSender,
}

/// What the duties of the daemon share.
struct Context<'l> {
    config: Config,
    database: Database,
    daemon: Daemon,
    registry: ReplicaRegistry,
    health: HealthMonitor,
    held: HeldLeases,
    completer: Completer,
    slots: Slots,
    changes: ContentChanges,
    listen_status: ListenStatus,
    /// Wakes the claimer.
    wake_claimer: WakeSender,
    lifecycle: &'l Lifecycle,
}

/// Starts every duty and waits for a reason to end; then drains.
async fn work(
    config: Config,
    startup: Prepared,
    base: Base,
    lifecycle: &Lifecycle,
    shutdown: &mut ShutdownWatch,
) -> anyhow::Result<(ExitReason, FinalDeadline)> {
    let Prepared { daemon, replicas } = startup;
    let Base { database, memory, heartbeat, listen_target, events } = base;
    let (wake_claimer, claimer_wake) = wake_channel::channel();
    let (wake_gate, gate_wake) = wake_channel::channel();
    let (wake_inbox, inbox_wake) = wake_channel::channel();
    let (notify_work, notifications) = wake_channel::channel();
    let (listen_status_sender, listen_status) = listen_status::channel();
    let registry = ReplicaRegistry::new(replicas, SlowCopies::new(&memory, config.workers.count));
    let (completer, writer) = worker::completer(database.leases());
    let (journals, journal_writer) = worker::journals(database.uploads());
    // The writers end when every sender is dropped. That is at the end, not when the last copy is finished: a task that
    // ends earlier ends the daemon.
    let to_the_end = (completer.clone(), journals.clone());
    let context = Context {
        health: HealthMonitor::new(database.breakers(), registry.clone(), wake_gate.clone(), wake_claimer.clone()),
        held: HeldLeases::default(),
        slots: Slots::new(config.workers.count, config.workers.reserved),
        changes: ContentChanges {
            leases: database.leases(),
            policy: config.guard.changed,
            wake_claimer: wake_claimer.clone(),
        },
        config,
        database,
        daemon,
        registry,
        completer,
        listen_status,
        wake_claimer,
        lifecycle,
    };

    // These live to the end, since the attempts under way need them.
    context.spawn_heartbeat(heartbeat);
    lifecycle.spawn("completer", &lifecycle.end, writer.run());
    lifecycle.spawn("journal writer", &lifecycle.end, journal_writer.run());

    // These take on work, and end when the daemon drains.
    let wake_senders =
        WakeSenders { work: notify_work, replicas: wake_gate, inbox: wake_inbox, events: events.clone() };
    context.spawn_listener(listen_target, listen_status_sender, wake_senders);
    context.spawn_log_duties(inbox_wake, events);
    context.spawn_sweepers();
    context.spawn_watches();
    context.spawn_gate(gate_wake);
    context.spawn_rechecker();
    let wakeups = ClaimWakeups { own: claimer_wake, notifications };
    let running = context.spawn_claimer(memory, journals, wakeups);

    let reason = shutdown.first().await;
    // Before it is logged.
    lifecycle.drain.cancel();
    match &reason {
        ExitReason::Signal => {
            info!(
                objects = running.len(),
                "Shutting down: claiming no more, finishing {} objects first",
                running.len()
            );
        }
        ExitReason::TaskEnded(name) => error!(task = name, "Task {name} exited unexpectedly; shutting down"),
    }
    running.close();
    shutdown.drain(lifecycle, context.config.shutdown.grace, running.wait()).await;
    let deadline = FinalDeadline::begin();
    // Together with the last clones of `to_the_end`: otherwise the writers would never end.
    let (database, daemon) = (context.database.clone(), context.daemon.clone());
    drop(context);
    finish(&database, &daemon, lifecycle, &running, to_the_end, deadline).await;
    Ok((reason, deadline))
}

impl Context<'_> {
    /// Starts a task that ends when the daemon drains.
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) {
        let drain = &self.lifecycle.drain;
        self.lifecycle.spawn(name, drain, task(drain.clone()));
    }

    fn idle(&self, kind: IdleKind) -> IdleRegistration {
        IdleRegistration::new(self.database.clone(), self.daemon.id, kind, self.listen_status.clone())
    }

    fn spawn_heartbeat(&self, connections: Connections) {
        let heartbeat = Heartbeat {
            leases: self.database.over(connections).leases(),
            daemon: self.daemon.clone(),
            held: self.held.clone(),
            every: self.config.lease.heartbeat,
        };
        let end = &self.lifecycle.end;
        self.lifecycle.spawn("heartbeat", end, heartbeat.run(end.clone()));
    }

    fn spawn_listener(&self, target: Target, status: ListenStatusSender, wake_senders: WakeSenders) {
        let database = &self.config.database;
        let listener = Listener {
            wakeup: database.wakeup,
            target,
            setting: if database.listen_url.is_some() { "database.listen_url" } else { "database.url" },
            queue: self.database.clone(),
            daemon: self.daemon.id,
            status,
            wake_senders,
            timing: ListenerTiming::default(),
        };
        self.spawn("listener", |drain| listener.run(drain));
    }

    /// Starts the mover of other programs' events, and the retention of the log.
    fn spawn_log_duties(&self, wake: WakeReceiver, grows: WakeSender) {
        let mover = InboxMover { duties: self.database.duties(), wake, idle: self.idle(IdleKind::Inbox), grows };
        self.spawn("inbox", |drain| mover.run(drain));
        let events = &self.config.events;
        let sweeper = LogSweeper {
            duties: self.database.duties(),
            every: self.config.sweeper.every,
            retention: Retention { keep_for: events.keep_for, keep_bytes: events.keep_bytes },
        };
        self.spawn("log", |drain| sweeper.run(drain));
    }

    /// Starts what frees expired leases, and what aborts orphaned uploads.
    fn spawn_sweepers(&self) {
        let lease = &self.config.lease;
        let sweeper = Sweeper {
            duties: self.database.duties(),
            every: self.config.sweeper.every,
            lease_time: lease.timeout,
            settle: lease.settle(),
            waker: self.wake_claimer.clone(),
        };
        self.spawn("sweeper", |drain| sweeper.run(drain));
        let registry = self.registry.clone();
        let uploads = OrphanedUploads {
            duties: self.database.duties(),
            stores: registry.replicas().iter().map(|replica| Arc::clone(&replica.store)).collect(),
            scope: Box::new(move |replica| abort_scope(&registry.snapshot(), replica)),
            every: self.config.sweeper.every,
            quiet: lease.timeout + lease.settle(),
        };
        self.spawn("orphaned uploads", |drain| uploads.run(drain));
    }

    /// Starts the tasks that read the tables periodically.
    fn spawn_watches(&self) {
        self.spawn("backlog", |drain| sweeper::count_backlog(self.database.duties(), drain));
        self.spawn("sequences", |drain| sweeper::watch_sequences(self.database.duties(), drain));
        self.spawn("differences", |drain| sweeper::watch_differences(self.database.duties(), drain));
    }

    fn spawn_gate(&self, wake: WakeReceiver) {
        let gate = ReplicaGate {
            config: self.config.clone(),
            bindings: self.database.bindings(),
            registry: self.registry.clone(),
            health: self.health.clone(),
            waker: self.wake_claimer.clone(),
            wake,
        };
        self.spawn("replica gate", |drain| gate.run(drain));
    }

    fn spawn_rechecker(&self) {
        let rechecker = Rechecker {
            leases: self.database.leases(),
            daemon: self.daemon.clone(),
            held: self.held.clone(),
            completer: self.completer.clone(),
            registry: self.registry.clone(),
            slots: self.slots.clone(),
            time_limit: TimeLimit::default(),
            changes: self.changes.clone(),
            settle: self.config.lease.settle(),
            stop: self.lifecycle.stop.clone(),
            waker: self.wake_claimer.clone(),
        };
        self.spawn("rechecker", |drain| rechecker.run(drain));
    }

    /// Returns the attempts under way.
    fn spawn_claimer(&self, memory: Memory, journals: Journals, wakeups: ClaimWakeups) -> TaskTracker {
        let running = TaskTracker::new();
        let runner = Runner {
            leases: self.database.leases(),
            held: self.held.clone(),
            completer: self.completer.clone(),
            journals,
            registry: self.registry.clone(),
            health: self.health.clone(),
            memory,
            time_limit: TimeLimit::default(),
            settle: self.config.lease.settle(),
            changes: self.changes.clone(),
            stop: self.lifecycle.stop.clone(),
            freed: Arc::default(),
            wake_claimer: self.wake_claimer.clone(),
        };
        let (slots, idle) = (self.slots.clone(), self.idle(IdleKind::Work));
        let attempts = running.clone();
        self.spawn("claimer", |drain| {
            Claimer::new(self.daemon.clone(), runner, slots, attempts, wakeups, idle, drain).run()
        });
        running
    }
}

/// Nothing is aborted before it is known that a replica's bucket is the one that the uploads are in.
fn abort_scope(snapshot: &ReplicaSnapshot, replica: &ReplicaName) -> AbortScope {
    match snapshot.access.get(replica) {
        None | Some(ReplicaAccess::Blocked { .. } | ReplicaAccess::Unavailable { .. }) => AbortScope::None,
        // Also at a full one, which gains room by it.
        Some(ReplicaAccess::ReadOnly { .. } | ReplicaAccess::Writable(_))
            if snapshot.primary.as_ref() == Some(replica) =>
        {
            AbortScope::Named
        }
        Some(ReplicaAccess::ReadOnly { .. } | ReplicaAccess::Writable(_)) => AbortScope::All,
    }
}

/// Waits for the attempts, which abort their uploads and release their rows, then ends the other tasks.
async fn finish(
    database: &Database,
    daemon: &Daemon,
    lifecycle: &Lifecycle,
    running: &TaskTracker,
    to_the_end: (Completer, Journals),
    deadline: FinalDeadline,
) {
    let all_ended = async {
        running.wait().await;
        lifecycle.end.cancel();
        drop(to_the_end);
        lifecycle.all_ended().await;
        // After the last heartbeat, which would register the daemon again.
        if let Err(error) = database.deregister_daemon(daemon.id).await {
            warn!(error = %error, "Could not deregister this daemon; its entry will expire");
        }
    };
    if !deadline.step(all_ended).await {
        warn!("Some work did not stop in time; its leases will be swept");
        lifecycle.end.cancel();
    }
}
