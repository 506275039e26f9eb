//! The journal of multipart uploads, written by the holder of the object's lease.

use copyhold_core::domain::{Generation, ObjectKey, ReplicaName};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const UNFINISHED: &str = "lease::unfinished_uploads";
const OLDER: &str = "lease::older_uploads";
const INTEND: &str = "lease::intend_upload";
const BEGAN: &str = "lease::upload_began";
const RECORD: &str = "lease::record_parts";
const CONDEMN: &str = "lease::condemn_uploads";
const END: &str = "lease::end_uploads";
/// `last_at` serves rules that count in hours. µs; updating it more often would only create dead rows.
const PROGRESS_EVERY: i64 = 10_000_000;

/// An upload that is about to be started.
#[derive(Debug, Clone, Copy)]
pub struct UploadIntent<'a> {
    pub key: &'a ObjectKey,
    pub generation: Generation,
    pub replica: &'a ReplicaName,
    pub size_bytes: u64,
    /// Size of each part but the last.
    pub part_bytes: u64,
    /// Identifies the content and the replica that it comes from; compared for equality only.
    pub origin: &'a str,
}

/// An upload that an attempt may resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    pub id: i64,
    pub replica: ReplicaName,
    pub size_bytes: u64,
    pub part_bytes: u64,
    pub origin: String,
    /// The store's own id.
    pub upload_id: String,
    /// In the order of their numbers.
    pub parts: Vec<StoredPart>,
}

/// A part that the store has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// The id of its row in `multipart_uploads`.
    pub upload: i64,
    pub number: u32,
    /// As the store returned it.
    pub etag: String,
    pub md5: [u8; 16],
    pub crc: u64,
}

type UnfinishedRow = (i64, String, i64, i64, String, String, Vec<i32>, Vec<String>, Vec<Vec<u8>>, Vec<i64>);

impl Database {
    /// Returns the unfinished uploads of this generation: of each replica the latest one. Their parts come as arrays,
    /// since 10,000 rows would take as many round trips through the driver's buffers.
    pub async fn unfinished_uploads(
        &self,
        key: &ObjectKey,
        generation: Generation,
    ) -> Result<Vec<UnfinishedUpload>, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {UNFINISHED}
SELECT u.id, u.replica, u.size_bytes, u.part_bytes, u.origin, u.upload_id, p.numbers, p.etags, p.md5s, p.crcs
FROM (SELECT DISTINCT ON (replica) * FROM {schema}.multipart_uploads
       WHERE object_key = $1 AND generation = $2 AND upload_id IS NOT NULL AND condemned_at IS NULL
       ORDER BY replica, id DESC) u
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(part_number ORDER BY part_number), '{{}}') AS numbers,
           coalesce(array_agg(etag ORDER BY part_number), '{{}}') AS etags,
           coalesce(array_agg(md5 ORDER BY part_number), '{{}}') AS md5s,
           coalesce(array_agg(crc ORDER BY part_number), '{{}}') AS crcs
    FROM {schema}.multipart_parts WHERE upload = u.id) p
ORDER BY u.id"
        ));
        let query = sqlx::query_as(sql).bind(key.as_str()).bind(generation.0);
        let rows: Vec<UnfinishedRow> = with_timeout(UNFINISHED, query.fetch_all(&self.pool)).await?;
        rows.into_iter().map(unfinished).collect()
    }

    /// Returns the uploads of earlier generations of this key that are not known to be over, condemned ones included:
    /// the row's id, the replica, and the store's id.
    pub async fn older_uploads(
        &self,
        key: &ObjectKey,
        generation: Generation,
    ) -> Result<Vec<(i64, ReplicaName, String)>, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {OLDER}
SELECT id, replica, upload_id FROM {schema}.multipart_uploads
 WHERE object_key = $1 AND generation < $2 AND upload_id IS NOT NULL
 ORDER BY id"
        ));
        let query = sqlx::query_as(sql).bind(key.as_str()).bind(generation.0);
        let rows: Vec<(i64, String, String)> = with_timeout(OLDER, query.fetch_all(&self.pool)).await?;
        let odd = |e| DatabaseError::Inconsistent { statement: OLDER, what: format!("a replica of an upload: {e}") };
        rows.into_iter()
            .map(|(id, replica, upload)| Ok((id, ReplicaName::new(replica).map_err(odd)?, upload)))
            .collect()
    }

    /// Journals an upload before it is started; returns the row's id.
    pub async fn intend_upload(&self, intent: &UploadIntent<'_>) -> Result<i64, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {INTEND}
INSERT INTO {schema}.multipart_uploads (object_key, generation, replica, size_bytes, part_bytes, origin)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING id"
        ));
        let query = sqlx::query_scalar(sql)
            .bind(intent.key.as_str())
            .bind(intent.generation.0)
            .bind(intent.replica.as_str())
            .bind(intent.size_bytes.cast_signed())
            .bind(intent.part_bytes.cast_signed())
            .bind(intent.origin);
        with_timeout(INTEND, query.fetch_one(&self.pool)).await
    }

    /// Journals the store's id of a started upload. Returns whether the row still exists.
    pub async fn upload_began(&self, id: i64, upload_id: &str) -> Result<bool, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {BEGAN}
UPDATE {schema}.multipart_uploads SET upload_id = $2, last_at = {schema}.now_utc_micro_seconds() WHERE id = $1"
        ));
        let query = sqlx::query(sql).bind(id).bind(upload_id);
        Ok(with_timeout(BEGAN, query.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// Journals parts, each at most once; parts of finished uploads are skipped. Returns the uploads whose rows another
    /// transaction has locked: none of their parts was written.
    /// The uploads' rows are locked first, with SKIP LOCKED: no row disappears while its parts are written, and no row
    /// is waited for.
    pub async fn record_parts(&self, parts: &[StoredPart]) -> Result<Vec<i64>, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {RECORD}
WITH told AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::bytea[], $5::bigint[])
        AS t(upload, part_number, etag, md5, crc)
),
held AS MATERIALIZED (
    SELECT id FROM {schema}.multipart_uploads WHERE id = ANY ($1::bigint[]) FOR NO KEY UPDATE SKIP LOCKED
),
moved AS (
    UPDATE {schema}.multipart_uploads u SET last_at = {schema}.now_utc_micro_seconds()
      FROM held WHERE u.id = held.id AND u.last_at < {schema}.now_utc_micro_seconds() - {PROGRESS_EVERY}
),
-- a part that was sent again replaces the one that was sent before
taken AS (
    INSERT INTO {schema}.multipart_parts AS p (upload, part_number, etag, md5, crc)
    SELECT told.* FROM told JOIN held ON held.id = told.upload
    ON CONFLICT (upload, part_number) DO UPDATE SET etag = excluded.etag, md5 = excluded.md5, crc = excluded.crc
)
SELECT u.id FROM {schema}.multipart_uploads u
 WHERE u.id = ANY ($1::bigint[]) AND NOT EXISTS (SELECT FROM held WHERE held.id = u.id)"
        ));
        let query = sqlx::query_scalar(sql)
            .bind(parts.iter().map(|p| p.upload).collect::<Vec<_>>())
            .bind(parts.iter().map(|p| p.number.cast_signed()).collect::<Vec<_>>())
            .bind(parts.iter().map(|p| p.etag.as_str()).collect::<Vec<_>>())
            .bind(parts.iter().map(|p| &p.md5[..]).collect::<Vec<_>>())
            .bind(parts.iter().map(|p| p.crc.cast_signed()).collect::<Vec<_>>());
        with_timeout(RECORD, query.fetch_all(&self.pool)).await
    }

    /// Condemns uploads: their parts are of no use, and no attempt resumes them. The caller aborts them at the store at
    /// once; if it cannot, the sweeper does. Returns the uploads whose rows another transaction has locked.
    pub async fn condemn_uploads(&self, ids: &[i64]) -> Result<Vec<i64>, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {CONDEMN}
WITH held AS MATERIALIZED (
    SELECT id FROM {schema}.multipart_uploads WHERE id = ANY ($1::bigint[]) FOR NO KEY UPDATE SKIP LOCKED
),
done AS (
    UPDATE {schema}.multipart_uploads u SET condemned_at = {schema}.now_utc_micro_seconds()
      FROM held WHERE u.id = held.id AND u.condemned_at IS NULL
)
SELECT u.id FROM {schema}.multipart_uploads u
 WHERE u.id = ANY ($1::bigint[]) AND NOT EXISTS (SELECT FROM held WHERE held.id = u.id)"
        ));
        with_timeout(CONDEMN, sqlx::query_scalar(sql).bind(ids).fetch_all(&self.pool)).await
    }

    /// Deletes finished uploads and their parts. Returns the uploads whose rows another transaction has locked.
    pub async fn end_uploads(&self, ids: &[i64]) -> Result<Vec<i64>, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {END}
WITH held AS MATERIALIZED (
    SELECT id FROM {schema}.multipart_uploads WHERE id = ANY ($1::bigint[]) FOR UPDATE SKIP LOCKED
),
done AS (
    DELETE FROM {schema}.multipart_uploads u USING held WHERE u.id = held.id
)
SELECT u.id FROM {schema}.multipart_uploads u
 WHERE u.id = ANY ($1::bigint[]) AND NOT EXISTS (SELECT FROM held WHERE held.id = u.id)"
        ));
        with_timeout(END, sqlx::query_scalar(sql).bind(ids).fetch_all(&self.pool)).await
    }
}

fn unfinished(row: UnfinishedRow) -> Result<UnfinishedUpload, DatabaseError> {
    let odd = |what: String| DatabaseError::Inconsistent { statement: UNFINISHED, what };
    let (id, replica, size_bytes, part_bytes, origin, upload_id, numbers, etags, md5s, crcs) = row;
    let replica = ReplicaName::new(replica).map_err(|e| odd(format!("a replica of an upload: {e}")))?;
    let parts = numbers.into_iter().zip(etags).zip(md5s).zip(crcs).map(|(((number, etag), md5), crc)| {
        let md5 = md5.try_into().map_err(|_| odd("an MD5 that is none".into()))?;
        Ok(StoredPart { upload: id, number: number.cast_unsigned(), etag, md5, crc: crc.cast_unsigned() })
    });
    Ok(UnfinishedUpload {
        id,
        replica,
        size_bytes: size_bytes.cast_unsigned(),
        part_bytes: part_bytes.cast_unsigned(),
        origin,
        upload_id,
        parts: parts.collect::<Result<_, DatabaseError>>()?,
    })
}
