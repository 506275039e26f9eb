//! Clears all copies of a replica that were recorded before a time: its bucket was lost, or is another one.
//! It works page by page in the order of keys, and writes its progress to the table `resets` together with each page.
//! Copies recorded since then stay: they are in the present bucket.

use std::{collections::BTreeSet, time::Duration};

use copyhold_core::domain::{EventKind, ObjectKey, ReplicaName, micros};

use crate::{
    error::{DatabaseError, key_of, with_timeout},
    handle::Database,
    lease::unsettled,
    log::append::{event, logged},
    notify::notification::Notification,
    pin::Pin,
    sql::trusted_sql,
};

const BEGIN: &str = "replica::begin_reset";
const MOVE: &str = "replica::begin_move";
const PAGE: &str = "replica::reset_page";
const FIND: &str = "replica::find_reset";
/// Keys of one page: its rows are locked for some tens of milliseconds.
const KEYS: i64 = 1_000;

/// An unfinished reset or move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    pub replica: ReplicaName,
    /// µs since the epoch by the database's clock: copies recorded before it are cleared.
    pub before: i64,
    pub moved: bool,
    /// All keys up to and including this one are done; `None`: none yet.
    pub reached: Option<ObjectKey>,
    /// Copies that have been cleared so far.
    pub cleared: i64,
    /// Of these, objects that had no other recorded copy.
    pub alone: i64,
    /// The walk sees every copy that was recorded before: no transaction is open any more that might still commit one.
    pub sure: bool,
}

/// The result of one page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResetPage {
    /// All keys up to and including this one are done; `None`: all of them.
    pub last: Option<ObjectKey>,
    /// Copies that were cleared.
    pub cleared: i64,
    /// Their rows were locked: the caller tries them again.
    pub busy: Vec<ObjectKey>,
    /// The first object of these without any copy left.
    pub alone_example: Option<ObjectKey>,
    /// The totals, as the database has them; `None`: another command has ended the reset meanwhile.
    pub total: Option<(i64, i64)>,
}

/// The keys of a page.
#[derive(Debug, Clone, Copy)]
pub enum ResetKeys<'a> {
    /// The next keys after this one; `None`: the first.
    After(Option<&'a ObjectKey>),
    These(&'a [ObjectKey]),
}

/// The two buckets of a move, and whether the new one holds the same objects.
#[derive(Debug, Clone, Copy)]
pub struct BucketMove<'a> {
    pub from: &'a Pin,
    pub to: &'a Pin,
    /// The new bucket holds the same objects: they are compared before any is written.
    pub same_content: bool,
}

type ResetRow = (i64, bool, Option<String>, i64, i64, bool);

impl Database {
    /// The replica's unfinished reset or move.
    pub async fn find_reset(&self, replica: &ReplicaName) -> Result<Option<Reset>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {FIND}\nSELECT before, moved, reached, cleared, alone, sure FROM {}.resets WHERE replica = $1",
            self.schema.quoted()
        ));
        let query = sqlx::query_as(sql).bind(replica.as_str());
        let row: Option<ResetRow> = with_timeout(FIND, query.fetch_optional(&self.pool)).await?;
        row.map(|(before, moved, reached, cleared, alone, sure)| {
            let reached = reached.map(|key| key_of(FIND, key)).transpose()?;
            Ok(Reset { replica: replica.clone(), before, moved, reached, cleared, alone, sure })
        })
        .transpose()
    }

    /// Begins a reset: from now on the recorded copies of the replica do not count. Does nothing while another reset of
    /// it is unfinished. `settle`: after this time no request to the lost bucket arrives any more.
    /// The bucket of the primary in force may be written to from now on, with the objects that it lacks: the operator
    /// states that it was lost. It is not empty for long, because the application goes on uploading.
    pub async fn begin_reset(&self, replica: &ReplicaName, settle: Duration) -> Result<(), DatabaseError> {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        let opened = format!(
            "SELECT r.name, r.primary_since IS NOT NULL AS is_primary FROM {schema}.replicas r
     WHERE r.name = $1 AND NOT EXISTS (SELECT FROM {schema}.resets s WHERE s.replica = r.name)
       FOR NO KEY UPDATE"
        );
        // Foreign objects in the bucket are lost with it.
        let opens = format!(
            "UPDATE {schema}.replicas r
       SET existing = CASE WHEN opened.is_primary AND r.existing IS DISTINCT FROM 'overwrite' THEN 'empty' ELSE r.existing END,
           writable_at = CASE WHEN opened.is_primary THEN coalesce(r.writable_at, {now}) ELSE r.writable_at END,
           foreign_before = NULL
      FROM opened WHERE r.name = opened.name"
        );
        let sql = self.begin(BEGIN, replica, &opened, &opens, EventKind::ReplicaReset, "'before', before");
        let query = sqlx::query(trusted_sql(sql)).bind(replica.as_str()).bind(micros(settle)).bind(false);
        with_timeout(BEGIN, query.execute(&self.pool)).await?;
        self.notify(Notification::Replicas).await
    }

    /// Begins a move: from now on the replica is another bucket, and copies recorded of the old one do not count. Does
    /// nothing if the replica is not pinned to `from`, or while another reset of it is unfinished.
    /// How the new bucket is written to is decided as for a new replica: it is inspected first. The primary's bucket
    /// belongs to the application, as ever.
    pub async fn begin_move(
        &self,
        replica: &ReplicaName,
        what: BucketMove<'_>,
        settle: Duration,
    ) -> Result<(), DatabaseError> {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        let opened = format!(
            "SELECT r.name, r.primary_since IS NOT NULL AS is_primary FROM {schema}.replicas r
     WHERE r.name = $1 AND r.endpoint = $4 AND r.bucket = $5
       AND NOT EXISTS (SELECT FROM {schema}.resets s WHERE s.replica = r.name)
       FOR NO KEY UPDATE"
        );
        // What was known of the old store and of the objects in its bucket does not hold for the new ones.
        let opens = format!(
            "UPDATE {schema}.replicas r
       SET endpoint = $6, bucket = $7, pinned_at = {now},
           existing = NULL, writable_at = NULL, looked_at = NULL, adopts = $8 OR opened.is_primary,
           registered_through = NULL, begun_through = NULL, foreign_before = NULL,
           breaker_opened_at = NULL, breaker_blocks = NULL, breaker_class = NULL, breaker_message = NULL,
           probe_at = NULL, probes_failed = 0
      FROM opened WHERE r.name = opened.name"
        );
        let members = "'before', before, 'endpoint', $6, 'bucket', $7, 'same_content', $8";
        let sql = self.begin(MOVE, replica, &opened, &opens, EventKind::ReplicaMoved, members);
        let query = sqlx::query(trusted_sql(sql))
            .bind(replica.as_str())
            .bind(micros(settle))
            .bind(true)
            .bind(&what.from.endpoint)
            .bind(&what.from.bucket)
            .bind(&what.to.endpoint)
            .bind(&what.to.bucket)
            .bind(what.same_content);
        with_timeout(MOVE, query.execute(&self.pool)).await?;
        self.notify(Notification::Replicas).await
    }

    /// `$1` the replica, `$2` µs to settle, `$3` whether it moves.
    /// A row that is leased at this moment and lacks the copy may get it recorded later, for a request that reached the
    /// lost bucket. Its lease is left alone; the copy is read once more when the lease has ended. Rows claimed after
    /// this statement has begun send their requests after it.
    fn begin(
        &self,
        name: &str,
        replica: &ReplicaName,
        opened: &str,
        opens: &str,
        kind: EventKind,
        members: &str,
    ) -> String {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        let events = if self.kinds.contains(kind) {
            format!("{} FROM begun", event(kind, &format!("'replica', replica, {members}")))
        } else {
            String::new()
        };
        let logged = logged(&schema, &events, &["opens", "held"]);
        let held = unsettled::insert(
            &schema,
            &format!(
                "SELECT o.object_key, opened.name, NULL::bigint, NULL::bigint, NULL::bigint, $2::bigint, $2::bigint
      FROM {schema}.object_copies o, opened WHERE o.lock IS NOT NULL AND o.{} IS NULL",
                replica.column()
            ),
        );
        format!(
            "-- {name}
WITH opened AS MATERIALIZED (
    {opened}
),
opens AS (
    {opens}
    RETURNING 1
),
begun AS (
    INSERT INTO {schema}.resets (replica, before, moved)
    SELECT name, {now}, $3 FROM opened
    RETURNING replica, before
),
held AS (
    {held}
),
{logged}
SELECT FROM logged"
        )
    }

    /// Clears one page. `may_note`: no earlier key has to be tried again, so that the page's end may be written as the
    /// progress.
    pub async fn reset_page(
        &self,
        reset: &Reset,
        others: &[ReplicaName],
        of: ResetKeys<'_>,
        may_note: bool,
    ) -> Result<ResetPage, DatabaseError> {
        let schema = self.schema.quoted();
        let (copy, due) = (reset.replica.column(), reset.replica.due_column());
        let (after, keys, looked) = match of {
            ResetKeys::After(after) => (
                after.map_or("", ObjectKey::as_str),
                &[][..],
                format!("object_key > $3 AND $4::text[] IS NOT NULL ORDER BY object_key LIMIT {KEYS}"),
            ),
            ResetKeys::These(keys) => ("", keys, "$3::text IS NOT NULL AND object_key = ANY ($4::text[])".to_owned()),
        };
        let sql = trusted_sql(format!(
            "-- {PAGE}
WITH looked AS MATERIALIZED (
    SELECT object_key, {copy} < $2 AS is_to_go FROM {schema}.object_copies WHERE {looked}
),
held AS MATERIALIZED (
    SELECT o.object_key FROM {schema}.object_copies o
     WHERE o.object_key = ANY (ARRAY(SELECT object_key FROM looked WHERE is_to_go))
       FOR NO KEY UPDATE SKIP LOCKED
),
done AS (
    UPDATE {schema}.object_copies o
       SET {copy} = NULL, {due} = CASE WHEN o.{due} IS NOT NULL THEN {schema}.now_utc_micro_seconds() END
      FROM held
     WHERE o.object_key = held.object_key AND o.{copy} < $2
    RETURNING o.object_key, {left} AS alone
),
told AS MATERIALIZED (
    SELECT (SELECT CASE WHEN count(*) = {KEYS} THEN max(object_key) END FROM looked) AS last,
           (SELECT max(object_key) FROM looked) AS place,
           (SELECT count(*) FROM done) AS cleared,
           (SELECT count(*) FROM done WHERE alone) AS alone,
           (SELECT min(object_key) FROM done WHERE alone) AS example,
           ARRAY(SELECT object_key FROM looked
                  WHERE is_to_go AND object_key NOT IN (SELECT object_key FROM held)) AS busy
),
noted AS (
    UPDATE {schema}.resets s
       SET cleared = s.cleared + told.cleared, alone = s.alone + told.alone,
           reached = CASE WHEN $5 AND told.busy = '{{}}' THEN coalesce(told.place, s.reached) ELSE s.reached END
      FROM told WHERE s.replica = $1 AND s.before = $2
    RETURNING s.cleared, s.alone
)
SELECT told.last, told.cleared, told.busy, told.example, noted.cleared, noted.alone
FROM told LEFT JOIN noted ON true",
            left = nowhere(&reset.replica, others),
        ));
        let query = sqlx::query_as(sql)
            .bind(reset.replica.as_str())
            .bind(reset.before)
            .bind(after)
            .bind(keys.iter().map(ObjectKey::as_str).collect::<Vec<_>>())
            .bind(may_note && matches!(of, ResetKeys::After(_)));
        let written = async {
            let mut transaction = self.begin_planned(&[]).await?;
            let row: PageRow = query.fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(row)
        };
        let (last, cleared, busy, example, total_cleared, total_alone) = with_timeout(PAGE, Box::pin(written)).await?;
        Ok(ResetPage {
            last: last.map(|key| key_of(PAGE, key)).transpose()?,
            cleared,
            busy: busy.into_iter().map(|key| key_of(PAGE, key)).collect::<Result<_, _>>()?,
            alone_example: example.map(|key| key_of(PAGE, key)).transpose()?,
            total: total_cleared.zip(total_alone),
        })
    }

    /// The transactions that are writing objects at this moment, or wait to: what each has recorded becomes visible
    /// when it commits.
    pub async fn writers(&self) -> Result<BTreeSet<String>, DatabaseError> {
        // Locks are the only thing that every role may see of other roles' sessions.
        let sql = "-- replica::writers
SELECT DISTINCT virtualtransaction FROM pg_locks
 WHERE relation = to_regclass($1) AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND mode = 'RowExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()";
        let query = sqlx::query_scalar(sql).bind(format!("{}.object_copies", self.schema.quoted()));
        let writers: Vec<String> = with_timeout("replica::writers", query.fetch_all(&self.pool)).await?;
        Ok(writers.into_iter().collect())
    }

    /// Starts the walk again, after all transactions have ended that were open when the reset began: it now sees all
    /// that they have recorded.
    pub async fn restart_walk(&self, reset: &Reset) -> Result<(), DatabaseError> {
        let sql = trusted_sql(format!(
            "-- replica::restart_walk
UPDATE {}.resets SET sure = true, reached = NULL WHERE replica = $1 AND before = $2 AND NOT sure",
            self.schema.quoted()
        ));
        let query = sqlx::query(sql).bind(reset.replica.as_str()).bind(reset.before);
        with_timeout("replica::restart_walk", query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Ends the reset: all copies are cleared.
    pub async fn end_reset(&self, reset: &Reset) -> Result<(), DatabaseError> {
        let sql = trusted_sql(format!(
            "-- replica::end_reset\nDELETE FROM {}.resets WHERE replica = $1 AND before = $2",
            self.schema.quoted()
        ));
        let query = sqlx::query(sql).bind(reset.replica.as_str()).bind(reset.before);
        with_timeout("replica::end_reset", query.execute(&self.pool)).await?;
        self.notify(Notification::Replicas).await
    }
}

/// Last key of the page, cleared, locked, example, and the totals.
type PageRow = (Option<String>, i64, Vec<String>, Option<String>, Option<i64>, Option<i64>);

/// No copy is recorded besides the one that was just cleared.
fn nowhere(replica: &ReplicaName, others: &[ReplicaName]) -> String {
    let others = others.iter().filter(|r| *r != replica).map(|r| format!("o.{} IS NULL", r.column()));
    let others = others.collect::<Vec<_>>();
    if others.is_empty() { "true".into() } else { others.join(" AND ") }
}
