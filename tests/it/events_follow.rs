//! Each reader of the log gets each event once and in order, wherever it begins and however it falls behind; or is told
//! why it cannot.

use std::time::Duration;

use copyhold::{
    domain::{Cursor, Epoch},
    events::{self, Batch, End, Filter, Log, Next, Reader, Settings, Start},
    wake::{self, Waker},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::{World, soon};

const SETTINGS: Settings = Settings { buffer_bytes: 16 << 20, readers: 2000, poll: Duration::from_millis(50) };
/// For tests in which only a notice counts.
const UNPOLLED: Settings = Settings { poll: Duration::from_hours(1), ..SETTINGS };

/// A log that is followed, as in a daemon.
struct Followed {
    log: Log,
    waker: Waker,
    stop: CancellationToken,
    tailer: JoinHandle<()>,
}

impl Followed {
    fn of(world: &World, settings: Settings) -> Self {
        let (waker, wake) = wake::channel();
        let (log, tailer) = events::open(world.queue(), settings, wake);
        let stop = CancellationToken::new();
        let tailer = tokio::spawn(tailer.run(stop.clone()));
        Self { log, waker, stop, tailer }
    }

    fn reader(&self, start: Start) -> Reader {
        self.log.reader(start, Filter::default()).unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        soon("the tailer ends", self.tailer).await.unwrap();
    }
}

/// Appends `count` events in one transaction, numbered from `first`; the last one's id.
async fn append(world: &World, first: i64, count: i64) -> i64 {
    let append = "SELECT copyhold.append_log(ARRAY(
        SELECT jsonb_build_object('kind', 'door.opened', 'n', n) FROM generate_series($1, $1 + $2 - 1) n ORDER BY n))";
    sqlx::query_scalar(append).bind(first).bind(count).fetch_one(&world.pool).await.unwrap()
}

/// The next events, whatever is said before they come.
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
async fn read_through(reader: &mut Reader, last: i64) -> Vec<i64> {
    let mut ids = Vec::new();
    while ids.last() != Some(&last) {
        ids.extend(batch(reader).await.ids());
    }
    ids
}

async fn end(reader: &mut Reader) -> End {
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
async fn whoever_waits_on_an_empty_log_gets_its_first_event_on_a_notice() {
    let world = World::new().await;
    let followed = Followed::of(&world, UNPOLLED);
    let mut reader = followed.reader(Start::Earliest);
    let Next::Bookmark(start) = soon("where it begins", reader.next()).await else { panic!("no bookmark") };
    assert_eq!(start.id, 0);
    let id = append(&world, 1, 1).await;
    followed.waker.wake();
    let batch = batch(&mut reader).await;
    assert_eq!((batch.ids(), batch.last()), (vec![id], Cursor { id, ..start }));
    let data = world.value("SELECT event_data FROM copyhold.log").await.unwrap();
    let line = String::from_utf8(batch.lines().concat()).unwrap();
    assert!(line.ends_with(&format!(",\"event_data\":{data}}}\n")), "{line}");
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(parsed["id"], id);
    let created = world
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
    let world = World::new().await;
    let last = append(&world, 1, 1300).await;
    let followed = Followed::of(&world, SETTINGS);
    let mut reader = followed.reader(Start::Earliest);
    assert_eq!(read_through(&mut reader, last).await, (1..=last).collect::<Vec<_>>());
    assert_eq!(followed.log.figures().page_queries, 3);
    let more = append(&world, 1, 5).await;
    assert_eq!(read_through(&mut reader, more).await, (last + 1..=more).collect::<Vec<_>>());
    assert_eq!(followed.log.figures().page_queries, 3);
    followed.end().await;
}

#[tokio::test]
async fn an_id_that_the_log_has_not_reached_is_waited_for_and_then_is_of_another_log() {
    let world = World::new().await;
    let last = append(&world, 1, 1).await;
    let followed = Followed::of(&world, SETTINGS);
    let mut ahead = followed.reader(after(last + 1));
    let End::Ahead { head } = end(&mut ahead).await else { panic!("not ahead") };
    assert_eq!(head.id, last);
    let mut other = followed.reader(Start::After(Cursor { id: 0, epoch: Some(Epoch(!head.epoch.unwrap().0)) }));
    assert_eq!(end(&mut other).await, End::OtherLog { epoch: head.epoch.unwrap() });
    // One that comes in time was only early.
    let mut early = followed.reader(after(last + 2));
    let waiting = tokio::spawn(async move { (early.begin().await, early) });
    append(&world, 2, 3).await;
    let (begun, mut early) = soon("it begins", waiting).await.unwrap();
    assert_eq!(begun, Ok(Cursor { id: last + 2, ..head }));
    assert_eq!(read_through(&mut early, last + 3).await, [last + 3]);
    followed.end().await;
}
