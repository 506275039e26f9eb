//! Reads the event log, and draws its incarnation number. It neither appends nor drops events.

use copyhold_core::domain::{Epoch, SchemaName};
use crc_fast::{CrcAlgorithm, checksum};
use serde::Serialize;
use sqlx::{Row as _, SqlStr, postgres::PgRow};
use tracing::warn;

use crate::{
    error::{DatabaseError, read, with_timeout},
    handle::{Database, HotStatement},
    notify::notification::Channels,
    sql::trusted_sql,
};

const HEAD: &str = "log::head";
const TAIL: &str = "log::tail";
const PAGE: &str = "log::page";
const STATUS: &str = "log::status";
const RAISE: &str = "log::raise_incarnation";
const FOLLOW: &str = "log::follow_timeline";

/// The function that returns the server's timeline; the migrations create it.
pub(crate) const SERVER_TIMELINE: &str = "server_timeline";

/// An incarnation that no log has had. It is random, not the next number: after a backup is restored twice, readers of
/// the first restore would take the second for the same log.
const ANOTHER_INCARNATION: &str = "(random() * 2147483646)::integer + 1";

/// Ids of a page at most.
pub const LOG_PAGE: i64 = 512;
/// Events of one read of the log's end at most.
const LOG_TAIL: i64 = 1000;

/// What readers must know of the log before they read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    pub epoch: Epoch,
    /// `false`: this role may not identify the server, and a copy of the database on another server has the same epoch.
    pub sure: bool,
    /// `false`: this role may not read the server's timeline, and a failover that lost commits goes unnoticed.
    pub sees_failover: bool,
    pub mark: LogMark,
}

/// The state of the log in the snapshot of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMark {
    pub incarnation: i32,
    /// `false`: PostgreSQL writes another timeline than the one that the incarnation was drawn on, or none. Ids may
    /// have been assigned again, so what was read with this must not be sent to a reader.
    pub is_in_force: bool,
    /// The greatest id of all, that of a dropped event included; 0: there was none.
    pub last: i64,
    /// Events up to this id may have been dropped.
    pub dropped_through: i64,
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    pub id: i64,
    /// RFC 3339, UTC, in µs.
    pub date_created: String,
    /// JSON in one line.
    pub data: String,
    pub kind: Option<String>,
    pub object_key: Option<String>,
    /// JSON of its member `replicas`, else of `replica`.
    pub replicas: Option<String>,
}

/// The next part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    pub mark: LogMark,
    /// In the order of their ids.
    pub events: Vec<LoggedEvent>,
    /// No other event exists between the requested position and this id, and none ever will; nor any that was not
    /// dropped, up to `mark.dropped_through`.
    pub through: i64,
}

/// What `copyhold status` shows of the log.
#[derive(Debug, Clone, Serialize)]
pub struct LogStatus {
    pub epoch: String,
    /// Of all its partitions, indexes included.
    pub bytes: i64,
    pub partitions: i64,
    /// `None`: no event is left.
    pub first_id: Option<i64>,
    /// 0: there was none yet.
    pub last_id: i64,
    /// Events up to this id may have been dropped.
    pub dropped_through: i64,
    pub oldest_age_seconds: Option<f64>,
    /// Events of other programs that no daemon has moved into the log yet, counted up to 100,000.
    pub inbox: i64,
    pub inbox_oldest_age_seconds: Option<f64>,
}

impl Database {
    /// Returns the state and the epoch of the log. If PostgreSQL writes another timeline than at the last call of any
    /// daemon, the log gets a new epoch.
    /// Each statement that reads the log compares the timeline in the same snapshot. So no id of another history is
    /// ever returned under this epoch, not even on a connection that a failover has moved.
    pub async fn log_head(&self) -> Result<LogHead, DatabaseError> {
        let head = self.read_log_head().await?;
        if head.mark.is_in_force {
            return Ok(head);
        }
        if self.follow_timeline().await? {
            warn!(
                last_id = head.mark.last,
                "PostgreSQL has failed over or was restored: it writes another timeline. Ids of events may have been \
                 assigned again; the log gets a new epoch"
            );
        }
        let head = self.read_log_head().await?;
        if head.mark.is_in_force {
            return Ok(head);
        }
        Err(DatabaseError::Inconsistent {
            statement: HEAD,
            what: "a log of a timeline that the server does not write".into(),
        })
    }

    /// Draws the incarnation for the timeline that PostgreSQL writes, unless another session has done so; returns
    /// whether it did. The first known timeline gets the existing incarnation. A standby refuses the statement, being
    /// read-only.
    async fn follow_timeline(&self) -> Result<bool, DatabaseError> {
        let sql = format!(
            "-- {FOLLOW}
WITH followed AS (
    UPDATE {schema}.log_state s
       SET timeline = n.timeline, incarnation = CASE WHEN s.timeline IS NULL THEN s.incarnation ELSE {ANOTHER_INCARNATION} END
      FROM (SELECT {schema}.{SERVER_TIMELINE}() AS timeline OFFSET 0) n
     WHERE s.timeline IS DISTINCT FROM n.timeline
    RETURNING s.incarnation
)
SELECT pg_notify($1, coalesce((SELECT max(id) FROM {schema}.log), 0)::text)
  FROM followed JOIN {schema}.log_state before ON before.incarnation <> followed.incarnation",
            schema = self.schema.quoted(),
        );
        let query = sqlx::query(trusted_sql(sql)).bind(Channels::of(&self.schema).event);
        Ok(with_timeout(FOLLOW, query.fetch_optional(&self.pool)).await?.is_some())
    }

    /// As [`Self::log_head`], without changes: the log may be about to get a new epoch.
    async fn read_log_head(&self) -> Result<LogHead, DatabaseError> {
        // A function without EXECUTE fails even in a branch that is never evaluated.
        let sure = "-- log::head\nSELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";
        let sure: bool = with_timeout(HEAD, sqlx::query_scalar(sure).fetch_one(&self.pool)).await?;
        let server = if sure { "(SELECT system_identifier FROM pg_catalog.pg_control_system())" } else { "0::bigint" };
        let sql = format!(
            "-- {HEAD}
SELECT {mark}, {server} AS server, (SELECT {schema}.{SERVER_TIMELINE}()) IS NOT NULL AS sees_failover,
       (SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = current_database()) AS database,
       '{schema}.log'::regclass::oid::bigint AS log
FROM {schema}.log_state s",
            mark = log_mark(&self.schema),
            schema = self.schema.quoted(),
        );
        let query = sqlx::query(trusted_sql(sql));
        let row = with_timeout(HEAD, query.fetch_one(&self.pool)).await?;
        let parse = || {
            let mark = LogMark::of(&row)?;
            let names = [row.try_get("server")?, row.try_get("database")?, row.try_get("log")?];
            let sees_failover = row.try_get("sees_failover")?;
            Ok(LogHead { epoch: epoch(names, mark.incarnation), sure, sees_failover, mark })
        };
        read(HEAD, parse)
    }

    /// Returns the log's size and range.
    pub async fn log_status(&self) -> Result<LogStatus, DatabaseError> {
        let head = self.read_log_head().await?;
        let sql = format!(
            "-- {STATUS}
SELECT {bytes} AS bytes, p.partitions, f.id AS first_id, i.waiting,
       extract(epoch FROM clock_timestamp() - f.date_created)::double precision AS oldest,
       extract(epoch FROM clock_timestamp() - i.oldest)::double precision AS inbox_oldest
FROM (SELECT count(*) AS partitions FROM pg_catalog.pg_inherits WHERE inhparent = '{schema}.log'::regclass) p
CROSS JOIN (SELECT count(*) AS waiting, min(date_created) AS oldest
            FROM (SELECT date_created FROM {schema}.log_inbox LIMIT 100000) w) i
LEFT JOIN (SELECT id, date_created FROM {schema}.log ORDER BY id LIMIT 1) f ON true",
            bytes = log_bytes(&self.schema),
            schema = self.schema.quoted(),
        );
        let row = with_timeout(STATUS, sqlx::query(trusted_sql(sql)).fetch_one(&self.pool)).await?;
        let parse = || {
            Ok(LogStatus {
                epoch: head.epoch.to_string(),
                bytes: row.try_get("bytes")?,
                partitions: row.try_get("partitions")?,
                first_id: row.try_get("first_id")?,
                last_id: head.mark.last,
                dropped_through: head.mark.dropped_through,
                oldest_age_seconds: row.try_get("oldest")?,
                inbox: row.try_get("waiting")?,
                inbox_oldest_age_seconds: row.try_get("inbox_oldest")?,
            })
        };
        read(STATUS, parse)
    }

    /// Returns the events after `after`, about `most_bytes` of them, but at least one.
    pub async fn log_tail(&self, after: i64, most_bytes: i64) -> Result<LogPart, DatabaseError> {
        // No event follows the greatest id of all: `through` is then the last one.
        self.log_part(TAIL, &self.statements.log_tail, LOG_TAIL, (after, i64::MAX), most_bytes).await
    }

    /// Returns the events from `from` on and before `end`, up to [`LOG_PAGE`] ids and about `most_bytes`, but at least
    /// one. It also looks behind `end` for the next id: ids have gaps of up to a million.
    pub async fn log_page(&self, from: i64, end: i64, most_bytes: i64) -> Result<LogPart, DatabaseError> {
        self.log_part(PAGE, &self.statements.log_page, LOG_PAGE, (from, end), most_bytes).await
    }

    /// The statements that read the log, for a check of their plans.
    #[must_use]
    pub fn log_statements(&self) -> [HotStatement; 2] {
        let hot =
            |name: &str, sql: &SqlStr| HotStatement { name: name.into(), sql: sql.as_str().into(), by_function: false };
        [hot("log_tail", &self.statements.log_tail), hot("log_page", &self.statements.log_page)]
    }

    async fn log_part(
        &self,
        name: &'static str,
        sql: &SqlStr,
        most: i64,
        (from, end): (i64, i64),
        most_bytes: i64,
    ) -> Result<LogPart, DatabaseError> {
        let query = sqlx::query(sql.clone()).bind(from).bind(end).bind(most_bytes);
        let rows = with_timeout(name, query.fetch_all(&self.pool)).await?;
        read(name, || part(&rows, most))
    }

    /// Gives the log a new epoch, unless another session has done so already: `seen` is the incarnation that is to end.
    /// Returns whether this call did it.
    pub async fn raise_log_incarnation(&self, seen: i32) -> Result<bool, DatabaseError> {
        let sql = format!(
            "-- {RAISE}
WITH raised AS (
    UPDATE {schema}.log_state SET incarnation = {ANOTHER_INCARNATION} WHERE incarnation = $1 RETURNING incarnation
)
SELECT pg_notify($2, coalesce((SELECT max(id) FROM {schema}.log), 0)::text) FROM raised",
            schema = self.schema.quoted(),
        );
        let query = sqlx::query(trusted_sql(sql));
        let query = query.bind(seen).bind(Channels::of(&self.schema).event);
        Ok(with_timeout(RAISE, query.fetch_optional(&self.pool)).await?.is_some())
    }

    /// Gives the log a new epoch whatever the incarnation is, for an operator who has restored the database. Returns
    /// the new head.
    pub async fn new_incarnation(&self) -> Result<LogHead, DatabaseError> {
        loop {
            let head = self.log_head().await?;
            if self.raise_log_incarnation(head.mark.incarnation).await? {
                return self.log_head().await;
            }
        }
    }
}

/// The statement of [`Database::log_tail`].
pub(crate) fn tail_statement(schema: &SchemaName) -> SqlStr {
    part_statement(schema, TAIL, "id > $1 AND id < $2", LOG_TAIL)
}

/// The statement of [`Database::log_page`].
pub(crate) fn page_statement(schema: &SchemaName) -> SqlStr {
    part_statement(schema, PAGE, "id >= $1 AND id < $2", LOG_PAGE)
}

/// `$1` and `$2` the bounds, `$3` the bytes. The limit is a literal: with a bound limit PostgreSQL may plan to read the
/// whole log. The limit also keeps PostgreSQL from making an event's text once for each of its uses.
fn part_statement(schema: &SchemaName, name: &str, within: &str, most: i64) -> SqlStr {
    trusted_sql(format!(
        "-- {name}
SELECT {mark}, (SELECT min(id) FROM {schema}.log WHERE id >= $2) AS next, e.*
FROM {schema}.log_state s LEFT JOIN (
    SELECT id, date_created, data, kind, object_key, replicas, following
    FROM (
        SELECT f.*, lead(id) OVER in_order AS following,
               sum(octet_length(data)) OVER (in_order ROWS UNBOUNDED PRECEDING) - octet_length(data) AS before
        FROM (
            SELECT id, to_char(date_created AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS date_created,
                   event_data::text AS data, event_data ->> 'kind' AS kind, event_data ->> 'object_key' AS object_key,
                   coalesce(event_data -> 'replicas', event_data -> 'replica')::text AS replicas
            FROM {schema}.log
            WHERE {within}
            ORDER BY id LIMIT {most}
        ) f
        WINDOW in_order AS (ORDER BY id)
    ) w
    WHERE before < $3
) e ON true
ORDER BY e.id",
        mark = log_mark(schema),
        schema = schema.quoted(),
    ))
}

/// The columns of [`LogMark`]; `s` is the table `log_state`.
fn log_mark(schema: &SchemaName) -> String {
    // A sub-select is evaluated once for all rows. -1: the timeline is unknown. A role that cannot read the server's
    // timeline trusts the stored one.
    format!(
        "s.incarnation, s.dropped_through,
       coalesce((SELECT {schema}.{SERVER_TIMELINE}()), s.timeline, -1) = coalesce(s.timeline, -1) AS is_in_force,
       greatest(s.dropped_through, (SELECT max(id) FROM {schema}.log)) AS last",
        schema = schema.quoted()
    )
}

/// Bytes of all partitions of the log, indexes included.
pub(crate) fn log_bytes(schema: &SchemaName) -> String {
    format!(
        "(SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint
        FROM pg_catalog.pg_inherits WHERE inhparent = '{}.log'::regclass)",
        schema.quoted()
    )
}

impl LogMark {
    /// Whether what was read with it belongs to the log with this incarnation.
    #[must_use]
    pub const fn is_of(&self, incarnation: i32) -> bool {
        self.is_in_force && self.incarnation == incarnation
    }

    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            incarnation: row.try_get("incarnation")?,
            is_in_force: row.try_get("is_in_force")?,
            last: row.try_get("last")?,
            dropped_through: row.try_get("dropped_through")?,
        })
    }
}

/// The database and the table are part of it: two logs on one server are two, and so is a log that was dropped and
/// created again.
fn epoch([server, database, log]: [i64; 3], incarnation: i32) -> Epoch {
    let bytes: Vec<u8> = [server, database, log, incarnation.into()].iter().flat_map(|n| n.to_be_bytes()).collect();
    // Cannot fail: the sum of this algorithm has 32 bits.
    Epoch(u32::try_from(checksum(CrcAlgorithm::Crc32IsoHdlc, &bytes)).expect("32 bits"))
}

fn part(rows: &[PgRow], most: i64) -> Result<LogPart, sqlx::Error> {
    let Some(row) = rows.first() else {
        return Err(sqlx::Error::RowNotFound);
    };
    let mark = LogMark::of(row)?;
    let next: Option<i64> = row.try_get("next")?;
    let mut events = Vec::with_capacity(rows.len());
    let mut cut = false;
    for row in rows {
        if let Some(id) = row.try_get("id")? {
            cut = row.try_get::<Option<i64>, _>("following")?.is_some();
            events.push(LoggedEvent {
                id,
                date_created: row.try_get("date_created")?,
                data: row.try_get("data")?,
                kind: row.try_get("kind")?,
                object_key: row.try_get("object_key")?,
                replicas: row.try_get("replicas")?,
            });
        }
    }
    let through = match events.last() {
        Some(last) if cut || i64::try_from(events.len()).is_ok_and(|n| n == most) => last.id,
        _ => next.map_or(mark.last, |next| next - 1),
    };
    Ok(LogPart { mark, events, through })
}
