//! Proves that notifications arrive on a new connection, and finds out why not.

use std::time::Duration;

use copyhold_db::{
    Database,
    notify::{ListenConnection, ListenError, ListenEvent},
};
use tokio::time::{Instant, timeout_at};

use super::{ListenEnd, WakeSenders};

/// How long a notification may take from one connection to the other.
const WITHIN: Duration = Duration::from_secs(2);

/// Why a connection receives no notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListenFailure {
    /// A pooler gives the connection to another client as soon as LISTEN has ended.
    Pooler,
    /// A server that follows another one, and does not allow LISTEN.
    ReadReplica,
    /// Another database, in which no program notifies us.
    Elsewhere,
}

impl ListenFailure {
    /// What is wrong.
    pub fn sentence(self, setting: &str) -> String {
        match self {
            Self::Pooler => format!("{setting} leads to a pooler in transaction mode"),
            Self::ReadReplica => format!("{setting} leads to a read replica, which cannot LISTEN"),
            Self::Elsewhere => format!("{setting} leads to another database than database.url"),
        }
    }

    /// What to do about it.
    pub fn remedy(self, setting: &str) -> String {
        match self {
            Self::Pooler if setting == "database.url" => {
                "Set database.listen_url to the server itself, or database.wakeup to \"poll\"".to_owned()
            }
            Self::Pooler | Self::Elsewhere => {
                "Let database.listen_url lead past any pooler to the server and database of database.url, or set database.wakeup \
                 to \"poll\""
                    .to_owned()
            }
            Self::ReadReplica => format!("Let {setting} lead to the server that is written to"),
        }
    }
}

/// LISTEN was refused, or the server could not be reached.
pub(super) fn refusal(error: ListenError) -> ListenEnd {
    match error {
        ListenError::Recovery => ListenEnd::Failed(ListenFailure::ReadReplica),
        error => ListenEnd::Lost(error),
    }
}

/// Sends a notification over another connection and waits for it on this one. On the same connection it would arrive
/// even through a pooler.
pub(super) async fn passes(
    connection: &mut ListenConnection,
    database: &Database,
    wake_senders: &WakeSenders,
) -> Result<(), ListenEnd> {
    let word = format!("{:016x}", rand::random::<u64>());
    // A failure to send proves nothing: PostgreSQL may be starting.
    database.echo(&word).await.map_err(ListenError::from)?;
    let deadline = Instant::now() + WITHIN;
    loop {
        match timeout_at(deadline, connection.next()).await {
            Ok(Ok(Some(ListenEvent::Echo(heard)))) if heard == word => break,
            Ok(Ok(Some(heard))) => wake_senders.pass_on(&heard),
            // A probe shorter than this, in a test.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(ListenEnd::Failed(why(connection, database).await?)),
        }
    }
    Ok(connection.end_trial().await?)
}

async fn why(connection: &mut ListenConnection, database: &Database) -> Result<ListenFailure, ListenError> {
    let same = connection.reaches_database_of(database).await?;
    Ok(if same { ListenFailure::Pooler } else { ListenFailure::Elsewhere })
}
