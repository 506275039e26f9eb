//! What waiting readers receive, and what they cost.

use copyhold_db::log::LoggedEvent;
use futures::{FutureExt as _, future::join_all};
use rand::RngExt as _;

use super::*;
use crate::events::chunk::tests::event;

fn of_kind(kind: &str) -> LoggedEvent {
    LoggedEvent { kind: Some(kind.into()), ..event(0, "{}") }
}

#[tokio::test(start_paused = true)]
async fn many_readers_that_wait_all_get_an_event_that_was_read_once() {
    let (followed, _first) = Followed::begun(Model::default(), SETTINGS).await;
    let mut readers: Vec<_> = (0..1000).map(|_| followed.reader(Start::Now)).collect();
    for begun in join_all(readers.iter_mut().map(Reader::begin)).await {
        assert!(begun.is_ok());
    }
    let before = followed.model.state().tails;
    let (id, batches) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            followed.append(0, 1)
        },
        join_all(readers.iter_mut().map(batch))
    );
    assert!(batches.iter().all(|batch| batch.ids() == [id]));
    let buffers: Vec<_> = batches.iter().map(|batch| batch.sse()[0].as_ptr()).collect();
    assert!(buffers.iter().all(|buffer| *buffer == buffers[0]), "framed once, copied never");
    assert_eq!(followed.model.state().tails, before + 1);
    assert_eq!(followed.log.figures().readers, 1001);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_events_in_one_wake_up_are_one_query_and_both_are_seen() {
    let (followed, mut reader) = Followed::begun(Model::default(), SETTINGS).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = followed.model.state().tails;
    followed.append(0, 1);
    followed.append(0, 1);
    assert_eq!(batch(&mut reader).await.ids(), [1, 2]);
    assert_eq!(followed.model.state().tails, before + 1);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn however_often_it_is_woken_the_log_is_asked_once_per_tick() {
    let (followed, mut reader) = Followed::begun(Model::default(), SETTINGS).await;
    let before = followed.model.state().tails;
    for _ in 0..1000 {
        followed.append(0, 1);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = followed.model.state().tails - before;
    assert!((45..=51).contains(&asked), "{asked} queries in a second");
    assert_eq!(drain(&mut reader).await, ((1..=1000).collect(), None));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_notice_is_lost_is_found_by_the_poll() {
    let (followed, mut reader) = Followed::begun(Model::default(), SETTINGS).await;
    followed.model.append(0, 1);
    let begun = tokio::time::Instant::now();
    assert_eq!(batch(&mut reader).await.ids(), [1]);
    assert!(begun.elapsed() <= Duration::from_secs(6), "{:?}", begun.elapsed());
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_while_it_waits_takes_nothing_with_it() {
    let settings = Settings { readers: 2, ..SETTINGS };
    let (followed, mut stays) = Followed::begun(Model::default(), settings).await;
    let mut leaves = followed.reader(after(0));
    let waited = tokio::time::timeout(Duration::from_secs(1), async {
        while !matches!(leaves.next().await, Next::Events(_)) {}
    });
    assert!(waited.await.is_err());
    assert!(followed.log.reader(Start::Now, Filter::default()).is_err(), "there is room for two");
    drop(leaves);
    let mut comes = followed.reader(Start::Now);
    assert!(comes.begin().await.is_ok());
    followed.append(0, 1);
    assert_eq!(batch(&mut stays).await.ids(), [1]);
    assert_eq!(batch(&mut comes).await.ids(), [1]);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_can_be_given_up_and_taken_up_again_without_loss() {
    let model = Model::default();
    model.append(0, 2000);
    let (followed, _first) = Followed::begun(model, SETTINGS).await;
    let mut reader = followed.reader(after(0));
    let mut ids = Vec::new();
    let mut appended = false;
    while ids.len() < 2100 {
        if ids.len() == 2000 && !std::mem::replace(&mut appended, true) {
            followed.append(0, 100);
        }
        // Polled once and dropped, wherever it was; the others run in between.
        match reader.next().now_or_never() {
            Some(Next::Events(batch)) => ids.extend(batch.ids()),
            Some(Next::End(end)) => panic!("{end:?}"),
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
        // A page is read only while a reader waits for it.
        if ids.len() < 2000 {
            ids.extend(batch(&mut reader).await.ids());
        }
    }
    assert_eq!(ids, (1..=2100).collect::<Vec<_>>());
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_comes_between_look_and_wait_misses_nothing() {
    let (followed, _first) = Followed::begun(Model::default(), SETTINGS).await;
    let mut reader = followed.reader(Start::Now);
    let begun = reader.begin().await.unwrap();
    // It has looked, and found nothing …
    let mut next = Box::pin(reader.next());
    let first = futures::poll!(&mut next);
    assert!(matches!(first, std::task::Poll::Ready(Next::Bookmark(cursor)) if cursor == begun));
    drop(next);
    let mut next = Box::pin(reader.next());
    assert!(futures::poll!(&mut next).is_pending());
    // … and what comes before it is asked again wakes it.
    followed.append(0, 1);
    followed.settle().await;
    assert!(matches!(futures::poll!(&mut next), std::task::Poll::Ready(Next::Events(batch)) if batch.ids() == [1]));
    drop(next);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_readers_of_one_page_are_one_query() {
    let model = Model::default();
    model.append(0, 500);
    let (followed, _first) = Followed::begun(model, SETTINGS).await;
    let mut readers: Vec<_> = (0..1000).map(|n| followed.reader(after(n % 500))).collect();
    let all = join_all(readers.iter_mut().map(drain)).await;
    for (n, (ids, end)) in (0..1000).zip(all) {
        assert_eq!((ids, end), ((n % 500 + 1..=500).collect(), None));
    }
    assert_eq!(followed.pages(), 1);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_herd_from_anywhere_makes_a_fiftieth_of_the_queries_of_as_many_readers_alone() {
    let model = Model::default();
    let last = model.append(0, 50_000);
    // Pages as large as those of real events, of which not all are kept.
    for event in &mut model.state().events {
        event.data = format!(r#"{{"text": "{}"}}"#, "x".repeat(200));
    }
    let (followed, _first) = Followed::begun(model, SETTINGS).await;
    let starts: Vec<i64> = (0..1000).map(|_| rand::rng().random_range(0..last)).collect();
    let alone: i64 = starts.iter().map(|from| (last - from + 511) / 512).sum();
    let mut readers: Vec<_> = starts.iter().map(|from| followed.reader(after(*from))).collect();
    let all = join_all(readers.iter_mut().map(async |reader| {
        let mut count = 0;
        loop {
            let batch = batch(reader).await;
            count += batch.count();
            // A client takes its time.
            tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..20))).await;
            if batch.last_event() == last {
                break count;
            }
        }
    }))
    .await;
    for (from, count) in starts.iter().zip(all) {
        assert_eq!(i64::try_from(count).unwrap(), last - from);
    }
    let pages = i64::try_from(followed.pages()).unwrap();
    assert!(pages * 50 <= alone, "{pages} queries, {alone} alone");
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_page_whose_reader_leaves_while_it_is_read_is_read_for_the_next_one() {
    let model = Model::default();
    model.append(0, 500);
    let (followed, _first) = Followed::begun(model, SETTINGS).await;
    let (mut leaves, mut stays) = (followed.reader(after(1)), followed.reader(after(1)));
    assert!(leaves.begin().await.is_ok());
    let mut next = Box::pin(leaves.next());
    assert!(futures::poll!(&mut next).is_pending());
    let stays = tokio::spawn(async move { batch(&mut stays).await.ids() });
    tokio::task::yield_now().await;
    drop(next);
    assert_eq!(stays.await.unwrap(), (2..=500).collect::<Vec<_>>());
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_query_is_sent_while_there_are_no_readers() {
    let followed = Followed::new();
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(followed.model.state().heads, 0);
    let mut reader = followed.reader(Start::Now);
    assert!(reader.begin().await.is_ok());
    drop(reader);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let asked = followed.model.state().tails;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(followed.model.state().tails, asked);
    assert_eq!(followed.log.figures().ring_bytes, 0);
    // And it begins again where the log is by then.
    followed.model.append(0, 5);
    let mut reader = followed.reader(after(3));
    assert_eq!(drain(&mut reader).await, (vec![4, 5], None));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_filter_passes_what_it_names_and_bookmarks_cover_the_rest() {
    let (followed, _first) = Followed::begun(Model::default(), SETTINGS).await;
    let filter = Filter { kinds: vec!["rare".into()], ..Filter::default() };
    let start = Start::After(Cursor::new(0, followed.model.epoch()));
    let mut reader = followed.log.reader(start, filter).unwrap();
    let append = |kinds: &[&str]| {
        followed.model.append_all(0, kinds.iter().map(|kind| of_kind(kind)));
        followed.waker.wake();
    };
    append(&["often", "rare", "often", "rare", "often"]);
    let batch = batch(&mut reader).await;
    assert_eq!((batch.ids(), batch.last_event(), batch.last().id), (vec![2, 4], 4, 5));
    let sse = String::from_utf8(batch.sse().concat()).unwrap();
    assert_eq!((sse.matches("id: ").count(), sse.matches("\n\n").count()), (2, 2));
    assert_eq!(String::from_utf8(batch.lines().concat()).unwrap().lines().count(), 2);
    // It is quiet for a while, and after a minute reports how far it has come.
    let begun = tokio::time::Instant::now();
    let bookmark = loop {
        match reader.next().await {
            Next::Quiet => {}
            Next::Bookmark(cursor) => break cursor,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((bookmark.id, begun.elapsed().as_secs()), (5, 60));
    // Or at once, when much has gone by.
    append(&vec!["often"; 5000]);
    assert!(matches!(reader.next().await, Next::Bookmark(Cursor { id: 1006.., .. })));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_events_whose_notification_has_not_arrived_yet() {
    let (followed, _first) = Followed::begun(Model::default(), SETTINGS).await;
    let mut reader = followed.reader(after(0));
    assert!(reader.begin().await.is_ok());
    // Committed, and its notification still on the way.
    followed.model.append(0, 3);
    let mut ids = Vec::new();
    while let Some(next) = reader.next_until(tokio::time::Instant::now()).await {
        if let Next::Events(batch) = next {
            ids.extend(batch.ids());
        }
    }
    assert_eq!(ids, [1, 2, 3]);
    followed.end().await;
}
