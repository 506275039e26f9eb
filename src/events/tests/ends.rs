//! The error for a reader that cannot continue: it never skips an event, and never waits for ever.

use copyhold_core::domain::Epoch;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_reader_of_dropped_events_learns_where_to_continue() {
    let model = Model::default();
    model.append(0, 2000);
    model.drop_through(1000);
    let (followed, _first) = Followed::begun(model, SETTINGS).await;
    let earliest = Cursor::new(1000, followed.model.epoch());
    for id in [0, 999] {
        let mut reader = followed.reader(after(id));
        assert_eq!(reader.begin().await, Err(End::Gone { earliest }));
        assert_eq!(drain(&mut reader).await, (vec![], Some(End::Gone { earliest })), "{id}");
    }
    for start in [after(1000), Start::After(earliest), Start::Earliest] {
        assert_eq!(drain(&mut followed.reader(start)).await, ((1001..=2000).collect(), None), "{start:?}");
    }
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_drop_between_two_pages_is_never_a_silent_skip() {
    let model = Model::default();
    model.append(0, 5000);
    let (followed, _first) = Followed::begun(model, SETTINGS).await;
    let mut reader = followed.reader(after(0));
    assert_eq!(batch(&mut reader).await.last_event(), 511);
    // The tailer does not know it yet.
    followed.model.drop_through(3000);
    let earliest = Cursor::new(3000, followed.model.epoch());
    assert_eq!(drain(&mut reader).await, (vec![], Some(End::Gone { earliest })));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_ring_is_read_although_the_log_has_dropped_it() {
    let (followed, mut reader) = Followed::begun(Model::default(), SETTINGS).await;
    followed.append(0, 100);
    followed.settle().await;
    followed.model.drop_through(90);
    followed.append(0, 1);
    assert_eq!(drain(&mut reader).await, ((1..=101).collect(), None));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn events_dropped_before_the_tailer_read_them_are_reported_as_well() {
    let (followed, mut reader) = Followed::begun(Model::default(), SETTINGS).await;
    followed.append(0, 10);
    followed.settle().await;
    followed.model.append(0, 100);
    followed.model.drop_through(90);
    followed.append(0, 1);
    followed.settle().await;
    let earliest = Cursor::new(90, followed.model.epoch());
    assert_eq!(drain(&mut reader).await, (vec![], Some(End::Gone { earliest })));
    assert_eq!(drain(&mut followed.reader(Start::After(earliest))).await, ((91..=111).collect(), None));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_another_log_is_refused() {
    let (followed, _first) = Followed::begun(Model::default(), SETTINGS).await;
    followed.append(0, 10);
    let epoch = followed.model.epoch();
    let mut reader = followed.reader(Start::After(Cursor::new(5, Epoch(77))));
    assert_eq!(reader.begin().await, Err(End::OtherLog { epoch }));
    // Unless this process was the last to notice.
    let mut reader = followed.reader(Start::After(Cursor::new(5, Epoch(1))));
    followed.model.state().incarnation = 1;
    assert_eq!(drain(&mut reader).await, ((6..=10).collect(), None));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_shorter_than_it_was_is_another_one_from_then_on() {
    let (followed, mut reader) = Followed::begun(Model::default(), SETTINGS).await;
    followed.append(0, 100);
    assert_eq!(drain(&mut reader).await.0.len(), 100);
    // Restored from a backup, and already written to again.
    {
        let mut state = followed.model.state();
        state.events.truncate(50);
        state.last = 50;
    }
    let last = followed.append(0, 5);
    assert_eq!(drain(&mut reader).await, (vec![], Some(End::OtherLog { epoch: Epoch(1) })));
    assert_eq!(followed.model.state().incarnation, 1);
    let mut anew = followed.reader(Start::After(Cursor::new(50, Epoch(1))));
    assert_eq!(drain(&mut anew).await, ((51..=last).collect(), None));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_failover_ids_of_the_log_before_are_refused_however_far_the_new_one_has_come() {
    let model = Model::default();
    model.append(0, 2000);
    let (followed, mut reader) = Followed::begun(model, SETTINGS).await;
    followed.append(0, 100);
    assert_eq!(drain(&mut reader).await.0.len(), 100);
    let seen = reader.cursor().unwrap();
    let mut behind = followed.reader(Start::After(Cursor { id: 10, ..seen }));
    assert_eq!(batch(&mut behind).await.last_event(), 511);
    // The ids that were lost are given again before this process looks.
    followed.model.fail_over_to(1500);
    let last = followed.model.append(0, 700);
    // A page of the other server is not one of the log that this reader reads.
    assert_eq!(drain(&mut behind).await, (vec![], Some(End::Away)));
    let epoch = Epoch(1);
    assert_eq!(drain(&mut reader).await, (vec![], Some(End::OtherLog { epoch })));
    for id in [10, 1500, seen.id] {
        let mut back = followed.reader(Start::After(Cursor { id, ..seen }));
        assert_eq!(back.begin().await, Err(End::OtherLog { epoch }), "{id}");
    }
    let mut anew = followed.reader(Start::After(Cursor::new(1500, epoch)));
    assert_eq!(drain(&mut anew).await, ((1501..=last).collect(), None));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn another_log_is_noticed_also_if_there_was_no_reader_meanwhile() {
    let (followed, reader) = Followed::begun(Model::default(), SETTINGS).await;
    followed.append(0, 100);
    followed.settle().await;
    drop(reader);
    tokio::time::sleep(Duration::from_hours(1)).await;
    {
        let mut state = followed.model.state();
        state.events.truncate(50);
        state.last = 50;
    }
    let mut reader = followed.reader(Start::After(Cursor::new(40, Epoch(0))));
    assert_eq!(reader.begin().await, Err(End::OtherLog { epoch: Epoch(1) }));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_lets_readers_in_the_ring_wait_and_sends_the_others_away() {
    let model = Model::default();
    model.append(0, 100);
    let (followed, mut reader) = Followed::begun(model, SETTINGS).await;
    followed.model.state().away = true;
    assert_eq!(drain(&mut reader).await, (vec![], None));
    let mut behind = followed.reader(after(10));
    assert_eq!(drain(&mut behind).await, (vec![], Some(End::Away)));
    followed.model.state().away = false;
    followed.append(0, 5);
    assert_eq!(drain(&mut reader).await, ((101..=105).collect(), None));
    assert_eq!(drain(&mut followed.reader(after(10))).await, ((11..=105).collect(), None));
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_reader_waits_for_ever_for_a_database_that_never_came() {
    let followed = Followed::new();
    followed.model.state().away = true;
    let mut reader = followed.reader(Start::Now);
    assert_eq!(reader.begin().await, Err(End::Away));
    assert!(followed.model.state().heads < 20);
    followed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_with_a_wrong_cursor_does_not_delay_the_others() {
    let (followed, mut reader) = Followed::begun(Model::default(), SETTINGS).await;
    let mut wrong: Vec<_> = (0..100).map(|_| followed.reader(Start::After(Cursor::new(5, Epoch(77))))).collect();
    let asking = tokio::spawn(async move { futures::future::join_all(wrong.iter_mut().map(Reader::begin)).await });
    let heads = followed.model.state().heads;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let appended = tokio::time::Instant::now();
        followed.append(0, 1);
        batch(&mut reader).await;
        assert!(appended.elapsed() <= Duration::from_millis(21), "{:?}", appended.elapsed());
    }
    assert!(asking.await.unwrap().iter().all(Result::is_err));
    assert!(followed.model.state().heads - heads <= 4);
    followed.end().await;
}
