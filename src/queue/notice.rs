use super::{Queue, QueueError, error::limited};
use crate::domain::SchemaName;

/// What daemons are told on their one channel. A hint: whoever misses it looks by itself within seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// There may be work.
    Work,
    /// The table `replicas` has changed.
    Replicas,
}

impl Notice {
    /// The channel to listen on.
    #[must_use]
    pub fn channel(schema: &SchemaName) -> String {
        format!("{schema}_work")
    }

    /// What a notice says; anything unknown is taken for work, which costs one look.
    #[must_use]
    pub fn parse(payload: &str) -> Self {
        if payload == Self::Replicas.payload() { Self::Replicas } else { Self::Work }
    }

    /// Constant, so that the server folds duplicates.
    pub(super) fn payload(self) -> &'static str {
        match self {
            Self::Work => "",
            Self::Replicas => "replicas",
        }
    }
}

impl Queue {
    /// Wakes all daemons.
    pub async fn notify(&self, notice: Notice) -> Result<(), QueueError> {
        let sql = "-- queue::notify\nSELECT pg_notify($1, $2)";
        let query = sqlx::query(sql).bind(Notice::channel(&self.schema)).bind(notice.payload());
        limited("queue::notify", query.execute(&self.pool)).await?;
        Ok(())
    }
}
