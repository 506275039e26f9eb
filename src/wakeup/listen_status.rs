//! Whether this process hears what PostgreSQL announces, or has to look by itself.

use std::time::Duration;

use tokio::sync::watch;

/// How long whoever would wait for notices waits at most while none can come.
pub const FALLBACK_POLL: Duration = Duration::from_secs(1);

/// Held by the listener alone, which knows.
#[derive(Debug)]
pub struct ListenStatusSender(watch::Sender<bool>);

/// For all who wait for notices.
#[derive(Debug, Clone)]
pub struct ListenStatus(watch::Receiver<bool>);

/// A pair that hears nothing yet.
#[must_use]
pub fn channel() -> (ListenStatusSender, ListenStatus) {
    let (sender, receiver) = watch::channel(false);
    (ListenStatusSender(sender), ListenStatus(receiver))
}

impl ListenStatusSender {
    /// From now on notices come through. Wake everybody afterwards: what came before was not heard.
    pub fn set_listening(&self) {
        self.0.send_replace(true);
    }

    /// From now on, or for some time already, none does. Wake everybody afterwards: they have to look by themselves.
    pub fn set_unavailable(&self) {
        self.0.send_replace(false);
    }
}

impl ListenStatus {
    /// Notices come through. Whoever asks for them while they do not makes others pay for what nobody hears.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        *self.0.borrow()
    }

    /// How long to wait before looking without a notice: `heard` is enough while notices come.
    #[must_use]
    pub fn poll_interval(&self, while_listening: Duration) -> Duration {
        if self.is_listening() { while_listening } else { while_listening.min(FALLBACK_POLL) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_hears_nothing_looks_every_second() {
        let (sender, status) = channel();
        assert_eq!(status.poll_interval(Duration::from_secs(5)), FALLBACK_POLL);
        sender.set_listening();
        assert_eq!(status.poll_interval(Duration::from_secs(5)), Duration::from_secs(5));
        sender.set_unavailable();
        assert!(!status.is_listening());
        assert_eq!(status.poll_interval(Duration::from_millis(50)), Duration::from_millis(50));
    }
}
