//! The SQL functions that applications and scans call. They follow the primary and the rules in force, and name every
//! replica's columns, so each migration creates them anew. SECURITY DEFINER: their caller needs no right on the tables,
//! and cannot forge a proof or a lease through them.

use copyhold_core::domain::{ReplicaName, SchemaName};

use crate::{notify::notification::Channels, object::register_listed};

/// All of them, for every replica of the schema.
pub(crate) fn all(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    [
        one(schema, replicas),
        each(schema, replicas),
        many(schema),
        wanted(schema, replicas, true),
        wanted(schema, replicas, false),
        register_listed::function(schema, replicas),
    ]
    .join(";\n")
}

/// Writes the objects to register, `a(k, s, w)`: key, size, and the replicas that the call or a rule names; NULL: all,
/// or for a known key those that it had, and always the primary in force.
/// `registered_at` and `holder`, the primary in force, are variables of the function.
fn write(schema: &str, replicas: &[ReplicaName], whence: &str, names: &str, undecided: &str) -> String {
    let each =
        |what: &dyn Fn(&ReplicaName) -> String, glue: &str| replicas.iter().map(what).collect::<Vec<_>>().join(glue);
    let columns = each(&|r| format!("{}, {}", r.column(), r.due_column()), ", ");
    let values = each(
        &|r| {
            format!(
                "CASE WHEN holder = '{r}' THEN registered_at END,
           CASE WHEN a.w IS NULL OR '{r}' = ANY ({names}) OR holder = '{r}' THEN registered_at END"
            )
        },
        ",
           ",
    );
    // A replica that was not wanted stays so, unless the call or a rule names the replicas.
    let again = each(
        &|r| {
            let (copy, due) = (r.column(), r.due_column());
            format!(
                "{copy} = excluded.{copy},
           {due} = CASE WHEN o.{due} IS NULL AND holder <> '{r}' AND {undecided} THEN NULL ELSE excluded.{due} END"
            )
        },
        ",
           ",
    );
    format!(
        "INSERT INTO {schema}.object_copies AS o (object_key, size_bytes, {columns})
    SELECT a.k, a.s,
           {values}
      FROM {whence} AS a(k, s, w)
    ON CONFLICT (object_key) DO UPDATE
       -- The lease stays: its holder learns of the new generation from its next write, and frees the row itself.
       SET generation = nextval('{schema}.generations'),
           created_at = registered_at, size_bytes = excluded.size_bytes, content_hash = NULL,
           metadata_hash = NULL, not_carried = NULL, source_replica = NULL, source_modified = NULL, source_tag = NULL,
           {again}
    RETURNING o.object_key, o.generation"
    )
}

/// The variables of both functions, and the error for names that no replica has. `given`: a FROM clause with the names
/// in the call, `n(name)`.
fn prelude(schema: &str, replicas: &[ReplicaName], given: &str, variables: &str) -> String {
    let names = replicas.iter().map(|r| format!("'{r}'")).collect::<Vec<_>>().join(", ");
    format!(
        "DECLARE
    registered_at constant bigint := {schema}.now_utc_micro_seconds();
    holder constant text := (SELECT r.name FROM {schema}.replicas r WHERE r.primary_since IS NOT NULL);
    unknown text;
{variables}BEGIN
    IF holder IS NULL THEN
        RAISE EXCEPTION 'no replica is the primary' USING HINT = 'Run: copyhold migrate';
    END IF;
    SELECT string_agg(DISTINCT quote_nullable(n.name), ', ') INTO unknown FROM {given} AS n(name)
     WHERE n.name IS NULL OR n.name NOT IN ({names});
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'unknown replica %', unknown USING ERRCODE = 'invalid_parameter_value',
            HINT = 'The replicas are ' || $names${names}$names$;
    END IF;
"
    )
}

/// One object, in the statement that is cheapest for an application: a row's INSERT and two lookups in tiny tables.
/// Through `register_each` it would take twice as long.
fn one(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let schema = schema.quoted();
    let prelude = prelude(&schema, replicas, "unnest(replicas)", "    begun bigint;\n    named text[] := replicas;\n");
    let write = write(&schema, replicas, "(SELECT key, size, named)", "a.w", "named IS NULL");
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.register(key text, size bigint DEFAULT NULL, replicas text[] DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $register$
#variable_conflict use_variable
{prelude}    IF named IS NULL AND EXISTS (SELECT FROM {schema}.rules) THEN
        named := {schema}.replicas_by_rule(key, size);
    END IF;
    WITH written AS (
    {write}
    )
    SELECT written.generation INTO begun FROM written;
    RETURN begun;
END
$register$;
REVOKE ALL ON FUNCTION {schema}.register(text, bigint, text[]) FROM PUBLIC;
COMMENT ON FUNCTION {schema}.register(text, bigint, text[]) IS
    'Registers an object that is, or is about to be, at the primary, or a new content of it. size in bytes, if known; '
    'replicas: those that are to have a copy; NULL: those of the rule that fits, or all. Returns the generation.'"
    )
}

/// Many objects. The keys are written in ascending order, so that two calls with the same keys cannot deadlock. Of a
/// key that occurs twice the last entry counts, as if they were registered one by one.
fn each(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let schema = schema.quoted();
    let variables = "    k text[];\n    s bigint[];\n    w text[];\n    undecided text[];\n    begun bigint[];
    ruled constant boolean := EXISTS (SELECT FROM {schema}.rules);\n"
        .replace("{schema}", &schema);
    let prelude = prelude(&schema, replicas, "unnest(wanted) w CROSS JOIN LATERAL unnest(w::text[])", &variables);
    let write = write(&schema, replicas, "unnest(k, s, w)", "a.w::text[]", "o.object_key = ANY (undecided)");
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.register_each(keys text[], sizes bigint[], wanted text[]) RETURNS bigint[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $register$
#variable_conflict use_variable
{prelude}    IF cardinality(sizes) <> cardinality(keys) OR cardinality(wanted) <> cardinality(keys) THEN
        RAISE EXCEPTION '% keys, but % sizes', cardinality(keys), cardinality(sizes)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give one for each, NULL where it is unknown';
    END IF;
    SELECT array_agg(d.k ORDER BY d.k COLLATE \"C\"), array_agg(d.s ORDER BY d.k COLLATE \"C\"),
           array_agg(d.w ORDER BY d.k COLLATE \"C\"), array_agg(d.k) FILTER (WHERE d.w IS NULL)
      INTO k, s, w, undecided
      FROM (SELECT u.k, u.s,
                   CASE WHEN u.w IS NULL AND ruled THEN {schema}.replicas_by_rule(u.k, u.s)::text ELSE u.w END AS w
              FROM (SELECT DISTINCT ON (g.k COLLATE \"C\") g.k, g.s, g.w
                      FROM unnest(keys, sizes, wanted) WITH ORDINALITY AS g(k, s, w, place)
                     ORDER BY g.k COLLATE \"C\", g.place DESC) AS u) AS d;
    WITH written AS (
    {write}
    )
    SELECT array_agg(written.generation ORDER BY g.place) INTO begun
      FROM unnest(keys) WITH ORDINALITY AS g(k, place) JOIN written ON written.object_key = g.k;
    RETURN coalesce(begun, '{{}}');
END
$register$;
REVOKE ALL ON FUNCTION {schema}.register_each(text[], bigint[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION {schema}.register_each(text[], bigint[], text[]) IS
    'Behind register_many. wanted: of each key its replicas, as the text of an array; NULL: as the rules say. '
    'Returns the generations, in the order of keys.'"
    )
}

fn many(schema: &SchemaName) -> String {
    let schema = schema.quoted();
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.register_many(keys text[], sizes bigint[] DEFAULT NULL,
                                                   replicas text[] DEFAULT NULL)
RETURNS bigint[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $register$
BEGIN
    RETURN {schema}.register_each(keys, sizes,
        CASE WHEN replicas IS NOT NULL THEN array_fill(replicas::text, ARRAY[cardinality(keys)]) END);
END
$register$;
REVOKE ALL ON FUNCTION {schema}.register_many(text[], bigint[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION {schema}.register_many(text[], bigint[], text[]) IS
    'As register, for many objects at once: one size for each key, or NULL. Returns the generations, in the order of keys.'"
    )
}

/// `want` and `unwant`. They change when copies are made, and whether: never a record.
fn wanted(schema: &SchemaName, replicas: &[ReplicaName], want: bool) -> String {
    let channel = Channels::of(schema).work;
    let schema = schema.quoted();
    let names = replicas.iter().map(|r| format!("'{r}'")).collect::<Vec<_>>().join(", ");
    let now = format!("{schema}.now_utc_micro_seconds()");
    let set = |r: &ReplicaName| {
        let due = r.due_column();
        if want {
            format!("{due} = CASE WHEN '{r}' = ANY (replicas) THEN coalesce(o.{due}, {now}) ELSE o.{due} END")
        } else {
            format!("{due} = CASE WHEN '{r}' = ANY (replicas) THEN NULL ELSE o.{due} END")
        }
    };
    let sets = replicas.iter().map(set).collect::<Vec<_>>().join(",\n           ");
    let (name, about, refuse, then) = if want {
        let then = format!(
            "IF FOUND AND EXISTS (SELECT FROM {schema}.daemons d WHERE d.sleeping AND d.alive_until > {now}) THEN
        PERFORM pg_notify('{channel}', '');
        RETURN true;
    END IF;"
        );
        ("want", "Copies of the object are wanted at these replicas too.", String::new(), then)
    } else {
        let refuse = format!(
            "
    IF EXISTS (SELECT FROM {schema}.replicas r WHERE r.primary_since IS NOT NULL AND r.name = ANY (replicas)) THEN
        RAISE EXCEPTION 'the primary always has the object' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Name other replicas';
    END IF;"
        );
        let then = format!(
            "IF FOUND THEN
        -- A copy that is not wanted has no failure either.
        DELETE FROM {schema}.copy_failures f WHERE f.object_key = key AND f.replica = ANY (replicas);
        RETURN true;
    END IF;"
        );
        ("unwant", "No copies of the object are made at these replicas; those that are there stay.", refuse, then)
    };
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.{name}(key text, replicas text[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $wanted$
#variable_conflict use_variable
DECLARE
    unknown constant text := (SELECT string_agg(quote_nullable(name), ', ') FROM unnest(replicas) name
                              WHERE name IS NULL OR name NOT IN ({names}));
BEGIN
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'unknown replica %', unknown USING ERRCODE = 'invalid_parameter_value',
            HINT = 'The replicas are ' || $names${names}$names$;
    END IF;{refuse}
    UPDATE {schema}.object_copies o
       SET {sets}
     WHERE o.object_key = key;
    {then}
    RETURN FOUND;
END
$wanted$;
REVOKE ALL ON FUNCTION {schema}.{name}(text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION {schema}.{name}(text, text[]) IS
    '{about} Returns whether the key is registered.'"
    )
}
