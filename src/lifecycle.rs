//! How the process ends: first signal drains, second or the deadline stops hard, and a task that ends uninvited ends
//! the daemon.

use std::{future::Future, io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
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
pub struct Endings {
    ended: mpsc::UnboundedReceiver<&'static str>,
    // Listened to from the beginning: a signal that comes between two waits is not lost.
    terminate: Signal,
    interrupt: Signal,
}

impl Lifecycle {
    /// From now on SIGTERM and SIGINT do not end the process by themselves.
    pub fn new() -> io::Result<(Self, Endings)> {
        let (sender, ended) = mpsc::unbounded_channel();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let token = CancellationToken::new;
        let lifecycle = Self { drain: token(), stop: token(), end: token(), tasks: TaskTracker::new(), ended: sender };
        Ok((lifecycle, Endings { ended, terminate, interrupt }))
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
    pub async fn first(&mut self) -> ExitReason {
        tokio::select! {
            _ = self.terminate.recv() => ExitReason::Signal,
            _ = self.interrupt.recv() => ExitReason::Signal,
            Some(name) = self.ended.recv() => ExitReason::TaskEnded(name),
        }
    }

    /// Waits for `drained` for as long as `grace`, or until a second signal; then cancels `stop`.
    pub async fn drain(&mut self, lifecycle: &Lifecycle, grace: Duration, drained: impl Future<Output = ()>) {
        lifecycle.drain.cancel();
        tokio::select! {
            () = drained => info!("Everything under way is finished"),
            () = tokio::time::sleep(grace) => warn!("Not finished within {grace:?}, releasing what is left"),
            _ = self.first() => warn!("Asked again, releasing what is under way at once"),
        }
        lifecycle.stop.cancel();
    }
}
