//! Everything that the tables know of one object, for `copyhold explain`.

use copyhold_core::domain::{ContentHash, ObjectKey};
use serde::{Deserialize, Serialize};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::{FENCE_RANDOM_BITS, PARKED, trusted_sql},
};

const NAME: &str = "object::explain";

/// Everything known of one object. Times are µs since the epoch, by the database's clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ObjectDetails {
    pub now_us: i64,
    pub size_bytes: Option<i64>,
    /// As stored in the column; see [`ObjectDetails::hash`].
    #[serde(skip_serializing)]
    pub content_hash: Option<i64>,
    pub generation: i64,
    pub registered_at_us: i64,
    /// The holder of its lease.
    pub held: Option<LeaseHolder>,
    /// Leases of it have expired.
    pub abandoned: Option<ExpiredLeases>,
    /// Of all registered daemons.
    pub daemons_alive: i64,
    /// The primary first.
    #[serde(skip_serializing)]
    pub copies: Vec<CopyDetails>,
    /// What the source object has and no copy gets; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_carried: Option<Vec<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseHolder {
    pub daemon: i64,
    pub until_us: i64,
    /// When the lease was last renewed; the row does not say when it began. `None`, like all following fields: the
    /// daemon is not registered any more.
    pub renewed_at_us: Option<i64>,
    pub host: Option<String>,
    pub process_id: Option<i64>,
    /// Its last heartbeat is within its lease time.
    pub alive: Option<bool>,
}

/// How often leases of the object have expired.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExpiredLeases {
    /// In a row, within the present generation.
    pub times: i64,
    pub last_at_us: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CopyDetails {
    pub replica: String,
    pub primary: bool,
    pub recorded_at_us: Option<i64>,
    /// As stored in the column: NULL: not wanted; the greatest value: parked.
    pub due_us: Option<i64>,
    pub paused: bool,
    /// `None`: until it is resumed.
    pub paused_until_us: Option<i64>,
    pub pause_reason: Option<String>,
    pub failure: Option<FailureDetails>,
    /// A write of unknown outcome was sent there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<UnsettledDetails>,
    /// The progress of its upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadDetails>,
}

/// A write of unknown outcome.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnsettledDetails {
    pub noted_at_us: i64,
    /// The recorded copy is read again from then on.
    pub verify_at_us: i64,
    /// The store carries out the write no later.
    pub settled_at_us: i64,
    /// No such write is known: the copy was proven while claims may have been lost in a crash of PostgreSQL.
    #[serde(default)]
    pub after_crash: bool,
}

/// An unfinished multipart upload of the present generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadDetails {
    /// Parts that the store has accepted.
    pub parts: i64,
    pub of: i64,
    /// Time of its last progress, within some seconds.
    pub last_at_us: i64,
}

/// The last failure, of this generation or of an earlier one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailureDetails {
    pub class: String,
    pub message: String,
    pub attempts: i64,
    pub first_at_us: i64,
    pub last_at_us: i64,
    /// It belongs to the present generation.
    pub current: bool,
}

/// The state of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    Recorded { at_us: i64 },
    NotWanted,
    Parked,
    Waiting { until_us: i64 },
    Due { since_us: i64 },
}

impl CopyDetails {
    /// `now_us`: as in [`ObjectDetails::now_us`].
    #[must_use]
    pub fn state(&self, now_us: i64) -> CopyState {
        match (self.recorded_at_us, self.due_us) {
            (Some(at_us), _) => CopyState::Recorded { at_us },
            (None, None) => CopyState::NotWanted,
            (None, Some(PARKED..)) => CopyState::Parked,
            (None, Some(until_us)) if until_us > now_us => CopyState::Waiting { until_us },
            (None, Some(since_us)) => CopyState::Due { since_us },
        }
    }
}

impl CopyState {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Recorded { .. } => "recorded",
            Self::NotWanted => "not_wanted",
            Self::Parked => "parked",
            Self::Waiting { .. } => "waiting",
            Self::Due { .. } => "due",
        }
    }
}

impl ObjectDetails {
    /// CRC-64/NVME of the whole object.
    #[must_use]
    pub fn hash(&self) -> Option<ContentHash> {
        self.content_hash.map(ContentHash::from_bigint)
    }
}

impl Database {
    /// Returns what is known of an object at every replica that the schema has ever had, in this configuration or not.
    /// `None`: it is not registered.
    pub async fn explain(&self, key: &ObjectKey) -> Result<Option<ObjectDetails>, DatabaseError> {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        // The row as JSON, so that columns are found by the names in `replicas` and not by those in the configuration.
        let sql = trusted_sql(format!(
            "-- {NAME}
SELECT json_build_object(
    'now_us', {now},
    'size_bytes', o.size_bytes, 'content_hash', o.content_hash,
    'generation', o.generation, 'registered_at_us', o.created_at,
    'not_carried', o.not_carried,
    'held', CASE WHEN o.lock IS NOT NULL THEN (
        SELECT json_build_object('daemon', h.id, 'until_us', o.lock, 'renewed_at_us', o.lock - d.lease_timeout_us,
                                 'host', d.host, 'process_id', d.process_id, 'alive', d.alive_until > {now})
        FROM (SELECT o.lease >> {FENCE_RANDOM_BITS} AS id) h LEFT JOIN {schema}.daemons d ON d.id = h.id) END,
    'abandoned', (
        SELECT json_build_object('times', CASE WHEN s.generation = o.generation THEN s.times ELSE 0 END,
                                 'last_at_us', s.last_at)
        FROM {schema}.swept_leases s WHERE s.object_key = o.object_key),
    'daemons_alive', (SELECT count(*) FROM {schema}.daemons d WHERE d.alive_until > {now}),
    'copies', (
        SELECT json_agg(json_build_object(
                   'replica', r.name, 'primary', r.primary_since IS NOT NULL,
                   'recorded_at_us', (row.columns ->> r.name)::bigint,
                   'due_us', (row.columns ->> ('due_' || r.name))::bigint,
                   'paused', coalesce(r.paused_until > {now}, false),
                   'paused_until_us', nullif(r.paused_until, {PARKED}), 'pause_reason', r.pause_reason,
                   'failure', CASE WHEN f.object_key IS NOT NULL THEN json_build_object(
                       'class', f.class, 'message', f.message, 'attempts', f.attempts, 'first_at_us', f.first_at,
                       'last_at_us', f.last_at, 'current', f.generation = o.generation) END,
                   'unsettled', (
                       SELECT json_build_object('noted_at_us', u.noted_at, 'verify_at_us', u.verify_at,
                                                'settled_at_us', u.settled_at, 'after_crash',
                                                u.content_hash IS NULL AND u.verify_at >= u.settled_at
                                                  AND EXISTS (SELECT FROM {schema}.claims_intact c
                                                               WHERE abs(c.unsettled_until - u.settled_at) < 1000000))
                       FROM {schema}.unsettled u WHERE u.object_key = o.object_key AND u.replica = r.name),
                   'upload', (
                       SELECT json_build_object(
                           'parts', (SELECT count(*) FROM {schema}.multipart_parts p WHERE p.upload = u.id),
                           'of', (u.size_bytes + u.part_bytes - 1) / u.part_bytes, 'last_at_us', u.last_at)
                       FROM {schema}.multipart_uploads u
                       WHERE u.object_key = o.object_key AND u.replica = r.name AND u.generation = o.generation
                         AND u.upload_id IS NOT NULL AND u.condemned_at IS NULL
                       ORDER BY u.id DESC LIMIT 1))
                   ORDER BY r.primary_since IS NULL, r.name)
        FROM {schema}.replicas r
        LEFT JOIN {schema}.copy_failures f ON f.object_key = o.object_key AND f.replica = r.name))::text
FROM {schema}.object_copies o, LATERAL (SELECT to_jsonb(o) AS columns) row
WHERE o.object_key = $1"
        ));
        let query = sqlx::query_scalar(sql).bind(key.as_str());
        let json: Option<String> = with_timeout(NAME, query.fetch_optional(&self.pool)).await?;
        let read = |json: String| {
            serde_json::from_str(&json)
                .map_err(|e| DatabaseError::Inconsistent { statement: NAME, what: e.to_string() })
        };
        json.map(read).transpose()
    }
}
