//! Compares a page of objects with the rules in force, and writes what differs.
//! Leased rows are not skipped. At the end of an attempt the holder writes only about the copies that it tried. Copies
//! that become wanted meanwhile are in the lane when the row is released. A tried copy that is no longer wanted is
//! recorded if it was made, and stays unwanted if not (`lease::complete`). Waiting for leases would mean waiting for
//! the largest objects.

use copyhold_core::domain::{ObjectKey, ReplicaName};
use sqlx::{Row as _, postgres::PgRow};

use super::{
    statement::{NAME, Statement},
    types::{ApplyScope, FIGURES, ObjectSelection, ReplicaChanges, RuleChanges, RulesPage, WalkPosition},
};
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

impl Database {
    /// Applies this version of the rules to some objects, in one transaction of one statement. A stored position is
    /// moved on with it.
    pub(super) async fn apply_page(
        &self,
        version: i64,
        which: ObjectSelection<'_>,
        place: WalkPosition<'_>,
        scope: &ApplyScope,
    ) -> Result<RulesPage, DatabaseError> {
        let (after, these) = match which {
            ObjectSelection::After(after) => (after.map_or("", ObjectKey::as_str), Vec::new()),
            ObjectSelection::These(keys) => ("", keys.iter().map(ObjectKey::as_str).collect()),
        };
        let expected = match place {
            WalkPosition::MovedFrom(from) => from.map(ObjectKey::as_str),
            WalkPosition::Unkept | WalkPosition::Stays => None,
        };
        let names = |replicas: &[ReplicaName]| replicas.iter().map(ToString::to_string).collect::<Vec<_>>();
        let query = sqlx::query(trusted_sql(Statement::of(self, which, place, scope).text()))
            .bind(version)
            .bind(after)
            .bind(these)
            .bind(expected)
            .bind(names(&scope.adding))
            .bind(names(&scope.dropping));
        let judge = async {
            // A crash would undo the changes together with the stored position.
            let mut transaction = self.begin_planned(&[("synchronous_commit", "off")]).await?;
            let row = query.fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(row)
        };
        let row = with_timeout(NAME, Box::pin(judge)).await?;
        RulesPage::parse(&row).map_err(DatabaseError::database(NAME))
    }
}

impl RulesPage {
    fn parse(row: &PgRow) -> Result<Self, sqlx::Error> {
        if !row.try_get::<bool, _>("found")? {
            return Ok(RulesPage::Elsewhere);
        }
        let key = |key: String| ObjectKey::new(key).map_err(|e| sqlx::Error::Decode(e.into()));
        let number = |name: &str| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(name)?.unsigned_abs());
        let figures: Vec<i64> = row.try_get("figures")?;
        let change = |figures: &[i64]| {
            let [wanted, wanted_bytes, gets, puts, wanted_there, unwanted, unwanted_bytes, unwanted_there] =
                <[i64; FIGURES]>::try_from(figures).ok()?.map(i64::unsigned_abs);
            Some(ReplicaChanges {
                wanted,
                wanted_bytes,
                gets,
                puts,
                wanted_there,
                unwanted,
                unwanted_bytes,
                unwanted_there,
            })
        };
        Ok(RulesPage::Done {
            judged: RuleChanges {
                looked: number("looked")?,
                undecided: number("undecided")?,
                changes: figures.chunks_exact(FIGURES).filter_map(change).collect(),
            },
            last: row.try_get::<Option<String>, _>("last")?.map(key).transpose()?,
            through: row.try_get::<Option<String>, _>("through")?.map(key).transpose()?,
            skipped: row.try_get::<Vec<String>, _>("skipped")?.into_iter().map(key).collect::<Result<_, _>>()?,
        })
    }
}
