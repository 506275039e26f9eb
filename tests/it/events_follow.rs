//! Each reader of the log gets each event once and in order, wherever it begins and however it falls behind; or gets
//! an error that says why not.

use std::time::Duration;

use copyhold::{
    events::{self, Batch, End, Filter, Log, Next, Reader, Settings, Start},
    wakeup::wake_channel::{self, WakeSender},
};
use copyhold_core::domain::{Cursor, Epoch};
use copyhold_db::schema::migrate;
use copyhold_sandbox::postgres::{Cluster, Options};
use futures::future::join_all;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Harness, printed, soon},
    rights::with_roles,
};

pub const SETTINGS: Settings = Settings { buffer_bytes: 16 << 20, readers: 2000, poll: Duration::from_millis(50) };
/// For tests in which only a notice counts.
const UNPOLLED: Settings = Settings { poll: Duration::from_hours(1), ..SETTINGS };

/// A log that is followed, as in a daemon.
pub struct Followed {
    pub log: Log,
    waker: WakeSender,
    stop: CancellationToken,
    tailer: JoinHandle<()>,
}

impl Followed {
    pub fn of(harness: &Harness, settings: Settings) -> Self {
        let (waker, wake) = wake_channel::channel();
        let (log, tailer) = events::open(harness.queue().event_log(), settings, wake);
        let stop = CancellationToken::new();
        let tailer = tokio::spawn(tailer.run(stop.clone()));
        Self { log, waker, stop, tailer }
    }

    pub fn reader(&self, start: Start) -> Reader {
        self.log.reader(start, Filter::default()).unwrap()
    }

    pub async fn end(self) {
        self.stop.cancel();
        soon("the tailer ends", self.tailer).await.unwrap();
    }
}

/// Appends `count` events in one transaction, numbered from `first`; the last one's id.
pub async fn append(harness: &Harness, first: i64, count: i64) -> i64 {
    let append = "SELECT copyhold.append_log(ARRAY(
        SELECT jsonb_build_object('kind', 'door.opened', 'n', n) FROM generate_series($1, $1 + $2 - 1) n ORDER BY n))";
    sqlx::query_scalar(append).bind(first).bind(count).fetch_one(&harness.pool).await.unwrap()
}

/// The next events, without the comments that come before them.
async fn batch(reader: &mut Reader) -> Batch {
    let next = async {
        loop {
            match reader.next().await {
                Next::Events(batch) => break batch,
                Next::Quiet | Next::Bookmark(_) => {}
                Next::End(end) => panic!("the reader ends: {end:?}"),
            }
        }
    };
    soon("events come", next).await
}

/// Reads up to this id.
pub async fn read_through(reader: &mut Reader, last: i64) -> Vec<i64> {
    let mut ids = Vec::new();
    while ids.last() != Some(&last) {
        ids.extend(batch(reader).await.ids());
    }
    ids
}

pub async fn end(reader: &mut Reader) -> End {
    let next = async {
        loop {
            match reader.next().await {
                Next::End(end) => break end,
                Next::Quiet | Next::Bookmark(_) => {}
                Next::Events(batch) => panic!("events instead of an end: {batch:?}"),
            }
        }
    };
    soon("the reader ends", next).await
}

fn after(id: i64) -> Start {
    Start::After(Cursor { id, epoch: None })
}

#[tokio::test]
async fn a_reader_that_waits_on_an_empty_log_gets_its_first_event_on_a_notification() {
    let harness = Harness::new().await;
    harness.execute("DELETE FROM copyhold.log").await;
    let followed = Followed::of(&harness, UNPOLLED);
    let mut reader = followed.reader(Start::Earliest);
    let Next::Bookmark(start) = soon("where it begins", reader.next()).await else { panic!("no bookmark") };
    assert_eq!(start.id, 0);
    let id = append(&harness, 1, 1).await;
    followed.waker.wake();
    let batch = batch(&mut reader).await;
    assert_eq!((batch.ids(), batch.last()), (vec![id], Cursor { id, ..start }));
    let data = harness.value("SELECT event_data FROM copyhold.log").await.unwrap();
    let line = String::from_utf8(batch.lines().concat()).unwrap();
    assert!(line.ends_with(&format!(",\"event_data\":{data}}}\n")), "{line}");
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(parsed["id"], id);
    let created = harness
        .value(
            "SELECT date_created = $q$%$q$ FROM copyhold.log"
                .replace('%', parsed["date_created"].as_str().unwrap())
                .as_str(),
        )
        .await;
    assert_eq!(created.as_deref(), Some("true"));
    assert_eq!(batch.sse().concat(), format!("id: {}\ndata: {line}\n", batch.last()).into_bytes());
    followed.end().await;
}

#[tokio::test]
async fn a_ring_that_begins_on_a_log_with_events_leaves_them_to_the_pages() {
    let harness = Harness::new().await;
    let last = append(&harness, 1, 1300).await;
    let followed = Followed::of(&harness, SETTINGS);
    let mut reader = followed.reader(Start::Earliest);
    assert_eq!(read_through(&mut reader, last).await, (1..=last).collect::<Vec<_>>());
    assert_eq!(followed.log.figures().page_queries, 3);
    let more = append(&harness, 1, 5).await;
    assert_eq!(read_through(&mut reader, more).await, (last + 1..=more).collect::<Vec<_>>());
    assert_eq!(followed.log.figures().page_queries, 3);
    followed.end().await;
}

#[tokio::test]
async fn an_id_that_the_log_has_not_reached_is_waited_for_and_then_is_of_another_log() {
    let harness = Harness::new().await;
    let last = append(&harness, 1, 1).await;
    let followed = Followed::of(&harness, SETTINGS);
    let mut ahead = followed.reader(after(last + 1));
    let End::Ahead { head } = end(&mut ahead).await else { panic!("not ahead") };
    assert_eq!(head.id, last);
    let mut other = followed.reader(Start::After(Cursor { id: 0, epoch: Some(Epoch(!head.epoch.unwrap().0)) }));
    assert_eq!(end(&mut other).await, End::OtherLog { epoch: head.epoch.unwrap() });
    // One that comes in time was only early.
    let mut early = followed.reader(after(last + 2));
    let waiting = tokio::spawn(async move { (early.begin().await, early) });
    append(&harness, 2, 3).await;
    let (begun, mut early) = soon("it begins", waiting).await.unwrap();
    assert_eq!(begun, Ok(Cursor { id: last + 2, ..head }));
    assert_eq!(read_through(&mut early, last + 3).await, [last + 3]);
    followed.end().await;
}

#[tokio::test]
async fn readers_from_anywhere_get_what_the_ring_has_and_from_pages_what_it_has_not() {
    let harness = Harness::new().await;
    append(&harness, 1, 100).await;
    let followed = Followed::of(&harness, SETTINGS);
    let mut first = followed.reader(Start::Now);
    let begin = soon("it begins", first.begin()).await.unwrap().id;
    // More than one look at the log brings, and more than one chunk holds.
    let last = append(&harness, 101, 3000).await;
    assert_eq!(read_through(&mut first, last).await, (begin + 1..=last).collect::<Vec<_>>());
    for id in [begin, begin + 1, begin + 1500, last - 1] {
        let ids = read_through(&mut followed.reader(after(id)), last).await;
        assert_eq!(ids, (id + 1..=last).collect::<Vec<_>>(), "{id}");
    }
    assert_eq!(followed.log.figures().page_queries, 0);
    let ids = read_through(&mut followed.reader(after(begin - 50)), last).await;
    assert_eq!(ids, (begin - 49..=last).collect::<Vec<_>>());
    assert_eq!(followed.log.figures().page_queries, 1);
    followed.end().await;
}

#[tokio::test]
async fn a_thousand_readers_of_the_same_page_make_one_query() {
    let harness = Harness::new().await;
    let last = append(&harness, 1, 400).await;
    let followed = Followed::of(&harness, SETTINGS);
    let mut readers: Vec<_> = (0..1000).map(|n| followed.reader(after(n % last))).collect();
    let all = join_all(readers.iter_mut().map(|reader| read_through(reader, last))).await;
    for (n, ids) in (0..1000).zip(all) {
        assert_eq!(ids, (n % last + 1..=last).collect::<Vec<_>>());
    }
    assert_eq!(followed.log.figures().page_queries, 1);
    followed.end().await;
}

#[tokio::test]
async fn events_of_many_bytes_are_read_a_few_at_a_time() {
    let harness = Harness::new().await;
    harness
        .execute(
            "SELECT copyhold.append_log(ARRAY(
                SELECT jsonb_build_object('n', n, 'text', repeat('x', 60000)) FROM generate_series(1, 20) n ORDER BY n))",
        )
        .await;
    let followed = Followed::of(&harness, SETTINGS);
    let mut reader = followed.reader(Start::Earliest);
    let mut largest = 0;
    let mut ids = Vec::new();
    while ids.len() < 23 {
        let batch = batch(&mut reader).await;
        largest = largest.max(batch.sse().iter().map(bytes::Bytes::len).sum());
        ids.extend(batch.ids());
    }
    assert_eq!(ids, (1..=23).collect::<Vec<_>>());
    assert!((200_000..400_000).contains(&largest), "{largest}");
    followed.end().await;
}

#[tokio::test]
async fn a_turned_page_is_crossed_with_few_queries_and_a_dropped_one_is_told() {
    let harness = Harness::new().await;
    let old = append(&harness, 1, 697).await;
    assert_eq!(harness.value("SELECT copyhold.turn_log_page(0, 0)").await.as_deref(), Some("true"));
    let last = append(&harness, 698, 10).await;
    assert!(last > 1 << 20);
    let followed = Followed::of(&harness, SETTINGS);
    let mut reader = followed.reader(Start::Earliest);
    let behind: Vec<_> = (last - 9..=last).collect();
    let ids = read_through(&mut reader, last).await;
    assert_eq!(ids, (1..=old).chain(behind.iter().copied()).collect::<Vec<_>>());
    assert_eq!(followed.log.figures().page_queries, 3);
    // One that has read a page of it, and one that has read it all.
    let mut amid = followed.reader(after(100));
    assert_eq!(batch(&mut amid).await.last_event(), 511);
    let dropped = harness.value("SELECT copyhold.drop_log_partition(0, 0)").await;
    assert_eq!(dropped, Some(old.to_string()));
    let Start::After(earliest) = after(old) else { unreachable!() };
    let gone = |end| matches!(end, End::Gone { earliest: Cursor { id, .. } } if id == earliest.id);
    let fresh = Followed::of(&harness, SETTINGS);
    assert!(gone(end(&mut fresh.reader(after(old - 1))).await));
    for start in [after(old), after(old + 1000), Start::Earliest] {
        assert_eq!(read_through(&mut fresh.reader(start), last).await, behind, "{start:?}");
    }
    // Events that are still in memory may be read on; for others the reader gets an error. None is skipped.
    let rest: Vec<_> = (512..=old).chain(behind).collect();
    let mut ids = Vec::new();
    let next = async {
        loop {
            match amid.next().await {
                Next::Events(batch) => ids.extend(batch.ids()),
                Next::Quiet | Next::Bookmark(_) => {}
                Next::End(end) => break Some(end),
            }
            if amid.cursor().is_some_and(|cursor| cursor.id >= last) {
                break None;
            }
        }
    };
    assert!(soon("it goes on or ends", next).await.is_none_or(gone));
    assert!(rest.starts_with(&ids), "{ids:?}");
    followed.end().await;
    fresh.end().await;
}

#[tokio::test]
async fn after_a_restore_it_is_another_log_for_all_who_read_it() {
    let harness = Harness::new().await;
    let before = harness.value("SELECT incarnation FROM copyhold.log_state").await;
    let followed = [Followed::of(&harness, SETTINGS), Followed::of(&harness, SETTINGS)];
    let mut readers = followed.each_ref().map(|followed| followed.reader(Start::Earliest));
    let last = append(&harness, 1, 100).await;
    for reader in &mut readers {
        assert_eq!(read_through(reader, last).await, (1..=last).collect::<Vec<_>>());
    }
    let seen = readers[0].cursor().unwrap();
    // Not in one transaction: `setval` is seen before the rest commits, and the log would seem restored twice.
    harness.execute("DELETE FROM copyhold.log WHERE id > 50").await;
    harness.execute("SELECT setval('copyhold.log_ids', 50)").await;
    let ends = [end(&mut readers[0]).await, end(&mut readers[1]).await];
    // One of them has raised it, once.
    let raised = "SELECT incarnation FROM copyhold.log_state";
    assert_ne!(harness.value(raised).await, before);
    let epoch = harness.queue().log_head().await.unwrap().epoch;
    assert_eq!(ends, [End::OtherLog { epoch }; 2]);
    assert_eq!(end(&mut followed[0].reader(Start::After(seen))).await, End::OtherLog { epoch });
    let new = append(&harness, 1, 1).await;
    assert_eq!(new, 51);
    assert_eq!(read_through(&mut followed[0].reader(Start::After(Cursor::new(49, epoch))), new).await, [50, 51]);
    for followed in followed {
        followed.end().await;
    }
}

#[tokio::test]
async fn each_log_has_an_epoch_of_its_own_and_a_new_one_when_an_operator_says_so() {
    let (harness, another) = (Harness::new().await, Harness::new().await);
    let head = harness.queue().log_head().await.unwrap();
    assert_eq!(harness.queue().log_head().await.unwrap().epoch, head.epoch);
    assert_ne!(another.queue().log_head().await.unwrap().epoch, head.epoch);
    let followed = Followed::of(&harness, SETTINGS);
    let mut reader = followed.reader(Start::Now);
    assert_eq!(soon("it begins", reader.begin()).await.unwrap().epoch, Some(head.epoch));
    let new = harness.queue().new_incarnation().await.unwrap();
    assert_ne!(new.epoch, head.epoch);
    assert_eq!(end(&mut reader).await, End::OtherLog { epoch: new.epoch });
    followed.end().await;
}

#[tokio::test]
async fn a_role_that_may_not_ask_which_server_it_is_has_an_epoch_all_the_same() {
    let (harness, _application) = with_roles("events_of_a_narrow_role").await;
    let sure = harness.queue().log_head().await.unwrap();
    harness.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC").await;
    let unsure = harness.queue().log_head().await.unwrap();
    assert_eq!((sure.sure, unsure.sure), (true, false));
    assert_ne!(sure.epoch, unsure.epoch);
    assert_eq!(harness.queue().log_head().await.unwrap(), unsure);
    let followed = Followed::of(&harness, SETTINGS);
    let mut reader = followed.reader(Start::Now);
    assert_eq!(soon("it begins", reader.begin()).await.unwrap().epoch, Some(unsure.epoch));
    followed.end().await;
}

#[tokio::test]
async fn readers_wait_while_postgresql_restarts_and_lose_nothing() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let harness = Harness::at(cluster.url("app"), "").await;
    migrate(&harness.config).await.unwrap();
    let followed = Followed::of(&harness, SETTINGS);
    let mut reader = followed.reader(Start::Now);
    let begin = soon("it begins", reader.begin()).await.unwrap();
    cluster.kill_server().await.unwrap();
    let waits = tokio::spawn(async move { (batch(&mut reader).await.ids(), reader) });
    cluster.restart().await.unwrap();
    let id = append(&harness, 1, 1).await;
    let (ids, reader) = soon("the event comes", waits).await.unwrap();
    assert_eq!(ids, [id]);
    // The server draws ids ahead, and forgets those when it is killed.
    assert!(id > begin.id && reader.cursor().unwrap().epoch == begin.epoch);
    followed.end().await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn status_shows_how_much_there_is_of_the_log() {
    let harness = Harness::new().await;
    let last = append(&harness, 1, 10).await;
    harness.execute("SELECT copyhold.append_event('{\"kind\": \"door.opened\"}')").await;
    let text = printed(&harness.run(&["status"]).await);
    assert!(text.contains(&format!("events 1 to {last} in the log, the oldest from ")), "{text}");
    assert!(text.contains("1 waits to be moved there"), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&harness.run(&["status", "--json"]).await.stdout).unwrap();
    let log = &json["log"];
    assert_eq!((&log["first_id"], &log["last_id"], &log["inbox"]), (&1.into(), &last.into(), &1.into()));
    assert_eq!(log["epoch"], harness.queue().log_head().await.unwrap().epoch.to_string());
    assert!(log["bytes"].as_i64() > Some(8192) && log["partitions"].as_i64() >= Some(3), "{log}");
}

#[tokio::test]
async fn reading_the_log_costs_what_is_read_whatever_postgresql_believes_of_it() {
    let harness = Harness::new().await;
    let last = append(&harness, 1, 100_000).await;
    let mut connection = harness.pool.acquire().await.unwrap();
    for knows in ["SELECT 1", "ANALYZE copyhold.log"] {
        sqlx::raw_sql(knows).execute(&mut *connection).await.unwrap();
        for mode in ["force_generic_plan", "force_custom_plan"] {
            for statement in harness.queue().log_statements() {
                let ends = [(last - 2000, i64::MAX), (last / 2 / 512 * 512, (last / 2 / 512 + 1) * 512)];
                let (from, end) = ends[usize::from(statement.name == "log_page")];
                let sql = format!(
                    "SET plan_cache_mode = {mode}; PREPARE part (bigint, bigint, bigint) AS {};
                     EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE part ({from}, {end}, 1000000); DEALLOCATE part",
                    statement.sql
                );
                // The plan is the only row of all these statements; each begins with the line that names it.
                let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection).await.unwrap();
                let plan: String = rows[0].try_get_unchecked(0).unwrap();
                let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
                let whole = &plan[0]["Plan"];
                let pages =
                    whole["Shared Hit Blocks"].as_i64().unwrap() + whole["Shared Read Blocks"].as_i64().unwrap();
                let rows = whole["Actual Rows"].as_f64().unwrap();
                assert!(rows >= 500.0 && pages < 300, "{} {mode} {knows}: {pages} pages\n{plan:#}", statement.name);
            }
        }
    }
}
