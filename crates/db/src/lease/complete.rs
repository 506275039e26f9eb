//! Writes the outcomes of leased rows, many reports in one statement.

use std::time::{Duration, Instant};

use copyhold_core::domain::{
    Content, EventKind, EventKinds, Failure, Fence, Generation, MetadataHash, NextAttempt, NotCarried, ObjectKey,
    Outcome, ReplicaName, SchemaName, SourceReading, micros,
};
use sqlx::SqlStr;

use super::{
    fenced_write::{FencedResult, answers, held, parse_all},
    unsettled::{self, UnsettledWrite},
};
use crate::{
    error::{DatabaseError, LIMIT, within},
    handle::Database,
    log::append::{event, logged},
    sql::{PARKED, trusted_sql},
};

const NAME: &str = "lease::complete";

/// What a worker reports of one leased row, all at once or in parts.
#[derive(Debug, Clone)]
pub struct Report {
    pub key: ObjectKey,
    pub generation: Generation,
    pub fence: Fence,
    /// The content that a complete read found; the generation's first one is stored.
    pub content: Option<Content>,
    /// The metadata of that read, where it is to be stored.
    pub metadata: Option<MetadataHash>,
    /// What the source object has and no copy of it gets; `None`: it was not read.
    pub not_carried: Option<Vec<NotCarried>>,
    /// How the source described the object in that read, where it is to be stored.
    pub source: Option<SourceReading>,
    /// At most one per replica.
    pub outcomes: Vec<(ReplicaName, Outcome)>,
    /// Whether the lease ends with this report.
    pub release: bool,
    /// Earlier holders of this object died, and this holder has proven copies: the end of its lease clears the count of
    /// deaths.
    pub survived: bool,
    /// Writes whose outcome is unknown. They are noted even if the rest of the report is rejected.
    pub unsettled: Vec<UnsettledWrite>,
}

/// The value that clears a replica's time. µs since the copy was proven are not negative; NULL leaves the time
/// unchanged.
const CLEARED: i64 = -1;

/// `$1`–`$10` one entry per report: key, fence, generation, size, hash, release, hash of the metadata, and of the
/// source its name, Last-Modified and tag; `$11` whether its holder survived.
/// `$12`–`$18` one entry per failure: key, replica, class, message, whether it counts, the kind of its event (NULL:
/// none), µs until the next attempt (NULL: parked).
/// `$19`, `$20` one entry per copy whose failures are cleared: key, replica.
/// `$21`–`$26` one entry per unsettled write: key, replica, size, hash, hash of the metadata, µs to settle.
/// `$27` one entry per report: what is not carried over, as words separated by commas.
/// Then two arrays per replica, one entry per report: µs since its copy was proven, or [`CLEARED`], and µs until it is
/// due (NULL: unchanged, the greatest value: parked).
const FIRST_OF_REPLICAS: usize = 28;

pub(crate) fn statement(schema: &SchemaName, replicas: &[ReplicaName], kinds: &EventKinds) -> SqlStr {
    let schema = schema.quoted();
    let (held, answers) = (held(&schema), answers(&schema));
    let failures = "unnest($12::text[], $13::text[], $14::text[], $15::text[], $16::bool[], $17::text[], $18::bigint[])
        AS x(k, replica, class, message, counted, kind, delay)
    JOIN done ON done.object_key = x.k";
    let failed = keep_failures(&schema, failures);
    let completion_events = completion_events(&schema, kinds, failures);
    let now = format!("{schema}.now_utc_micro_seconds()");
    let recorded = recorded_now(replicas, "recorded", |i| format!("a.t{i} >= 0"));
    let doubtful = recorded_now(replicas, "doubtful", |i| format!("a.t{i} >= 0 AND lost.until > {now} - a.t{i}"));
    let until = unsettled::until(&schema);
    let always = format!("o.object_key, a.f, o.generation, {recorded}, lost.until, {doubtful}");
    let returned: Vec<_> = [always].into_iter().chain(completion_events.columns).collect();
    let returned = returned.join(",\n              ");
    let logged = logged(&schema, &completion_events.events, &["failed", "mended", "survived", "noted"]);
    let noted = noted(&schema);
    let (draining, beside) = if kinds.contains(EventKind::ObjectCopied) {
        let names =
            format!("SELECT ARRAY(SELECT name FROM {schema}.replicas WHERE draining_since IS NOT NULL) AS names");
        // A CTE of its own, so that is_complete contains no subquery and PostgreSQL inlines it into this statement.
        (format!("draining AS MATERIALIZED ({names}),\n"), " CROSS JOIN draining")
    } else {
        (String::new(), "")
    };
    let columns = |what: &dyn Fn(usize, &ReplicaName) -> String| {
        replicas.iter().enumerate().map(|(i, r)| what(i, r)).collect::<String>()
    };
    let arrays = columns(&|i, _| {
        format!(", ${}::bigint[], ${}::bigint[]", FIRST_OF_REPLICAS + 2 * i, FIRST_OF_REPLICAS + 1 + 2 * i)
    });
    let names = columns(&|i, _| format!(", t{i}, d{i}"));
    // Copies of earlier attempts may lack properties that the copies of this attempt have.
    let tried = NotCarried::Redirect.as_str();
    // A copy that ceased to be wanted during the attempt is recorded if it was made, and not tried again.
    let sets = columns(&|i, r| {
        let (copy, due) = (r.column(), r.due_column());
        format!(
            ",
           {copy} = CASE WHEN a.t{i} >= 0 THEN greatest({schema}.now_utc_micro_seconds() - a.t{i}, o.created_at)
                         WHEN a.t{i} = {CLEARED} THEN NULL ELSE o.{copy} END,
           {due} = CASE WHEN a.d{i} IS NULL OR o.{due} IS NULL THEN o.{due} WHEN a.d{i} = {PARKED} THEN {PARKED}
                        ELSE {schema}.now_utc_micro_seconds() + a.d{i} END"
        )
    });
    trusted_sql(format!(
        "-- lease::complete
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bool[],
                         $7::bigint[], $8::text[], $9::bigint[], $10::bigint[], $11::bool[], $27::text[]{arrays})
        AS a(k, f, g, size, hash, release, metadata, source, modified, tag, survived, not_carried{names})
),
{held},
-- what was proven before this time may have been overwritten by a write that no daemon knows of, however late it is
-- recorded
lost AS MATERIALIZED ({until}),
{draining}done AS (
    UPDATE {schema}.object_copies o
       SET lock = CASE WHEN a.release THEN NULL ELSE o.lock END,
           lease = CASE WHEN a.release THEN NULL ELSE o.lease END,
           size_bytes = coalesce(a.size, o.size_bytes),
           content_hash = coalesce(a.hash, o.content_hash),
           metadata_hash = coalesce(a.metadata, o.metadata_hash),
           not_carried = CASE WHEN a.not_carried IS NULL THEN o.not_carried
                              ELSE nullif(string_to_array(a.not_carried, ',')
                                       || CASE WHEN '{tried}' = ANY (o.not_carried)
                                                AND '{tried}' <> ALL (string_to_array(a.not_carried, ','))
                                               THEN '{{{tried}}}'::text[] ELSE '{{}}' END, '{{}}') END,
           source_replica = coalesce(a.source, o.source_replica),
           source_modified = CASE WHEN a.source IS NULL THEN o.source_modified ELSE a.modified END,
           source_tag = CASE WHEN a.source IS NULL THEN o.source_tag ELSE a.tag END{sets}
      FROM held JOIN asked a ON a.k = held.object_key CROSS JOIN lost{beside}
     WHERE o.object_key = held.object_key AND o.lease = a.f AND o.generation = a.g
    RETURNING {returned}
),
-- why it failed; consecutive attempts of one class are added up
failed AS (
    {failed}
),
mended AS (
    DELETE FROM {schema}.copy_failures f
    USING unnest($19::text[], $20::text[]) AS x(k, replica), done
    WHERE f.object_key = x.k AND f.replica = x.replica AND done.object_key = x.k
    RETURNING 1
),
-- the holder before this one died, this one releases the lease
survived AS (
    DELETE FROM {schema}.swept_leases s
     USING done JOIN asked a ON a.k = done.object_key AND a.f = done.f
     WHERE s.object_key = done.object_key AND a.survived AND a.release
    RETURNING 1
),
-- regardless of the fence: a write of unknown outcome has to be noted
noted AS (
    {noted}
),
{logged}
{answers} CROSS JOIN logged"
    ))
}

/// The names of the replicas whose copies a report has recorded and for which `holds` is true, as an array. `holds`
/// takes the replica's index.
fn recorded_now(replicas: &[ReplicaName], name: &str, holds: impl Fn(usize) -> String) -> String {
    let each = replicas.iter().enumerate().map(|(i, r)| format!("CASE WHEN {} THEN '{r}' END", holds(i)));
    format!("array_remove(ARRAY[{}]::text[], NULL) AS {name}", each.collect::<Vec<_>>().join(", "))
}

/// Notes the writes of unknown outcome, and what was recorded while claims may be lost.
fn noted(schema: &str) -> String {
    let now = format!("{schema}.now_utc_micro_seconds()");
    let entries = format!(
        "SELECT k, r, s, h, m, {first_check}, t
      FROM unnest($21::text[], $22::text[], $23::bigint[], $24::bigint[], $25::bigint[], $26::bigint[]) AS n(k, r, s, h, m, t)
    UNION ALL
    SELECT done.object_key, r, NULL, NULL, NULL, greatest(done.until - {now}, 0), greatest(done.until - {now}, 0)
      FROM done CROSS JOIN unnest(done.doubtful) AS r",
        first_check = unsettled::first_check(),
    );
    unsettled::insert(schema, &entries)
}

/// The events of a completion.
struct CompletionEvents {
    /// The columns that the events need and `done` has to return. Empty where no event is written: they cost a lookup
    /// in another table per object.
    columns: Vec<String>,
    events: String,
}

/// One event for the copies of an object that are recorded together, and one for each failure. The object's first event
/// carries its time of registration: a separate event for that would be every second one.
fn completion_events(schema: &str, kinds: &EventKinds, failures: &str) -> CompletionEvents {
    let object = "'object_key', done.object_key, 'generation', done.generation";
    let registered = "CASE WHEN done.first THEN jsonb_build_object('registered_at', done.created_at) ELSE '{}' END";
    let (mut columns, mut events) = (Vec::new(), Vec::new());
    if kinds.contains(EventKind::ObjectCopied) {
        columns.push(format!(
            "o.size_bytes, o.content_hash, o.not_carried, {schema}.is_complete(o, draining.names) AS complete"
        ));
        let copied = event(
            EventKind::ObjectCopied,
            &format!(
                "{object}, 'replicas', done.recorded, 'complete', done.complete, 'size_bytes', done.size_bytes,
        'content_hash', lpad(to_hex(done.content_hash), 16, '0')"
            ),
        );
        let not_carried = "CASE WHEN done.not_carried IS NOT NULL THEN jsonb_build_object('not_carried', done.not_carried) ELSE '{}' END";
        events.push(format!("{copied} || {registered} || {not_carried} FROM done WHERE done.recorded <> '{{}}'"));
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
    CompletionEvents { columns, events: events.join("\n    UNION ALL\n    ") }
}

/// The part of a statement that stores why copies failed. `whence`: a FROM clause with the rows `x(replica, class,
/// message, counted)`, each joined to the object that was written, `done(object_key, generation)`.
pub(crate) fn keep_failures(schema: &str, whence: &str) -> String {
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

impl Database {
    /// Writes the outcomes of leased rows, fenced by lease and generation. At most one report per key.
    pub async fn complete(&self, reports: &[Report]) -> Result<Vec<FencedResult>, DatabaseError> {
        self.complete_within(LIMIT, reports).await
    }

    /// As [`Self::complete`], with another time limit.
    pub async fn complete_within(
        &self,
        limit: Duration,
        reports: &[Report],
    ) -> Result<Vec<FencedResult>, DatabaseError> {
        if reports.is_empty() {
            return Ok(Vec::new());
        }
        let each = |value: fn(&Report) -> Option<i64>| reports.iter().map(value).collect::<Vec<_>>();
        let failures: Vec<_> =
            reports.iter().flat_map(|r| r.outcomes.iter().filter_map(|o| failure(&r.key, o, &self.kinds))).collect();
        let mended: Vec<_> = reports
            .iter()
            .flat_map(|r| r.outcomes.iter().map(move |(replica, outcome)| (&r.key, replica, outcome)))
            .filter(|(.., outcome)| matches!(outcome, Outcome::Recorded { .. }))
            .collect();
        let sent = Instant::now();
        let mut query = sqlx::query_as(self.statements.complete.clone())
            .bind(reports.iter().map(|r| r.key.as_str()).collect::<Vec<_>>())
            .bind(each(|r| Some(r.fence.0)))
            .bind(each(|r| Some(r.generation.0)))
            .bind(each(|r| r.content.map(|c| c.size_bytes.cast_signed())))
            .bind(each(|r| r.content.map(|c| c.hash.to_bigint())))
            .bind(reports.iter().map(|r| r.release).collect::<Vec<_>>())
            .bind(each(|r| r.metadata.map(MetadataHash::to_bigint)))
            .bind(reports.iter().map(|r| Some(r.source.as_ref()?.replica.as_str())).collect::<Vec<_>>())
            .bind(each(|r| r.source.as_ref()?.modified_us))
            .bind(each(|r| r.source.as_ref()?.tag))
            .bind(reports.iter().map(|r| r.survived).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.key.as_str()).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.replica.as_str()).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.why.class.as_str()).collect::<Vec<_>>())
            // PostgreSQL stores no NUL, which a store may have put into its answer.
            .bind(failures.iter().map(|f| f.why.message.replace('\0', "\u{fffd}")).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.counted).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.kind.map(EventKind::as_str)).collect::<Vec<_>>())
            .bind(failures.iter().map(|f| f.delay).collect::<Vec<_>>())
            .bind(mended.iter().map(|(key, ..)| key.as_str()).collect::<Vec<_>>())
            .bind(mended.iter().map(|(_, replica, _)| replica.as_str()).collect::<Vec<_>>());
        query = unsettled::bind_writes(query, reports.iter().flat_map(|r| &r.unsettled))
            .bind(reports.iter().map(|r| r.not_carried.as_deref().map(words)).collect::<Vec<_>>());
        for replica in &self.replicas {
            let (times, dues): (Vec<Option<i64>>, Vec<Option<i64>>) =
                reports.iter().map(|r| change(r, replica, sent)).unzip();
            query = query.bind(times).bind(dues);
        }
        let rows: Vec<(String, i64, String)> = within(limit, NAME, query.fetch_all(&self.pool)).await?;
        parse_all(NAME, rows)
    }
}

/// How the report changes the two columns of one replica; `now`: when it is sent.
fn change(report: &Report, replica: &ReplicaName, now: Instant) -> (Option<i64>, Option<i64>) {
    match report.outcomes.iter().find(|(r, _)| r == replica) {
        None => (None, None),
        Some((_, Outcome::Recorded { proven, .. })) => (Some(micros(now.saturating_duration_since(*proven))), None),
        Some((_, Outcome::Cleared { next, .. })) => (Some(CLEARED), Some(due(*next))),
        Some((_, Outcome::Failed { next, .. })) => (None, Some(due(*next))),
        Some((_, Outcome::Deferred { delay })) => (None, Some(micros(*delay))),
    }
}

fn words(properties: &[NotCarried]) -> String {
    properties.iter().map(|property| property.as_str()).collect::<Vec<_>>().join(",")
}

fn due(next: NextAttempt) -> i64 {
    match next {
        NextAttempt::After { delay, .. } => micros(delay),
        NextAttempt::Parked => PARKED,
    }
}

struct FailedOutcome<'a> {
    key: &'a ObjectKey,
    replica: &'a ReplicaName,
    why: &'a Failure,
    counted: bool,
    /// The kind of its event, if events of that kind are written.
    kind: Option<EventKind>,
    /// µs until the next attempt; `None`: there is none.
    delay: Option<i64>,
}

fn failure<'a>(
    key: &'a ObjectKey,
    (replica, outcome): &'a (ReplicaName, Outcome),
    kinds: &EventKinds,
) -> Option<FailedOutcome<'a>> {
    let (kind, next, why) = match outcome {
        Outcome::Recorded { .. } | Outcome::Deferred { .. } => return None,
        Outcome::Cleared { next, why } => (EventKind::CopyLost, next, why),
        Outcome::Failed { next: next @ NextAttempt::Parked, why } => (EventKind::CopyParked, next, why),
        Outcome::Failed { next: next @ NextAttempt::After { .. }, why } => (EventKind::CopyFailed, next, why),
    };
    let (counted, delay) = match next {
        NextAttempt::After { delay, counted } => (*counted, Some(micros(*delay))),
        NextAttempt::Parked => (true, None),
    };
    Some(FailedOutcome { key, replica, why, counted, kind: Some(kind).filter(|kind| kinds.contains(*kind)), delay })
}
