use copyhold_core::domain::{ObjectKey, ReplicaName};

use super::{
    Queue, QueueError,
    turn::{Page, Turn, Turned},
};

impl Queue {
    /// Parks those copies of one replica that are wanted, not recorded and not parked yet. `because` becomes the
    /// message of their entry in `copy_failures`, whose class is [`PARKED_BY_HAND`](super::PARKED_BY_HAND): no failure of a store, so no [`FailureClass`].
    ///
    /// [`FailureClass`]: copyhold_core::domain::FailureClass
    pub async fn park(&self, replica: &ReplicaName, keys: &[ObjectKey], because: &str) -> Result<Turned, QueueError> {
        self.turn("queue::park", replica, Page::Keys(keys), Turn::Parked { because }).await
    }
}
