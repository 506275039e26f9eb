//! The SQL function that registers the keys of a listing.

use copyhold_core::domain::{EventKind, ReplicaName, SchemaName, micros};

use crate::{
    lease::{claim::FRESH, unsettled::LISTED_WITHIN},
    sql::{PARKED, names_of},
};

/// The function's name; `migrate` lets every role call it that may change copies.
pub(crate) const NAME: &str = "register_listed";

/// Registers, in one statement for a page of a listing, the keys that are not registered yet, and leaves registered
/// ones alone. It names every replica's columns, so each migration creates it anew, and it applies the rules in force.
/// SECURITY DEFINER: a daemon's role adds no rows of the application, except through it.
/// The caller states that the copies of `holder`, the listed replica, are there, as an application does that registers
/// an object: there is no hash until the first read. `same_at`: per key NULL, or the other replicas, as an array's
/// text, whose listings have shown the same content; NULL: no other listing was compared. A registered row adopts such
/// a copy only if the row is what was listed, as far as that can be known: of a generation from before the listing, not
/// leased, not read yet, of the same size, and recorded at the holder.
/// `age_us`: how long ago the listing was requested, by the caller's own clock: copies are recorded as of then. `tell`:
/// whether events of adopted copies are wanted.
pub(crate) fn function(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let schema = schema.quoted();
    let each =
        |what: &dyn Fn(&ReplicaName) -> String, glue: &str| replicas.iter().map(what).collect::<Vec<_>>().join(glue);
    let columns = each(&|r| format!("{}, {}", r.column(), r.due_column()), ", ");
    // Without rules, looking up the rule of each key would cost as much as registering it.
    let whence = "CROSS JOIN LATERAL (SELECT CASE WHEN ruled THEN {schema}.replicas_by_rule(u.k, u.s) END) AS w(names)"
        .replace("{schema}", &schema);
    let wanted = |r: &ReplicaName| format!("(w.names IS NULL OR '{r}' = ANY (w.names) OR '{r}' IN (holder, first))");
    let values = |same: bool| {
        each(
            &|r| {
                let wanted = wanted(r);
                let or_same = if same { format!(" OR '{r}' = ANY (u.e::text[]) AND {wanted}") } else { String::new() };
                format!("CASE WHEN holder = '{r}'{or_same} THEN listed_at END, CASE WHEN {wanted} THEN due_at END")
            },
            ",
               ",
        )
    };
    let (alone, with_values) = (values(false), values(true));
    let (still_due, fresh, listed_within) = (still_due(replicas), micros(FRESH), LISTED_WITHIN);
    let same = with_same(&schema, replicas, &columns, &with_values, &whence);
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.{NAME}(keys text[], sizes bigint[], same_at text[], holder text, age_us bigint, tell boolean)
RETURNS TABLE(registered bigint, bytes bigint, due bigint, adopted bigint, events jsonb[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET enable_mergejoin = off SET enable_hashjoin = off SET plan_cache_mode = force_generic_plan SET jit = off
AS $listed$
#variable_conflict use_variable
DECLARE
    registered_at constant bigint := {schema}.now_utc_micro_seconds();
    listed_at     constant bigint := registered_at - age_us;
    -- Later than what the application registers: of the due rows, those that were registered lately go first, the
    -- newest before all.
    due_at        constant bigint := registered_at - {fresh};
    first         constant text := (SELECT r.name FROM {schema}.replicas r WHERE r.primary_since IS NOT NULL);
    ruled         constant boolean := EXISTS (SELECT FROM {schema}.rules);
    draining      constant text[] := ARRAY(SELECT r.name FROM {schema}.replicas r WHERE r.draining_since IS NOT NULL);
    -- PostgreSQL has crashed since, or shortly before: an unknown write may be under way. Or the listing is so old that
    -- an entry of such a write may have been deleted since.
    doubtful      constant boolean := coalesce((SELECT c.unsettled_until > listed_at OR age_us >= {listed_within} FROM {schema}.claims_intact c), true);
    more          bigint;
    tidings       jsonb[];
BEGIN
    -- In the order of keys, as the arrays are sorted, so that two calls with the same keys cannot deadlock.
    IF same_at IS NULL THEN
        WITH added AS (
            INSERT INTO {schema}.object_copies AS o (object_key, size_bytes, {columns})
            SELECT u.k, u.s,
                   {alone}
              FROM unnest(keys, sizes) AS u(k, s)
             {whence}
            ON CONFLICT (object_key) DO NOTHING
            RETURNING o.size_bytes, {still_due} AS still_due
        )
        SELECT count(*), coalesce(sum(size_bytes), 0), coalesce(sum(still_due), 0), 0
          INTO registered, bytes, due, adopted
          FROM added;
        RETURN NEXT;
        RETURN;
    END IF;
    -- A copy that a late write could still change is not adopted, but copied.
    SELECT array_agg(CASE WHEN NOT doubtful
                           AND NOT EXISTS (SELECT FROM {schema}.unsettled x WHERE x.object_key = u.k) THEN u.e END ORDER BY u.n)
      INTO same_at
      FROM unnest(keys, same_at) WITH ORDINALITY AS u(k, e, n);
    {same}
    adopted := adopted + more;
    events := events || tidings;
    RETURN NEXT;
END
$listed$;
REVOKE ALL ON FUNCTION {schema}.{NAME} FROM PUBLIC;
COMMENT ON FUNCTION {schema}.{NAME} IS
    'For copyhold scan: registers the keys, in their order, that are not registered yet, as listed at the replica holder.'"
    )
}

/// How many copies of a row are wanted and missing.
fn still_due(replicas: &[ReplicaName]) -> String {
    let one = |r: &ReplicaName| format!("(o.{} IS NULL AND o.{} IS NOT NULL)::int", r.column(), r.due_column());
    replicas.iter().map(one).collect::<Vec<_>>().join(" + ")
}

/// The part for keys that other listings have shown too.
fn with_same(schema: &str, replicas: &[ReplicaName], columns: &str, values: &str, whence: &str) -> String {
    let each =
        |what: &dyn Fn(&ReplicaName) -> String, glue: &str| replicas.iter().map(what).collect::<Vec<_>>().join(glue);
    let still_due = still_due(replicas);
    let recorded = names_of(replicas, |r| format!("'{r}' <> holder AND o.{} IS NOT NULL", r.column()));
    let missing = names_of(replicas, |r| {
        let (copy, due) = (r.column(), r.due_column());
        format!("'{r}' = ANY (u.e::text[]) AND o.{copy} IS NULL AND o.{due} < {PARKED}")
    });
    let of_holder = each(&|r| format!("WHEN '{r}' THEN o.{}", r.column()), " ");
    let sets = each(
        &|r| format!("{copy} = CASE WHEN '{r}' = ANY (held.now) THEN listed_at ELSE o.{copy} END", copy = r.column()),
        ",
               ",
    );
    let event = format!(
        "jsonb_build_object('kind', '{kind}', 'object_key', object_key, 'generation', generation, 'replicas', now,
            'complete', complete, 'size_bytes', size_bytes, 'content_hash', NULL, 'registered_at', created_at)",
        kind = EventKind::ObjectCopied
    );
    let row = format!(
        "o.object_key, o.generation, o.size_bytes, o.created_at, {schema}.is_complete(o, draining) AS complete"
    );
    format!(
        "WITH added AS (
        INSERT INTO {schema}.object_copies AS o (object_key, size_bytes, {columns})
        SELECT u.k, u.s,
               {values}
          FROM unnest(keys, sizes, same_at) AS u(k, s, e)
         {whence}
        ON CONFLICT (object_key) DO NOTHING
        RETURNING {row}, {still_due} AS still_due,
                  {recorded} AS now
    )
    SELECT count(*), coalesce(sum(size_bytes), 0), coalesce(sum(still_due), 0), coalesce(sum(cardinality(now)), 0),
           array_agg({event}) FILTER (WHERE tell AND now <> '{{}}')
      INTO registered, bytes, due, adopted, events
      FROM added;
    WITH held AS MATERIALIZED (
        SELECT o.object_key, u.s,
               {missing} AS now
          FROM unnest(keys, sizes, same_at) AS u(k, s, e)
          JOIN {schema}.object_copies o ON o.object_key = u.k
         WHERE u.e IS NOT NULL AND o.created_at < listed_at AND o.lock IS NULL AND o.content_hash IS NULL
           AND (o.size_bytes IS NULL OR o.size_bytes = u.s)
           AND CASE holder {of_holder} END IS NOT NULL
           FOR NO KEY UPDATE OF o SKIP LOCKED
    ),
    done AS (
        UPDATE {schema}.object_copies o
           SET {sets}
          FROM held
         WHERE o.object_key = held.object_key AND held.now <> '{{}}'
        RETURNING {row}, held.now
    ),
    mended AS (
        DELETE FROM {schema}.copy_failures f
         USING done
         WHERE f.object_key = done.object_key AND f.replica = ANY (done.now)
    )
    SELECT coalesce(sum(cardinality(now)), 0), array_agg({event}) FILTER (WHERE tell)
      INTO more, tidings
      FROM done;"
    )
}
