//! The positions at which a reader may begin.

use super::*;
use crate::events::chunk::tests::event;

/// Events 1 to 100 in no ring, 101 to 200 in one.
async fn halfway() -> (Followed, Reader) {
    let model = Model::default();
    model.append(0, 100);
    let (followed, reader) = Followed::begun(model, SETTINGS).await;
    followed.append(0, 100);
    followed.settle().await;
    (followed, reader)
}

#[tokio::test(start_paused = true)]
async fn an_empty_ring_has_nothing_and_the_first_event_of_all_is_seen() {
    let followed = Followed::new();
    let mut reader = followed.reader(Start::Earliest);
    assert!(matches!(reader.next().await, Next::Bookmark(Cursor { id: 0, .. })));
    assert!(matches!(reader.next().await, Next::Quiet));
    let id = followed.append(0, 1);
    assert_eq!(batch(&mut reader).await.ids(), [id]);
    assert_eq!(followed.pages(), 0);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_before_the_rings_start_reads_a_page_and_then_the_ring() {
    let (followed, _first) = halfway().await;
    let mut reader = followed.reader(after(40));
    assert_eq!(drain(&mut reader).await, ((41..=200).collect(), None));
    assert_eq!(followed.pages(), 1);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_at_its_start_inside_it_or_at_its_end_reads_from_memory() {
    let (followed, _first) = halfway().await;
    for id in [100, 101, 150, 199, 200] {
        let mut reader = followed.reader(after(id));
        assert_eq!(drain(&mut reader).await, ((id + 1..=200).collect(), None), "{id}");
    }
    assert_eq!(followed.pages(), 0);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_beyond_the_end_waits_a_moment_and_then_gets_the_end_of_the_log() {
    let (followed, _first) = halfway().await;
    let begun = tokio::time::Instant::now();
    let mut reader = followed.reader(after(201));
    let head = Cursor::new(200, followed.model.epoch());
    assert_eq!(drain(&mut reader).await, (vec![], Some(End::Ahead { head })));
    assert_eq!(begun.elapsed().as_secs(), 3);
    let mut reader = followed.reader(after(201));
    let early = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        followed.append(0, 2);
    };
    let ((), begun) = tokio::join!(early, reader.begin());
    assert_eq!(begun, Ok(Cursor { id: 201, ..head }));
    assert_eq!(drain(&mut reader).await, (vec![202], None));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_id_that_no_event_has_is_a_place_like_any_other() {
    let model = Model::default();
    model.append(10, 5);
    let (followed, _first) = Followed::begun(model, SETTINGS).await;
    followed.append(1000, 5);
    followed.settle().await;
    let (old, new) = ((11..=15), (1016..=1020));
    let all: Vec<i64> = old.chain(new).collect();
    for id in [0, 5, 10, 12, 15, 16, 512, 1015, 1017] {
        let expected: Vec<_> = all.iter().copied().filter(|other| *other > id).collect();
        assert_eq!(drain(&mut followed.reader(after(id))).await, (expected, None), "{id}");
    }
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_ring_that_has_wrapped_once_or_many_times_has_the_latest_and_the_pages_the_rest() {
    for chunks in [40, 400] {
        let settings = Settings { buffer_bytes: 4000, ..SETTINGS };
        let (followed, mut first) = Followed::begun(Model::default(), settings).await;
        for _ in 0..chunks {
            followed.append(0, 1);
            followed.settle().await;
        }
        let figures = followed.log.figures();
        assert!(figures.ring_bytes > 0 && figures.ring_bytes <= 4000, "{figures:?}");
        for id in [0, 1, chunks - 30, chunks - 2, chunks - 1, chunks] {
            assert_eq!(drain(&mut followed.reader(after(id))).await, ((id + 1..=chunks).collect(), None), "{id}");
        }
        assert_eq!(drain(&mut first).await, ((1..=chunks).collect(), None));
        assert_eq!(followed.pages(), 1);
        followed.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_larger_than_the_ring_is_read_all_the_same() {
    let settings = Settings { buffer_bytes: 4000, ..SETTINGS };
    let (followed, mut reader) = Followed::begun(Model::default(), settings).await;
    let large = event(0, &format!("\"{}\"", "x".repeat(300_000)));
    followed.model.append_all(0, [large.clone(), large.clone(), large]);
    assert_eq!(drain(&mut reader).await, (vec![1, 2, 3], None));
    assert_eq!(followed.log.figures().ring_bytes, 0);
    // Each fills a page by itself.
    assert_eq!(followed.pages(), 3);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_a_minute_is_let_go_and_read_from_pages() {
    let (followed, mut first) = Followed::begun(Model::default(), SETTINGS).await;
    followed.append(0, 10);
    assert_eq!(drain(&mut first).await, ((1..=10).collect(), None));
    assert!(followed.log.figures().ring_bytes > 0);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(followed.log.figures().ring_bytes, 0);
    assert_eq!(drain(&mut followed.reader(after(3))).await, ((4..=10).collect(), None));
    assert_eq!(followed.pages(), 1);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_of_a_million_ids_is_crossed_with_two_pages() {
    let model = Model::default();
    model.append(0, 10);
    model.append(1 << 20, 10);
    let (followed, _first) = Followed::begun(model, SETTINGS).await;
    let (ids, end) = drain(&mut followed.reader(Start::Earliest)).await;
    assert_eq!((ids, end), (followed.model.ids_behind(0), None));
    assert_eq!(followed.pages(), 2);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_new_events_gets_nothing_old_and_learns_where_it_begins() {
    let (followed, _first) = halfway().await;
    let mut reader = followed.reader(Start::Now);
    assert!(matches!(reader.next().await, Next::Bookmark(Cursor { id: 200, .. })));
    followed.append(0, 1);
    assert_eq!(drain(&mut reader).await, (vec![201], None));
    followed.end().await;
}
