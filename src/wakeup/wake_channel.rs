//! "There may be work": arm before looking, then wait for a notice or for the poll.

use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;

/// Says that there may be work. Cheap, never blocks, and may be said too often.
#[derive(Debug, Clone)]
pub struct WakeSender(watch::Sender<()>);

/// Hears it. The latest notice is never lost, however late one listens.
#[derive(Debug)]
pub struct WakeReceiver(watch::Receiver<()>);

/// A pair whose first notice is still to come.
#[must_use]
pub fn channel() -> (WakeSender, WakeReceiver) {
    let (sender, receiver) = watch::channel(());
    (WakeSender(sender), WakeReceiver(receiver))
}

impl WakeSender {
    pub fn wake(&self) {
        self.0.send_replace(());
    }
}

impl WakeReceiver {
    /// Forgets the notices so far: call it before looking for work, or one between look and wait is lost.
    pub fn arm(&mut self) {
        self.0.mark_unchanged();
    }

    /// Ends at the first notice since [`WakeReceiver::arm`]; never, if nobody is left to give one.
    pub async fn notified(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends at the first notice since [`WakeReceiver::arm`], or after `poll_every` ± 20 %, so that many daemons spread out.
    /// Whether there was a notice.
    pub async fn wait(&mut self, poll_every: Duration) -> bool {
        let poll = poll_every.mul_f64(rand::rng().random_range(0.8..1.2));
        tokio::select! {
            () = self.notified() => true,
            // The poll is the promise.
            () = tokio::time::sleep(poll) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_notice_between_look_and_wait_is_not_lost() {
        let (waker, mut wake) = channel();
        wake.arm();
        waker.wake();
        assert!(wake.wait(Duration::from_hours(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_notice_the_poll_comes_round() {
        let (_waker, mut wake) = channel();
        assert!(!wake.wait(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn many_notices_before_looking_are_one() {
        let (waker, mut wake) = channel();
        waker.wake();
        waker.wake();
        wake.arm();
        assert!(!wake.wait(Duration::from_secs(5)).await);
    }
}
