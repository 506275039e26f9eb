//! A signal inside this process that there may be work: arm, look, then wait for a signal or for the poll.

use std::time::Duration;

use tokio::sync::watch;

use super::jitter::jittered;

/// Signals that there may be work. Cheap, never blocks, and may be sent too often.
#[derive(Debug, Clone)]
pub struct WakeSender(watch::Sender<()>);

/// Receives the signal. The latest one is never lost, however late the caller waits.
#[derive(Debug)]
pub struct WakeReceiver(watch::Receiver<()>);

/// Returns a pair whose first signal is still to come.
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
    /// Forgets the signals so far: call it before looking for work, or one between look and wait is lost.
    pub fn arm(&mut self) {
        self.0.mark_unchanged();
    }

    /// Returns at the first signal since [`WakeReceiver::arm`]; never, if every sender is gone.
    pub async fn notified(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns at the first signal since [`WakeReceiver::arm`], or after `poll_every` ± 20 %, so that many daemons
    /// spread out. `true`: there was a signal.
    pub async fn wait(&mut self, poll_every: Duration) -> bool {
        let poll = jittered(poll_every);
        tokio::select! {
            () = self.notified() => true,
            // The poll bounds the latency.
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
