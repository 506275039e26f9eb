use std::time::Duration;

use copyhold_db::{
    Database,
    notify::{ListenConnection, ListenError, ListenEvent},
};
use tokio::time::{Instant, timeout_at};

use super::{Ended, Wakers};

/// How long a word may take from one connection to the other.
const WITHIN: Duration = Duration::from_secs(2);

/// Why a connection that was made hears nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deafness {
    /// LISTEN is undone, or somebody else's, as soon as it has ended.
    Pooler,
    /// A server that follows another one, and does not allow LISTEN.
    ReadReplica,
    /// Another database, in which nobody says anything to us.
    Elsewhere,
}

impl Deafness {
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

/// LISTEN itself was refused, or nobody could be reached.
pub(super) fn refusal(error: ListenError) -> Ended {
    match error {
        ListenError::Recovery => Ended::Deaf(Deafness::ReadReplica),
        error => Ended::Lost(error),
    }
}

/// Says a word on another connection and waits until it is heard on this one. On the same connection it would come back
/// even through a pooler.
pub(super) async fn passes(connection: &mut ListenConnection, queue: &Database, wakers: &Wakers) -> Result<(), Ended> {
    let word = format!("{:016x}", rand::random::<u64>());
    // That this cannot be said proves nothing: PostgreSQL may be starting.
    queue.echo(&word).await.map_err(ListenError::from)?;
    let deadline = Instant::now() + WITHIN;
    loop {
        match timeout_at(deadline, connection.next()).await {
            Ok(Ok(Some(ListenEvent::Echo(heard)))) if heard == word => break,
            Ok(Ok(Some(heard))) => wakers.pass_on(&heard),
            // A probe shorter than this, in a test.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Ended::Deaf(why(connection, queue).await?)),
        }
    }
    Ok(connection.end_trial().await?)
}

async fn why(connection: &mut ListenConnection, queue: &Database) -> Result<Deafness, ListenError> {
    let same = connection.reaches_database_of(queue).await?;
    Ok(if same { Deafness::Pooler } else { Deafness::Elsewhere })
}
