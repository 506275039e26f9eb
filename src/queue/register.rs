use super::{Queue, QueueError, built, error::limited};
use crate::domain::{ObjectKey, ReplicaName, SchemaName};

const NAME: &str = "queue::register";

/// How many keys were given to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    pub objects: u64,
}

impl Queue {
    /// Registers keys, or registers them again, as an application would. `wanted`: the replicas that are to have a
    /// copy; `None`: all of them, or for a known key those that it had.
    pub async fn register(&self, keys: &[ObjectKey], wanted: Option<&[ReplicaName]>) -> Result<Registered, QueueError> {
        // Row by row in the order of keys, so that two that register the same keys cannot deadlock.
        let sql = built(format!(
            "-- queue::register
SELECT count({}.register(k, NULL, $2)) FROM (SELECT k FROM unnest($1::text[]) AS u(k) ORDER BY k) AS sorted",
            self.schema.quoted()
        ));
        let wanted = wanted.map(|names| names.iter().map(ReplicaName::as_str).collect::<Vec<_>>());
        let objects: i64 = limited(
            NAME,
            sqlx::query_scalar(sql)
                .bind(keys.iter().map(ObjectKey::as_str).collect::<Vec<_>>())
                .bind(wanted)
                .fetch_one(&self.pool),
        )
        .await?;
        let objects = u64::try_from(objects)
            .map_err(|_| QueueError::Inconsistent { statement: NAME, what: "a negative count".into() })?;
        Ok(Registered { objects })
    }
}

/// The SQL function that applications call. It follows the primary in force, and names every replica's columns,
/// so it is made anew by each migration. SECURITY DEFINER: its caller needs no right on the table, and cannot
/// forge a proof or a lease through it.
pub(super) fn function(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let schema = schema.quoted();
    let each =
        |what: &dyn Fn(&ReplicaName) -> String, glue: &str| replicas.iter().map(what).collect::<Vec<_>>().join(glue);
    let names = each(&|r| format!("'{r}'"), ", ");
    let columns = each(&|r| format!("{}, {}", r.column(), r.due_column()), ", ");
    let values = each(
        &|r| {
            format!(
                "CASE WHEN holder = '{r}' THEN registered_at END,
                 CASE WHEN replicas IS NULL OR '{r}' = ANY (replicas) OR holder = '{r}' THEN registered_at END"
            )
        },
        ",
                 ",
    );
    // A replica that was not wanted stays so, unless this call says which are.
    let again = each(
        &|r| {
            let (copy, due) = (r.column(), r.due_column());
            format!(
                "{copy} = excluded.{copy},
           {due} = CASE WHEN replicas IS NULL AND o.{due} IS NULL THEN NULL ELSE excluded.{due} END"
            )
        },
        ",
           ",
    );
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.register(key text, size bigint DEFAULT NULL, replicas text[] DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $register$
#variable_conflict use_variable
DECLARE
    registered_at constant bigint := {schema}.now_utc_micro_seconds();
    holder constant text := (SELECT r.name FROM {schema}.replicas r WHERE r.primary_since IS NOT NULL);
    unknown constant text := (SELECT string_agg(quote_literal(u), ', ') FROM unnest(replicas) u
                              WHERE u IS NULL OR u NOT IN ({names}));
    begun bigint;
BEGIN
    IF holder IS NULL THEN
        RAISE EXCEPTION 'no replica is the primary' USING HINT = 'Run: copyhold migrate';
    END IF;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'unknown replica %', unknown USING ERRCODE = 'invalid_parameter_value',
            HINT = 'The replicas are ' || $names${names}$names$;
    END IF;
    INSERT INTO {schema}.object_copies AS o (object_key, size_bytes, {columns})
    VALUES (key, size,
                 {values})
    ON CONFLICT (object_key) DO UPDATE
       -- The lease stays: its holder learns of the new generation from its next write, and frees the row itself.
       SET generation = nextval('{schema}.generations'),
           created_at = registered_at, size_bytes = excluded.size_bytes, content_hash = NULL,
           {again}
    RETURNING o.generation INTO begun;
    RETURN begun;
END
$register$;
REVOKE ALL ON FUNCTION {schema}.register(text, bigint, text[]) FROM PUBLIC;
COMMENT ON FUNCTION {schema}.register(text, bigint, text[]) IS
    'Registers an object that is, or is about to be, at the primary, or a new content of it. size in bytes, if known; '
    'replicas: those that are to have a copy, all if NULL. Returns the generation.'"
    )
}
