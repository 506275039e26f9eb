//! The SQL that applies the rules to a page of objects.

use copyhold_core::domain::ReplicaName;

use super::{
    PartSizes, first_that_fits,
    types::{ApplyScope, ObjectSelection, PAGE, WalkPosition},
};
use crate::handle::Database;

pub(super) const NAME: &str = "rules::apply";
/// `$1` the version, `$2` the key before the page, `$3` keys, `$4` the expected position, `$5` and `$6` the replicas at
/// which copies may become wanted, and unwanted.
/// Rows that have to change are found first, then locked with SKIP LOCKED, then compared once more.
pub(super) struct Statement<'s> {
    schema: String,
    replicas: &'s [ReplicaName],
    which: ObjectSelection<'s>,
    place: WalkPosition<'s>,
    dry_run: bool,
    sizes: PartSizes,
}

impl<'s> Statement<'s> {
    pub(super) fn of(
        database: &'s Database,
        which: ObjectSelection<'s>,
        place: WalkPosition<'s>,
        scope: &ApplyScope,
    ) -> Self {
        Self {
            schema: database.schema().quoted(),
            replicas: database.replicas(),
            which,
            place,
            dry_run: scope.dry_run,
            sizes: scope.sizes,
        }
    }

    pub(super) fn text(&self) -> String {
        let (place, page) = (self.place(), self.page());
        if self.dry_run {
            let answer = self.answer("page", "ARRAY[]::text[]", "NULL::text");
            return format!("-- {NAME}\nWITH {place},\n{page}\n{answer}");
        }
        let written = self.written();
        let through = "coalesce((SELECT key FROM reached), (SELECT applied_through FROM place))";
        let answer = self.answer("done", "ARRAY(SELECT object_key FROM skipped)", through);
        format!("-- {NAME}\nWITH {place},\n{page},\n{written}\n{answer}")
    }

    /// A piece of SQL for each replica and its index.
    fn each(&self, glue: &str, what: impl Fn(usize, &ReplicaName) -> String) -> String {
        self.replicas.iter().enumerate().map(|(i, r)| what(i, r)).collect::<Vec<_>>().join(glue)
    }

    /// One row if the rules, and the position, are still what the walk expects. It is locked so that the rules do not
    /// change within a page.
    fn place(&self) -> String {
        let schema = &self.schema;
        let standing = match self.place {
            WalkPosition::Unkept | WalkPosition::Stays => "",
            WalkPosition::MovedFrom(_) => {
                " AND s.applying = s.version AND s.applied_through IS NOT DISTINCT FROM $4::text"
            }
        };
        let hold = if self.dry_run { "" } else { "\n       FOR NO KEY UPDATE OF s SKIP LOCKED" };
        format!(
            "place AS MATERIALIZED (
    SELECT s.newcomers, s.applied_through, (SELECT r.name FROM {schema}.replicas r WHERE r.primary_since IS NOT NULL) AS holder
      FROM {schema}.rules_state s
     WHERE s.version = $1{standing}{hold}
)"
        )
    }

    fn page(&self) -> String {
        let schema = &self.schema;
        let rows = match self.which {
            ObjectSelection::After(_) => format!("x.object_key > $2::text ORDER BY x.object_key LIMIT {PAGE}"),
            ObjectSelection::These(_) => "x.object_key = ANY ($3::text[])".to_owned(),
        };
        let (flags, rule) = (self.flags(), self.rule());
        let changes = self.each(" OR ", |i, _| format!("a{i} OR d{i}"));
        format!(
            "page AS MATERIALIZED (
    SELECT f.*, {changes} AS changes FROM (
        SELECT o.object_key, o.size_bytes, w.wanted IS NULL AS undecided,
               {flags}
          FROM place CROSS JOIN LATERAL (SELECT x.* FROM {schema}.object_copies x WHERE {rows}) AS o
          {rule}
    ) AS f
)"
        )
    }

    fn written(&self) -> String {
        let schema = &self.schema;
        let (flags, rule) = (self.flags(), self.rule());
        let sets = self.each(",\n           ", |i, r| {
            let due = r.due_column();
            format!(
                "{due} = CASE WHEN held.a{i} THEN {schema}.now_utc_micro_seconds() WHEN held.d{i} THEN NULL ELSE o.{due} END"
            )
        });
        let dropped = self.each(", ", |i, r| format!("CASE WHEN held.d{i} THEN '{r}' END"));
        let columns = self.each(", ", |i, _| format!("held.a{i}, held.d{i}, held.t{i}"));
        let reached = match self.place {
            WalkPosition::MovedFrom(_) => {
                "SELECT max(p.object_key) FROM page p
             WHERE p.object_key < ALL (ARRAY(SELECT object_key FROM skipped ORDER BY object_key LIMIT 1))"
            }
            WalkPosition::Unkept | WalkPosition::Stays => "SELECT NULL::text",
        };
        format!(
            "held AS MATERIALIZED (
    SELECT o.object_key, o.size_bytes,
               {flags}
      FROM (SELECT x.* FROM {schema}.object_copies x
             WHERE x.object_key = ANY (ARRAY(SELECT object_key FROM page WHERE changes))
               FOR NO KEY UPDATE SKIP LOCKED) AS o
      CROSS JOIN place
      {rule}
),
done AS (
    UPDATE {schema}.object_copies o
       SET {sets}
      FROM held
     WHERE o.object_key = held.object_key
    RETURNING o.object_key, held.size_bytes, {columns}, ARRAY[{dropped}]::text[] AS dropped
),
-- a copy that is not wanted has no failure either
forgotten AS (
    DELETE FROM {schema}.copy_failures f USING done
     WHERE f.object_key = done.object_key AND f.replica = ANY (done.dropped)
),
skipped AS MATERIALIZED (
    SELECT object_key FROM page WHERE changes AND NOT EXISTS (SELECT FROM held WHERE held.object_key = page.object_key)
),
reached AS MATERIALIZED (
    SELECT ({reached}) AS key
),
moved AS (
    UPDATE {schema}.rules_state s SET applied_through = reached.key
      FROM reached, place WHERE reached.key IS NOT NULL
)"
        )
    }

    fn answer(&self, done: &str, skipped: &str, through: &str) -> String {
        let figures = self.each(",\n        ", |i, _| {
            let bytes = |of: &str| format!("coalesce(sum(size_bytes) FILTER (WHERE {of}), 0)::bigint");
            let count = |of: &str| format!("count(*) FILTER (WHERE {of})");
            let requests =
                |of: &str, each: &str| format!("coalesce(sum(coalesce({each}, 1)) FILTER (WHERE {of}), 0)::bigint");
            let [to_make, to_leave] = [format!("a{i} AND NOT t{i}"), format!("d{i} AND NOT t{i}")];
            [
                count(&to_make),
                bytes(&to_make),
                requests(&to_make, "parts"),
                requests(&to_make, "parts + 2"),
                count(&format!("a{i} AND t{i}")),
                count(&to_leave),
                bytes(&to_leave),
                count(&format!("d{i} AND t{i}")),
            ]
            .join(", ")
        });
        format!(
            "SELECT EXISTS (SELECT FROM place) AS found,
       (SELECT count(*) FROM page) AS looked, (SELECT count(*) FROM page WHERE undecided) AS undecided,
       (SELECT max(object_key) FROM page) AS last, {through} AS through, {skipped} AS skipped,
       (SELECT ARRAY[{figures}] FROM (SELECT *, {parts} AS parts FROM {done}) AS sized) AS figures",
            parts = self.sizes.parts("size_bytes")
        )
    }

    /// Evaluated once for each row.
    fn rule(&self) -> String {
        let wanted = first_that_fits(&format!("{}.rules", self.schema), "o.object_key", "o.size_bytes");
        format!("CROSS JOIN LATERAL (SELECT {wanted} AS wanted OFFSET 0) AS w")
    }

    /// Of a row `o`, the replicas `w.wanted` that a rule wants it at, and the `place`: for each replica whether its
    /// copy becomes wanted, whether it becomes unwanted, and whether it is recorded.
    fn flags(&self) -> String {
        self.each(",\n               ", |i, r| {
            let (copy, due) = (r.column(), r.due_column());
            let verdict = format!(
                "CASE WHEN place.holder = '{r}' THEN true WHEN w.wanted IS NOT NULL THEN '{r}' = ANY (w.wanted)
                     WHEN '{r}' = ANY (place.newcomers) THEN true END"
            );
            format!(
                "coalesce(({verdict}) AND o.{due} IS NULL AND '{r}' = ANY ($5::text[]), false) AS a{i},
               coalesce(NOT ({verdict}) AND o.{due} IS NOT NULL AND '{r}' = ANY ($6::text[]), false) AS d{i},
               o.{copy} IS NOT NULL AS t{i}"
            )
        })
    }
}
