//! Changes when copies of one replica are tried, page by page: `retry` and `park`.
//! A leased row is left alone. When its attempt ends, the holder writes a time or a proof for each copy that it tried,
//! and would undo the change. So the key is reported as busy.

use copyhold_core::domain::{EventKind, ObjectKey, ReplicaName};

use crate::{
    error::{DatabaseError, key_of, with_timeout},
    handle::Database,
    log::append,
    sql::{PARKED, trusted_sql},
};

/// The class of copies that an operator has parked, in `copy_failures`. It is no failure of a store.
pub const PARKED_BY_OPERATOR: &str = "parked";

/// Rows of one statement, so that it stays short.
const PAGE: usize = 1000;

/// Which copies of a replica are made due now.
#[derive(Debug, Clone, Copy)]
pub enum RetryScope<'a> {
    /// Parked or waiting copies of these objects.
    Keys(&'a [ObjectKey]),
    /// All parked copies.
    Parked,
    /// All parked copies, and all that wait for a later attempt.
    Failing,
}

/// Which rows are read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PageSelection<'a> {
    Keys(&'a [ObjectKey]),
    /// The parked copies in order of arrival, from their index.
    Parked,
    /// Copies that wait for a later attempt, in the lane's order. Leased rows are not in the lane.
    Waiting,
}

/// What becomes of a copy and of its failure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NewSchedule<'a> {
    /// Due now. The failure stays as history, with no attempts, so that the next one does not park at once.
    Due { class: Option<&'a str> },
    /// Parked. The message is the reason, followed by the failure before it, if any.
    Parked { because: &'a str },
}

/// The result at one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rescheduled {
    /// Keys whose copy was changed; after a walk through all copies only their number.
    pub changed: u64,
    /// Keys whose copy matches, but whose row is leased or locked.
    pub busy: Vec<ObjectKey>,
    /// Those of the given keys that are registered.
    pub known: Vec<ObjectKey>,
}

/// Where the last page ended.
#[derive(Clone, Copy)]
struct Cursor {
    due: i64,
    id: i64,
}

impl Database {
    /// Makes copies of one replica due now, with `class` only those of one class of failure, and resets their count of
    /// attempts. It does not notify the daemons: see [`Database::notify`].
    pub async fn retry(
        &self,
        replica: &ReplicaName,
        which: RetryScope<'_>,
        class: Option<&str>,
    ) -> Result<Rescheduled, DatabaseError> {
        let reschedule = NewSchedule::Due { class };
        match which {
            RetryScope::Keys(keys) => {
                self.reschedule("object::retry", replica, PageSelection::Keys(keys), reschedule).await
            }
            RetryScope::Parked => self.reschedule("object::retry", replica, PageSelection::Parked, reschedule).await,
            RetryScope::Failing => {
                let mut all = self.reschedule("object::retry", replica, PageSelection::Parked, reschedule).await?;
                let waiting = self.reschedule("object::retry", replica, PageSelection::Waiting, reschedule).await?;
                all.changed += waiting.changed;
                all.busy.extend(waiting.busy);
                Ok(all)
            }
        }
    }

    /// Parks those copies of one replica that are wanted, not recorded and not parked yet. `because` becomes the
    /// message of their entry in `copy_failures`, whose class is [`PARKED_BY_OPERATOR`]: no failure of a store, so no
    /// [`FailureClass`](copyhold_core::domain::FailureClass).
    pub async fn park(
        &self,
        replica: &ReplicaName,
        keys: &[ObjectKey],
        because: &str,
    ) -> Result<Rescheduled, DatabaseError> {
        self.reschedule("object::park", replica, PageSelection::Keys(keys), NewSchedule::Parked { because }).await
    }

    /// Reschedules all copies of the selection.
    pub(crate) async fn reschedule(
        &self,
        name: &'static str,
        replica: &ReplicaName,
        page: PageSelection<'_>,
        reschedule: NewSchedule<'_>,
    ) -> Result<Rescheduled, DatabaseError> {
        let mut rescheduled = Rescheduled::default();
        if let PageSelection::Keys(keys) = page {
            for some in keys.chunks(PAGE) {
                self.reschedule_page(name, replica, PageSelection::Keys(some), reschedule, None, &mut rescheduled)
                    .await?;
            }
            return Ok(rescheduled);
        }
        let mut after = Cursor { due: i64::MIN, id: i64::MIN };
        while let Some(end) =
            self.reschedule_page(name, replica, page, reschedule, Some(after), &mut rescheduled).await?
        {
            after = end;
        }
        Ok(rescheduled)
    }

    /// Reschedules one page. Returns where it ended, if another may follow.
    async fn reschedule_page(
        &self,
        name: &'static str,
        replica: &ReplicaName,
        page: PageSelection<'_>,
        reschedule: NewSchedule<'_>,
        after: Option<Cursor>,
        rescheduled: &mut Rescheduled,
    ) -> Result<Option<Cursor>, DatabaseError> {
        let keys = match page {
            PageSelection::Keys(keys) => keys.iter().map(ObjectKey::as_str).collect(),
            PageSelection::Parked | PageSelection::Waiting => Vec::new(),
        };
        let words = match reschedule {
            NewSchedule::Due { class } => class,
            NewSchedule::Parked { because } => Some(because),
        };
        let query = sqlx::query_as(trusted_sql(self.reschedule_statement(name, replica, page, reschedule)))
            .bind(replica.as_str())
            .bind(words)
            .bind(keys)
            .bind(after.map(|c| c.due))
            .bind(after.map(|c| c.id));
        let rows: Vec<(String, Option<i64>, i64, bool, bool)> = with_timeout(name, query.fetch_all(&self.pool)).await?;
        let full = rows.len() == PAGE;
        let mut end = None;
        for (key, due, id, matches, done) in rows {
            end = Some(Cursor { due: due.unwrap_or(PARKED), id });
            rescheduled.changed += u64::from(done);
            let by_name = matches!(page, PageSelection::Keys(_));
            if !by_name && (done || !matches) {
                continue;
            }
            let key = key_of(name, key)?;
            if matches && !done {
                rescheduled.busy.push(key.clone());
            }
            if by_name {
                rescheduled.known.push(key);
            }
        }
        Ok(end.filter(|_| full))
    }

    /// `$1` the replica's name, `$2` the class or the reason, `$3` keys, `$4` and `$5` the cursor.
    ///
    /// The page is limited before its rows are filtered, so that a rare class takes many short statements and not one
    /// long one. Rows are found by key alone, as in every statement that writes.
    fn reschedule_statement(
        &self,
        name: &str,
        replica: &ReplicaName,
        page: PageSelection<'_>,
        reschedule: NewSchedule<'_>,
    ) -> String {
        let schema = self.schema.quoted();
        let (copy, due) = (replica.column(), replica.due_column());
        let now = format!("{schema}.now_utc_micro_seconds()");
        let rows = match page {
            PageSelection::Keys(_) => "o.object_key = ANY ($3::text[]) ORDER BY o.object_key".to_owned(),
            PageSelection::Parked => {
                format!("o.{copy} IS NULL AND o.{due} = {PARKED} AND o.id > $5::bigint ORDER BY o.id LIMIT {PAGE}")
            }
            PageSelection::Waiting => format!(
                "o.{copy} IS NULL AND o.{due} < {PARKED} AND o.lock IS NULL AND o.{due} > {now}
       AND (o.{due}, o.id) > ($4::bigint, $5::bigint) ORDER BY o.{due}, o.id LIMIT {PAGE}"
            ),
        };
        let (to, changeable, told, logged) = match reschedule {
            NewSchedule::Due { .. } => (
                now.clone(),
                format!(
                    "o.{copy} IS NULL AND o.{due} > {now} AND ($2::text IS NULL OR EXISTS (
               SELECT FROM {schema}.copy_failures f
               WHERE f.object_key = o.object_key AND f.replica = $1 AND f.generation = o.generation AND f.class = $2))"
                ),
                format!(
                    "UPDATE {schema}.copy_failures f SET attempts = 0
      FROM done WHERE f.object_key = done.object_key AND f.replica = $1"
                ),
                append::logged(&schema, "", &[]),
            ),
            NewSchedule::Parked { .. } => (
                PARKED.to_string(),
                format!("o.{copy} IS NULL AND o.{due} < {PARKED}"),
                format!(
                    "INSERT INTO {schema}.copy_failures AS f
        (object_key, replica, generation, attempts, class, message, first_at, last_at)
    SELECT done.object_key, $1, done.generation, 0, '{PARKED_BY_OPERATOR}', $2, {now}, {now} FROM done
    ON CONFLICT (object_key, replica) DO UPDATE
       SET attempts = 0, class = excluded.class, generation = excluded.generation, last_at = excluded.last_at,
           first_at = CASE WHEN f.generation = excluded.generation THEN f.first_at ELSE excluded.first_at END,
           message = CASE WHEN f.generation = excluded.generation AND f.class <> excluded.class
                          THEN excluded.message || ' (before that ' || f.class || ': ' || f.message || ')'
                          ELSE excluded.message END"
                ),
                self.logged(
                    EventKind::CopyParked,
                    &format!(
                        "'object_key', object_key, 'generation', generation, 'replica', $1, 'class', '{PARKED_BY_OPERATOR}',
        'message', $2, 'due_at', NULL"
                    ),
                    "done",
                ),
            ),
        };
        format!(
            "-- {name}
WITH page AS MATERIALIZED (
    SELECT o.object_key, o.{due} AS due, o.id, coalesce({changeable}, false) AS matches
      FROM {schema}.object_copies o
     WHERE {rows}
),
held AS MATERIALIZED (
    SELECT o.object_key, o.lock IS NULL AND {changeable} AS free FROM {schema}.object_copies o
     WHERE o.object_key = ANY (ARRAY(SELECT object_key FROM page WHERE matches))
       FOR NO KEY UPDATE SKIP LOCKED
),
done AS (
    UPDATE {schema}.object_copies o SET {due} = {to}
      FROM held
     WHERE o.object_key = held.object_key AND held.free
    RETURNING o.object_key, o.generation
),
told AS (
    {told}
),
{logged}
SELECT page.object_key, page.due, page.id, page.matches, done.object_key IS NOT NULL
FROM page LEFT JOIN done USING (object_key) CROSS JOIN logged
ORDER BY {order}",
            order = if matches!(page, PageSelection::Keys(_)) { "page.object_key" } else { "page.due, page.id" }
        )
    }
}
