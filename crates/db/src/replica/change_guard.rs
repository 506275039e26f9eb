//! Owns the guard against many unregistered changes at once: a bucket that was restored from a backup looks like that.
//! It counts for all daemons together, in the replica's row; it does not touch objects.

use std::time::Duration;

use copyhold_core::domain::{EventKind, Failure, FailureClass, ReplicaName, micros};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const NAME: &str = "replica::admit_change";
/// At most so many unregistered changes are adopted at one replica within this time.
pub const CHANGES_AT_MOST: usize = 20;
pub const CHANGES_WITHIN: Duration = Duration::from_mins(10);

/// Whether an unregistered change may begin a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeAdmission {
    Admitted,
    /// There were too many. `first`: it is the first refused one, which is logged.
    Refused {
        first: bool,
    },
}

/// Why a change at this replica is parked.
#[must_use]
pub fn too_many_changes(replica: &ReplicaName) -> Failure {
    let minutes = CHANGES_WITHIN.as_secs() / 60;
    let what = format!(
        "it was changed there without being registered, like more than {CHANGES_AT_MOST} objects within {minutes} minutes: \
         its bucket may have been restored from a backup. Unregistered changes are not copied from there until none was \
         found for {minutes} minutes. To have it copied, register the key again (`copyhold enqueue`), or set \
         [guard] changed = \"copy_all\" and retry"
    );
    Failure::new(FailureClass::Changed, format!("source {replica}: {what}"))
}

/// As [`too_many_changes`], where the configuration parks every unregistered change.
#[must_use]
pub fn changes_are_parked(replica: &ReplicaName) -> Failure {
    let what = "it was changed there without being registered, and [guard] changed = \"park\". To have it copied, register \
                the key again (`copyhold enqueue`)";
    Failure::new(FailureClass::Changed, format!("source {replica}: {what}"))
}

impl Database {
    /// Counts an unregistered change at a replica, and decides whether it may begin a generation. After one refusal all
    /// changes are refused, until none was found for [`CHANGES_WITHIN`].
    pub async fn admit_change(&self, replica: &ReplicaName) -> Result<ChangeAdmission, DatabaseError> {
        let schema = self.schema.quoted();
        let logged = self.logged(
            EventKind::ReplicaChangesParked,
            "'replica', name, 'changes', $3::bigint, 'within_us', $2::bigint",
            "done WHERE first",
        );
        let sql = trusted_sql(format!(
            "-- {NAME}
WITH counted AS MATERIALIZED (
    SELECT r.name, now.at, coalesce(r.changes_refused_at > now.at - $2, false) AS refusing,
           ARRAY(SELECT c FROM unnest(r.changes_at) AS c WHERE c > now.at - $2) AS recent
      FROM {schema}.replicas r, (SELECT {schema}.now_utc_micro_seconds() AS at) AS now
     WHERE r.name = $1
       FOR NO KEY UPDATE OF r
),
judged AS (
    SELECT *, refusing OR cardinality(recent) >= $3 AS refuse FROM counted
),
done AS (
    UPDATE {schema}.replicas r
       SET changes_at = CASE WHEN j.refuse THEN r.changes_at ELSE j.recent || j.at END,
           changes_refused_since = CASE WHEN NOT j.refuse THEN NULL
                                        WHEN j.refusing THEN r.changes_refused_since ELSE j.at END,
           changes_refused_at = CASE WHEN j.refuse THEN j.at END
      FROM judged j
     WHERE r.name = j.name
    RETURNING r.name, j.refuse, j.refuse AND NOT j.refusing AS first
),
{logged}
SELECT refuse, first FROM done CROSS JOIN logged"
        ));
        let query = sqlx::query_as(sql)
            .bind(replica.as_str())
            .bind(micros(CHANGES_WITHIN))
            .bind(i64::try_from(CHANGES_AT_MOST).unwrap_or(i64::MAX));
        let row: Option<(bool, bool)> = with_timeout(NAME, query.fetch_optional(&self.pool)).await?;
        Ok(match row {
            Some((true, first)) => ChangeAdmission::Refused { first },
            // A replica without a row has no guard, and no lease of ours either.
            Some((false, _)) | None => ChangeAdmission::Admitted,
        })
    }
}
