//! Checks that the statements which find work use their indexes. It changes nothing.

use std::{collections::HashMap, panic::AssertUnwindSafe};

use copyhold_core::domain::ReplicaName;
use futures::FutureExt as _;
use serde::Serialize;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::{
    functions::{self, Function},
    replica_columns,
};
use crate::{
    error::DatabaseError,
    handle::{Database, HotStatement},
    sql::{PLANNER_SETTINGS, trusted_sql},
};

const NAME: &str = "schema::plan_check";
/// Below this size, reading the whole table is a good plan for finding rows by their keys.
const SMALL_BYTES: i64 = 8 << 20;

/// A defect in the way that work is found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanFlaw {
    #[error("the index {0} is missing")]
    NoIndex(String),
    #[error("the index {0} is not valid: an earlier migration was interrupted, or one is at work")]
    HalfBuilt(String),
    #[error("the index {name} is not the one that claims need: {found}")]
    OtherIndex { name: String, found: String },
    #[error("the function {0} is missing")]
    NoFunction(String),
    #[error("the function {0} is not the one that this version makes")]
    OtherFunction(String),
    #[error("the function {name} has lost its setting {setting}")]
    Unset { name: String, setting: String },
    #[error("this role may not call the function {0}")]
    MayNotCall(String),
    #[error("{name} would {does}")]
    BadPlan { name: String, does: String },
}

impl PlanFlaw {
    /// The remedy.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::MayNotCall(_) => "run deploy/roles.sql, as docs/postgresql.md says",
            Self::BadPlan { .. } => "run `copyhold migrate`, then ANALYZE the table object_copies",
            Self::NoIndex(_)
            | Self::HalfBuilt(_)
            | Self::OtherIndex { .. }
            | Self::NoFunction(_)
            | Self::OtherFunction(_)
            | Self::Unset { .. } => "run `copyhold migrate`",
        }
    }

    /// Claims cannot run at all.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::NoFunction(_))
    }
}

/// The plans of one lane, or of the statements that all lanes share.
#[derive(Debug, Clone, Serialize)]
pub struct PlanCheck {
    /// `None`: the shared statements.
    pub lane: Option<String>,
    #[serde(serialize_with = "sentences")]
    pub flaws: Vec<PlanFlaw>,
    /// Name and plan of each statement, as PostgreSQL writes it.
    pub plans: Vec<(String, Vec<String>)>,
}

fn sentences<S: serde::Serializer>(flaws: &[PlanFlaw], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(flaws.iter().map(ToString::to_string))
}

/// A function as the database has it.
struct FoundFunction {
    arguments: String,
    returns: String,
    body: String,
    settings: Vec<String>,
    comment: String,
    callable: bool,
}

type FoundRow = (String, String, String, String, Vec<String>, String, bool);

impl Database {
    /// Checks whether the lanes of this configuration are as `migrate` creates them, and how PostgreSQL would run the
    /// statements that find work. First the shared ones, then lane by lane.
    pub async fn plans(&self) -> Result<Vec<PlanCheck>, DatabaseError> {
        // A malformed answer ends this check, not the daemon.
        let looked = AssertUnwindSafe(self.look_at_plans()).catch_unwind().await;
        looked.unwrap_or_else(|_| {
            let broken = sqlx::Error::Protocol("a message from PostgreSQL is broken".to_owned());
            Err(DatabaseError::database(NAME)(broken))
        })
    }

    async fn look_at_plans(&self) -> Result<Vec<PlanCheck>, DatabaseError> {
        let mut connection = self.pool.acquire().await.map_err(DatabaseError::database(NAME))?;
        let known: Vec<_> = self.replica_rows().await?.into_iter().map(|row| row.name).collect();
        let found = self.found_functions(&mut connection).await?;
        let indexes = self.found_indexes(&mut connection).await?;
        let (schema, mut all) = (&self.schema, Vec::new());

        let mut shared = PlanCheck { lane: None, flaws: Vec::new(), plans: Vec::new() };
        for function in functions::of_all_lanes(schema, &known) {
            shared.look_at(&mut connection, &function, found.get(&function.name)).await?;
        }
        for hot in self.statements().into_iter().filter(|hot| !hot.by_function) {
            shared.explain(&mut connection, &hot, &[]).await?;
        }
        if self.table_bytes(&mut connection).await? < SMALL_BYTES {
            shared.flaws.retain(|flaw| !matches!(flaw, PlanFlaw::BadPlan { .. }));
        }
        all.push(shared);
        for lane in &self.replicas {
            let mut planned = PlanCheck { lane: Some(lane.to_string()), flaws: Vec::new(), plans: Vec::new() };
            planned.flaws.extend(index_flaw(lane, &indexes));
            for function in functions::of_lane(schema, &known, lane) {
                planned.look_at(&mut connection, &function, found.get(&function.name)).await?;
            }
            all.push(planned);
        }
        connection.give_back();
        Ok(all)
    }

    async fn found_functions(
        &self,
        connection: &mut PgConnection,
    ) -> Result<HashMap<String, FoundFunction>, DatabaseError> {
        let sql = "-- schema::plan_check
SELECT p.proname::text, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.prosrc,
       coalesce(p.proconfig, '{}'), coalesce(obj_description(p.oid, 'pg_proc'), ''),
       has_function_privilege(p.oid, 'EXECUTE')
FROM pg_proc p WHERE p.pronamespace = to_regnamespace($1) AND p.prokind = 'f'";
        let query = sqlx::query_as(sql).bind(self.schema.quoted());
        let rows: Vec<FoundRow> = query.fetch_all(connection).await.map_err(DatabaseError::database(NAME))?;
        let found = |(name, arguments, returns, body, settings, comment, callable)| {
            (name, FoundFunction { arguments, returns, body, settings, comment, callable })
        };
        Ok(rows.into_iter().map(found).collect())
    }

    async fn table_bytes(&self, connection: &mut PgConnection) -> Result<i64, DatabaseError> {
        let query = sqlx::query_scalar("-- schema::plan_check\nSELECT pg_relation_size(to_regclass($1))");
        let query = query.bind(format!("{}.object_copies", self.schema.quoted()));
        query.fetch_one(connection).await.map_err(DatabaseError::database(NAME))
    }

    /// Name, whether it is valid, definition.
    async fn found_indexes(&self, connection: &mut PgConnection) -> Result<Vec<(String, bool, String)>, DatabaseError> {
        let sql = "-- schema::plan_check
SELECT c.relname::text, i.indisvalid, pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass($1)";
        let query = sqlx::query_as(sql).bind(format!("{}.object_copies", self.schema.quoted()));
        query.fetch_all(connection).await.map_err(DatabaseError::database(NAME))
    }
}

fn index_flaw(lane: &ReplicaName, indexes: &[(String, bool, String)]) -> Option<PlanFlaw> {
    let name = replica_columns::lane_index(lane);
    let Some((_, valid, definition)) = indexes.iter().find(|(found, ..)| *found == name) else {
        return Some(PlanFlaw::NoIndex(name));
    };
    if !replica_columns::is_defined_as(definition, &replica_columns::lane_definition(lane)) {
        return Some(PlanFlaw::OtherIndex { name, found: definition.clone() });
    }
    (!valid).then_some(PlanFlaw::HalfBuilt(name))
}

impl PlanCheck {
    /// Compares a function with what this version creates, and explains its statement under its settings.
    async fn look_at(
        &mut self,
        connection: &mut PgConnection,
        wanted: &Function,
        found: Option<&FoundFunction>,
    ) -> Result<(), DatabaseError> {
        let name = &wanted.name;
        let Some(found) = found else {
            self.flaws.push(PlanFlaw::NoFunction(name.clone()));
            return Ok(());
        };
        let ours = found.comment.ends_with(&functions::signature());
        let same =
            found.arguments == wanted.arguments && found.returns == wanted.returns && found.body == wanted.body();
        // In a rolling upgrade another version may have created it.
        if ours && !same {
            self.flaws.push(PlanFlaw::OtherFunction(name.clone()));
        }
        for (setting, value) in PLANNER_SETTINGS {
            let setting = format!("{setting}={value}");
            if ours && !found.settings.contains(&setting) {
                self.flaws.push(PlanFlaw::Unset { name: name.clone(), setting });
            }
        }
        if !found.callable {
            self.flaws.push(PlanFlaw::MayNotCall(name.clone()));
        }
        let hot = HotStatement { name: name.clone(), sql: wanted.statement.clone(), by_function: true };
        self.explain(connection, &hot, &found.settings).await
    }

    /// In a transaction that is rolled back, so that it leaves nothing behind, also where a pooler lends the session.
    async fn explain(
        &mut self,
        connection: &mut PgConnection,
        hot: &HotStatement,
        settings: &[String],
    ) -> Result<(), DatabaseError> {
        let error = DatabaseError::database(NAME);
        let explained = explained(connection, hot, settings).await.map_err(error)?;
        let (json, text) = explained;
        let plan: Value = serde_json::from_str(&json)
            .map_err(|e| DatabaseError::Inconsistent { statement: NAME, what: format!("a plan: {e}") })?;
        for does in wrongs(&plan[0]["Plan"], self.lane.as_deref()) {
            self.flaws.push(PlanFlaw::BadPlan { name: hot.name.clone(), does });
        }
        self.plans.push((hot.name.clone(), text));
        Ok(())
    }
}

async fn explained(
    connection: &mut PgConnection,
    hot: &HotStatement,
    settings: &[String],
) -> Result<(String, Vec<String>), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    for (setting, value) in settings.iter().filter_map(|setting| setting.split_once('=')) {
        let query = sqlx::query("-- schema::plan_check\nSELECT set_config($1, $2, true)").bind(setting).bind(value);
        query.execute(&mut *transaction).await?;
    }
    // The generic plan, whatever the values are. Prepared statements outlive a transaction: the name is unique, and the
    // statement is deallocated at the end.
    let name = format!("copyhold_plan_{:016x}", rand::random::<u64>());
    let values = vec!["NULL"; parameters(&hot.sql)].join(", ");
    let values = if values.is_empty() { values } else { format!("({values})") };
    let prepare = format!("SET LOCAL plan_cache_mode = force_generic_plan; PREPARE {name} AS {}", hot.sql);
    sqlx::raw_sql(trusted_sql(prepare)).execute(&mut *transaction).await?;
    let explain = |options: &str| sqlx::raw_sql(trusted_sql(format!("EXPLAIN ({options}) EXECUTE {name}{values}")));
    let json = explain("FORMAT JSON").fetch_one(&mut *transaction).await?.try_get_unchecked(0)?;
    let lines = explain("COSTS OFF").fetch_all(&mut *transaction).await?;
    let text = lines.iter().map(|line| line.try_get_unchecked(0)).collect::<Result<_, _>>()?;
    sqlx::raw_sql(trusted_sql(format!("DEALLOCATE {name}"))).execute(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok((json, text))
}

/// The highest `$n` in it.
fn parameters(sql: &str) -> usize {
    let numbers = sql.split('$').skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    numbers.max().unwrap_or(0)
}

/// The defects of a plan; for a lane's statement also a missing index scan.
fn wrongs(plan: &Value, lane: Option<&str>) -> Vec<String> {
    let mut nodes = Vec::new();
    flatten(plan, &mut nodes);
    let is = |node: &Value, key: &str, value: &str| node[key].as_str() == Some(value);
    let reads_all = |node: &&&Value| is(node, "Node Type", "Seq Scan") && is(node, "Relation Name", "object_copies");
    let mut wrongs = Vec::new();
    if nodes.iter().any(|node| reads_all(&node)) {
        wrongs.push("read the whole table".to_owned());
    }
    let Some(lane) = lane else { return wrongs };
    if nodes.iter().any(|node| node["Node Type"].as_str().is_some_and(|kind| kind.ends_with("Sort"))) {
        wrongs.push("sort the whole backlog".to_owned());
    }
    let index = format!("object_copies_{lane}_lane");
    let by_lane = nodes.iter().find(|n| is(n, "Node Type", "Index Scan") && is(n, "Index Name", &index));
    let bounded = by_lane
        .and_then(|node| node["Index Cond"].as_str())
        .is_some_and(|condition| condition.contains(&format!("due_{lane}")) && condition.contains("<="));
    if !bounded {
        wrongs.push(format!("not go by the index {index} up to the present time"));
    }
    wrongs
}

fn flatten<'a>(node: &'a Value, into: &mut Vec<&'a Value>) {
    into.push(node);
    for child in node["Plans"].as_array().into_iter().flatten() {
        flatten(child, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_sorts_or_reads_everything_is_called_wrong() {
        let lane = "scw";
        let scan = |condition: &str| {
            serde_json::json!({ "Node Type": "Index Scan", "Index Name": "object_copies_scw_lane",
                                "Index Cond": condition })
        };
        let good = serde_json::json!({ "Node Type": "ModifyTable", "Plans": [
            { "Node Type": "Limit", "Plans": [scan("((due_scw < 9) AND (due_scw <= now()))")] }] });
        assert!(wrongs(&good, Some(lane)).is_empty());
        let sorts = serde_json::json!({ "Node Type": "Sort", "Plans": [
            { "Node Type": "Seq Scan", "Relation Name": "object_copies" }] });
        assert_eq!(wrongs(&sorts, Some(lane)).len(), 3);
        assert_eq!(wrongs(&scan("(due_scw < 9)"), Some(lane)).len(), 1);
        assert_eq!(wrongs(&sorts, None), ["read the whole table"]);
    }

    #[test]
    fn parameters_are_counted_by_the_highest_number() {
        assert_eq!(parameters("SELECT $1, $12::text, $3"), 12);
        assert_eq!(parameters("SELECT 1"), 0);
    }
}
