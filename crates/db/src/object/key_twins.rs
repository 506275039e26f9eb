//! Finds registered objects whose keys a store does not tell apart. Asked only where a store was seen to do so.
//! Must not read more of the table than the spellings of one key: it descends the key's index piece by piece.

use copyhold_core::domain::{Folds, Generation, ObjectKey, ReplicaName};

use crate::{
    error::{DatabaseError, key_of, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const NAME: &str = "object::key_twins";
/// Twins returned of one key at most.
const AT_MOST: usize = 16;

/// Another object that is wanted at a replica whose store does not tell its key from the object's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTwin {
    pub key: ObjectKey,
    pub generation: Generation,
    /// µs; `None`: its copy is not recorded there.
    pub recorded_at: Option<i64>,
}

impl Database {
    /// Returns the registered objects that are wanted or recorded at this replica under another spelling of `key`.
    /// Each step keeps those prefixes that some registered key begins with: for a key of 30 letters about 60 index
    /// lookups, and no more where there is no twin.
    pub async fn key_twins(
        &self,
        key: &ObjectKey,
        replica: &ReplicaName,
        folds: Folds,
    ) -> Result<Vec<KeyTwin>, DatabaseError> {
        self.twins_spelled(key, replica, &folds.spellings(key.as_str())).await
    }

    /// Returns the object of this key, if it is registered and wanted or recorded at this replica.
    pub async fn key_twin(
        &self,
        key: &ObjectKey,
        replica: &ReplicaName,
        other: &ObjectKey,
    ) -> Result<Option<KeyTwin>, DatabaseError> {
        let twins = self.twins_spelled(key, replica, &[vec![other.as_str().to_owned()]]).await?;
        Ok(twins.into_iter().next())
    }

    async fn twins_spelled(
        &self,
        key: &ObjectKey,
        replica: &ReplicaName,
        pieces: &[Vec<String>],
    ) -> Result<Vec<KeyTwin>, DatabaseError> {
        let number = |i: usize| i32::try_from(i).unwrap_or(i32::MAX);
        let each = pieces.iter().enumerate().flat_map(|(i, texts)| texts.iter().map(move |text| (number(i + 1), text)));
        let (places, texts): (Vec<i32>, Vec<&str>) = each.map(|(place, text)| (place, text.as_str())).unzip();
        let query = sqlx::query_as(trusted_sql(self.twins_statement(replica)))
            .bind(key.as_str())
            .bind(places)
            .bind(texts)
            .bind(number(pieces.len()));
        let read = async {
            let mut transaction = self.begin_planned(&[]).await?;
            let rows: Vec<(String, i64, Option<i64>)> = query.fetch_all(&mut *transaction).await?;
            transaction.rollback().await?;
            Ok(rows)
        };
        let rows = with_timeout(NAME, Box::pin(read)).await?;
        let twin = |(key, generation, recorded_at)| {
            Ok(KeyTwin { key: key_of(NAME, key)?, generation: Generation(generation), recorded_at })
        };
        rows.into_iter().map(twin).collect()
    }

    /// `$1` the key; `$2` and `$3` the pieces: the position of each, from 1, and its text; `$4` the number of
    /// positions.
    pub(crate) fn twins_statement(&self, replica: &ReplicaName) -> String {
        let (schema, copy, due) = (self.schema.quoted(), replica.column(), replica.due_column());
        format!(
            "-- {NAME}
WITH RECURSIVE begins(prefix, place) AS (
    SELECT ''::text, 0
    UNION
    SELECT b.prefix || p.text, p.place
      FROM begins b
      JOIN unnest($2::int[], $3::text[]) AS p(place, text) ON p.place = b.place + 1
     CROSS JOIN LATERAL (
         SELECT o.object_key FROM {schema}.object_copies o
          WHERE o.object_key >= b.prefix || p.text
          ORDER BY o.object_key LIMIT 1) AS next
     WHERE starts_with(next.object_key, b.prefix || p.text)
)
SELECT o.object_key, o.generation, o.{copy}
  FROM begins b JOIN {schema}.object_copies o ON o.object_key = b.prefix
 WHERE b.place = $4 AND o.object_key <> $1 AND (o.{copy} IS NOT NULL OR o.{due} IS NOT NULL)
 ORDER BY o.object_key
 LIMIT {AT_MOST}"
        )
    }
}
