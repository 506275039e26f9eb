//! Begins a generation with a content that was read and that no application registered.

use copyhold_core::domain::{
    Content, EventKind, EventKinds, FailureClass, Lease, ReplicaName, SchemaName, SourceReading,
};
use sqlx::SqlStr;

use super::{
    fenced_write::{FencedWrite, answers, held, parse_all},
    function_calls,
};
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    log::append::logged_one,
    sql::{PARKED, trusted_sql},
};

const NAME: &str = "lease::begin_generation";

/// An object that was changed without being registered, as a complete read of the primary has shown.
#[derive(Debug, Clone)]
pub struct UnregisteredChange {
    /// The replica that it was read from: that is the proof of its copy there.
    pub from: ReplicaName,
    pub content: Content,
    /// How the source described the object then.
    pub said: SourceReading,
    /// Consecutive generations that were begun like this, this one included.
    pub in_a_row: u32,
    /// The object changes all the time: its copies are parked.
    pub park: bool,
    /// For operators; stored with every wanted copy.
    pub message: String,
}

/// A function runs it, because it must name every replica of the schema: a proof of the old content must not remain at
/// a replica that this daemon's configuration does not know yet.
/// `$1` key, `$2` fence, `$3` generation: arrays of one. `$4` size, `$5` hash, `$6` the replica that was read, `$7` how
/// many in a row, `$8` whether to park, `$9` the message, `$10` Last-Modified, `$11` the tag.
pub(crate) fn statement(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let schema = schema.quoted();
    let now = format!("{schema}.now_utc_micro_seconds()");
    let (held, answers) = (held(&schema), answers(&schema));
    let each =
        |what: &dyn Fn(&ReplicaName) -> String, glue: &str| replicas.iter().map(what).collect::<Vec<_>>().join(glue);
    // Copies that were not wanted stay so, as in register().
    let columns = each(
        &|r| {
            let (copy, due) = (r.column(), r.due_column());
            format!(
                "{copy} = CASE WHEN $6 = '{r}' THEN {now} END,
           {due} = CASE WHEN o.{due} IS NULL THEN NULL WHEN $8 AND $6 <> '{r}' THEN {PARKED} ELSE {now} END"
            )
        },
        ",
           ",
    );
    let wanted = each(&|r| format!("CASE WHEN o.{} IS NOT NULL AND $6 <> '{r}' THEN '{r}' END", r.due_column()), ", ");
    let class = FailureClass::Changed;
    format!(
        "WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS a(k, f, g)
),
{held},
done AS (
    UPDATE {schema}.object_copies o
       SET lock = NULL, lease = NULL, generation = nextval('{schema}.generations'), created_at = {now},
           size_bytes = $4, content_hash = $5,
           metadata_hash = NULL, not_carried = NULL, source_replica = $6, source_modified = $10, source_tag = $11,
           {columns}
      FROM held JOIN asked a ON a.k = held.object_key
     WHERE o.object_key = held.object_key AND o.lease = a.f AND o.generation = a.g
    RETURNING o.object_key, a.f, o.generation, array_remove(ARRAY[{wanted}], NULL) AS wanted
),
-- why, and how often in a row: that count would otherwise end with the generation
told AS (
    INSERT INTO {schema}.copy_failures AS f
        (object_key, replica, generation, attempts, class, message, first_at, last_at)
    SELECT done.object_key, w, done.generation, $7, '{class}', $9, {now}, {now} FROM done, unnest(done.wanted) AS w
    ON CONFLICT (object_key, replica) DO UPDATE
       SET first_at = CASE WHEN f.class = excluded.class AND excluded.attempts > 1 THEN f.first_at
                           ELSE excluded.first_at END,
           generation = excluded.generation, attempts = excluded.attempts, class = excluded.class,
           message = excluded.message, last_at = excluded.last_at
)
{answers}"
    )
}

/// The call of the function by a daemon, and its event. The parameters are those of [`statement`].
pub(crate) fn call(schema: &SchemaName, kinds: &EventKinds) -> SqlStr {
    let members = "'object_key', key, 'replica', $6, 'size_bytes', $4, 'content_hash', lpad(to_hex($5), 16, '0'),
        'replaces', ($3::bigint[])[1], 'in_a_row', $7, 'parked', $8, 'message', $9";
    let begun = "begun WHERE answer = 'recorded'";
    let logged = logged_one(&schema.quoted(), kinds, EventKind::ObjectChanged, members, begun);
    let call = function_calls::call_begin_generation(schema);
    let call = call.as_str();
    trusted_sql(format!(
        "-- {NAME}\nWITH begun AS MATERIALIZED (\n{call}\n),\n{logged}\nSELECT key, under, answer FROM begun CROSS JOIN logged"
    ))
}

impl Database {
    /// Begins a new generation with the content that was read, as registering the key would: no other copy is on record
    /// any more, and all wanted copies are due. Releases the lease.
    pub async fn begin_generation(
        &self,
        lease: &Lease,
        with: &UnregisteredChange,
    ) -> Result<FencedWrite, DatabaseError> {
        let query = sqlx::query_as(self.statements.begin_generation.clone())
            .bind(vec![lease.key.as_str()])
            .bind(vec![lease.fence.0])
            .bind(vec![lease.generation.0])
            .bind(with.content.size_bytes.cast_signed())
            .bind(with.content.hash.to_bigint())
            .bind(with.from.as_str())
            .bind(i32::try_from(with.in_a_row).unwrap_or(i32::MAX))
            .bind(with.park)
            .bind(with.message.as_str())
            .bind(with.said.modified_us)
            .bind(with.said.tag);
        let rows: Vec<(String, i64, String)> = with_timeout(NAME, query.fetch_all(&self.pool)).await?;
        Ok(parse_all(NAME, rows)?.first().map_or(FencedWrite::Superseded, |(.., answer)| *answer))
    }
}
