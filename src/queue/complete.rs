use std::time::Duration;

use sqlx::SqlStr;

use super::{
    PARKED, Queue, QueueError,
    answer::{Answered, answers, held, parse_all},
    append::{event, logged},
    built,
    error::limited,
    micros,
};
use crate::domain::{
    Content, EventKind, EventKinds, Failure, Fence, Generation, Next, ObjectKey, Outcome, ReplicaName, SchemaName,
};

const NAME: &str = "queue::complete";

/// What a worker has to say of one leased row, all at once or piece by piece.
#[derive(Debug, Clone)]
pub struct Report {
    pub key: ObjectKey,
    pub generation: Generation,
    pub fence: Fence,
    /// What a complete read found; kept with the generation's first.
    pub content: Option<Content>,
    /// At most one per replica.
    pub outcomes: Vec<(ReplicaName, Outcome)>,
    /// Whether the lease ends with it.
    pub release: bool,
    /// The object's lease was swept before, and copies have been recorded under this one: they are read once more
    /// after this long, when nothing that the dead holder has sent can still arrive.
    pub settle: Option<Duration>,
}

/// What to write of one replica, as numbers that travel in an array.
mod mark {
    pub(super) const LEAVE: i16 = 0;
    pub(super) const RECORD: i16 = 1;
    pub(super) const CLEAR: i16 = 2;
}

/// `$1`–`$7` one entry per report: key, fence, generation, size, hash, release, µs until its copies are read again.
/// `$8`–`$14` one entry per failure: key, replica, class, message, whether it counts, the kind of its event (NULL: it has
/// none), µs until the next try (NULL: parked).
/// `$15`, `$16` one entry per copy whose failures are forgotten: key, replica.
/// Then two arrays per replica, one entry per report: the mark, and µs until it is due
/// (NULL: left alone, the greatest: parked).
pub(super) fn statement(schema: &SchemaName, replicas: &[ReplicaName], kinds: &EventKinds) -> SqlStr {
    let schema = schema.quoted();
    let (held, answers) = (held(&schema), answers(&schema));
    let failures = "unnest($8::text[], $9::text[], $10::text[], $11::text[], $12::bool[], $13::text[], $14::bigint[])
        AS x(k, replica, class, message, counted, kind, delay)
    JOIN done ON done.object_key = x.k";
    let failed = keep_failures(&schema, failures);
    let told = told(&schema, replicas, kinds, failures);
    let returned: Vec<_> = ["o.object_key, a.f, o.generation".to_owned()].into_iter().chain(told.columns).collect();
    let returned = returned.join(",\n              ");
    let logged = logged(&schema, &told.events, &["failed", "mended", "survived"]);
    let (draining, beside) = if kinds.contains(EventKind::ObjectCopied) {
        let names =
            format!("SELECT ARRAY(SELECT name FROM {schema}.replicas WHERE draining_since IS NOT NULL) AS names");
        // A row of its own, so that is_complete is no subquery and becomes a part of this statement.
        (format!("draining AS MATERIALIZED ({names}),\n"), " CROSS JOIN draining")
    } else {
        (String::new(), "")
    };
    let columns = |what: &dyn Fn(usize, &ReplicaName) -> String| {
        replicas.iter().enumerate().map(|(i, r)| what(i, r)).collect::<String>()
    };
    let arrays = columns(&|i, _| format!(", ${}::smallint[], ${}::bigint[]", 17 + 2 * i, 18 + 2 * i));
    let names = columns(&|i, _| format!(", m{i}, d{i}"));
    // A copy that somebody has ceased to want while it was tried is recorded if it was made, and not tried again.
    let sets = columns(&|i, r| {
        let (copy, due) = (r.column(), r.due_column());
        let (record, clear) = (mark::RECORD, mark::CLEAR);
        format!(
            ",
           {copy} = CASE a.m{i} WHEN {record} THEN {schema}.now_utc_micro_seconds() WHEN {clear} THEN NULL ELSE o.{copy} END,
           {due} = CASE WHEN a.d{i} IS NULL OR o.{due} IS NULL THEN o.{due} WHEN a.d{i} = {PARKED} THEN {PARKED}
                        ELSE {schema}.now_utc_micro_seconds() + a.d{i} END"
        )
    });
    built(format!(
        "-- queue::complete
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bool[],
                         $7::bigint[]{arrays})
        AS a(k, f, g, size, hash, release, settle{names})
),
{held},
{draining}done AS (
    UPDATE {schema}.object_copies o
       SET lock = CASE WHEN a.release THEN NULL ELSE o.lock END,
           lease = CASE WHEN a.release THEN NULL ELSE o.lease END,
           size_bytes = coalesce(a.size, o.size_bytes),
           content_hash = coalesce(a.hash, o.content_hash){sets}
      FROM held JOIN asked a ON a.k = held.object_key{beside}
     WHERE o.object_key = held.object_key AND o.lease = a.f AND o.generation = a.g
    RETURNING {returned}
),
-- why it failed; attempts of one class in a row are added up
failed AS (
    {failed}
),
mended AS (
    DELETE FROM {schema}.copy_failures f
    USING unnest($15::text[], $16::text[]) AS x(k, replica), done
    WHERE f.object_key = x.k AND f.replica = x.replica AND done.object_key = x.k
    RETURNING 1
),
-- its last holder but one has died, this one gives it back
survived AS (
    UPDATE {schema}.swept_leases s
       SET verify_at = {schema}.now_utc_micro_seconds() + a.settle, times = CASE WHEN a.release THEN 0 ELSE s.times END
      FROM done JOIN asked a ON a.k = done.object_key AND a.f = done.f
     WHERE s.object_key = done.object_key AND a.settle IS NOT NULL
    RETURNING 1
),
{logged}
{answers} CROSS JOIN logged"
    ))
}

/// What a completion tells the log.
struct Told {
    /// What its events need and `done` has to return. Nothing where nothing is told: it takes a look into another table
    /// for each object.
    columns: Vec<String>,
    events: String,
}

/// One event for the copies of an object that are recorded together, and one for each failure. When the object was
/// registered travels with its first, because an event of its own for that would be one in two.
fn told(schema: &str, replicas: &[ReplicaName], kinds: &EventKinds, failures: &str) -> Told {
    let object = "'object_key', done.object_key, 'generation', done.generation";
    let registered = "CASE WHEN done.first THEN jsonb_build_object('registered_at', done.created_at) ELSE '{}' END";
    let (mut columns, mut events) = (Vec::new(), Vec::new());
    if kinds.contains(EventKind::ObjectCopied) {
        let recorded = replicas.iter().enumerate();
        let recorded = recorded.map(|(i, r)| format!("CASE WHEN a.m{i} = {} THEN '{r}' END", mark::RECORD));
        let recorded = recorded.collect::<Vec<_>>().join(", ");
        columns.push(format!(
            "o.size_bytes, o.content_hash, {schema}.is_complete(o, draining.names) AS complete,
              array_remove(ARRAY[{recorded}]::text[], NULL) AS recorded"
        ));
        let copied = event(
            EventKind::ObjectCopied,
            &format!(
                "{object}, 'replicas', done.recorded, 'complete', done.complete, 'size_bytes', done.size_bytes,
        'content_hash', lpad(to_hex(done.content_hash), 16, '0')"
            ),
        );
        events.push(format!("{copied} || {registered} FROM done WHERE done.recorded <> '{{}}'"));
    }
    if [EventKind::CopyFailed, EventKind::CopyParked, EventKind::CopyLost].into_iter().any(|kind| kinds.contains(kind))
    {
        events.push(format!(
            "SELECT jsonb_build_object('kind', x.kind, {object}, 'replica', x.replica, 'class', x.class, 'message', x.message,
        'due_at', {schema}.now_utc_micro_seconds() + x.delay) || {registered}
    FROM {failures} WHERE x.kind IS NOT NULL"
        ));
    }
    if !events.is_empty() {
        columns.push(format!(
            "-- the first that is heard of this generation
              o.created_at, held.hash_before IS NULL
              AND NOT EXISTS (SELECT FROM {schema}.copy_failures f
                              WHERE f.object_key = o.object_key AND f.generation = o.generation) AS first"
        ));
    }
    Told { columns, events: events.join("\n    UNION ALL\n    ") }
}

/// The part of a statement that keeps why copies failed. `whence`: a FROM clause with the rows
/// `x(replica, class, message, counted)`, each beside the object that was written, `done(object_key, generation)`.
pub(super) fn keep_failures(schema: &str, whence: &str) -> String {
    format!(
        "INSERT INTO {schema}.copy_failures AS f
        (object_key, replica, generation, attempts, class, message, first_at, last_at)
    SELECT done.object_key, x.replica, done.generation, x.counted::int, x.class, x.message,
           {schema}.now_utc_micro_seconds(), {schema}.now_utc_micro_seconds()
    FROM {whence}
    ON CONFLICT (object_key, replica) DO UPDATE
       SET attempts = CASE WHEN f.generation = excluded.generation AND f.class = excluded.class
                           THEN f.attempts ELSE 0 END + excluded.attempts,
           first_at = CASE WHEN f.generation = excluded.generation THEN f.first_at ELSE excluded.first_at END,
           generation = excluded.generation, class = excluded.class, message = excluded.message,
           last_at = excluded.last_at
    RETURNING 1"
    )
}

impl Queue {
    /// Writes what was found out about leased rows, fenced by lease and generation. At most one report per key.
    pub async fn complete(&self, reports: &[Report]) -> Result<Vec<Answered>, QueueError> {
        if reports.is_empty() {
            return Ok(Vec::new());
        }
        let each = |value: fn(&Report) -> Option<i64>| reports.iter().map(value).collect::<Vec<_>>();
        let failures: Vec<_> =
            reports.iter().flat_map(|r| r.outcomes.iter().filter_map(|o| failure(&r.key, o, &self.kinds))).collect();
        let mended: Vec<_> = reports
            .iter()
            .flat_map(|r| r.outcomes.iter().map(move |(replica, outcome)| (&r.key, replica, outcome)))
            .filter(|(.., outcome)| matches!(outcome, Outcome::Recorded(_)))
            .collect();
        let mut query = sqlx::query_as(self.statements.complete.clone())
            .bind(reports.iter().map(|r| r.key.as_str()).collect::<Vec<_>>())
            .bind(each(|r| Some(r.fence.0)))
            .bind(each(|r| Some(r.generation.0)))
            .bind(each(|r| r.content.map(|c| c.size_bytes.cast_signed())))
            .bind(each(|r| r.content.map(|c| c.hash.to_bigint())))
            .bind(reports.iter().map(|r| r.release).collect::<Vec<_>>())
            .bind(each(|r| r.settle.map(micros)))
            .bind(failures.iter().map(|f| f.key.as_str()).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.replica.as_str()).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.why.class.as_str()).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.why.message.as_str()).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.counted).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.kind.map(EventKind::as_str)).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.delay).collect::<Vec<_>>())
            .bind(mended.iter().map(|(key, ..)| key.as_str()).collect::<Vec<_>>())
            .bind(mended.iter().map(|(_, replica, _)| replica.as_str()).collect::<Vec<_>>());
        for replica in &self.replicas {
            let (marks, dues): (Vec<i16>, Vec<Option<i64>>) = reports.iter().map(|r| change(r, replica)).unzip();
            query = query.bind(marks).bind(dues);
        }
        let rows: Vec<(String, i64, String)> = limited(NAME, query.fetch_all(&self.pool)).await?;
        parse_all(NAME, rows)
    }
}

/// What the report changes of one replica's two columns.
fn change(report: &Report, replica: &ReplicaName) -> (i16, Option<i64>) {
    match report.outcomes.iter().find(|(r, _)| r == replica) {
        None => (mark::LEAVE, None),
        Some((_, Outcome::Recorded(_))) => (mark::RECORD, None),
        Some((_, Outcome::Cleared { next, .. })) => (mark::CLEAR, Some(due(*next))),
        Some((_, Outcome::Failed { next, .. })) => (mark::LEAVE, Some(due(*next))),
        Some((_, Outcome::Rests { delay })) => (mark::LEAVE, Some(micros(*delay))),
    }
}

fn due(next: Next) -> i64 {
    match next {
        Next::After { delay, .. } => micros(delay),
        Next::Parked => PARKED,
    }
}

struct Failed<'a> {
    key: &'a ObjectKey,
    replica: &'a ReplicaName,
    why: &'a Failure,
    counted: bool,
    /// Of its event, if that is kept.
    kind: Option<EventKind>,
    /// µs until the next try; `None`: there is none.
    delay: Option<i64>,
}

fn failure<'a>(
    key: &'a ObjectKey,
    (replica, outcome): &'a (ReplicaName, Outcome),
    kinds: &EventKinds,
) -> Option<Failed<'a>> {
    let (kind, next, why) = match outcome {
        Outcome::Recorded(_) | Outcome::Rests { .. } => return None,
        Outcome::Cleared { next, why } => (EventKind::CopyLost, next, why),
        Outcome::Failed { next: next @ Next::Parked, why } => (EventKind::CopyParked, next, why),
        Outcome::Failed { next: next @ Next::After { .. }, why } => (EventKind::CopyFailed, next, why),
    };
    let (counted, delay) = match next {
        Next::After { delay, counted } => (*counted, Some(micros(*delay))),
        Next::Parked => (true, None),
    };
    Some(Failed { key, replica, why, counted, kind: Some(kind).filter(|kind| kinds.contains(*kind)), delay })
}
