//! Another program's table, as PostgreSQL's catalogue describes it.

use sqlx::{Row as _, postgres::PgRow};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const TABLE: &str = "import::source";
const COLUMNS: &str = "import::columns";
const INDEXES: &str = "import::indexes";
const MAY: &str = "import::rights";
const SIMILAR: &str = "import::tables_with_keys";

/// The kind of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    ForeignTable,
    /// An index, a sequence, a type.
    Other,
}

/// A table of another program, as the catalogue describes it.
#[derive(Debug, Clone)]
pub struct SourceTable {
    pub oid: i64,
    /// With its schema, quoted where that is needed.
    pub name: String,
    /// The name of its schema, unquoted.
    pub schema: String,
    pub kind: TableKind,
    /// Other tables inherit from it, and its indexes lack their rows.
    pub has_heirs: bool,
    /// A policy decides which rows this role sees.
    pub row_security: bool,
    /// This role has USAGE on its schema.
    pub may_use_schema: bool,
    /// Estimated number of rows.
    pub rows: Option<u64>,
    /// Its size on the disk, of all partitions, without indexes.
    pub bytes: i64,
    pub columns: Vec<SourceColumn>,
    /// B-trees whose first column is `object_key`, usable or not.
    pub indexes: Vec<KeyIndex>,
}

#[derive(Debug, Clone)]
pub struct SourceColumn {
    pub name: String,
    /// Quoted where that is needed.
    pub quoted: String,
    /// As PostgreSQL names its type.
    pub of: String,
    pub nullable: bool,
    pub may_read: bool,
}

/// An index whose first column is `object_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyIndex {
    /// Quoted where that is needed.
    pub name: String,
    /// No two rows have the same key.
    pub unique: bool,
    /// It is valid and has all rows.
    pub usable: bool,
    pub compares: KeyComparison,
    /// With its schema, quoted.
    pub collation: String,
    /// In ascending order it begins with NULLs.
    pub nulls_first: bool,
}

/// How an index compares keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyComparison {
    /// By its collation.
    AsText,
    /// By bytes, whatever the collation (`text_pattern_ops`).
    AsPattern,
}

impl KeyComparison {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AsText => "text",
            Self::AsPattern => "pattern",
        }
    }
}

/// Whether the role has the rights that an import needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRights {
    pub role: String,
    pub may: bool,
}

impl SourceTable {
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&SourceColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The index in whose order the table is read: a unique one, if there is one.
    #[must_use]
    pub fn key_index(&self) -> Option<&KeyIndex> {
        let usable = self.indexes.iter().filter(|index| index.usable);
        usable.min_by_key(|index| (!index.unique, index.compares))
    }
}

impl Database {
    /// Finds the table of this name, unquoted or as in SQL; `None`: there is none.
    pub async fn source_table(&self, name: &str) -> Result<Option<SourceTable>, DatabaseError> {
        let Some(oid) = self.find_table(name).await? else { return Ok(None) };
        // The rows of a partitioned table are in its partitions.
        let sql = trusted_sql(format!(
            "-- {TABLE}
WITH leaves AS (
    SELECT p.oid, p.reltuples
      FROM pg_partition_tree($1::oid::regclass) t JOIN pg_class p ON p.oid = t.relid
     WHERE t.isleaf AND p.relkind IN ('r', 'm')
)
SELECT format('%I.%I', n.nspname, c.relname) AS name, n.nspname::text AS schema, c.relkind::text AS kind,
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid) AS has_heirs,
       row_security_active(c.oid) AS row_security, has_schema_privilege(n.oid, 'USAGE') AS may_use_schema,
       (SELECT CASE WHEN bool_and(l.reltuples >= 0) THEN sum(l.reltuples)::bigint END FROM leaves l) AS rows,
       (SELECT coalesce(sum(pg_relation_size(l.oid)), 0)::bigint FROM leaves l) AS bytes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = $1::oid"
        ));
        let row = with_timeout(TABLE, sqlx::query(sql).bind(oid).fetch_optional(&self.pool)).await?;
        let Some(row) = row else { return Ok(None) };
        let (columns, indexes) = (self.source_columns(oid).await?, self.key_indexes(oid).await?);
        table(&row, oid, columns, indexes).map(Some).map_err(DatabaseError::database(TABLE))
    }

    /// Tries the name unquoted first, so that `Photos` need not be quoted twice. One of our own tables is found only if
    /// no other has that name: for a role named like our schema, that schema is the first in the search path.
    async fn find_table(&self, name: &str) -> Result<Option<i64>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {TABLE}
SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (c.relname = $1 AND n.nspname = ANY (current_schemas(false))) OR n.nspname || '.' || c.relname = $1
ORDER BY n.nspname = $2, array_position(current_schemas(false), n.nspname) LIMIT 1"
        ));
        let query = sqlx::query_scalar(sql).bind(name).bind(self.schema().as_str());
        let found = with_timeout(TABLE, query.fetch_optional(&self.pool)).await?;
        if found.is_some() {
            return Ok(found);
        }
        let sql = trusted_sql(format!("-- {TABLE}\nSELECT to_regclass($1)::oid::bigint"));
        match with_timeout(TABLE, sqlx::query_scalar(sql).bind(name).fetch_one(&self.pool)).await {
            // It is no name in SQL, or one in another database.
            Err(error) if error.sqlstate().is_some_and(|code| ["42602", "42601", "0A000"].contains(&&*code)) => {
                Ok(None)
            }
            found => found,
        }
    }

    async fn source_columns(&self, oid: i64) -> Result<Vec<SourceColumn>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {COLUMNS}
SELECT attname::text AS name, quote_ident(attname) AS quoted, format_type(atttypid, NULL) AS of,
       NOT attnotnull AS nullable, has_column_privilege(attrelid, attnum, 'SELECT') AS may_read
FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        ));
        let rows = with_timeout(COLUMNS, sqlx::query(sql).bind(oid).fetch_all(&self.pool)).await?;
        rows.iter().map(column).collect::<Result<_, _>>().map_err(DatabaseError::database(COLUMNS))
    }

    async fn key_indexes(&self, oid: i64) -> Result<Vec<KeyIndex>, DatabaseError> {
        // Bit 0 of indoption: the index goes down; bit 1: it begins with NULLs.
        let sql = trusted_sql(format!(
            "-- {INDEXES}
SELECT quote_ident(c.relname) AS name, i.indisunique AND i.indimmediate AND i.indnkeyatts = 1 AS is_unique,
       i.indisvalid AND i.indpred IS NULL AS usable, f.opfname = 'text_pattern_ops' AS by_pattern,
       format('%I.%I', n.nspname, l.collname) AS collation,
       ((i.indoption[0] & 1) = 0) = ((i.indoption[0] & 2) <> 0) AS nulls_first
FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = 'object_key'
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
JOIN pg_opclass o ON o.oid = i.indclass[0]
JOIN pg_opfamily f ON f.oid = o.opcfamily AND f.opfname IN ('text_ops', 'text_pattern_ops')
JOIN pg_collation l ON l.oid = i.indcollation[0]
JOIN pg_namespace n ON n.oid = l.collnamespace
WHERE i.indrelid = $1::oid ORDER BY c.relname"
        ));
        let rows = with_timeout(INDEXES, sqlx::query(sql).bind(oid).fetch_all(&self.pool)).await?;
        rows.iter().map(index).collect::<Result<_, _>>().map_err(DatabaseError::database(INDEXES))
    }

    /// Returns whether this role has the rights on our own tables that an import needs.
    pub async fn import_rights(&self) -> Result<ImportRights, DatabaseError> {
        let schema = self.schema().quoted();
        let sql = trusted_sql(format!(
            "-- {MAY}
SELECT current_user::text, has_table_privilege('{schema}.object_copies', 'INSERT')
   AND has_table_privilege('{schema}.imports', 'SELECT') AND has_table_privilege('{schema}.imports', 'INSERT')
   AND has_table_privilege('{schema}.imports', 'UPDATE') AND has_sequence_privilege('{schema}.generations', 'USAGE')"
        ));
        let (role, may) = with_timeout(MAY, sqlx::query_as(sql).fetch_one(&self.pool)).await?;
        Ok(ImportRights { role, may })
    }

    /// Other tables with a column `object_key`, with their schemas, as suggestions for a misspelt name.
    pub async fn tables_with_keys(&self) -> Result<Vec<String>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {SIMILAR}
SELECT n.nspname || '.' || c.relname FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname <> $1
WHERE a.attname = 'object_key' AND NOT a.attisdropped ORDER BY 1 LIMIT 100"
        ));
        with_timeout(SIMILAR, sqlx::query_scalar(sql).bind(self.schema().as_str()).fetch_all(&self.pool)).await
    }
}

fn table(
    row: &PgRow,
    oid: i64,
    columns: Vec<SourceColumn>,
    indexes: Vec<KeyIndex>,
) -> Result<SourceTable, sqlx::Error> {
    let kind = match row.try_get::<&str, _>("kind")? {
        "r" => TableKind::Table,
        "p" => TableKind::Partitioned,
        "v" => TableKind::View,
        "m" => TableKind::MaterializedView,
        "f" => TableKind::ForeignTable,
        _ => TableKind::Other,
    };
    let rows: Option<i64> = row.try_get("rows")?;
    Ok(SourceTable {
        oid,
        name: row.try_get("name")?,
        schema: row.try_get("schema")?,
        kind,
        has_heirs: row.try_get("has_heirs")?,
        row_security: row.try_get("row_security")?,
        may_use_schema: row.try_get("may_use_schema")?,
        rows: rows.and_then(|rows| u64::try_from(rows).ok()),
        bytes: row.try_get("bytes")?,
        columns,
        indexes,
    })
}

fn column(row: &PgRow) -> Result<SourceColumn, sqlx::Error> {
    Ok(SourceColumn {
        name: row.try_get("name")?,
        quoted: row.try_get("quoted")?,
        of: row.try_get("of")?,
        nullable: row.try_get("nullable")?,
        may_read: row.try_get("may_read")?,
    })
}

fn index(row: &PgRow) -> Result<KeyIndex, sqlx::Error> {
    Ok(KeyIndex {
        name: row.try_get("name")?,
        unique: row.try_get("is_unique")?,
        usable: row.try_get("usable")?,
        compares: if row.try_get("by_pattern")? { KeyComparison::AsPattern } else { KeyComparison::AsText },
        collation: row.try_get("collation")?,
        nulls_first: row.try_get("nulls_first")?,
    })
}
