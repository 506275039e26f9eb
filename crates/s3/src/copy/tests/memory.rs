//! The budget holds, whatever is copied.

use copyhold_sandbox::s3::{Fault, Op, Synthetic, When};
use futures::future::join_all;

use super::*;

#[tokio::test]
async fn many_copies_at_once_never_hold_more_than_the_budget() {
    let mut s = Setup::with(BucketOptions::digest_only()).await;
    s.memory = Memory::new(40 * MIB);
    let mut jobs = Vec::new();
    for n in 0..4 {
        let (big, small) = (format!("big-{n}"), format!("small-{n}"));
        s.b2.put_synthetic_in_parts(&big, Synthetic::new(n, 17 * MIB), 8 * MIB);
        s.b2.put_synthetic(&small, Synthetic::new(n, 5 * MIB));
        jobs.push(s.job(&big).await);
        jobs.push(s.job(&small).await);
    }
    let told = join_all(jobs.iter().map(|job| s.copy(job))).await;
    assert!(told.iter().all(Told::is_proven), "{told:?}");
    let peak = s.memory.peak_bytes();
    assert!((32 * MIB..=40 * MIB).contains(&peak), "{peak}");
    assert_eq!(s.memory.held_bytes(), 0);
}

#[tokio::test]
async fn a_copy_that_fails_gives_its_memory_back() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.b2.order(Fault::CutBody { after: 2 }, When::op(Op::GetObject).next(1));
    s.wasabi.order(Fault::access_denied(), When::op(Op::PutObject));
    for _ in 0..2 {
        s.copy(&s.job("k").await).await;
        assert_eq!(s.memory.held_bytes(), 0);
    }
}

#[tokio::test]
async fn an_answer_that_waited_too_long_for_memory_is_asked_for_again() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    let job = s.job("k").await;
    let all = s.memory.take(s.memory.total_bytes()).await;
    let free = async {
        s.b2.arrived(Op::GetObject, 1).await;
        // Without others at work, paused time jumps to the next timer: the patience with the open answer.
        tokio::time::pause();
        tokio::time::sleep(std::time::Duration::from_secs(11)).await;
        tokio::time::resume();
        drop(all);
    };
    let (told, ()) = tokio::join!(s.copy(&job), free);
    assert!(told.is_proven(), "{told:?}");
    assert_eq!(s.b2.calls(Op::GetObject), 2);
}

#[tokio::test]
async fn memory_of_a_request_that_was_given_up_comes_back_though_the_store_hangs() {
    let s = Setup::new().await;
    s.wasabi.order(Fault::Stall, When::op(Op::PutObject));
    let (store, key) = (s.store("wasabi").await, ObjectKey::new("k").unwrap());
    let mut buffer = s.memory.take(16 * MIB).await;
    assert!(buffer.push(&vec![7; 16 << 20]));
    let (bytes, metadata) = (buffer.freeze(), crate::store::Metadata::default());
    let put = Box::pin(store.put(&key, &bytes, &crate::store::Md5([0; 16]), &metadata));
    let arrived = Box::pin(s.wasabi.arrived(Op::PutObject, 1));
    // What is dropped here is the request.
    assert!(matches!(futures::future::select(put, arrived).await, futures::future::Either::Right(_)));
    drop(bytes);
    // All of it, because nothing else holds memory.
    let all = tokio::time::timeout(Duration::from_secs(10), s.memory.take(s.memory.total_bytes()));
    assert!(all.await.is_ok(), "{} bytes are held", s.memory.held_bytes());
}
