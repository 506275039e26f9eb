//! What can go wrong between a daemon that listens and PostgreSQL: wake-ups and events resume, and none is lost.

use std::time::Duration;

use copyhold::wakeup::listener::ListenerTiming;
use copyhold_db::{notify::ProbeTiming, schema::migrate};
use copyhold_sandbox::postgres::{Cluster, Options};
use copyhold_testkit::{
    pooler::{Pooler, skipped},
    proxy::{Proxy, Transfer},
};
use sqlx::Connection as _;
use tokio::task::JoinHandle;

use crate::{
    harness::{Begin, DaemonProcess, Harness, cluster, eventually, printed, soon},
    wakeup::{LISTENING, Listening},
};

/// As a daemon's, but impatient.
const SHORT: ListenerTiming = ListenerTiming {
    probing: ProbeTiming { every: Duration::from_millis(300), within: Duration::from_secs(3) },
    retry_every: Duration::from_millis(500),
};
/// The event of an object's last copy: on a busy machine each copy may have an event of its own.
const COMPLETE: &str =
    "FROM copyhold.log WHERE event_data ->> 'kind' = 'object.copied' AND (event_data ->> 'complete')::bool";

fn listen_through(harness: &mut Harness, url: &str) {
    harness.rewrite(|text| text.replacen("[database]\n", &format!("[database]\nlisten_url = \"{url}\"\n"), 1));
}

/// The proxy is on the way of the connection that listens, and of no other.
async fn behind_proxy() -> (Harness, Proxy) {
    let mut harness = Harness::new().await;
    let proxy = Proxy::before(cluster().await.port()).await;
    let url = proxy.url(&harness.database_url());
    listen_through(&mut harness, &url);
    (harness, proxy)
}

/// The same with a pooler in transaction mode; `None`: this machine has none, which is printed.
async fn behind_pooler() -> Option<(Harness, Pooler)> {
    let mut harness = Harness::new().await;
    match Pooler::before(&harness.database_url()).await {
        Ok(pooler) => {
            let url = pooler.url(&harness.database_url());
            listen_through(&mut harness, &url);
            Some((harness, pooler))
        }
        Err(why) => {
            skipped(&why);
            None
        }
    }
}

/// One event in the log; its id.
async fn append(harness: &Harness) -> i64 {
    let appended = "SELECT copyhold.append_log(ARRAY['{\"kind\": \"a\"}'::jsonb])";
    sqlx::query_scalar(appended).fetch_one(&harness.pool).await.unwrap()
}

/// Follows the log as the waker of `{schema}_event` and the poll say; all ids in the order in which they were seen.
fn follow(harness: &Harness, mut listening: Listening, until: i64) -> JoinHandle<Vec<i64>> {
    let pool = harness.pool.clone();
    tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| *last < until) {
            listening.events.arm();
            let sql = "SELECT id FROM copyhold.log WHERE id > $1 AND event_data = '{\"kind\": \"a\"}' ORDER BY id";
            let new: Vec<i64> =
                sqlx::query_scalar(sql).bind(seen.last().copied().unwrap_or_default()).fetch_all(&pool).await.unwrap();
            let nothing = new.is_empty();
            seen.extend(new);
            if nothing {
                listening.events.wait(listening.ears.poll_interval(Duration::from_secs(5))).await;
            }
        }
        seen
    })
}

/// Each notification after this arrives at once.
async fn assert_hears(harness: &Harness, listening: &mut Listening) {
    listening.until_open().await;
    append(harness).await;
    soon("the event is heard", listening.events.notified()).await;
}

#[tokio::test]
async fn a_listener_whose_backend_is_terminated_wakes_all_waiters_and_listens_again() {
    let harness = Harness::new().await;
    let mut listening = Listening::begin(&harness, SHORT).await;
    listening.until_open().await;
    harness.until(&format!("SELECT count(pg_terminate_backend(pid)) = 1 {LISTENING}")).await;
    soon("work is looked for", listening.work.notified()).await;
    assert_hears(&harness, &mut listening).await;
}

#[tokio::test]
async fn a_connection_that_is_reset_wakes_all_waiters_and_is_made_anew() {
    let (harness, proxy) = behind_proxy().await;
    let mut listening = Listening::begin(&harness, SHORT).await;
    for _ in 0..3 {
        assert_hears(&harness, &mut listening).await;
        proxy.reset();
        soon("work is looked for", listening.work.notified()).await;
        soon("replicas are looked at", listening.replicas.notified()).await;
        soon("the inbox is looked into", listening.inbox.notified()).await;
    }
    assert_hears(&harness, &mut listening).await;
}

#[tokio::test]
async fn silence_is_noticed_and_lasts_no_longer_than_its_cause() {
    let (harness, proxy) = behind_proxy().await;
    let mut listening = Listening::begin(&harness, SHORT).await;
    assert_hears(&harness, &mut listening).await;
    listening.events.arm();
    proxy.set(Transfer::Hole);
    append(&harness).await;
    soon("all are woken", listening.events.notified()).await;
    assert!(!listening.ears.is_listening(), "a listener without a connection must not count as listening");
    let told = format!("SELECT wakeup LIKE '%cannot be reached%' FROM copyhold.daemons WHERE id = {}", listening.id);
    harness.until(&told).await;
    proxy.set(Transfer::Pass);
    assert_hears(&harness, &mut listening).await;
    harness.until(&format!("SELECT wakeup = 'notify' FROM copyhold.daemons WHERE id = {}", listening.id)).await;
}

#[tokio::test]
async fn a_slow_way_is_no_broken_one() {
    let (harness, proxy) = behind_proxy().await;
    proxy.set(Transfer::Slow(Duration::from_millis(40)));
    // As patient as a daemon, and more: the machine may be slow as well.
    let mut listening = Listening::begin(
        &harness,
        ListenerTiming { probing: ProbeTiming { within: Duration::from_mins(1), ..SHORT.probing }, ..SHORT },
    )
    .await;
    listening.until_open().await;
    for probe in 1..=4 {
        let probed = format!("SELECT pid || ' ' || query_start {LISTENING} AND query ~ 'listener::probe'");
        let before = harness.value(&probed).await;
        let again = async || harness.value(&probed).await.is_some_and(|now| Some(now) != before);
        eventually(&format!("probe {probe}"), again).await;
        assert!(listening.ears.is_listening());
    }
    append(&harness).await;
    soon("the event is heard", listening.events.notified()).await;
    assert_eq!(harness.value("SELECT wakeup FROM copyhold.daemons").await.unwrap(), "notify");
}

#[tokio::test]
async fn a_follower_loses_no_event_whatever_becomes_of_the_connection_that_listens() {
    let (harness, proxy) = behind_proxy().await;
    let mut listening = Listening::begin(&harness, SHORT).await;
    listening.until_open().await;
    let first = append(&harness).await;
    let following = follow(&harness, listening, first + 400);
    for i in 1..=400 {
        assert_eq!(append(&harness).await, first + i);
        match i {
            50 | 100 | 350 => proxy.reset(),
            150 => proxy.set(Transfer::Hole),
            200 => proxy.set(Transfer::Slow(Duration::from_millis(20))),
            250 => proxy.set(Transfer::Pass),
            300 => {
                harness.execute(&format!("SELECT pg_terminate_backend(pid) {LISTENING}")).await;
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    let seen = soon("all are seen", following).await.unwrap();
    assert_eq!(seen, (first..=first + 400).collect::<Vec<_>>());
}

/// Whether inserts are claimed because of their notices.
async fn assert_claims_at_once(harness: &Harness, daemon: &DaemonProcess, prefix: &str) {
    harness.copied_by_notice(daemon, prefix, 5).await;
}

#[tokio::test]
async fn after_each_fault_of_the_connection_an_insert_is_claimed_at_once_again() {
    let (harness, proxy) = behind_proxy().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    assert_claims_at_once(&harness, &daemon, "before").await;
    let listening = async |times: usize| daemon.log().matches("Listening for new objects").count() >= times;
    harness.until(&format!("SELECT count(pg_terminate_backend(pid)) = 1 {LISTENING}")).await;
    eventually("it listens again", async || listening(2).await).await;
    assert_claims_at_once(&harness, &daemon, "after its backend was terminated").await;
    proxy.reset();
    eventually("it listens again", async || listening(3).await).await;
    assert_claims_at_once(&harness, &daemon, "after a reset").await;
    assert_eq!(daemon.log().matches("Lost LISTEN connection").count(), 2, "{}", daemon.log());
}

#[tokio::test]
async fn after_a_restart_of_postgresql_wake_ups_and_events_resume_and_none_is_lost() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let harness = Harness::at(cluster.url("app"), "[lease]\ntimeout = \"1m\"\n").await;
    migrate(&harness.config).await.unwrap();
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    assert_claims_at_once(&harness, &daemon, "before").await;
    harness.value("SELECT copyhold.append_event('{\"kind\": \"a\", \"n\": 1}')").await;
    harness.execute("INSERT INTO copyhold.log_inbox (event_data) VALUES ('{\"kind\": \"a\", \"n\": 2}')").await;
    cluster.kill_server().await.unwrap();
    daemon.until_logged("Lost LISTEN connection").await;
    cluster.restart().await.unwrap();
    let listens = async || daemon.log().matches("Listening for new objects").count() == 2;
    eventually("it listens again", listens).await;
    harness.value("SELECT copyhold.append_event('{\"kind\": \"a\", \"n\": 3}')").await;
    let all = "SELECT array_agg(event_data ->> 'n' ORDER BY id) = '{1,2,3}' FROM copyhold.log WHERE event_data ->> 'kind' = 'a'";
    harness.until(all).await;
    assert_claims_at_once(&harness, &daemon, "after").await;
    cluster.stop().await.unwrap();
}

/// It logs once what is wrong and what to do, does not register as sleeping, and works all the same.
async fn assert_polls(harness: &Harness, wrong: &str, remedy: &str) {
    let daemon = harness.daemon().await;
    daemon.until_logged(wrong).await;
    assert!(daemon.log().contains(remedy), "no \"{remedy}\" in\n{}", daemon.log());
    harness.until(&format!("SELECT wakeup LIKE '%{wrong}%' FROM copyhold.daemons")).await;
    daemon.until_logged("Copying to scw").await;
    for i in 0..3 {
        let key = format!("photo {i}");
        harness.upload(&key, "bytes").await;
        harness.until_copied(&key).await;
        harness.value("SELECT copyhold.append_event('{\"kind\": \"a\"}')").await;
        harness.until("SELECT NOT EXISTS (SELECT FROM copyhold.log_inbox)").await;
        assert_eq!(harness.value("SELECT sleeping OR inbox_sleeping FROM copyhold.daemons").await.unwrap(), "false");
    }
    let status = printed(&harness.run(&["status"]).await);
    assert!(status.contains("cannot be notified") && status.contains(wrong), "{status}");
    assert_eq!(daemon.log().matches("Notifications do not arrive").count(), 1, "{}", daemon.log());
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_recognised_and_polled_through() {
    let Some((harness, _pooler)) = behind_pooler().await else { return };
    assert_polls(&harness, "leads to a pooler in transaction mode", "Let database.listen_url lead past any pooler")
        .await;
}

#[tokio::test]
async fn a_pooler_that_is_replaced_by_the_server_itself_is_noticed_without_a_restart() {
    let Some((harness, pooler)) = behind_pooler().await else { return };
    let mut listening = Listening::begin(&harness, SHORT).await;
    let told = format!("SELECT wakeup LIKE '%pooler%' FROM copyhold.daemons WHERE id = {}", listening.id);
    harness.until(&told).await;
    // In session mode it is as good as the server.
    pooler.set_session_mode();
    assert_hears(&harness, &mut listening).await;
}

/// Not one that follows ours, but a server that is recovering and will not end that, as one does.
#[tokio::test]
async fn a_read_replica_is_recognised_and_polled_beside() {
    let mut standby = Cluster::start(Options::default()).await.unwrap();
    std::fs::write(standby.folder().join("data/standby.signal"), "").unwrap();
    standby.restart().await.unwrap();
    let mut harness = Harness::new().await;
    listen_through(&mut harness, &standby.url("postgres"));
    assert_polls(&harness, "leads to a read replica, which cannot LISTEN", "lead to the server that is written to")
        .await;
    standby.stop().await.unwrap();
}

#[tokio::test]
async fn another_database_is_recognised_by_its_silence() {
    let mut harness = Harness::new().await;
    listen_through(&mut harness, &cluster().await.url("postgres"));
    assert_polls(&harness, "leads to another database than database.url", "the server and database of database.url")
        .await;
}

#[tokio::test]
async fn a_program_whose_append_never_commits_delays_neither_copies_nor_events() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let mut stuck = harness.pool.acquire().await.unwrap().detach();
    let mut stuck = stuck.begin().await.unwrap();
    let append = "SELECT copyhold.append_event('{\"kind\": \"a\", \"n\": 0}')";
    sqlx::raw_sql(append).execute(&mut *stuck).await.unwrap();
    assert_claims_at_once(&harness, &daemon, "photo").await;
    for n in 1..=5 {
        harness.value(&format!("SELECT copyhold.append_event('{{\"kind\": \"a\", \"n\": {n}}}')")).await;
        harness.until(&format!("SELECT count(*) = {n} FROM copyhold.log WHERE event_data ->> 'kind' = 'a'")).await;
    }
    assert_eq!(harness.value(&format!("SELECT count(*) {COMPLETE}")).await.unwrap(), "5");
    stuck.commit().await.unwrap();
    let all = "SELECT array_agg(event_data ->> 'n' ORDER BY id) = '{1,2,3,4,5,0}' FROM copyhold.log WHERE event_data ->> 'kind' = 'a'";
    harness.until(all).await;
}

/// No document tells an application to do this, and its role has no right to.
#[tokio::test]
async fn a_program_that_holds_the_log_itself_holds_up_records_until_it_ends_and_none_is_lost() {
    let harness = Harness::with(Begin::Migrated, "[lease]\ntimeout = \"1m\"\n").await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let mut stuck = harness.pool.acquire().await.unwrap().detach();
    let mut stuck = stuck.begin().await.unwrap();
    sqlx::raw_sql("SELECT copyhold.append_log(ARRAY['{\"kind\": \"a\"}'::jsonb])").execute(&mut *stuck).await.unwrap();
    harness.upload("photo", "bytes").await;
    daemon.until_logged("Could not record results").await;
    assert_eq!(harness.bucket("scw").get("photo").unwrap(), "bytes");
    // The application's own transactions do not notice.
    soon("another is registered", harness.upload("another", "bytes")).await;
    stuck.rollback().await.unwrap();
    harness.until_copied("photo").await;
    harness.until_copied("another").await;
    harness.until(&format!("SELECT count(*) = 2 {COMPLETE}")).await;
    for key in ["photo", "another"] {
        assert_eq!(harness.bucket("scw").writes(key), 1, "{key}");
    }
}
