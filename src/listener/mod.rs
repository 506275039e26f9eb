//! LISTEN → wake. A notice is a hint, and a connection can be dead and say nothing: so every doubt wakes too, and
//! whoever is woken looks in any case.
//!
//! Owns the one connection that listens. While it is not known to be in order, the daemon's ears are closed: it then looks
//! every second by itself, and asks nobody to be notified.

mod trial;

use std::time::Duration;

use copyhold_db::{
    Database,
    connections::Target,
    daemon::DaemonId,
    notify::{ListenConnection, ListenError, ListenEvent, Notification, ProbeTiming},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{config::Wakeup, ears::Hearing, metrics, wake::Waker};
use trial::Deafness;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long it takes to find out that something is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub probing: ProbeTiming,
    /// When it is looked again whether a way on which no notice came is open now.
    pub retry_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            probing: ProbeTiming { every: Duration::from_secs(10), within: Duration::from_secs(5) },
            retry_every: Duration::from_mins(1),
        }
    }
}

/// Who is woken for what.
#[derive(Debug, Clone)]
pub struct Wakers {
    /// There may be work.
    pub work: Waker,
    /// The table `replicas` may have changed.
    pub replicas: Waker,
    /// There may be events of other programs.
    pub inbox: Waker,
    /// The log may have grown.
    pub events: Waker,
}

impl Wakers {
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

/// Holds one direct connection and passes its notices on.
#[derive(Debug)]
pub struct Listener {
    pub wakeup: Wakeup,
    /// To the database itself: LISTEN does not survive a transaction pooler.
    pub target: Target,
    /// Where they come from: the setting that has to be changed if they are wrong.
    pub setting: &'static str,
    /// For the other connections.
    pub queue: Database,
    pub daemon: DaemonId,
    pub hearing: Hearing,
    pub wakers: Wakers,
    pub pace: Pace,
}

/// Why nothing is heard any more.
#[derive(Debug)]
enum Ended {
    /// Perhaps the next connection lives longer.
    Lost(ListenError),
    /// It is not the connection's fault.
    Deaf(Deafness),
}

impl From<ListenError> for Ended {
    fn from(error: ListenError) -> Self {
        Self::Lost(error)
    }
}

/// What was last told about this, to people and to the others.
#[derive(Debug, Default)]
struct Told {
    /// As it stands in the table; `None`: nothing does, or another word.
    wakeup: Option<String>,
    deafness: Option<Deafness>,
}

impl Listener {
    /// Listens until `drain`, connecting again for as long as it takes.
    pub async fn run(self, drain: CancellationToken) {
        let mut told = Told::default();
        if self.wakeup == Wakeup::Poll {
            info!("Looking for new objects every second, as database.wakeup says");
            while told.wakeup.is_none() && !drain.is_cancelled() {
                self.tell(&mut told, "poll").await;
                drain.run_until_cancelled(tokio::time::sleep(self.pace.probing.within)).await;
            }
            return drain.cancelled().await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(ended) = drain.run_until_cancelled(Box::pin(self.listen(&mut pause, &mut told))).await else {
                return;
            };
            self.hearing.close();
            metrics::listener_connected(false);
            // Whatever happened meanwhile was not heard.
            self.wakers.all();
            let rest = match ended {
                Ended::Lost(error) => {
                    // One that comes back at once needs no word to the others.
                    if pause == FIRST_PAUSE {
                        warn!(error = %error, "Lost the connection that listens for new objects; until it is back they are looked for every second");
                    } else {
                        self.tell(&mut told, &format!("{} cannot be reached: {error}", self.setting)).await;
                    }
                    let rest = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    rest
                }
                Ended::Deaf(why) => {
                    metrics::listener_trial_failed();
                    let sentence = why.sentence(self.setting);
                    self.tell(&mut told, &sentence).await;
                    if told.deafness.replace(why) != Some(why) {
                        warn!(
                            "No notice of new objects can be heard, so they are looked for every second: {sentence}. {}",
                            why.remedy(self.setting)
                        );
                    }
                    pause = FIRST_PAUSE;
                    // A server is promoted in seconds, a configuration is changed in minutes.
                    if why == Deafness::ReadReplica { LONGEST_PAUSE } else { self.pace.retry_every }
                }
            };
            if drain.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
                return;
            }
            metrics::listener_reconnects();
        }
    }

    /// One connection's life; returns why it ended.
    async fn listen(&self, pause: &mut Duration, told: &mut Told) -> Ended {
        match self.hear(pause, told).await {
            Err(ended) => ended,
            Ok(never) => match never {},
        }
    }

    async fn hear(&self, pause: &mut Duration, told: &mut Told) -> Result<std::convert::Infallible, Ended> {
        let mut connection = ListenConnection::open(&self.target, self.queue.schema(), self.pace.probing)
            .await
            .map_err(trial::refusal)?;
        trial::passes(&mut connection, &self.queue, &self.wakers).await?;
        let allowed = if self.wakeup == Wakeup::Auto { connection.prepared_transactions().await? } else { 0 };
        let how = if allowed > 0 {
            // Notices of our own programs are heard; the application is to send none.
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
        told.deafness = None;
        if allowed == 0 {
            self.hearing.open();
        }
        // What was announced before LISTEN took hold was not announced to us.
        self.wakers.all();
        loop {
            self.tell(told, &how).await;
            // Not before a silence, in which it is told again if it could not be.
            while let Some(heard) = connection.next().await? {
                metrics::notice_heard();
                self.wakers.pass_on(&heard);
            }
            connection.probe().await?;
        }
    }

    /// Writes down for the others how this daemon learns of what is new, unless that stands there.
    async fn tell(&self, told: &mut Told, how: &str) {
        if told.wakeup.as_deref() == Some(how) {
            return;
        }
        match self.queue.set_wakeup(self.daemon, how).await {
            Ok(()) => told.wakeup = Some(how.to_owned()),
            // Others will say it if PostgreSQL is away; this one tries again.
            Err(_) => metrics::database_error("daemon::set_wakeup"),
        }
    }
}
