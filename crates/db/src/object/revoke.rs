//! Revokes records that are known to be false, without a lease: an audit holds no row while it reads the stores, so its
//! result counts only if the row is still what it compared with. Also registers an object again whose content at the
//! primary has changed.

use copyhold_core::domain::{EventKind, Failure, Generation, ObjectKey, ReplicaName};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    lease::{complete::keep_failures, fenced_write::FencedWrite},
    log::append,
    sql::{PARKED, trusted_sql},
};

const NAME: &str = "object::revoke";
const AGAIN: &str = "object::register_changed";
/// Position of the statement's first parameter per replica.
const FIRST_OF_REPLICAS: usize = 9;

/// A recorded copy whose record is false.
#[derive(Debug, Clone)]
pub struct FalseRecord {
    pub replica: ReplicaName,
    /// The recorded time, in µs, that the audit has checked.
    pub recorded_at: i64,
    /// The copy is parked until an operator decides; else it is due at once.
    pub park: bool,
    pub why: Failure,
}

/// The false records of one object. All of them are revoked, or none.
#[derive(Debug, Clone)]
pub struct Revocation {
    pub key: ObjectKey,
    pub generation: Generation,
    pub refuted: Vec<FalseRecord>,
    /// No good copy is left: the other missing copies are parked too, until an operator decides. Otherwise the present
    /// content of the primary would be taken for the object.
    pub park_the_rest: bool,
}

/// An object whose content at the primary was changed on purpose, without being registered.
#[derive(Debug, Clone)]
pub struct ChangedObject {
    pub key: ObjectKey,
    pub generation: Generation,
    /// The replica that has the new content: nothing is done if it is not the primary in force any more.
    pub primary: ReplicaName,
    /// Copies of the old content, with the reason why they are made anew.
    pub copies: Vec<ReplicaName>,
    pub why: Failure,
}

impl Database {
    /// Revokes the recorded times, unless one of them or the generation has changed ([`FencedWrite::Superseded`]) or
    /// the row is leased or locked ([`FencedWrite::RowLocked`]). The reason is stored with each copy; it counts as no
    /// attempt.
    pub async fn revoke(&self, what: &Revocation) -> Result<FencedWrite, DatabaseError> {
        let rest = self.replicas.iter().filter(|r| !what.refuted.iter().any(|refuted| refuted.replica == **r));
        let last = what.refuted.first().filter(|_| what.park_the_rest).map(|r| &r.why);
        let refuted = what.refuted.iter().map(|r| (&r.replica, &r.why, EventKind::CopyLost, r.park));
        let parked = rest.filter_map(|r| Some((r, last?, EventKind::CopyParked, true)));
        let reasons: Vec<_> = refuted.chain(parked).collect();
        let word = |kind: EventKind| Some(kind.as_str()).filter(|_| self.kinds.contains(kind));
        let mut query = sqlx::query_scalar(trusted_sql(self.revoke_statement()))
            .bind(what.key.as_str())
            .bind(what.generation.0)
            .bind(what.park_the_rest)
            .bind(reasons.iter().map(|(replica, ..)| replica.as_str()).collect::<Vec<_>>())
            .bind(reasons.iter().map(|(_, why, ..)| why.class.as_str()).collect::<Vec<_>>())
            .bind(reasons.iter().map(|(_, why, ..)| why.message.as_str()).collect::<Vec<_>>())
            .bind(reasons.iter().map(|reason| word(reason.2)).collect::<Vec<_>>())
            .bind(reasons.iter().map(|reason| reason.3).collect::<Vec<_>>());
        for replica in &self.replicas {
            let refuted = what.refuted.iter().find(|r| r.replica == *replica);
            query = query.bind(refuted.map(|r| r.recorded_at)).bind(refuted.map(|r| r.park));
        }
        let word: String = with_timeout(NAME, query.fetch_one(&self.pool)).await?;
        FencedWrite::parse(NAME, &word)
    }

    /// `$1` key, `$2` generation, `$3` whether to park all missing copies; `$4` to `$8` one entry per copy with a
    /// reason: replica, class, message, the kind of its event (NULL: none), whether it is parked. Then two per replica,
    /// as [`Self::each`] describes.
    pub(crate) fn revoke_statement(&self) -> String {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        let sets = self.each(",\n           ", |time, park, r| {
            let (copy, due) = (r.column(), r.due_column());
            format!(
                "{copy} = CASE WHEN {time} IS NULL THEN o.{copy} END,
           {due} = CASE WHEN {time} IS NOT NULL THEN CASE WHEN {park} THEN {PARKED} ELSE {now} END
                        WHEN $3 AND o.{copy} IS NULL AND o.{due} IS NOT NULL THEN {PARKED} ELSE o.{due} END"
            )
        });
        let missing = self.each(", ", |_, _, r| {
            format!("CASE WHEN o.{} IS NULL AND o.{} IS NOT NULL THEN '{r}' END", r.column(), r.due_column())
        });
        let same = self.same();
        let reasons = "(SELECT *, false FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::bool[]))
        AS x(replica, class, message, kind, park, counted)
    JOIN done ON x.replica = ANY (done.missing)";
        let failed = keep_failures(&schema, reasons);
        let events = format!(
            "SELECT jsonb_build_object('kind', x.kind, 'object_key', done.object_key, 'generation', done.generation,
        'replica', x.replica, 'class', x.class, 'message', x.message, 'due_at', CASE WHEN NOT x.park THEN {now} END)
    FROM {reasons} WHERE x.kind IS NOT NULL"
        );
        let logged = append::logged(&schema, &events, &["failed"]);
        format!(
            "-- {NAME}
WITH held AS MATERIALIZED (
    SELECT o.object_key, o.lock IS NULL AS free, {same} AS same
      FROM {schema}.object_copies o
     WHERE o.object_key = $1
       FOR NO KEY UPDATE SKIP LOCKED
),
done AS (
    UPDATE {schema}.object_copies o
       SET {sets}
      FROM held
     WHERE o.object_key = held.object_key AND held.free AND held.same
    RETURNING o.object_key, o.generation, ARRAY[{missing}]::text[] AS missing
),
-- the reason, of each copy that is now wanted and missing
failed AS (
    {failed}
),
{logged}
SELECT CASE WHEN EXISTS (SELECT FROM done) THEN 'recorded'
            WHEN EXISTS (SELECT FROM held WHERE held.same) THEN 'busy'
            WHEN NOT EXISTS (SELECT FROM held)
             AND EXISTS (SELECT FROM {schema}.object_copies o WHERE o.object_key = $1 AND {same}) THEN 'busy'
            ELSE 'changed' END
FROM logged"
        )
    }

    /// Registers an object again, as the application should have, unless the generation has changed. Registering it
    /// twice costs only a copy, so the check and the call need not be one step.
    pub async fn register_changed(&self, what: &ChangedObject) -> Result<FencedWrite, DatabaseError> {
        let schema = self.schema.quoted();
        let failed = keep_failures(
            &schema,
            "(SELECT r, $4, $5, false FROM unnest($3::text[]) AS u(r)) AS x(replica, class, message, counted)
    CROSS JOIN done",
        );
        let members = "'object_key', object_key, 'generation', generation, 'replaces', $2, 'message', $5";
        let logged = self.logged(EventKind::ObjectChanged, members, "done");
        let sql = trusted_sql(format!(
            "-- {AGAIN}
WITH done AS MATERIALIZED (
    SELECT o.object_key, {schema}.register(o.object_key) AS generation
      FROM {schema}.object_copies o
     WHERE o.object_key = $1 AND o.generation = $2
       AND EXISTS (SELECT FROM {schema}.replicas r WHERE r.name = $6 AND r.primary_since IS NOT NULL)
),
failed AS (
    {failed}
),
{logged}
SELECT EXISTS (SELECT FROM done) FROM logged"
        ));
        let query = sqlx::query_scalar(sql)
            .bind(what.key.as_str())
            .bind(what.generation.0)
            .bind(what.copies.iter().map(ReplicaName::as_str).collect::<Vec<_>>())
            .bind(what.why.class.as_str())
            .bind(what.why.message.as_str())
            .bind(what.primary.as_str());
        match with_timeout(AGAIN, query.fetch_one(&self.pool)).await {
            Ok(true) => Ok(FencedWrite::Applied),
            Ok(false) => Ok(FencedWrite::Superseded),
            // It waits for the row, as an application does, but only briefly.
            Err(error) if error.is_lock_timeout() => Ok(FencedWrite::RowLocked),
            Err(error) => Err(error),
        }
    }

    /// A piece of the statement for each replica, with its two parameters: the false recorded time (NULL: none), and
    /// whether to park.
    fn each(&self, glue: &str, text: impl Fn(&str, &str, &ReplicaName) -> String) -> String {
        let pieces = self.replicas.iter().enumerate().map(|(i, r)| {
            let first = FIRST_OF_REPLICAS + 2 * i;
            text(&format!("${first}::bigint"), &format!("${}::bool", first + 1), r)
        });
        pieces.collect::<Vec<_>>().join(glue)
    }

    /// The row is what the audit has checked.
    fn same(&self) -> String {
        let times = self.each(" AND ", |time, _, r| format!("({time} IS NULL OR o.{} = {time})", r.column()));
        format!("o.generation = $2 AND {times}")
    }
}
