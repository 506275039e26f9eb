//! Whether LISTEN works, so that notifications arrive; otherwise the daemon polls.

use std::time::Duration;

use tokio::sync::watch;

/// The longest wait between two looks while no notification can arrive.
pub const FALLBACK_POLL: Duration = Duration::from_secs(1);

/// Held by the listener alone.
#[derive(Debug)]
pub struct ListenStatusSender(watch::Sender<bool>);

/// Held by the tasks that wait for notifications.
#[derive(Debug, Clone)]
pub struct ListenStatus(watch::Receiver<bool>);

/// Returns a pair that is not listening yet.
#[must_use]
pub fn channel() -> (ListenStatusSender, ListenStatus) {
    let (sender, receiver) = watch::channel(false);
    (ListenStatusSender(sender), ListenStatus(receiver))
}

impl ListenStatusSender {
    /// From now on notifications arrive. Wake all tasks afterwards: earlier ones were lost.
    pub fn set_listening(&self) {
        self.0.send_replace(true);
    }

    /// From now on, or for some time already, none arrives. Wake all tasks afterwards: they have to poll.
    pub fn set_unavailable(&self) {
        self.0.send_replace(false);
    }
}

impl ListenStatus {
    /// Whether notifications arrive. Do not register as idle while LISTEN is down: every INSERT would pay for a NOTIFY
    /// that is not received.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        *self.0.borrow()
    }

    /// How long to wait before looking without a notification: `while_listening`, if they arrive.
    #[must_use]
    pub fn poll_interval(&self, while_listening: Duration) -> Duration {
        if self.is_listening() { while_listening } else { while_listening.min(FALLBACK_POLL) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_listen_the_poll_is_every_second() {
        let (sender, status) = channel();
        assert_eq!(status.poll_interval(Duration::from_secs(5)), FALLBACK_POLL);
        sender.set_listening();
        assert_eq!(status.poll_interval(Duration::from_secs(5)), Duration::from_secs(5));
        sender.set_unavailable();
        assert!(!status.is_listening());
        assert_eq!(status.poll_interval(Duration::from_millis(50)), Duration::from_millis(50));
    }
}
