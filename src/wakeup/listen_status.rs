//! Whether this process hears what PostgreSQL announces, or has to look by itself.

use std::time::Duration;

use tokio::sync::watch;

/// How long whoever would wait for notices waits at most while none can come.
pub const ALONE: Duration = Duration::from_secs(1);

/// Held by the listener alone, which knows.
#[derive(Debug)]
pub struct Hearing(watch::Sender<bool>);

/// For all who wait for notices.
#[derive(Debug, Clone)]
pub struct Ears(watch::Receiver<bool>);

/// A pair that hears nothing yet.
#[must_use]
pub fn closed() -> (Hearing, Ears) {
    let (sender, receiver) = watch::channel(false);
    (Hearing(sender), Ears(receiver))
}

impl Hearing {
    /// From now on notices come through. Wake everybody afterwards: what came before was not heard.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// From now on, or for some time already, none does. Wake everybody afterwards: they have to look by themselves.
    pub fn close(&self) {
        self.0.send_replace(false);
    }
}

impl Ears {
    /// Notices come through. Whoever asks for them while they do not makes others pay for what nobody hears.
    #[must_use]
    pub fn are_open(&self) -> bool {
        *self.0.borrow()
    }

    /// How long to wait before looking without a notice: `heard` is enough while notices come.
    #[must_use]
    pub fn poll(&self, heard: Duration) -> Duration {
        if self.are_open() { heard } else { heard.min(ALONE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_hears_nothing_looks_every_second() {
        let (hearing, ears) = closed();
        assert_eq!(ears.poll(Duration::from_secs(5)), ALONE);
        hearing.open();
        assert_eq!(ears.poll(Duration::from_secs(5)), Duration::from_secs(5));
        hearing.close();
        assert!(!ears.are_open());
        assert_eq!(ears.poll(Duration::from_millis(50)), Duration::from_millis(50));
    }
}
