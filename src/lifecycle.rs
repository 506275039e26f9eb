//! How the process ends: first signal drains, second or the deadline stops hard, and a task that ends uninvited ends
//! the daemon.

use std::{future::Future, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// Why the daemon ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to.
    Signal,
    /// A task that runs for ever has ended.
    TaskEnded(&'static str),
}

/// The two stops, and the tasks that obey them.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    /// Take on nothing new.
    pub drain: CancellationToken,
    /// Let go of what is under way. A child of nothing: draining does not cancel it.
    pub stop: CancellationToken,
    /// The very end: for the tasks that others need until they have ended.
    pub end: CancellationToken,
    tasks: TaskTracker,
    ended: mpsc::UnboundedSender<&'static str>,
}

/// The other end of a [`Lifecycle`]: waits for a reason to go.
#[derive(Debug)]
pub struct Endings(mpsc::UnboundedReceiver<&'static str>);

impl Lifecycle {
    #[must_use]
    pub fn new() -> (Self, Endings) {
        let (ended, endings) = mpsc::unbounded_channel();
        let token = CancellationToken::new;
        (Self { drain: token(), stop: token(), end: token(), tasks: TaskTracker::new(), ended }, Endings(endings))
    }

    /// Starts a task that runs until `until` is cancelled. Ending earlier, by return or panic, ends the daemon.
    pub fn spawn(
        &self,
        name: &'static str,
        until: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (until, ended) = (until.clone(), self.ended.clone());
        let running = tokio::spawn(task);
        self.tasks.spawn(async move {
            let outcome = running.await;
            if let Err(panic) = &outcome {
                error!(task = name, error = %panic, "Task {name} panicked");
            }
            if outcome.is_err() || !until.is_cancelled() {
                // Nobody listens any more when the daemon is ending anyway.
                let _ = ended.send(name);
            }
        });
    }

    /// Waits until all tasks have ended.
    pub async fn all_ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Endings {
    /// Ends with the first signal or with a task that should not have ended.
    pub async fn first(&mut self) -> std::io::Result<ExitReason> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        Ok(tokio::select! {
            _ = terminate.recv() => ExitReason::Signal,
            _ = interrupt.recv() => ExitReason::Signal,
            Some(name) = self.0.recv() => ExitReason::TaskEnded(name),
        })
    }

    /// Waits for `drained` for as long as `grace`, or until a second signal; then cancels `stop`.
    pub async fn drain(
        &mut self,
        lifecycle: &Lifecycle,
        grace: Duration,
        drained: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        lifecycle.drain.cancel();
        tokio::select! {
            () = drained => info!("Everything under way is finished"),
            () = tokio::time::sleep(grace) => warn!("Not finished within {grace:?}, releasing what is left"),
            again = self.first() => {
                again?;
                warn!("Asked again, releasing what is under way at once");
            }
        }
        lifecycle.stop.cancel();
        Ok(())
    }
}
