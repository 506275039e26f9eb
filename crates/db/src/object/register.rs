//! Registers objects through the SQL function that applications call.

use copyhold_core::domain::{Generation, ObjectKey, ReplicaName};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const NAME: &str = "object::register";

/// How many keys were registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterResult {
    pub objects: u64,
}

/// An object that is at the primary, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewObject {
    pub key: ObjectKey,
    /// `None`: unknown.
    pub size_bytes: Option<u64>,
    /// The replicas that are to have a copy, besides the primary. `None`: those of the first rule that fits; without
    /// one all, or for a known key those that it had.
    pub wanted: Option<Vec<ReplicaName>>,
}

impl Database {
    /// Registers keys of unknown size, or registers them again, as an application would; `wanted` as in
    /// [`NewObject::wanted`].
    pub async fn register(
        &self,
        keys: &[ObjectKey],
        wanted: Option<&[ReplicaName]>,
    ) -> Result<RegisterResult, DatabaseError> {
        let wanted = wanted.map(<[_]>::to_vec);
        let object = |key: &ObjectKey| NewObject { key: key.clone(), size_bytes: None, wanted: wanted.clone() };
        let objects: Vec<_> = keys.iter().map(object).collect();
        Ok(RegisterResult { objects: self.register_objects(&objects).await?.len() as u64 })
    }

    /// Registers objects, all or none, in one statement. Returns their generations in the order given; of a key that
    /// occurs twice the last entry counts.
    pub async fn register_objects(&self, objects: &[NewObject]) -> Result<Vec<Generation>, DatabaseError> {
        let sql = trusted_sql(format!("-- {NAME}\nSELECT {}.register_each($1, $2, $3)", self.schema.quoted()));
        // Replica names need no quotes in an array's text.
        let wanted = |object: &NewObject| {
            let names: Vec<_> = object.wanted.as_ref()?.iter().map(ReplicaName::as_str).collect();
            Some(format!("{{{}}}", names.join(",")))
        };
        let query = sqlx::query_scalar(sql)
            .bind(objects.iter().map(|o| o.key.as_str()).collect::<Vec<_>>())
            .bind(objects.iter().map(|o| o.size_bytes.map(u64::cast_signed)).collect::<Vec<_>>())
            .bind(objects.iter().map(wanted).collect::<Vec<_>>());
        let generations: Vec<i64> = with_timeout(NAME, query.fetch_one(&self.pool)).await?;
        Ok(generations.into_iter().map(Generation).collect())
    }
}
