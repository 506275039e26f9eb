//! Decides which journaled uploads no attempt will resume.
//! One statement condemns an upload while it holds the lock of the object's row and the row is not leased. So the next
//! claim of the object finds the upload condemned, or this statement finds the object leased. A condemned upload stays
//! condemned until its row is deleted.

use std::time::Duration;

use copyhold_core::domain::{ObjectKey, ReplicaName, SchemaName, micros};
use sqlx::SqlStr;

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::{PARKED, trusted_sql},
};

const LOOK: &str = "lease::check_uploads";
const KNOWN: &str = "lease::known_uploads";
const FORGET: &str = "lease::forget_unserved_uploads";
const COUNT: &str = "lease::count_uploads";
/// Far more than there should ever be: an operator with so many has had warnings.
const COUNTED: i64 = 100_000;
/// Uploads that one statement checks.
const PAGE: i64 = 32;
/// How long no other daemon checks them. The first check of an upload comes as long after its start (migration 0003).
pub const UPLOAD_CHECK_INTERVAL: Duration = Duration::from_mins(10);
/// An upload that cannot be aborted is tried again after as long as it has been condemned, and after this long at most.
const LOOK_EVERY_AT_MOST: Duration = Duration::from_hours(6);
/// A parked copy that is retried within the day resumes its upload.
const PARKED_FOR: Duration = Duration::from_hours(24);
/// Without progress. Well under the 7 days after which R2 drops an upload by itself, and an attempt would start anew
/// anyway; much longer than a store, or all daemons, should ever be unavailable.
const STALLED_FOR: Duration = Duration::from_hours(3 * 24);
/// No check for so long means that no daemon serves the replica any more.
const UNSERVED_FOR: Duration = Duration::from_hours(30 * 24);

/// An upload that is to be aborted at its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CondemnedUpload {
    pub id: i64,
    pub key: ObjectKey,
    /// The store's own id; `None`: no answer with it ever arrived.
    pub upload_id: Option<String>,
    /// How long ago the upload was journaled.
    pub age: Duration,
    /// How long ago it was condemned.
    pub for_long: Duration,
}

/// The result of one check of a replica's uploads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadCheck {
    pub condemned: Vec<CondemnedUpload>,
    /// More uploads may be due for a check.
    pub more: bool,
}

type LookedRow = (i64, String, Option<String>, bool, i64, i64);

/// `$1` the replica, `$2` µs after whose silence no request of a dead holder still arrives.
pub(crate) fn statement(schema: &SchemaName, replica: &ReplicaName) -> SqlStr {
    let schema = schema.quoted();
    let now = format!("{schema}.now_utc_micro_seconds()");
    let (copy, due) = (replica.column(), replica.due_column());
    let (parked_for, stalled_for) = (micros(PARKED_FOR), micros(STALLED_FOR));
    let (every, at_most) = (micros(UPLOAD_CHECK_INTERVAL), micros(LOOK_EVERY_AT_MOST));
    trusted_sql(format!(
        "-- {LOOK}
WITH page AS MATERIALIZED (
    SELECT u.id, u.object_key, u.generation, u.upload_id, u.last_at, u.condemned_at FROM {schema}.multipart_uploads u
     WHERE u.replica = $1 AND u.look_at <= {now}
     ORDER BY u.look_at
     LIMIT {PAGE}
       FOR NO KEY UPDATE SKIP LOCKED
),
-- found by key and not by a join, which would read all objects where PostgreSQL believes that there are few
asked AS MATERIALIZED (
    SELECT ARRAY(SELECT object_key FROM page WHERE condemned_at IS NULL AND last_at < {now} - $2) AS keys
),
known AS MATERIALIZED (
    SELECT o.object_key FROM {schema}.object_copies o WHERE o.object_key = ANY ((SELECT keys FROM asked)::text[])
),
-- A claim skips rows that are locked here, or has leased them before.
free AS MATERIALIZED (
    SELECT o.object_key, o.generation, o.{copy} AS copied, o.{due} AS due FROM {schema}.object_copies o
     WHERE o.object_key = ANY ((SELECT keys FROM asked)::text[]) AND o.lock IS NULL
       FOR NO KEY UPDATE SKIP LOCKED
),
judged AS MATERIALIZED (
    SELECT p.id, CASE
        WHEN p.condemned_at IS NOT NULL THEN true
        WHEN p.last_at >= {now} - $2 THEN false
        WHEN f.object_key IS NULL THEN NOT EXISTS (SELECT FROM known WHERE known.object_key = p.object_key)
        WHEN f.generation <> p.generation OR f.copied IS NOT NULL OR f.due IS NULL OR p.upload_id IS NULL THEN true
        WHEN f.due = {PARKED} AND p.last_at < {now} - {parked_for} THEN true
        WHEN p.last_at < {now} - {stalled_for} THEN true
        ELSE EXISTS (
            SELECT FROM {schema}.multipart_uploads n
             WHERE n.object_key = p.object_key AND n.replica = $1 AND n.generation = p.generation
               AND n.id > p.id AND n.upload_id IS NOT NULL AND n.condemned_at IS NULL)
        END AS condemned
    FROM page p LEFT JOIN free f ON f.object_key = p.object_key
)
UPDATE {schema}.multipart_uploads u
   SET condemned_at = CASE WHEN j.condemned THEN coalesce(u.condemned_at, {now}) END,
       look_at = {now} + greatest({every}, least({now} - coalesce(u.condemned_at, {now}), {at_most}))
  FROM judged j WHERE u.id = j.id
RETURNING u.id, u.object_key, u.upload_id, j.condemned, {now} - u.begun_at,
          {now} - coalesce(u.condemned_at, {now})"
    ))
}

impl Database {
    /// Checks due uploads of one replica, and postpones their next check by [`UPLOAD_CHECK_INTERVAL`].
    /// It condemns uploads whose object is gone, has another content, has this copy on record, does not want it, has
    /// been parked for longer than a day, or has made no progress for three days; uploads that a later one has
    /// replaced; and uploads whose id never arrived. It condemns no upload of a leased object, and none with progress
    /// within `quiet`: after that no request of a dead holder can still arrive.
    pub async fn check_uploads(&self, replica: &ReplicaName, quiet: Duration) -> Result<UploadCheck, DatabaseError> {
        // The columns of a replica that is not in the configuration may be gone.
        let known = self.replicas.iter().position(|known| known == replica);
        let Some(sql) = known.map(|i| self.statements.check_uploads[i].clone()) else {
            return Ok(UploadCheck::default());
        };
        let query = sqlx::query_as(sql).bind(replica.as_str()).bind(micros(quiet));
        let rows: Vec<LookedRow> = with_timeout(LOOK, query.fetch_all(&self.pool)).await?;
        let more = i64::try_from(rows.len()).unwrap_or(i64::MAX) >= PAGE;
        let past = |micros: i64| Duration::from_micros(micros.max(0).unsigned_abs());
        let condemned = rows.into_iter().filter(|row| row.3).map(|(id, key, upload_id, _, age, for_long)| {
            let key = ObjectKey::new(key).map_err(|e| DatabaseError::Inconsistent {
                statement: LOOK,
                what: format!("a key of an upload: {e}"),
            })?;
            Ok(CondemnedUpload { id, key, upload_id, age: past(age), for_long: past(for_long) })
        });
        Ok(UploadCheck { condemned: condemned.collect::<Result<_, DatabaseError>>()?, more })
    }

    /// Counts the journaled uploads at a replica, up to 100,000.
    pub async fn count_uploads(&self, replica: &ReplicaName) -> Result<i64, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {COUNT}
SELECT count(*) FROM (SELECT FROM {schema}.multipart_uploads WHERE replica = $1 LIMIT {COUNTED}) u"
        ));
        with_timeout(COUNT, sqlx::query_scalar(sql).bind(replica.as_str()).fetch_one(&self.pool)).await
    }

    /// The store's ids of all journaled uploads of a key at a replica, whichever content they are of.
    pub async fn known_uploads(&self, key: &ObjectKey, replica: &ReplicaName) -> Result<Vec<String>, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {KNOWN}
SELECT upload_id FROM {schema}.multipart_uploads
 WHERE object_key = $1 AND replica = $2 AND upload_id IS NOT NULL"
        ));
        let query = sqlx::query_scalar(sql).bind(key.as_str()).bind(replica.as_str());
        with_timeout(KNOWN, query.fetch_all(&self.pool)).await
    }

    /// Deletes some uploads at replicas that are not in our configuration and that no daemon has checked for a month.
    /// Returns the replica of each.
    pub async fn forget_unserved_uploads(&self) -> Result<Vec<String>, DatabaseError> {
        let schema = self.schema.quoted();
        let unserved_for = micros(UNSERVED_FOR);
        let sql = trusted_sql(format!(
            "-- {FORGET}
DELETE FROM {schema}.multipart_uploads WHERE id = ANY (ARRAY(
    SELECT u.id FROM {schema}.replicas r CROSS JOIN LATERAL (
        SELECT m.id FROM {schema}.multipart_uploads m
         WHERE m.replica = r.name AND m.look_at < {schema}.now_utc_micro_seconds() - {unserved_for}
         ORDER BY m.look_at
         LIMIT {PAGE}
           FOR UPDATE SKIP LOCKED) u
     WHERE r.name <> ALL ($1::text[])))
RETURNING replica"
        ));
        let ours = self.replicas.iter().map(ReplicaName::as_str).collect::<Vec<_>>();
        with_timeout(FORGET, sqlx::query_scalar(sql).bind(ours).fetch_all(&self.pool)).await
    }
}
