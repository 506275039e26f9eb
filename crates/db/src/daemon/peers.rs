//! What each daemon publishes of its configuration. It compares nothing.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    pin::Pin,
    rules::fingerprint,
    settings::SchemaPlan,
    sql::trusted_sql,
};

/// The part of a daemon's configuration that all daemons have to agree on. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedConfig {
    pub primary: String,
    pub replicas: BTreeMap<String, Pin>,
    /// The rules' [`fingerprint`]; `None`: a version without rules.
    #[serde(default)]
    pub rules: Option<String>,
}

impl PublishedConfig {
    #[must_use]
    pub fn of(plan: impl Into<SchemaPlan>) -> Self {
        let plan = plan.into();
        let replicas = plan.replicas.into_iter().map(|(name, pin)| (name.to_string(), pin)).collect();
        Self { primary: plan.primary.to_string(), replicas, rules: Some(fingerprint(&plan.rules)) }
    }

    pub(crate) fn json(&self) -> String {
        // Cannot fail: strings, and maps whose keys are strings.
        serde_json::to_string(self).expect("a configuration as JSON")
    }

    /// Equal for equal settings and lease timeouts.
    pub(crate) fn fingerprint(&self, lease_timeout: Duration) -> String {
        let text = format!("{} {}", self.json(), lease_timeout.as_micros());
        format!("{:016x}", crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, text.as_bytes()))
    }
}

/// A living daemon, as it has described itself.
#[derive(Debug, Clone)]
pub struct Peer {
    pub id: i32,
    pub lease_timeout: Duration,
    pub config: PublishedConfig,
}

impl Database {
    /// Returns the living daemons as they have described themselves. Daemons of versions that publish nothing are left
    /// out.
    pub async fn peers(&self) -> Result<Vec<Peer>, DatabaseError> {
        let statement = "daemon::peers";
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {statement}
SELECT id, lease_timeout_us, config::text FROM {schema}.daemons
WHERE alive_until > {schema}.now_utc_micro_seconds() AND config IS NOT NULL ORDER BY id"
        ));
        let rows: Vec<(i32, i64, String)> = with_timeout(statement, sqlx::query_as(sql).fetch_all(&self.pool)).await?;
        // A description by a later version in an unknown format is left out as well.
        let peer = |(id, lease, config): (i32, i64, String)| {
            let config = serde_json::from_str(&config).ok()?;
            Some(Peer { id, lease_timeout: Duration::from_micros(lease.unsigned_abs()), config })
        };
        Ok(rows.into_iter().filter_map(peer).collect())
    }
}
