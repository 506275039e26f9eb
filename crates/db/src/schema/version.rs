use copyhold_core::domain::SchemaName;

use crate::{
    connections::Connections,
    error::{DatabaseError, with_timeout},
    sql::trusted_sql,
};

/// The newest migration that this program was built with.
pub const SCHEMA_VERSION: i32 = 8;
/// The oldest schema that this program can work with.
const OLDEST_SCHEMA: i32 = 8;

/// Whether this program and the schema in the database go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaFit {
    #[error("the schema fits")]
    Fits,
    #[error("the schema \"{0}\" is not there yet; run `copyhold migrate` (or `copyhold run --migrate`)")]
    Absent(SchemaName),
    #[error("the schema is at version {found}, this copyhold needs {OLDEST_SCHEMA} or later; run `copyhold migrate`")]
    TooOld { found: i32 },
    #[error(
        "the schema is at version {found} and asks for a copyhold of schema version {oldest} or later, \
         this one has {SCHEMA_VERSION}; run a newer copyhold"
    )]
    TooNew { found: i32, oldest: i32 },
}

impl SchemaFit {
    /// Asks the database.
    pub async fn of(pool: &Connections, schema: &SchemaName) -> Result<Self, DatabaseError> {
        let name = format!("{}.schema_version", schema.quoted());
        let known: bool = with_timeout(
            "schema::version",
            sqlx::query_scalar("-- schema::version\nSELECT to_regclass($1) IS NOT NULL").bind(&name).fetch_one(pool),
        )
        .await?;
        if !known {
            return Ok(Self::Absent(schema.clone()));
        }
        let sql = trusted_sql(format!("-- schema::version\nSELECT version, oldest FROM {name}"));
        let (version, oldest) = with_timeout("schema::version", sqlx::query_as(sql).fetch_one(pool)).await?;
        Ok(Self::judge(version, oldest))
    }

    fn judge(version: i32, oldest: i32) -> Self {
        if version < OLDEST_SCHEMA {
            Self::TooOld { found: version }
        } else if oldest > SCHEMA_VERSION {
            Self::TooNew { found: version, oldest }
        } else {
            Self::Fits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_schema_that_still_allows_this_program_is_no_outage() {
        assert_eq!(SchemaFit::judge(SCHEMA_VERSION + 5, SCHEMA_VERSION), SchemaFit::Fits);
        let (found, oldest) = (SCHEMA_VERSION + 5, SCHEMA_VERSION + 1);
        assert_eq!(SchemaFit::judge(found, oldest), SchemaFit::TooNew { found, oldest });
        assert_eq!(SchemaFit::judge(OLDEST_SCHEMA - 1, 0), SchemaFit::TooOld { found: OLDEST_SCHEMA - 1 });
    }
}
