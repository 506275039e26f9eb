//! Tests of the limit: what throttling does to it, and what it leaves alone.

use std::sync::Arc;

use futures::FutureExt as _;

use super::{state::LONGEST_PAUSE, *};

const SECOND: Duration = Duration::from_secs(1);

fn pace(most: usize) -> AdaptiveLimit {
    AdaptiveLimit::new(ReplicaName::new("b2").unwrap(), most, most)
}

fn none() -> Prefixes {
    Arc::new([])
}

fn prefixes<const N: usize>(prefixes: [u64; N]) -> Prefixes {
    Arc::new(prefixes)
}

/// Three objects hear it in one moment.
fn by_three(pace: &AdaptiveLimit, retry_after: Option<Duration>) {
    (0..3).for_each(|object| pace.throttled(Some(object), &none(), retry_after));
}

fn limit(pace: &AdaptiveLimit) -> usize {
    pace.lock().limit
}

#[tokio::test(start_paused = true)]
async fn throttling_halves_what_is_under_way_at_most_once_a_second() {
    let pace = pace(64);
    let passes = futures::future::join_all((0..16).map(|_| pace.enter())).await;
    for object in 0..16 {
        pace.throttled(Some(object), &none(), None);
    }
    assert_eq!(limit(&pace), 8, "half of the 16, however many answers said so");
    assert!(pace.enter().now_or_never().is_none(), "16 are under way");
    drop(passes);
    let passes = futures::future::join_all((0..8).map(|_| pace.enter())).await;
    tokio::time::advance(SECOND).await;
    pace.throttled(Some(17), &none(), None);
    assert_eq!(limit(&pace), 4);
    drop(passes);
}

#[tokio::test(start_paused = true)]
async fn each_round_that_goes_well_allows_one_more_up_to_what_the_connections_are() {
    let pace = pace(4);
    let passes = [pace.enter().await, pace.enter().await];
    by_three(&pace, None);
    drop(passes);
    let mut limits = Vec::new();
    for _ in 0..12 {
        pace.succeeded(&none());
        limits.push(limit(&pace));
    }
    assert_eq!(limits, [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]);
}

#[tokio::test(start_paused = true)]
async fn where_one_at_a_time_is_too_much_they_are_sent_apart_until_it_goes_well() {
    let pace = pace(8);
    let begun = Instant::now();
    let mut sent = 0_u64;
    // A store that takes one request per second and refuses all others.
    let mut taken_at = begun - SECOND;
    let mut taken = 0;
    while begun.elapsed() < 300 * SECOND {
        let _pass = pace.enter().await;
        sent += 1;
        tokio::time::advance(Duration::from_millis(10)).await;
        if taken_at.elapsed() >= SECOND {
            (taken_at, taken) = (Instant::now(), taken + 1);
            pace.succeeded(&none());
        } else {
            pace.throttled(Some(sent), &none(), None);
        }
    }
    assert!(taken > 150, "{taken} of 300 that it would have taken");
    assert!(sent < 3 * taken, "{sent} requests for {taken} that were taken");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_says_how_long_is_left_alone_for_that_time_within_reason() {
    let pace = pace(8);
    by_three(&pace, Some(7 * SECOND));
    let asked = Instant::now();
    drop(pace.enter().await);
    assert_eq!(asked.elapsed(), 7 * SECOND);
    pace.throttled(Some(4), &none(), Some(Duration::from_hours(5)));
    let asked = Instant::now();
    drop(pace.enter().await);
    assert_eq!(asked.elapsed(), LONGEST_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_passes_its_turn_on() {
    let pace = pace(1);
    let pass = pace.enter().await;
    let mut first = Box::pin(pace.enter());
    let mut second = Box::pin(pace.enter());
    assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
    drop(first);
    drop(pass);
    assert!(second.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn one_object_that_is_refused_as_too_much_rests_alone() {
    let pace = pace(8);
    for round in 0..100 {
        pace.throttled(Some(7), &none(), Some(20 * SECOND));
        assert!(pace.enter().now_or_never().is_some(), "round {round}");
        if round > 50 {
            pace.succeeded(&none());
        }
    }
    assert_eq!(limit(&pace), 8);
}

#[tokio::test(start_paused = true)]
async fn a_few_objects_among_others_that_succeed_slow_nothing_down() {
    let pace = pace(8);
    for _ in 0..10 {
        for object in 0..20 {
            pace.throttled(Some(object), &none(), Some(20 * SECOND));
            pace.succeeded(&none());
            tokio::time::advance(SECOND / 2).await;
        }
    }
    assert!(pace.enter().now_or_never().is_some());
    assert_eq!(limit(&pace), 8);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lets_nothing_through_is_slowed_down_by_the_second_object() {
    let pace = pace(8);
    pace.throttled(Some(1), &none(), Some(20 * SECOND));
    tokio::time::advance(10 * SECOND).await;
    pace.throttled(Some(2), &none(), Some(20 * SECOND));
    let asked = Instant::now();
    drop(pace.enter().await);
    assert_eq!(asked.elapsed(), 20 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_stuck_leave_their_places_to_as_many_others() {
    let pace = pace(2);
    let mut stuck = [pace.enter().await, pace.enter().await];
    assert!(pace.enter().now_or_never().is_none());
    stuck.iter_mut().for_each(RequestPermit::set_aside);
    let mut more = [pace.enter().await, pace.enter().await];
    more.iter_mut().for_each(RequestPermit::set_aside);
    assert!(pace.enter().now_or_never().is_none(), "two are stuck already");
    drop(stuck);
    more.iter_mut().for_each(RequestPermit::set_aside);
    assert!(pace.enter().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn objects_that_are_always_refused_slow_nothing_down_beside_many_that_succeed() {
    let pace = pace(8);
    for _ in 0..10 {
        for object in 0..20 {
            pace.throttled(Some(object), &none(), None);
            (0..35).for_each(|_| pace.succeeded(&none()));
        }
        tokio::time::advance(SECOND).await;
    }
    assert_eq!(limit(&pace), 8);
    // One answer in ten is another matter.
    tokio::time::advance(3 * SECOND).await;
    let mut least = 8;
    for object in 100..120 {
        pace.throttled(Some(object), &none(), None);
        least = least.min(limit(&pace));
        (0..9).for_each(|_| pace.succeeded(&none()));
    }
    assert_eq!(least, 1);
}

#[tokio::test(start_paused = true)]
async fn objects_that_are_refused_again_and_again_slow_down_nothing_that_comes_later() {
    let pace = pace(8);
    pace.throttled(Some(1), &none(), None);
    pace.succeeded(&none());
    pace.throttled(Some(2), &none(), None);
    for _ in 0..100 {
        tokio::time::advance(SECOND).await;
        pace.throttled(Some(1), &none(), None);
        pace.throttled(Some(2), &none(), None);
    }
    assert_eq!(limit(&pace), 8);
    assert!(pace.enter().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_throttled_is_spared_and_nothing_else_waits() {
    let pace = pace(8);
    (0..64).for_each(|object| pace.throttled(Some(object), &prefixes([1]), Some(20 * SECOND)));
    assert_eq!(pace.spared_for(&[1, 7]), Some(20 * SECOND));
    assert_eq!(pace.spared_for(&[2]), None);
    assert!(pace.enter().now_or_never().is_some());
    // It holds for subfolders alike.
    tokio::time::advance(20 * SECOND).await;
    pace.succeeded(&prefixes([2]));
    let before = limit(&pace);
    for object in 100..500 {
        pace.throttled(Some(object), &prefixes([1, object]), Some(20 * SECOND));
        pace.succeeded(&prefixes([2]));
    }
    assert_eq!(pace.spared_for(&[1]), Some(20 * SECOND));
    assert!(pace.enter().now_or_never().is_some() && limit(&pace) >= before);
    tokio::time::advance(20 * SECOND).await;
    pace.succeeded(&prefixes([1, 3]));
    assert_eq!(pace.spared_for(&[1]), None);
}

#[tokio::test(start_paused = true)]
async fn folders_that_are_throttled_together_are_the_store_and_each_says_so_once() {
    let pace = pace(8);
    (0..3).for_each(|object| pace.throttled(Some(object), &prefixes([object]), Some(20 * SECOND)));
    let asked = Instant::now();
    drop(pace.enter().await);
    assert_eq!(asked.elapsed(), 20 * SECOND);
    // The same ones again, in other objects, while others succeed.
    pace.succeeded(&prefixes([9]));
    tokio::time::advance(SECOND).await;
    (10..13).for_each(|object| pace.throttled(Some(object), &prefixes([object - 10]), Some(20 * SECOND)));
    assert!(pace.enter().now_or_never().is_some());
    assert_eq!(
        (0..4).map(|prefix| pace.spared_for(&[prefix]).is_some()).collect::<Vec<_>>(),
        [true, true, true, false]
    );
}

#[tokio::test(start_paused = true)]
async fn where_there_is_only_one_folder_it_is_the_store_that_is_slowed_down() {
    let pace = pace(8);
    let passes = futures::future::join_all((0..8).map(|_| pace.enter())).await;
    (0..3).for_each(|object| pace.throttled(Some(object), &prefixes([1]), None));
    drop(passes);
    assert_eq!(limit(&pace), 4);
}
