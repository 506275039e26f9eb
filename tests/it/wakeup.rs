//! How a daemon learns of new work: by notifications, or by polling; and it reports which.

use copyhold::wakeup::{
    listener::{Listener, ListenerTiming, WakeSenders},
    wake_channel::{self, WakeReceiver},
};
use copyhold_db::{connections::direct_target, daemon::IdleKind};
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, printed, soon};
use std::time::Duration;

/// The connections that listen, of those to this database.
pub const LISTENING: &str = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'copyhold'
                             AND query ~ 'LISTEN|listener::'";

/// A listener without a daemon around it, and those it wakes.
pub struct Listening {
    pub work: WakeReceiver,
    pub replicas: WakeReceiver,
    pub inbox: WakeReceiver,
    pub events: WakeReceiver,
    pub ears: copyhold::wakeup::listen_status::ListenStatus,
    pub id: copyhold_db::daemon::DaemonId,
    stop: CancellationToken,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Listening {
    /// By this harness's configuration, with as much patience.
    pub async fn begin(harness: &Harness, timing: ListenerTiming) -> Self {
        let daemon = harness.enlist(60).await;
        let (work_waker, work) = wake_channel::channel();
        let (replicas_waker, replicas) = wake_channel::channel();
        let (inbox_waker, inbox) = wake_channel::channel();
        let (events_waker, events) = wake_channel::channel();
        let (status, ears) = copyhold::wakeup::listen_status::channel();
        let stop = CancellationToken::new();
        let listener = Listener {
            wakeup: harness.config.database.wakeup,
            target: direct_target(&harness.config.database),
            setting: "database.listen_url",
            queue: harness.queue(),
            daemon: daemon.id,
            status,
            wake_senders: WakeSenders {
                work: work_waker,
                replicas: replicas_waker,
                inbox: inbox_waker,
                events: events_waker,
            },
            timing,
        };
        tokio::spawn(listener.run(stop.clone()));
        Self { work, replicas, inbox, events, ears, id: daemon.id, stop }
    }

    /// Waits until it listens, and drops the wake-ups that this sent to all.
    pub async fn until_open(&mut self) {
        crate::harness::eventually("it listens", async || self.ears.is_listening()).await;
        // It wakes all waiters once it listens.
        for wake in [&mut self.work, &mut self.replicas, &mut self.inbox, &mut self.events] {
            soon("all are woken", wake.notified()).await;
            wake.arm();
        }
    }
}

#[tokio::test]
async fn each_notice_wakes_those_that_it_is_for() {
    let harness = Harness::new().await;
    let mut listening = Listening::begin(&harness, ListenerTiming::default()).await;
    listening.until_open().await;
    harness.until(&format!("SELECT wakeup = 'notify' FROM copyhold.daemons WHERE id = {}", listening.id)).await;
    let queue = harness.queue();
    queue.set_idle(listening.id, IdleKind::Work, true).await.unwrap();
    queue.set_idle(listening.id, IdleKind::Inbox, true).await.unwrap();
    harness.insert("photo").await;
    soon("work", listening.work.notified()).await;
    harness.value("SELECT copyhold.append_event('{\"kind\": \"a\"}')").await;
    soon("inbox", listening.inbox.notified()).await;
    harness.value("SELECT copyhold.append_log(ARRAY['{}'::jsonb])").await;
    soon("event", listening.events.notified()).await;
    harness.execute("SELECT pg_notify('copyhold_work', 'replicas')").await;
    soon("replicas", listening.replicas.notified()).await;
    // None of these was another waiter's.
    listening.work.arm();
    assert!(!listening.work.wait(Duration::from_millis(100)).await);
}

#[tokio::test]
async fn a_daemon_that_polls_listens_to_nothing_is_notified_of_nothing_and_finds_work() {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| text.replace("[database]", "[database]\nwakeup = \"poll\""));
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.until("SELECT wakeup = 'poll' FROM copyhold.daemons").await;
    let mut notices = sqlx::postgres::PgListener::connect_with(&harness.pool).await.unwrap();
    notices.listen("copyhold_work").await.unwrap();
    for i in 0..5 {
        let key = format!("photo {i}");
        harness.upload(&key, "bytes").await;
        harness.until_copied(&key).await;
    }
    harness.value("SELECT copyhold.append_event('{\"kind\": \"a\"}')").await;
    harness.until("SELECT EXISTS (SELECT FROM copyhold.log WHERE event_data = '{\"kind\": \"a\"}')").await;
    assert_eq!(
        harness.value("SELECT bool_or(sleeping OR inbox_sleeping) FROM copyhold.daemons").await.unwrap(),
        "false"
    );
    let none = tokio::time::timeout(Duration::from_millis(100), notices.recv()).await;
    assert!(none.is_err(), "notified: {none:?}");
    assert_eq!(harness.value(&format!("SELECT count(*) {LISTENING}")).await.unwrap(), "0");
    let status = printed(&harness.run(&["status"]).await);
    assert!(status.lines().any(|line| line.contains("idle") || line.contains("working")), "{status}");
    assert!(status.contains("poll") && !status.contains("cannot be notified"), "{status}");
}

#[tokio::test]
async fn idle_daemons_know_who_looks_first() {
    let harness = Harness::new().await;
    let queue = harness.queue();
    let (first, second) = (harness.enlist(60).await.id, harness.enlist(60).await.id);
    assert_eq!(queue.set_idle(second, IdleKind::Work, true).await.unwrap(), 0);
    assert_eq!(queue.set_idle(first, IdleKind::Work, true).await.unwrap(), 0);
    assert_eq!(queue.set_idle(second, IdleKind::Work, true).await.unwrap(), 1);
    // To be woken for something else is another matter.
    assert_eq!(queue.set_idle(second, IdleKind::Inbox, true).await.unwrap(), 0);
    // A dead daemon counts as before no other.
    harness.execute(&format!("UPDATE copyhold.daemons SET alive_until = 1 WHERE id = {first}")).await;
    assert_eq!(queue.set_idle(second, IdleKind::Work, true).await.unwrap(), 0);
}

#[tokio::test]
async fn a_daemon_that_was_forgotten_while_it_slept_says_again_that_it_sleeps() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    harness.until("SELECT sleeping AND inbox_sleeping FROM copyhold.daemons").await;
    harness.execute("UPDATE copyhold.daemons SET sleeping = false, inbox_sleeping = false").await;
    harness.until("SELECT sleeping AND inbox_sleeping FROM copyhold.daemons").await;
}
