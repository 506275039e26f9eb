//! How the process ends: the first signal drains, the second or the deadline stops at once. A task that ends
//! unexpectedly ends the daemon. SIGHUP ends nothing.

use std::{future::Future, io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// SIGHUP, which the system would end the process with.
///
/// From [`Hangups::listen`] on it never does, not even after this value is dropped.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Call it first of all: before it, SIGHUP ends the process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next one; never ends if no more can come.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Logs each until `end`, and does nothing else: there is no reload yet.
    pub async fn log(mut self, end: CancellationToken) {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = self.next() => info!(
                    "Received SIGHUP and ignored it: the configuration is read at start only; restart the daemon to apply a change"
                ),
            }
        }
    }
}

/// Why the daemon ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to.
    Signal,
    /// A task that runs for ever has ended.
    TaskEnded(&'static str),
}

/// How the wait for the work under way ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainResult {
    /// All of it is finished.
    Finished,
    /// The grace period was over first.
    OutOfTime,
    /// A second signal came first.
    AskedAgain,
    /// A task that the work needs ended first.
    TaskEnded(&'static str),
}

/// The tokens that stop the daemon in stages, and the tasks that obey them.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    /// Take on nothing new.
    pub drain: CancellationToken,
    /// Give up on what is under way. It has no parent token: draining does not cancel it.
    pub stop: CancellationToken,
    /// The very end: for the tasks that others need until they have ended.
    pub end: CancellationToken,
    tasks: TaskTracker,
    ended: mpsc::UnboundedSender<&'static str>,
}

/// The other end of a [`Lifecycle`]: waits for a reason to shut down.
#[derive(Debug)]
pub struct ShutdownWatch {
    ended: mpsc::UnboundedReceiver<&'static str>,
    // Listened to from the beginning: a signal that comes between two waits is not lost.
    terminate: Signal,
    interrupt: Signal,
}

impl Lifecycle {
    /// From now on SIGTERM and SIGINT do not end the process by themselves.
    pub fn new() -> io::Result<(Self, ShutdownWatch)> {
        Self::heeding(SignalKind::terminate(), SignalKind::interrupt())
    }

    fn heeding(terminate: SignalKind, interrupt: SignalKind) -> io::Result<(Self, ShutdownWatch)> {
        let (sender, ended) = mpsc::unbounded_channel();
        let terminate = signal(terminate)?;
        let interrupt = signal(interrupt)?;
        let token = CancellationToken::new;
        let lifecycle = Self { drain: token(), stop: token(), end: token(), tasks: TaskTracker::new(), ended: sender };
        Ok((lifecycle, ShutdownWatch { ended, terminate, interrupt }))
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
                // The receiver is gone when the daemon is ending anyway.
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

impl ShutdownWatch {
    /// Ends with the first signal or with a task that should not have ended.
    pub async fn first(&mut self) -> ExitReason {
        tokio::select! {
            _ = self.terminate.recv() => ExitReason::Signal,
            _ = self.interrupt.recv() => ExitReason::Signal,
            Some(name) = self.ended.recv() => ExitReason::TaskEnded(name),
        }
    }

    /// Waits for `drained` for as long as `grace`, or until a second signal; then cancels `stop`.
    pub async fn drain(
        &mut self,
        lifecycle: &Lifecycle,
        grace: Duration,
        drained: impl Future<Output = ()>,
    ) -> DrainResult {
        lifecycle.drain.cancel();
        let how = tokio::select! {
            // In this order: what is finished needs no other reason to end.
            biased;
            () = drained => DrainResult::Finished,
            reason = self.first() => match reason {
                ExitReason::Signal => DrainResult::AskedAgain,
                ExitReason::TaskEnded(name) => DrainResult::TaskEnded(name),
            },
            () = tokio::time::sleep(grace) => DrainResult::OutOfTime,
        };
        match how {
            DrainResult::Finished => info!("Everything under way is finished"),
            DrainResult::OutOfTime => warn!("Not finished within {grace:?}, releasing what is left"),
            DrainResult::AskedAgain => warn!("Received a second signal; releasing what is under way at once"),
            DrainResult::TaskEnded(name) => {
                error!(task = name, "Task {name} exited unexpectedly; releasing what is under way at once");
            }
        }
        lifecycle.stop.cancel();
        how
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    /// Far more than anything here takes.
    const GRACE: Duration = Duration::from_hours(1);

    /// Reacts to signals that no test runner sends.
    fn lifecycle() -> (Lifecycle, ShutdownWatch) {
        Lifecycle::heeding(SignalKind::user_defined1(), SignalKind::user_defined2()).unwrap()
    }

    #[tokio::test]
    async fn work_that_is_finished_is_not_taken_for_a_second_signal_though_its_tasks_end_with_it() {
        // Each time it could go either way, if it could.
        for _ in 0..50 {
            let (lifecycle, mut endings) = lifecycle();
            lifecycle.spawn("completer", &lifecycle.end, async {});
            lifecycle.all_ended().await;
            assert_eq!(endings.drain(&lifecycle, GRACE, async {}).await, DrainResult::Finished);
            assert!(lifecycle.stop.is_cancelled());
        }
    }

    #[tokio::test]
    async fn a_task_that_ends_while_work_is_under_way_is_named_and_is_no_second_signal() {
        let (lifecycle, mut endings) = lifecycle();
        lifecycle.spawn("heartbeat", &lifecycle.end, async {});
        let how = endings.drain(&lifecycle, GRACE, std::future::pending()).await;
        assert_eq!(how, DrainResult::TaskEnded("heartbeat"));
    }

    #[tokio::test]
    async fn a_task_that_ends_on_request_is_no_reason_to_shut_down() {
        let (lifecycle, mut endings) = lifecycle();
        let drain = lifecycle.drain.clone();
        lifecycle.spawn("claimer", &lifecycle.drain, async move { drain.cancelled().await });
        assert_eq!(endings.drain(&lifecycle, GRACE, lifecycle.all_ended()).await, DrainResult::Finished);
    }

    #[tokio::test]
    async fn a_signal_while_work_is_under_way_is_the_second_one() {
        let (lifecycle, mut endings) = lifecycle();
        kill_process(getpid(), Signal::USR1).unwrap();
        let how = endings.drain(&lifecycle, GRACE, std::future::pending()).await;
        assert_eq!(how, DrainResult::AskedAgain);
    }
}
