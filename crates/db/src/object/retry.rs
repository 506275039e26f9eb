use copyhold_core::domain::{ObjectKey, ReplicaName};

use super::{
    Queue, QueueError,
    turn::{Page, Turn, Turned},
};

const NAME: &str = "queue::retry";

/// Which copies of a replica are to be tried now.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// Parked or waiting copies of these objects.
    Of(&'a [ObjectKey]),
    /// All that are parked.
    Parked,
    /// All that are parked, and all that wait for a later attempt.
    Failing,
}

impl Queue {
    /// Makes copies of one replica due now, those of one class of failure only if `class` says so, and forgets how
    /// many attempts they have had. The daemons are not told: see [`Queue::notify`].
    pub async fn retry(
        &self,
        replica: &ReplicaName,
        which: Which<'_>,
        class: Option<&str>,
    ) -> Result<Turned, QueueError> {
        let turn = Turn::Due { class };
        match which {
            Which::Of(keys) => self.turn(NAME, replica, Page::Keys(keys), turn).await,
            Which::Parked => self.turn(NAME, replica, Page::Parked, turn).await,
            Which::Failing => {
                let mut all = self.turn(NAME, replica, Page::Parked, turn).await?;
                let waiting = self.turn(NAME, replica, Page::Waiting, turn).await?;
                all.changed += waiting.changed;
                all.busy.extend(waiting.busy);
                Ok(all)
            }
        }
    }
}
