//! Which of the remembered uploads nobody will go on with.
//!
//! The rule: an upload is condemned by one statement while its object's row is in our hands and free, so that whoever
//! claims the object next finds the upload condemned, or we find the object claimed. What is condemned stays so, until
//! its row goes.

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
/// Far more than there should ever be: whoever has so many has been told.
const COUNTED: i64 = 100_000;
/// Uploads that one statement looks at.
const PAGE: i64 = 32;
/// How long nobody else looks at them; the first look at an upload is as long after its beginning (migration 0003).
pub const UPLOAD_CHECK_INTERVAL: Duration = Duration::from_mins(10);
/// What cannot be thrown away is tried again after as long as that has been so, and after this long at most.
const LOOK_EVERY_AT_MOST: Duration = Duration::from_hours(6);
/// A copy that was parked, and is tried again within the day, goes on with what it has.
const PARKED_FOR: Duration = Duration::from_hours(24);
/// Without progress. Well under the 7 days after which R2 forgets an upload by itself, and after which it would be
/// begun anew anyway; much longer than a store, or all daemons, should ever be away.
const STALLED_FOR: Duration = Duration::from_hours(3 * 24);
/// Nobody has looked for so long because no daemon serves the replica any more.
const UNSERVED_FOR: Duration = Duration::from_hours(30 * 24);

/// An upload that is to be thrown away at its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CondemnedUpload {
    pub id: i64,
    pub key: ObjectKey,
    /// The store's own text; `None`: nobody has ever heard it.
    pub upload_id: Option<String>,
    /// How long ago it was about to be begun.
    pub age: Duration,
    /// For how long it has been condemned.
    pub for_long: Duration,
}

/// What one look at the uploads of a replica has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadCheck {
    pub condemned: Vec<CondemnedUpload>,
    /// There may be more to look at.
    pub more: bool,
}

type LookedRow = (i64, String, Option<String>, bool, i64, i64);

/// `$1` the replica, `$2` µs after whose silence nothing of a dead holder still arrives.
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
-- found by key, and not by a join, which would read all objects where PostgreSQL believes that there are few
asked AS MATERIALIZED (
    SELECT ARRAY(SELECT object_key FROM page WHERE condemned_at IS NULL AND last_at < {now} - $2) AS keys
),
known AS MATERIALIZED (
    SELECT o.object_key FROM {schema}.object_copies o WHERE o.object_key = ANY ((SELECT keys FROM asked)::text[])
),
-- A claim passes over what is held here, or has come before and made it no longer free.
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
    /// Looks at uploads of one replica whose time for that has come, and takes them upon us for [`UPLOAD_CHECK_INTERVAL`].
    ///
    /// Condemned are those whose object is gone, has another content, has this copy on record, does not want it, is
    /// parked for longer than a day, or has not come forward for three; those that a later one has taken the place of;
    /// and those of which nobody has heard the name. But none of an object that somebody holds, and none that has come
    /// forward within `quiet`: after that nothing that a dead holder has sent can still arrive.
    pub async fn check_uploads(&self, replica: &ReplicaName, quiet: Duration) -> Result<UploadCheck, DatabaseError> {
        // Of a replica that is not in the configuration the row's columns may be gone.
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

    /// How many uploads at a replica are remembered, and up to so many counted.
    pub async fn count_uploads(&self, replica: &ReplicaName) -> Result<i64, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {COUNT}
SELECT count(*) FROM (SELECT FROM {schema}.multipart_uploads WHERE replica = $1 LIMIT {COUNTED}) u"
        ));
        with_timeout(COUNT, sqlx::query_scalar(sql).bind(replica.as_str()).fetch_one(&self.pool)).await
    }

    /// The names of all remembered uploads of a key at a replica, whichever content they are of.
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

    /// Forgets uploads at replicas that are not in our configuration and that no daemon has looked at for a month, some
    /// of them at a time. Returns one entry each: the replica.
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
