//! Counts what a replica has, and what it alone has, in the order of keys: no index knows that.

use copyhold_core::domain::{ObjectKey, ReplicaName};

use crate::{
    error::{DatabaseError, key_of, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const NAME: &str = "walk::holdings";
/// Keys of one statement.
const PAGE: i64 = 10_000;

/// What a replica has, or should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// All registered objects.
    pub objects: i64,
    /// Recorded copies.
    pub recorded: i64,
    /// Their bytes, as far as sizes are known.
    pub recorded_bytes: i64,
    pub recorded_of_unknown_size: i64,
    /// The other replicas that they could be copied from, each copy counted at the first one that has it.
    pub sources: Vec<(ReplicaName, i64)>,
    /// Of these, objects without another recorded copy.
    pub alone: i64,
    /// The first of them.
    pub alone_example: Option<ObjectKey>,
    /// Objects that have no copy there and are not wanted there.
    pub unwanted: i64,
    /// Their bytes, as far as sizes are known.
    pub unwanted_bytes: i64,
    pub unwanted_of_unknown_size: i64,
}

type Row = (Option<String>, i64, i64, i64, i64, Vec<i64>, i64, Option<String>, i64, i64, i64);

impl Database {
    /// Counts one more page of what `replica` has, after the key `after`, and adds it to `seen`. `others`: all other
    /// replicas of the database, the best source first. Returns where the next page begins; `None`: that was the last
    /// one.
    /// A page of ten thousand rows takes some 10 ms in cache, and no row is locked.
    pub async fn count_holdings(
        &self,
        replica: &ReplicaName,
        others: &[ReplicaName],
        after: Option<&ObjectKey>,
        seen: &mut Holdings,
    ) -> Result<Option<ObjectKey>, DatabaseError> {
        let (copy, due) = (replica.column(), replica.due_column());
        let others: Vec<_> = others.iter().filter(|other| *other != replica).collect();
        let sql = trusted_sql(format!(
            "-- {NAME}
SELECT CASE WHEN count(*) = {PAGE} THEN max(object_key) END, count(*), count({copy}),
       coalesce(sum(size_bytes) FILTER (WHERE {copy} IS NOT NULL), 0)::bigint,
       count(*) FILTER (WHERE {copy} IS NOT NULL AND size_bytes IS NULL), ARRAY[{sources}]::bigint[],
       count(*) FILTER (WHERE alone), min(object_key) FILTER (WHERE alone),
       count(*) FILTER (WHERE unwanted), coalesce(sum(size_bytes) FILTER (WHERE unwanted), 0)::bigint,
       count(*) FILTER (WHERE unwanted AND size_bytes IS NULL)
FROM (SELECT object_key, size_bytes, {columns}, {} AS alone, {copy} IS NULL AND {due} IS NULL AS unwanted
        FROM {}.object_copies WHERE object_key > $1 ORDER BY object_key LIMIT {PAGE}) AS page",
            alone(replica, others.iter().copied()),
            self.schema.quoted(),
            columns = others.iter().copied().chain([replica]).map(ReplicaName::column).collect::<Vec<_>>().join(", "),
            sources = sources(replica, &others),
        ));
        let read = async {
            let mut transaction = self.begin_planned(&[]).await?;
            let query = sqlx::query_as(sql).bind(after.map_or("", ObjectKey::as_str));
            let row: Row = query.fetch_one(&mut *transaction).await?;
            transaction.rollback().await?;
            Ok(row)
        };
        let (last, objects, recorded, bytes, unknown, from, alone, example, unwanted, unwanted_bytes, of_unknown) =
            with_timeout(NAME, read).await?;
        seen.sources.resize_with(others.len(), || (replica.clone(), 0));
        for (source, (other, more)) in seen.sources.iter_mut().zip(others.into_iter().zip(from)) {
            *source = (other.clone(), source.1 + more);
        }
        seen.recorded_bytes += bytes;
        seen.recorded_of_unknown_size += unknown;
        seen.objects += objects;
        seen.recorded += recorded;
        seen.alone += alone;
        seen.unwanted += unwanted;
        seen.unwanted_bytes += unwanted_bytes;
        seen.unwanted_of_unknown_size += of_unknown;
        if seen.alone_example.is_none() {
            seen.alone_example = example.map(|key| key_of(NAME, key)).transpose()?;
        }
        last.map(|key| key_of(NAME, key)).transpose()
    }
}

/// A copy is recorded at this replica and at no other.
pub(crate) fn alone<'r>(replica: &ReplicaName, others: impl IntoIterator<Item = &'r ReplicaName>) -> String {
    let here = [format!("{} IS NOT NULL", replica.column())];
    let nowhere_else = others.into_iter().filter(|r| *r != replica).map(|r| format!("{} IS NULL", r.column()));
    here.into_iter().chain(nowhere_else).collect::<Vec<_>>().join(" AND ")
}

/// How many of the copies each of the others has that none before it has.
fn sources(replica: &ReplicaName, others: &[&ReplicaName]) -> String {
    let counts = (0..others.len()).map(|i| {
        let before: Vec<_> = others[..i].iter().map(|other| format!(" AND {} IS NULL", other.column())).collect();
        let before = before.concat();
        format!(
            "count(*) FILTER (WHERE {} IS NOT NULL AND {} IS NOT NULL{before})",
            replica.column(),
            others[i].column()
        )
    });
    counts.collect::<Vec<_>>().join(", ")
}
