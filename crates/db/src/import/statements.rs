//! The SQL that reads another program's table and registers its rows.

use std::time::Duration;

use copyhold_core::domain::{MAX_KEY_BYTES, ReplicaName, SchemaName, micros};

use super::{
    BatchEnd, IMPORT_LEASE, ImportAnomaly,
    plan::{ImportPlan, TimeKind},
    tally::{IMPORTED, READ, REGISTERED, names_of},
};

pub(super) const BOUND: &str = "import::bound";
pub(super) const BATCH: &str = "import::batch";
pub(super) const COUNT: &str = "import::count";

/// Clocks differ: a time is in the future if it is further away than this.
const CLOCKS_DIFFER: Duration = Duration::from_mins(5);
/// The other program may still be making copies of an object that it tried within this time: the known program that
/// writes such a time tries again after a day.
const LATELY: Duration = Duration::from_hours(24);
/// The first µs of the year 2000: no present store is older.
const YEAR_2000: i64 = 946_684_800_000_000;
/// Characters of a key that is shown as an example.
const EXAMPLE: usize = 200;

/// The key of the last of about `rows` rows after `$1`; no row, if there are fewer.
pub(super) fn bound(plan: &ImportPlan, after: Option<&str>, rows: u32) -> String {
    format!(
        "-- {BOUND}
SELECT t.object_key::text FROM {} WHERE {} {} OFFSET {} LIMIT 1",
        plan.from(),
        plan.within(after.map(|_| "$1"), None),
        plan.order_by(),
        rows.saturating_sub(1),
    )
}

/// `$1` the position, `$2` the bound, `$3` the table, `$4` the fence.
pub(super) fn batch(schema: &SchemaName, plan: &ImportPlan, after: Option<&str>, until: &BatchEnd) -> String {
    let targets = targets(plan);
    let names = more(targets.iter().flat_map(|t| [t.replica.column(), t.replica.due_column()]));
    let values = more(targets.iter().flat_map(|t| [t.recorded.clone(), t.due.clone()]));
    let (page, taken, counted) = (page(plan, after, until), taken(plan), counted(schema, plan, &targets, until));
    let (schema, held_for) = (schema.quoted(), micros(IMPORT_LEASE));
    format!(
        "-- {BATCH}
WITH mine AS MATERIALIZED (
    SELECT started_at, {schema}.now_utc_micro_seconds() AS at FROM {schema}.imports
     WHERE source = $3 AND held_by = $4 AND ended_at IS NULL AND reached IS NOT DISTINCT FROM $1
       FOR NO KEY UPDATE
),
{page},
{taken},
new AS (
    -- In the order of keys, so that two imports of the same keys cannot deadlock.
    INSERT INTO {schema}.object_copies (object_key, created_at{names})
    SELECT key, created{values} FROM taken WHERE somewhere ORDER BY key
    ON CONFLICT (object_key) DO NOTHING
    RETURNING object_key{names}
),
{counted},
moved AS (
    UPDATE {schema}.imports i
       SET reached = coalesce($2, i.reached),
           ended_at = CASE WHEN $2 IS NULL THEN mine.at END,
           tally = (SELECT jsonb_object_agg(c.name, c.n + coalesce((i.tally ->> c.name)::bigint, 0)) FROM counted c),
           examples = (SELECT coalesce(jsonb_object_agg(c.name, c.example) FILTER (WHERE c.example IS NOT NULL), '{{}}')
                         FROM counted c) || i.examples,
           alive_until = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + {held_for}
      FROM mine
     WHERE i.source = $3
    RETURNING i.tally::text, i.examples::text
)
SELECT tally, examples FROM moved"
    )
}

/// Counts what [`batch`] would count; nothing is written: `$1` the position, `$2` the bound.
pub(super) fn count(schema: &SchemaName, plan: &ImportPlan, after: Option<&str>, until: &BatchEnd) -> String {
    let targets = targets(plan);
    let selected = more(targets.iter().flat_map(|t| {
        [format!("{} AS {}", t.recorded, t.replica.column()), format!("{} AS {}", t.due, t.replica.due_column())]
    }));
    let (page, taken, counted) = (page(plan, after, until), taken(plan), counted(schema, plan, &targets, until));
    let known = known(schema);
    let now = format!("{}.now_utc_micro_seconds()", schema.quoted());
    format!(
        "-- {COUNT}
WITH mine AS MATERIALIZED (SELECT {now} AS started_at, {now} AS at),
{page},
{taken},
new AS (SELECT key AS object_key{selected} FROM taken WHERE somewhere AND NOT {known}),
{counted}
SELECT jsonb_object_agg(name, n)::text AS tally,
       coalesce(jsonb_object_agg(name, example) FILTER (WHERE example IS NOT NULL), '{{}}')::text AS examples
FROM counted"
    )
}

/// Further columns, each preceded by a comma.
pub(super) fn more(columns: impl IntoIterator<Item = String>) -> String {
    columns.into_iter().flat_map(|column| [", ".to_owned(), column]).collect()
}

/// What is written for one replica.
struct Target {
    replica: ReplicaName,
    recorded: String,
    due: String,
}

fn targets(plan: &ImportPlan) -> Vec<Target> {
    let mut targets = Vec::new();
    for (i, column) in plan.columns.iter().enumerate() {
        let assumed = plan.assume.as_ref() == Some(&column.replica);
        let recorded = if assumed { format!("coalesce(r{i}, at)") } else { format!("r{i}") };
        targets.push(Target {
            replica: column.replica.clone(),
            recorded,
            due: format!("CASE WHEN w{i} THEN created END"),
        });
    }
    // Due like the rest, and not by the column's default: objects that the application registers meanwhile come first
    // in their lanes.
    targets.extend(plan.others.iter().map(|replica| {
        let recorded = if plan.assume.as_ref() == Some(replica) { "at" } else { "NULL::bigint" };
        Target { replica: replica.clone(), recorded: recorded.into(), due: "created".into() }
    }));
    targets
}

/// The rows of the batch with their values: `r0` and so on the times that can be proofs, `w0` and so on whether a copy
/// is wanted.
fn page(plan: &ImportPlan, after: Option<&str>, until: &BatchEnd) -> String {
    let columns = plan.columns.iter().enumerate();
    let raw = more(columns.clone().map(|(i, c)| {
        let want = c.want.as_ref().map_or_else(|| "true".into(), |want| format!("t.{want}"));
        format!("{} AS t{i}, {want} AS w{i}", plan.in_micros(&c.column, c.kind))
    }));
    let locked = plan.lock.as_ref().map_or_else(|| "false".into(), |lock| format!("t.{lock} IS NOT NULL"));
    let attempted = |(column, kind): &(String, TimeKind)| plan.in_micros(column, *kind);
    let attempted = plan.last_attempt.as_ref().map_or_else(|| "NULL::bigint".into(), attempted);
    let later = micros(CLOCKS_DIFFER);
    let proof = |(i, _)| format!("CASE WHEN t{i} > 0 AND t{i} <= at + {later} THEN t{i} END AS r{i}");
    let proofs = more(columns.clone().map(proof));
    let of_each =
        |glue: &str, of: &dyn Fn(usize) -> String| (0..plan.columns.len()).map(of).collect::<Vec<_>>().join(glue);
    let times = of_each(", ", &|i| format!("t{i}"));
    let wanted = more(columns.map(|(i, _)| format!("r{i}, w{i} IS NOT FALSE AS w{i}")));
    format!(
        "page AS MATERIALIZED (
    SELECT key, at, started_at{wanted},
           least({times}) <= 0 AS not_positive, greatest({times}) > at + {later} AS future, {old} AS old,
           {unknown} AS unknown,
           locked OR (attempted > at - {lately} AND ({missing})) AS held
      FROM (SELECT x.*, mine.at, mine.started_at{proofs}
              FROM mine,
                   (SELECT t.object_key::text COLLATE \"C\" AS key{raw}, {locked} AS locked, {attempted} AS attempted
                      FROM {from}
                     WHERE {within}) AS x) AS seen
)",
        lately = micros(LATELY),
        old = of_each(" OR ", &|i| format!("t{i} > 0 AND t{i} < {YEAR_2000}")),
        unknown = of_each(" OR ", &|i| format!("w{i} IS NULL")),
        missing = of_each(" OR ", &|i| format!("r{i} IS NULL AND w{i} IS NOT FALSE")),
        from = plan.from(),
        within = plan.within(after.map(|_| "$1"), until.key().map(|_| "$2")),
    )
}

/// The objects: one for each usable key.
/// Where several rows have a key, a copy counts as recorded only if all of them have a time, and then since the
/// earliest: a row without a time may stand for another content, and a query for copies older than some time has to
/// find this one. It is wanted if one of the rows wants it.
/// The object is registered and due as of when the other program first knew of a copy. So it does not count as
/// registered lately, and objects that the application registers meanwhile do not wait behind it.
fn taken(plan: &ImportPlan) -> String {
    let columns = 0..plan.columns.len();
    let (each, group) = if plan.order.unique {
        let each = more(columns.clone().map(|i| format!("r{i}, w{i}")));
        (format!("1 AS rows, at, started_at{each}"), "")
    } else {
        let one = |i| format!("CASE WHEN count(r{i}) = count(*) THEN min(r{i}) END AS r{i}, bool_or(w{i}) AS w{i}");
        let each = more(columns.clone().map(one));
        (format!("count(*) AS rows, min(at) AS at, min(started_at) AS started_at{each}"), " GROUP BY key")
    };
    let proofs = columns.map(|i| format!("r{i}")).collect::<Vec<_>>().join(", ");
    let somewhere = if plan.assume.is_some() { "true".into() } else { format!("coalesce({proofs}) IS NOT NULL") };
    format!(
        "taken AS MATERIALIZED (
    SELECT k.*, {somewhere} AS somewhere, coalesce(least({proofs}), started_at) AS created
      FROM (SELECT key, {each} FROM page
             WHERE octet_length(key) BETWEEN 1 AND {MAX_KEY_BYTES}{group}) AS k
)"
    )
}

/// Whether the object is registered. Not by EXISTS, which may become a scan of the whole table.
fn known(schema: &SchemaName) -> String {
    format!("(SELECT o.id FROM {}.object_copies o WHERE o.object_key = key) IS NOT NULL", schema.quoted())
}

/// The counts of the page, by name, each with an example.
fn counted(schema: &SchemaName, plan: &ImportPlan, targets: &[Target], until: &BatchEnd) -> String {
    let of_rows = [
        (ImportAnomaly::EmptyKey, "key = ''".to_owned()),
        (ImportAnomaly::LongKey, format!("octet_length(key) > {MAX_KEY_BYTES}")),
        (ImportAnomaly::NotPositive, "not_positive".into()),
        (ImportAnomaly::Future, "future".into()),
        (ImportAnomaly::Old, "old".into()),
        (ImportAnomaly::WantUnknown, "unknown".into()),
        (ImportAnomaly::Held, "held".into()),
    ];
    let aggregate = |(odd, condition): &(ImportAnomaly, String)| {
        let name = odd.as_str();
        format!(
            "count(*) FILTER (WHERE {condition}) AS {name}, left(min(key) FILTER (WHERE {condition}), {EXAMPLE}) AS {name}_key"
        )
    };
    let aggregates = more(of_rows.iter().map(aggregate));
    let told = |odd: ImportAnomaly| format!("('{0}', {0}, {0}_key)", odd.as_str());
    let mut told: Vec<_> = of_rows
        .iter()
        .map(|(odd, _)| told(*odd))
        .chain([told(ImportAnomaly::Repeated), told(ImportAnomaly::Nowhere)])
        .collect();
    let mut of_new = Vec::new();
    for (i, target) in targets.iter().enumerate() {
        let (copy, due) = (target.replica.column(), target.replica.due_column());
        for (name, condition) in names_of(&target.replica).into_iter().zip([
            format!("{copy} IS NOT NULL"),
            format!("{copy} IS NULL AND {due} IS NOT NULL"),
            format!("{copy} IS NULL AND {due} IS NULL"),
        ]) {
            let column = format!("n{i}_{}", told.len());
            of_new.push(format!("count(*) FILTER (WHERE {condition}) AS {column}"));
            told.push(format!("('{name}', {column}, NULL)"));
        }
    }
    // They have no position in the order, so they are counted once, by the end of the index that has them.
    let nulls = match until {
        BatchEnd::End => format!("(SELECT count(*) FROM {} WHERE t.object_key IS NULL)", plan.from()),
        BatchEnd::Key(_) => "0".into(),
    };
    let (known, of_new) = (known(schema), more(of_new));
    format!(
        "of_rows AS (
    SELECT count(*) + {nulls} AS read, {nulls} AS null_key{aggregates}
      FROM page
),
of_objects AS (
    SELECT count(*) AS objects, coalesce(sum(rows - 1), 0)::bigint AS {repeated},
           left(min(key) FILTER (WHERE rows > 1), {EXAMPLE}) AS {repeated}_key,
           count(*) FILTER (WHERE lost) AS {nowhere}, left(min(key) FILTER (WHERE lost), {EXAMPLE}) AS {nowhere}_key
      FROM (SELECT *, NOT somewhere AND NOT {known} AS lost FROM taken) AS t
),
of_new AS (SELECT count(*) AS imported{of_new} FROM new),
counted(name, n, example) AS MATERIALIZED (
    SELECT v.* FROM of_rows, of_objects, of_new, LATERAL (VALUES
        ('{READ}', read, NULL::text), ('{IMPORTED}', imported, NULL),
        ('{REGISTERED}', objects - imported - {nowhere}, NULL), ('{null_key}', null_key, NULL),
        {told}) AS v(name, n, example)
)",
        repeated = ImportAnomaly::Repeated.as_str(),
        nowhere = ImportAnomaly::Nowhere.as_str(),
        null_key = ImportAnomaly::NullKey.as_str(),
        told = told.join(",\n        "),
    )
}
