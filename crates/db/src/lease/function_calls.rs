//! The names of the SQL functions, and the statements by which a daemon calls them.

use copyhold_core::domain::{ReplicaName, SchemaName};
use sqlx::SqlStr;

use super::claim;
use crate::sql::trusted_sql;

pub(crate) const IS_COMPLETE: &str = "is_complete";
pub(crate) const NEXT_DUE: &str = "next_due";
pub(crate) const UNCLAIM: &str = "unclaim";
pub(crate) const BEGIN_GENERATION: &str = "begin_generation";

pub(crate) fn claim_name(lane: &ReplicaName) -> String {
    format!("claim_{lane}")
}

/// Not `claim_fresh_…`: the claim of a replica named `fresh_…` has that name.
pub(crate) fn fresh_claim_name(lane: &ReplicaName) -> String {
    format!("fresh_claim_{lane}")
}

pub(crate) fn seek_name(lane: &ReplicaName) -> String {
    format!("seek_{lane}")
}

/// The call of a lane's claim. All calls name their columns, so that a function with more columns still works.
pub(crate) fn call_claim(schema: &SchemaName, lane: &ReplicaName) -> SqlStr {
    call(schema, "lease::claim", &claim_columns(), &claim_name(lane), "$1, $2, $3, $4, $5")
}

pub(crate) fn call_fresh_claim(schema: &SchemaName, lane: &ReplicaName) -> SqlStr {
    call(schema, "lease::claim_fresh", &claim_columns(), &fresh_claim_name(lane), "$1, $2, $3")
}

pub(crate) fn call_seek(schema: &SchemaName, lane: &ReplicaName) -> SqlStr {
    call(schema, "lease::peek", "object_key, lane_due, id, recorded", &seek_name(lane), "$1, $2, $3")
}

pub(crate) fn call_next_due(schema: &SchemaName) -> SqlStr {
    call(schema, "lease::next_due", "replica, wait_us", NEXT_DUE, "")
}

pub(crate) fn call_unclaim(schema: &SchemaName) -> SqlStr {
    call(schema, "lease::unclaim", "object_key", UNCLAIM, "$1")
}

pub(crate) fn call_begin_generation(schema: &SchemaName) -> SqlStr {
    call(
        schema,
        "lease::begin_generation",
        "key, under, answer",
        BEGIN_GENERATION,
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11",
    )
}

fn claim_columns() -> String {
    claim::statements::COLUMNS.map(|(name, _)| name).join(", ")
}

fn call(schema: &SchemaName, statement: &str, columns: &str, name: &str, arguments: &str) -> SqlStr {
    trusted_sql(format!("-- {statement}\nSELECT {columns} FROM {}.\"{name}\"({arguments})", schema.quoted()))
}
