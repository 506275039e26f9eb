//! Holds the connection that listens, and wakes the tasks that wait for notifications. A notification is a hint, and a
//! dead connection is silent: so every doubt wakes the tasks too, and they look in any case.
//!
//! Owns the one connection that listens. While it is not known to work, the daemon polls every
//! second and does not register as idle.

mod self_test;

use std::time::Duration;

use copyhold_db::{
    Database,
    connections::Target,
    daemon::DaemonId,
    notify::{ListenConnection, ListenError, ListenEvent, Notification, ProbeTiming},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{config::Wakeup, metrics, wakeup::listen_status::ListenStatusSender, wakeup::wake_channel::WakeSender};
use self_test::ListenFailure;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long it takes to find out that something is wrong.
#[derive(Debug, Clone, Copy)]
pub struct ListenerTiming {
    pub probing: ProbeTiming,
    /// How often a connection on which no notification arrived is tried again.
    pub retry_every: Duration,
}

impl Default for ListenerTiming {
    fn default() -> Self {
        Self {
            probing: ProbeTiming { every: Duration::from_secs(10), within: Duration::from_secs(5) },
            retry_every: Duration::from_mins(1),
        }
    }
}

/// The tasks that notifications wake.
#[derive(Debug, Clone)]
pub struct WakeSenders {
    /// There may be work.
    pub work: WakeSender,
    /// The table `replicas` may have changed.
    pub replicas: WakeSender,
    /// There may be events of other programs.
    pub inbox: WakeSender,
    /// The log may have grown.
    pub events: WakeSender,
}

impl WakeSenders {
    fn all(&self) {
        for waker in [&self.work, &self.replicas, &self.inbox, &self.events] {
            waker.wake();
        }
    }

    fn pass_on(&self, heard: &ListenEvent) {
        match heard {
            ListenEvent::Notification(Notification::Work) => self.work.wake(),
            ListenEvent::Notification(Notification::Replicas) => self.replicas.wake(),
            ListenEvent::Notification(Notification::Inbox) => self.inbox.wake(),
            ListenEvent::LogGrew => self.events.wake(),
            ListenEvent::Echo(_) => {}
        }
    }
}

/// Holds one direct connection and passes its notifications on.
#[derive(Debug)]
pub struct Listener {
    pub wakeup: Wakeup,
    /// To the database itself: LISTEN does not survive a transaction pooler.
    pub target: Target,
    /// The setting that this target comes from, and that has to be changed if it is wrong.
    pub setting: &'static str,
    /// For the other connections.
    pub queue: Database,
    pub daemon: DaemonId,
    pub status: ListenStatusSender,
    pub wake_senders: WakeSenders,
    pub timing: ListenerTiming,
}

/// Why notifications do not arrive any more.
#[derive(Debug)]
enum ListenEnd {
    /// The connection failed; the next one may last.
    Lost(ListenError),
    /// It is not the connection's fault.
    Failed(ListenFailure),
}

impl From<ListenError> for ListenEnd {
    fn from(error: ListenError) -> Self {
        Self::Lost(error)
    }
}

/// What was last logged, and what was last written for the other daemons.
#[derive(Debug, Default)]
struct Reported {
    /// As stored in the table; `None`: nothing is, or another word.
    wakeup: Option<String>,
    failure: Option<ListenFailure>,
}

impl Listener {
    /// Listens until `drain`, connecting again for as long as it takes.
    pub async fn run(self, drain: CancellationToken) {
        let mut reported = Reported::default();
        if self.wakeup == Wakeup::Poll {
            info!("Polling for new objects every second, as database.wakeup says");
            while reported.wakeup.is_none() && !drain.is_cancelled() {
                self.report(&mut reported, "poll").await;
                drain.run_until_cancelled(tokio::time::sleep(self.timing.probing.within)).await;
            }
            return drain.cancelled().await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(ended) = drain.run_until_cancelled(Box::pin(self.listen(&mut pause, &mut reported))).await else {
                return;
            };
            self.status.set_unavailable();
            metrics::listener_connected(false);
            // Notifications sent meanwhile are lost.
            self.wake_senders.all();
            let rest = match ended {
                ListenEnd::Lost(error) => {
                    // A connection that is back at once need not be reported to the other daemons.
                    if pause == FIRST_PAUSE {
                        warn!(error = %error, "Lost LISTEN connection; polling every second");
                    } else {
                        self.report(&mut reported, &format!("{} cannot be reached: {error}", self.setting)).await;
                    }
                    let rest = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    rest
                }
                ListenEnd::Failed(why) => {
                    metrics::listener_trial_failed();
                    let sentence = why.sentence(self.setting);
                    self.report(&mut reported, &sentence).await;
                    if reported.failure.replace(why) != Some(why) {
                        warn!(
                            "Notifications do not arrive; polling every second: {sentence}. {}",
                            why.remedy(self.setting)
                        );
                    }
                    pause = FIRST_PAUSE;
                    // A server is promoted in seconds, a configuration is changed in minutes.
                    if why == ListenFailure::ReadReplica { LONGEST_PAUSE } else { self.timing.retry_every }
                }
            };
            if drain.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
                return;
            }
            metrics::listener_reconnects();
        }
    }

    /// Listens on one connection; returns why it ended.
    async fn listen(&self, pause: &mut Duration, reported: &mut Reported) -> ListenEnd {
        match self.hear(pause, reported).await {
            Err(ended) => ended,
            Ok(never) => match never {},
        }
    }

    async fn hear(&self, pause: &mut Duration, reported: &mut Reported) -> Result<std::convert::Infallible, ListenEnd> {
        let mut connection = ListenConnection::open(&self.target, self.queue.schema(), self.timing.probing)
            .await
            .map_err(self_test::refusal)?;
        self_test::passes(&mut connection, &self.queue, &self.wake_senders).await?;
        let allowed = if self.wakeup == Wakeup::Auto { connection.prepared_transactions().await? } else { 0 };
        let how = if allowed > 0 {
            // Notifications of our own programs arrive; the application is to send none.
            info!(
                "Looking for new objects every second: the server allows prepared transactions (max_prepared_transactions is \
                 {allowed}), and PREPARE TRANSACTION refuses those that notify. Where none is used, set database.wakeup to \
                 \"notify\""
            );
            format!("poll, since the server allows PREPARE TRANSACTION (max_prepared_transactions is {allowed})")
        } else {
            info!("Listening for new objects");
            "notify".to_owned()
        };
        metrics::listener_connected(true);
        *pause = FIRST_PAUSE;
        reported.failure = None;
        if allowed == 0 {
            self.status.set_listening();
        }
        // Notifications sent before LISTEN took effect did not reach this connection.
        self.wake_senders.all();
        loop {
            self.report(reported, &how).await;
            // Not before a silence: then it is written again if that failed.
            while let Some(heard) = connection.next().await? {
                metrics::notification_received();
                self.wake_senders.pass_on(&heard);
            }
            connection.probe().await?;
        }
    }

    /// Records for the other daemons how this one learns of new work, unless that is stored already.
    async fn report(&self, reported: &mut Reported, how: &str) {
        if reported.wakeup.as_deref() == Some(how) {
            return;
        }
        match self.queue.set_wakeup(self.daemon, how).await {
            Ok(()) => reported.wakeup = Some(how.to_owned()),
            // Other tasks log that PostgreSQL is unavailable; this one tries again.
            Err(_) => metrics::database_error("daemon::set_wakeup"),
        }
    }
}
