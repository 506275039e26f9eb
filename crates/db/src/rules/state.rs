//! Reads the rules in force, and how far they have been applied.

use copyhold_core::domain::{ObjectKey, ReplicaName, Rule};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const NAME: &str = "rules::state";

/// The rules in force, and how far they have been applied to older objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesState {
    pub version: i64,
    /// The version that has been applied to all objects.
    pub applied: i64,
    /// The version that is being applied, and the last key that it has been applied to.
    pub applying: Option<(i64, Option<ObjectKey>)>,
    /// Replicas that were added while rules were in force and that none of them names: see
    /// [`ApplyScope`](super::ApplyScope).
    pub newcomers: Vec<ReplicaName>,
    pub rules: Vec<Rule>,
}

impl RulesState {
    /// The state of a schema that has none yet.
    pub(crate) fn none() -> Self {
        Self { version: 0, applied: 0, applying: None, newcomers: Vec::new(), rules: Vec::new() }
    }

    /// Objects that were registered before may be wanted elsewhere than the rules say.
    #[must_use]
    pub fn is_unapplied(&self) -> bool {
        self.applied < self.version
    }
}

/// Equal for equal rules.
#[must_use]
pub fn fingerprint(rules: &[Rule]) -> String {
    let text: String = rules.iter().map(ToString::to_string).collect();
    format!("{:016x}", crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, text.as_bytes()))
}

type Row = (i64, i64, Option<i64>, Option<String>, Vec<String>);
type RuleRow = (String, Option<i64>, Option<i64>, Vec<String>);

impl Database {
    /// Returns the rules in force.
    pub async fn rules_state(&self) -> Result<RulesState, DatabaseError> {
        let schema = self.schema.quoted();
        let state = trusted_sql(format!(
            "-- {NAME}
SELECT version, applied, applying, applied_through, newcomers FROM {schema}.rules_state"
        ));
        let rules = trusted_sql(format!(
            "-- {NAME}\nSELECT prefix, min_bytes, max_bytes, replicas FROM {schema}.rules ORDER BY position"
        ));
        let state: Row = with_timeout(NAME, sqlx::query_as(state).fetch_one(&self.pool)).await?;
        let rules: Vec<RuleRow> = with_timeout(NAME, sqlx::query_as(rules).fetch_all(&self.pool)).await?;
        let wrong = |what: String| DatabaseError::Inconsistent { statement: NAME, what };
        let names = |names: Vec<String>| {
            let name = |n: String| ReplicaName::new(&n).map_err(|e| wrong(format!("replica \"{n}\": {e}")));
            names.into_iter().map(name).collect::<Result<Vec<_>, _>>()
        };
        let (version, applied, applying, through, newcomers) = state;
        let through = through.map(ObjectKey::new).transpose().map_err(|e| wrong(format!("a key: {e}")))?;
        let rule = |(prefix, min, max, replicas): RuleRow| {
            let (min_bytes, max_bytes) = (min.map(i64::cast_unsigned), max.map(i64::cast_unsigned));
            Ok::<_, DatabaseError>(Rule { prefix, min_bytes, max_bytes, replicas: names(replicas)? })
        };
        Ok(RulesState {
            version,
            applied,
            applying: applying.map(|version| (version, through)),
            newcomers: names(newcomers)?,
            rules: rules.into_iter().map(rule).collect::<Result<_, _>>()?,
        })
    }
}
