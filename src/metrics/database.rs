//! The gauges whose values are PostgreSQL's: the same from every daemon, and left out while they cannot be read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use copyhold_core::domain::ReplicaName;

use super::figures::{Figures, Gauge, WhenOld};

/// What was read longer ago is not shown any more.
const HOLDS: Duration = Duration::from_mins(1);
/// PostgreSQL counts as unavailable when nothing could be read for so long: three readings and one statement timeout.
const UP_HOLDS: Duration = Duration::from_secs(20);

static FIGURES: Figures = Figures::new();

const fn gauge(name: &'static str, label: Option<&'static str>, help: &'static str) -> Gauge {
    Gauge { name, help, label, when_old: WhenOld::LeftOut }
}

const REPLICA: Option<&str> = Some("replica");

static DATABASE_UP: Gauge = Gauge {
    when_old: WhenOld::Zero,
    ..gauge(
        "copyhold_database_up",
        None,
        "1 if this process could read its figures from PostgreSQL lately, and could write, 0 else.",
    )
};
static COUNTED_AT: Gauge = Gauge {
    when_old: WhenOld::Kept,
    ..gauge(
        "copyhold_backlog_counted_timestamp_seconds",
        REPLICA,
        "When the backlog was counted last, as far as this process knows; 0: never; by replica.",
    )
};
static COUNTED_EVERY: Gauge = Gauge {
    when_old: WhenOld::Kept,
    ..gauge(
        "copyhold_backlog_counted_every_seconds",
        REPLICA,
        "How often the backlog is counted: fifty times as long as counting takes, 2 s at least; by replica.",
    )
};
static BACKLOG_OBJECTS: Gauge =
    gauge("copyhold_backlog_objects", REPLICA, "Copies wanted and not recorded; by replica.");
static BACKLOG_BYTES: Gauge =
    gauge("copyhold_backlog_bytes", REPLICA, "Bytes of the backlog as far as sizes are known; by replica.");
static BACKLOG_IN_FLIGHT: Gauge =
    gauge("copyhold_backlog_in_flight", REPLICA, "Backlog that some daemon holds; by replica.");
static BACKLOG_WAITING: Gauge =
    gauge("copyhold_backlog_waiting", REPLICA, "Backlog whose next attempt is later; by replica.");
static BACKLOG_PARKED: Gauge =
    gauge("copyhold_backlog_parked", REPLICA, "Backlog that is not tried again until an operator says so; by replica.");
static BACKLOG_OLDEST_AGE: Gauge = gauge(
    "copyhold_backlog_oldest_age_seconds",
    REPLICA,
    "Age of the backlog's oldest registration, 0 if the backlog is empty; by replica.",
);
static RECORDED_COPIES: Gauge = gauge(
    "copyhold_recorded_copies",
    REPLICA,
    "Copies on record at the moment of the backlog's count, estimated from a sample where the table is large; by replica.",
);
static REPLICA_DRAINING: Gauge = gauge(
    "copyhold_replica_draining",
    REPLICA,
    "1 while the replica is about to leave: nothing is copied to it, and its backlog is not counted; by replica.",
);
static REPLICA_PAUSED: Gauge =
    gauge("copyhold_replica_paused", REPLICA, "1 while an operator has paused the replica; by replica.");
static BREAKER_OPEN: Gauge = gauge(
    "copyhold_breaker_open",
    REPLICA,
    "1 while the replica is left alone because its store is unhealthy, 0 else; by replica.",
);
static REPLICA_UNSERVED: Gauge = gauge(
    "copyhold_replica_unserved",
    REPLICA,
    "1 if no living daemon copies to a replica that the schema has; by replica.",
);
static DAEMONS_DIFFER: Gauge = gauge(
    "copyhold_daemons_differ",
    Some("what"),
    "1 if the living daemons are not configured alike; by what: replicas, primary, bucket, lease, rules.",
);
static LOG_BYTES: Gauge = gauge("copyhold_log_bytes", None, "Size of the event log, its indexes included.");
static UPLOADS_UNFINISHED: Gauge = gauge(
    "copyhold_uploads_unfinished",
    REPLICA,
    "Uploads in parts that are remembered, under way and left behind; by replica.",
);
static NOTIFICATION_QUEUE_USAGE: Gauge = gauge(
    "copyhold_notification_queue_usage",
    None,
    "Share of PostgreSQL's notification queue in use, 0 to 1, as the listener saw it last.",
);

static ALL: [&Gauge; 18] = [
    &DATABASE_UP,
    &COUNTED_AT,
    &COUNTED_EVERY,
    &BACKLOG_OBJECTS,
    &BACKLOG_BYTES,
    &BACKLOG_IN_FLIGHT,
    &BACKLOG_WAITING,
    &BACKLOG_PARKED,
    &BACKLOG_OLDEST_AGE,
    &RECORDED_COPIES,
    &REPLICA_DRAINING,
    &REPLICA_PAUSED,
    &BREAKER_OPEN,
    &REPLICA_UNSERVED,
    &DAEMONS_DIFFER,
    &LOG_BYTES,
    &UPLOADS_UNFINISHED,
    &NOTIFICATION_QUEUE_USAGE,
];

/// Of one replica, from one reading.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaFigures {
    pub(crate) replica: String,
    pub(crate) draining: bool,
    pub(crate) paused: bool,
    pub(crate) breaker_open: bool,
    /// `None`: never counted, or not to be: it is draining.
    pub(crate) backlog: Option<BacklogFigures>,
}

/// Counted at one moment.
#[derive(Debug, Clone)]
pub(crate) struct BacklogFigures {
    pub(crate) counted_ago: Duration,
    pub(crate) counted_every: Duration,
    pub(crate) objects: i64,
    pub(crate) bytes: i64,
    pub(crate) in_flight: i64,
    pub(crate) waiting: i64,
    pub(crate) parked: i64,
    pub(crate) oldest_age_seconds: f64,
    /// `None`: that was not counted.
    pub(crate) recorded: Option<i64>,
}

/// PostgreSQL could not be read, or not be written to.
pub(crate) fn database_away() {
    FIGURES.replace(&DATABASE_UP, UP_HOLDS, [(String::new(), 0.0)]);
}

/// Takes over what was read of all replicas that the schema has.
pub(crate) fn database_read(replicas: &[ReplicaFigures]) {
    FIGURES.replace(&DATABASE_UP, UP_HOLDS, [(String::new(), 1.0)]);
    let flag = |gauge, of: &dyn Fn(&ReplicaFigures) -> bool| {
        let series = replicas.iter().map(|r| (r.replica.clone(), f64::from(u8::from(of(r)))));
        FIGURES.replace(gauge, HOLDS, series);
    };
    flag(&REPLICA_DRAINING, &|r| r.draining);
    flag(&REPLICA_PAUSED, &|r| r.paused);
    flag(&BREAKER_OPEN, &|r| r.breaker_open);
    #[expect(clippy::disallowed_methods, reason = "Prometheus compares it with its own clock, and knows no database's")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let counted = |gauge, never: Option<f64>, of: &dyn Fn(&BacklogFigures) -> Option<f64>| {
        let value = |r: &ReplicaFigures| match &r.backlog {
            Some(backlog) => of(backlog),
            None if r.draining => None,
            None => never,
        };
        FIGURES.replace(gauge, HOLDS, replicas.iter().filter_map(|r| Some((r.replica.clone(), value(r)?))));
    };
    counted(&COUNTED_AT, Some(0.0), &|b| Some(now.saturating_sub(b.counted_ago).as_secs_f64()));
    counted(&COUNTED_EVERY, None, &|b| Some(b.counted_every.as_secs_f64()));
    counted(&BACKLOG_OBJECTS, None, &|b| Some(float(b.objects)));
    counted(&BACKLOG_BYTES, None, &|b| Some(float(b.bytes)));
    counted(&BACKLOG_IN_FLIGHT, None, &|b| Some(float(b.in_flight)));
    counted(&BACKLOG_WAITING, None, &|b| Some(float(b.waiting)));
    counted(&BACKLOG_PARKED, None, &|b| Some(float(b.parked)));
    counted(&BACKLOG_OLDEST_AGE, None, &|b| Some(b.oldest_age_seconds));
    counted(&RECORDED_COPIES, None, &|b| b.recorded.map(float));
}

/// `replicas`: all that the schema has, and whether no living daemon serves them.
pub(crate) fn replicas_unserved(replicas: impl IntoIterator<Item = (String, bool)>) {
    let series = replicas.into_iter().map(|(replica, unserved)| (replica, f64::from(u8::from(unserved))));
    FIGURES.replace(&REPLICA_UNSERVED, HOLDS, series);
}

/// By kind of difference.
pub(crate) fn daemons_differ(kinds: impl IntoIterator<Item = (&'static str, bool)>) {
    let series = kinds.into_iter().map(|(what, differ)| (what.to_owned(), f64::from(u8::from(differ))));
    FIGURES.replace(&DAEMONS_DIFFER, HOLDS, series);
}

/// `every`: how often it is read.
#[expect(clippy::cast_precision_loss, reason = "gauges are doubles; bytes stay exact up to 2^53")]
pub(crate) fn log_bytes(bytes: u64, every: Duration) {
    FIGURES.replace(&LOG_BYTES, holds(every), [(String::new(), bytes as f64)]);
}

/// `every`: how often it is read.
pub(crate) fn uploads_unfinished(replica: &ReplicaName, uploads: i64, every: Duration) {
    FIGURES.set(&UPLOADS_UNFINISHED, holds(every), replica.to_string(), float(uploads));
}

/// The listener probes after each silence of its connection, and receives no notification meanwhile.
pub(crate) fn notification_queue(usage: f64) {
    FIGURES.replace(&NOTIFICATION_QUEUE_USAGE, HOLDS, [(String::new(), usage)]);
}

/// Appends what PostgreSQL returned last, as far as that is still valid.
pub(super) fn render(text: &mut String) {
    FIGURES.render(text, &ALL, Instant::now());
}

/// Three readings may fail.
fn holds(every: Duration) -> Duration {
    HOLDS.max(every * 4)
}

#[expect(clippy::cast_precision_loss, reason = "gauges are doubles; counts and bytes stay exact up to 2^53")]
fn float(number: i64) -> f64 {
    number as f64
}
