//! Shows what `copyhold migrate` would do. It changes nothing.

use copyhold_core::domain::ReplicaName;
use sqlx::{Connection as _, PgConnection};

use super::{
    migrate::MigrateError,
    replica_columns::{IndexState, has_columns, standing},
    version::{SCHEMA_VERSION, SchemaFit},
};
use crate::{
    connections::pools::direct, error::DatabaseError, handle::Database, rules::RulesState, settings::SchemaPlan,
    sql::trusted_sql,
};

const NAME: &str = "schema::preview";

/// What a migration would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationPreview {
    /// 0: there is no schema.
    pub from_version: i32,
    pub columns: Vec<ReplicaName>,
    pub indexes: Vec<String>,
    /// The rules in force, where the configuration has others.
    pub rules: Option<RulesState>,
}

impl MigrationPreview {
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.from_version >= SCHEMA_VERSION
            && self.columns.is_empty()
            && self.indexes.is_empty()
            && self.rules.is_none()
    }
}

/// Determines what `migrate` would do with this configuration.
pub async fn preview(plan: impl Into<SchemaPlan>, database: &Database) -> Result<MigrationPreview, MigrateError> {
    let plan = &plan.into();
    let from_version = match database.schema_fit().await? {
        SchemaFit::Absent(_) => 0,
        SchemaFit::TooOld { found } => {
            super::migrate::upgradable(&plan.database.schema, found)?;
            found
        }
        unfit @ SchemaFit::TooNew { .. } => return Err(MigrateError::Fit(unfit)),
        SchemaFit::Fits => {
            let sql = format!("-- {NAME}\nSELECT version FROM {}.schema_version", database.schema().quoted());
            let version = sqlx::query_scalar(trusted_sql(sql)).fetch_one(&database.pool);
            version.await.map_err(DatabaseError::database(NAME))?
        }
    };
    let mut foreseen = MigrationPreview { from_version, columns: Vec::new(), indexes: Vec::new(), rules: None };
    let mut connection = direct(&plan.database).await.map_err(DatabaseError::database(NAME))?;
    look_at_replicas(&mut connection, plan, &mut foreseen).await?;
    // A failure here changes nothing.
    let _ = connection.close().await;
    let in_force = if from_version > 0 { database.rules_state().await? } else { RulesState::none() };
    if in_force.rules != plan.rules {
        foreseen.rules = Some(in_force);
    }
    Ok(foreseen)
}

async fn look_at_replicas(
    connection: &mut PgConnection,
    plan: &SchemaPlan,
    foreseen: &mut MigrationPreview,
) -> Result<(), DatabaseError> {
    let schema = &plan.database.schema;
    for replica in plan.names() {
        if !has_columns(connection, schema, replica).await? {
            foreseen.columns.push(replica.clone());
        }
        let wrong =
            standing(connection, schema, replica).await?.into_iter().filter(|(_, how)| *how != IndexState::Good);
        foreseen.indexes.extend(wrong.map(|(name, _)| name));
    }
    Ok(())
}
