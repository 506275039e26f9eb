//! The SQL functions whose plan is fixed: the statements that find rows by their position in a lane, or by the claim
//! that leased them. And one that must name every replica of the schema, whatever the daemon's configuration contains.
//!
//! PostgreSQL's statistics can be wrong: an ANALYZE that ran while a bulk load was still uncommitted saw pages without
//! rows, and from the commit on each claim sorted the whole backlog, 240 ms and 12 MB of temporary file per 300,000
//! rows instead of 2 ms. A role's `enable_indexscan` or costs have the same effect. A function has its own planner
//! settings, whatever the session's are and without changing those, also behind a pooler.
//!
//! Compared with the plain statement it costs 0.07 ms more for one row (0.21 ms against 0.14), a fifth to a quarter
//! more for 16 rows (0.69 against 0.55), and nothing measurable for 64 (2.1 against 2.0): claim and release, PostgreSQL
//! 15.18, medians of six runs of each on a busy machine.
//!
//! Each migration creates the functions anew, for every replica of the schema. Daemons of several versions may call
//! them at the same time: only add columns, and only add arguments with a default, and raise the schema's version with
//! each.

use copyhold_core::domain::{ReplicaName, SchemaName};

use super::append_functions;
use crate::{
    lease::{
        begin_generation, claim,
        function_calls::{BEGIN_GENERATION, IS_COMPLETE, NEXT_DUE, UNCLAIM, claim_name, fresh_claim_name, seek_name},
        peek, unclaim,
    },
    log::read,
    object::register_listed,
};

/// One function, as `migrate` creates it and a daemon expects it.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// Made of a checked name; fits PostgreSQL's 63 bytes, since a replica's name has at most 31.
    pub name: String,
    /// As `pg_get_function_arguments` writes it.
    pub arguments: &'static str,
    /// As `pg_get_function_result` writes it.
    pub returns: String,
    /// The statement that it runs, with `$1` and so on for its arguments.
    pub statement: String,
    /// It writes what a crash may undo.
    asynchronous: bool,
    about: String,
}

/// The lane's claim, oldest due first.
pub(crate) fn claim(schema: &SchemaName, replicas: &[ReplicaName], lane: &ReplicaName) -> Function {
    Function {
        name: claim_name(lane),
        arguments: "most bigint, lease_us bigint, fence bigint, after_due bigint, after_id bigint",
        returns: claimed(),
        statement: claim::statements::oldest_first(schema, replicas, lane),
        asynchronous: true,
        about: format!("Leases rows that lack their copy at {lane}, oldest due first."),
    }
}

/// The lane's claim of objects that were registered lately.
pub(crate) fn fresh_claim(schema: &SchemaName, replicas: &[ReplicaName], lane: &ReplicaName) -> Function {
    Function {
        name: fresh_claim_name(lane),
        arguments: "most bigint, lease_us bigint, fence bigint",
        returns: claimed(),
        statement: claim::statements::fresh(schema, replicas, lane),
        asynchronous: true,
        about: format!("Leases rows that lack their copy at {lane} and were registered lately, the last first."),
    }
}

/// Reads the lane, oldest due first.
pub(crate) fn seek(schema: &SchemaName, replicas: &[ReplicaName], lane: &ReplicaName) -> Function {
    Function {
        name: seek_name(lane),
        arguments: "most bigint, after_due bigint, after_id bigint",
        returns: "TABLE(object_key text, lane_due bigint, id bigint, recorded text[])".into(),
        statement: peek::statement(schema, replicas, lane),
        asynchronous: false,
        about: format!("Objects that lack their copy at {lane}, oldest due first, and who has them."),
    }
}

/// How long until the next copy of each lane is due.
pub(crate) fn next_due(schema: &SchemaName, replicas: &[ReplicaName]) -> Function {
    Function {
        name: NEXT_DUE.into(),
        arguments: "",
        returns: "TABLE(replica text, wait_us bigint)".into(),
        statement: claim::statements::next_due(schema, replicas),
        asynchronous: false,
        about: "Per replica, µs until the first copy that waits is due; NULL: none waits.".into(),
    }
}

/// Frees the rows of a claim whose answer was lost.
pub(crate) fn unclaim(schema: &SchemaName) -> Function {
    Function {
        name: UNCLAIM.into(),
        arguments: "fence bigint",
        returns: "TABLE(object_key text)".into(),
        statement: unclaim::statement(schema),
        asynchronous: true,
        about: "Frees the rows that are leased under this number, of a claim whose answer was lost.".into(),
    }
}

/// Begins a generation with a content that no application registered.
pub(crate) fn begin_generation(schema: &SchemaName, replicas: &[ReplicaName]) -> Function {
    Function {
        name: BEGIN_GENERATION.into(),
        arguments: "keys text[], fences bigint[], generations bigint[], bytes bigint, hash bigint, was_read text, \
                    in_a_row integer, park boolean, why text, modified bigint, tag bigint",
        returns: "TABLE(key text, under bigint, answer text)".into(),
        statement: begin_generation::statement(schema, replicas),
        asynchronous: false,
        about: "What a complete reading of the primary has found begins a new generation of a leased object.".into(),
    }
}

/// The functions that find the work of one lane.
pub(crate) fn of_lane(schema: &SchemaName, replicas: &[ReplicaName], lane: &ReplicaName) -> [Function; 3] {
    [claim(schema, replicas, lane), fresh_claim(schema, replicas, lane), seek(schema, replicas, lane)]
}

/// The functions that belong to no single lane.
pub(crate) fn of_all_lanes(schema: &SchemaName, replicas: &[ReplicaName]) -> [Function; 3] {
    [next_due(schema, replicas), unclaim(schema), begin_generation(schema, replicas)]
}

/// Whether no wanted copy is missing, except at the draining replicas. No daemon copies to those, so a reader that
/// waits for the object to be complete would wait for ever. Undrained, they make it incomplete again.
/// Without settings and without a lookup in another table, so that PostgreSQL inlines it into the calling statement.
fn is_complete(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let schema = schema.quoted();
    let there = replicas
        .iter()
        .map(|r| format!("(o.{} IS NOT NULL OR o.{} IS NULL OR '{r}' = ANY (draining))", r.column(), r.due_column()));
    format!(
        "DROP FUNCTION IF EXISTS {schema}.{IS_COMPLETE}({schema}.object_copies);
CREATE OR REPLACE FUNCTION {schema}.{IS_COMPLETE}(o {schema}.object_copies, draining text[] DEFAULT '{{}}') RETURNS boolean
LANGUAGE sql IMMUTABLE
AS $complete$ SELECT {} $complete$;
REVOKE ALL ON FUNCTION {schema}.{IS_COMPLETE}({schema}.object_copies, text[]) FROM PUBLIC;
COMMENT ON FUNCTION {schema}.{IS_COMPLETE}({schema}.object_copies, text[]) IS
    'Whether every copy that is wanted of the object, but at these replicas, is on record. {}';
",
        there.collect::<Vec<_>>().join(" AND "),
        signature()
    )
}

/// The comment by which a function shows the version that created it.
pub(crate) fn signature() -> String {
    format!("Made by copyhold {}.", env!("CARGO_PKG_VERSION"))
}

/// All of them, for every replica of the schema.
pub(crate) fn all(schema: &SchemaName, replicas: &[ReplicaName]) -> Vec<Function> {
    replicas.iter().flat_map(|lane| of_lane(schema, replicas, lane)).chain(of_all_lanes(schema, replicas)).collect()
}

fn claimed() -> String {
    let columns = claim::statements::COLUMNS.map(|(name, of)| format!("{name} {of}"));
    format!("TABLE({})", columns.join(", "))
}

impl Function {
    /// The body between the dollar quotes.
    pub fn body(&self) -> String {
        let first = if self.asynchronous { "\n    PERFORM set_config('synchronous_commit', 'off', true);" } else { "" };
        format!("\n#variable_conflict use_column\nBEGIN{first}\n    RETURN QUERY\n{};\nEND\n", self.statement)
    }

    /// SECURITY INVOKER, the default: the caller needs the rights on the tables as well.
    fn create(&self, schema: &SchemaName) -> String {
        let schema = schema.quoted();
        let Self { name, arguments, returns, about, .. } = self;
        let settings = crate::sql::PLANNER_SETTINGS.map(|(name, value)| format!("SET {name} = {value}")).join(" ");
        let body = self.body();
        format!(
            "DO $drop$
DECLARE
    other regprocedure;
BEGIN
    -- A function with other arguments or another result cannot be replaced.
    FOR other IN
        SELECT p.oid FROM pg_proc p
        WHERE p.pronamespace = '{schema}'::regnamespace AND p.proname = '{name}'
          AND (pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)) IS DISTINCT FROM ('{arguments}', '{returns}')
    LOOP
        EXECUTE format('DROP FUNCTION %s', other);
    END LOOP;
END $drop$;
CREATE OR REPLACE FUNCTION {schema}.\"{name}\"({arguments}) RETURNS {returns}
LANGUAGE plpgsql {settings}
AS $function${body}$function$;
REVOKE ALL ON FUNCTION {schema}.\"{name}\" FROM PUBLIC;
COMMENT ON FUNCTION {schema}.\"{name}\" IS '{about} {}';
",
            signature()
        )
    }
}

/// Creates all of them, in one transaction if it is sent as one. Every role that may update copies may execute them: a
/// function that had to be dropped, or belongs to a new replica, leaves no daemon without the right to claim.
pub(crate) fn create_all(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let functions = all(schema, replicas);
    let names = functions.iter().map(|f| f.name.as_str()).chain([
        IS_COMPLETE,
        register_listed::NAME,
        read::SERVER_TIMELINE,
        append_functions::SEQUENCES_BEHIND,
    ]);
    let names: Vec<_> = names.map(|name| format!("'{name}'")).collect();
    let created: String = functions.iter().map(|f| f.create(schema)).collect();
    let is_complete = is_complete(schema, replicas);
    let append = append_functions::all(schema);
    format!(
        "{created}{is_complete}{append};
DO $grant$
DECLARE
    allowed record;
BEGIN
    FOR allowed IN
        SELECT p.oid::regprocedure AS function,
               CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS role
        FROM pg_class c, aclexplode(c.relacl) a, pg_proc p
        WHERE c.oid = '{schema}.object_copies'::regclass AND a.privilege_type = 'UPDATE' AND a.grantee <> c.relowner
          AND p.pronamespace = c.relnamespace AND p.proname IN ({names})
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', allowed.function, allowed.role);
    END LOOP;
END $grant$;",
        schema = schema.quoted(),
        names = names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_functions_share_a_name_and_all_names_fit() {
        let longest = "x".repeat(31);
        let names = ["fresh", "fresh_b2", "b2", "claim", "claim_b2", &longest].map(|n| ReplicaName::new(n).unwrap());
        let functions = all(&SchemaName::new("copyhold").unwrap(), &names);
        let mut seen = std::collections::HashSet::new();
        for function in &functions {
            assert!(seen.insert(&function.name), "{}", function.name);
            assert!(function.name.len() <= 63, "{}", function.name);
        }
    }
}
