//! Only proven copies are recorded, fenced by lease and generation.

use std::time::Duration;

use copyhold_core::domain::{
    Content, ContentHash, Failure, FailureClass, Lease, NextAttempt, Outcome, ReplicaName, Verified,
};
use copyhold_db::lease::{FencedWrite, Report};

use crate::harness::{Harness, replica};

fn proven() -> Outcome {
    Outcome::recorded(Verified::Compared)
}

fn failed(class: FailureClass, next: NextAttempt) -> Outcome {
    Outcome::Failed { next, why: Failure::new(class, "it rained") }
}

fn report(lease: &Lease, outcomes: impl IntoIterator<Item = (ReplicaName, Outcome)>, release: bool) -> Report {
    Report {
        key: lease.key.clone(),
        generation: lease.generation,
        fence: lease.fence,
        content: Some(Content { size_bytes: 3, hash: ContentHash(u64::MAX) }),
        outcomes: outcomes.into_iter().collect(),
        release,
        metadata: None,
        source: None,
        not_carried: None,
        survived: false,
        unsettled: Vec::new(),
    }
}

/// Registers and claims one object.
async fn leased(harness: &Harness, name: &str) -> Lease {
    harness.insert(name).await;
    let daemon = harness.enlist(60).await;
    harness.claim(&daemon, "wasabi", 1).await.remove(0)
}

async fn write(harness: &Harness, report: Report) -> FencedWrite {
    harness.queue().complete(&[report]).await.unwrap()[0].2
}

#[tokio::test]
async fn a_proven_copy_is_recorded_though_another_target_failed() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let later = NextAttempt::After { delay: Duration::from_secs(100), counted: true };
    let outcomes = [(replica("wasabi"), proven()), (replica("scw"), failed(FailureClass::Transient, later))];
    assert_eq!(write(&harness, report(&lease, outcomes, true)).await, FencedWrite::Applied);
    let row = "SELECT (wasabi IS NOT NULL, scw IS NULL, lock IS NULL, lease IS NULL, size_bytes, content_hash,
                       (due_scw - copyhold.now_utc_micro_seconds()) BETWEEN 90000000 AND 100000000)
               FROM copyhold.object_copies";
    assert_eq!(harness.value(row).await.unwrap(), "(t,t,t,t,3,-1,t)");
    let failure = "SELECT (replica, class, attempts, message) FROM copyhold.copy_failures";
    assert_eq!(harness.value(failure).await.unwrap(), "(scw,transient,1,\"it rained\")");
}

#[tokio::test]
async fn a_report_in_pieces_keeps_the_lease_until_the_last() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    assert_eq!(write(&harness, report(&lease, [(replica("scw"), proven())], false)).await, FencedWrite::Applied);
    assert_eq!(
        harness.value("SELECT scw IS NOT NULL AND lock IS NOT NULL FROM copyhold.object_copies").await.unwrap(),
        "true"
    );
    assert_eq!(write(&harness, report(&lease, [(replica("wasabi"), proven())], true)).await, FencedWrite::Applied);
    assert_eq!(
        harness.value("SELECT scw IS NOT NULL AND lock IS NULL FROM copyhold.object_copies").await.unwrap(),
        "true"
    );
}

#[tokio::test]
async fn a_lost_lease_cannot_record_anything() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    harness.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL").await;
    assert_eq!(write(&harness, report(&lease, [(replica("wasabi"), proven())], true)).await, FencedWrite::Superseded);
    assert_eq!(
        harness.value("SELECT wasabi IS NULL AND size_bytes IS NULL FROM copyhold.object_copies").await.unwrap(),
        "true"
    );
}

#[tokio::test]
async fn the_proof_of_an_old_content_is_not_recorded_for_a_new_one() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    harness.value("SELECT copyhold.register('photo')").await;
    assert_eq!(write(&harness, report(&lease, [(replica("wasabi"), proven())], true)).await, FencedWrite::Superseded);
    assert_eq!(
        harness.value("SELECT wasabi IS NULL AND lease IS NOT NULL FROM copyhold.object_copies").await.unwrap(),
        "true"
    );
    // The holder has stopped: now it gives the row back.
    let released = harness.queue().release(&[(lease.key.clone(), lease.fence)]).await.unwrap();
    assert_eq!(released[0].2, FencedWrite::Applied);
    assert_eq!(harness.value("SELECT lease IS NULL FROM copyhold.object_copies").await.unwrap(), "true");
}

#[tokio::test]
async fn an_object_deleted_and_inserted_again_does_not_inherit_a_proof() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    harness.execute("DELETE FROM copyhold.object_copies").await;
    harness.insert("photo").await;
    harness.sql("UPDATE copyhold.object_copies SET lock = 1, lease = $1::bigint", &lease.fence.0.to_string()).await;
    assert_eq!(write(&harness, report(&lease, [(replica("wasabi"), proven())], true)).await, FencedWrite::Superseded);
}

#[tokio::test]
async fn a_locked_row_is_busy_and_holds_up_no_other() {
    let harness = Harness::new().await;
    let (held, free) = (leased(&harness, "held").await, leased(&harness, "free").await);
    let mut application = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM copyhold.object_copies WHERE object_key = 'held' FOR UPDATE")
        .execute(&mut *application)
        .await
        .unwrap();
    let reports = [&held, &free].map(|lease| report(lease, [(replica("wasabi"), proven())], true));
    let mut answers = harness.queue().complete(&reports).await.unwrap();
    answers.sort_by_key(|(key, ..)| key.clone());
    assert_eq!(
        answers.iter().map(|a| (a.0.as_str(), a.2)).collect::<Vec<_>>(),
        [("free", FencedWrite::Applied), ("held", FencedWrite::RowLocked)]
    );
    application.rollback().await.unwrap();
    assert_eq!(write(&harness, reports[0].clone()).await, FencedWrite::Applied);
}

#[tokio::test]
async fn two_reports_of_one_key_under_different_fences_are_answered_apart() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let mut old = report(&lease, [(replica("scw"), proven())], true);
    old.fence.0 ^= 1;
    let answers =
        harness.queue().complete(&[old.clone(), report(&lease, [(replica("wasabi"), proven())], true)]).await.unwrap();
    for (_, fence, answer) in answers {
        assert_eq!(answer, if fence == old.fence { FencedWrite::Superseded } else { FencedWrite::Applied });
    }
    assert_eq!(
        harness.value("SELECT scw IS NULL AND wasabi IS NOT NULL FROM copyhold.object_copies").await.unwrap(),
        "true"
    );
}

#[tokio::test]
async fn attempts_of_one_class_add_up_and_a_success_forgets_them() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    let daemon = harness.enlist(60).await;
    let claim = async || harness.claim(&daemon, "wasabi", 1).await.remove(0);
    let now = |counted| NextAttempt::After { delay: Duration::ZERO, counted };
    for (class, counted, attempts) in [
        (FailureClass::Transient, true, 1),
        (FailureClass::Transient, true, 2),
        (FailureClass::Transient, false, 2),
        (FailureClass::Corrupt, true, 1),
    ] {
        let lease = claim().await;
        write(&harness, report(&lease, [(replica("wasabi"), failed(class, now(counted)))], true)).await;
        let prior = harness.value("SELECT attempts FROM copyhold.copy_failures").await.unwrap();
        assert_eq!(prior, attempts.to_string(), "{class}");
    }
    let lease = claim().await;
    let prior = lease.replicas.iter().find_map(|r| r.prior).unwrap();
    assert_eq!((prior.class, prior.attempts), (Some(FailureClass::Corrupt), 1));
    write(&harness, report(&lease, [(replica("wasabi"), proven())], true)).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}

#[tokio::test]
async fn failures_of_an_old_content_are_not_held_against_a_new_one() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    write(&harness, report(&lease, [(replica("wasabi"), failed(FailureClass::Denied, NextAttempt::Parked))], true))
        .await;
    assert_eq!(harness.value("SELECT due_wasabi FROM copyhold.object_copies").await.unwrap(), "9000000000000000000");
    harness.value("SELECT copyhold.register('photo')").await;
    let daemon = harness.enlist(60).await;
    let lease = harness.claim(&daemon, "wasabi", 1).await.remove(0);
    assert!(lease.replicas.iter().all(|r| r.prior.is_none()));
}

#[tokio::test]
async fn a_time_known_to_be_false_is_taken_back() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let Outcome::Failed { next, why } =
        failed(FailureClass::Gone, NextAttempt::After { delay: Duration::ZERO, counted: true })
    else {
        unreachable!()
    };
    write(&harness, report(&lease, [(replica("b2"), Outcome::Cleared { next, why })], true)).await;
    assert_eq!(harness.value("SELECT b2 IS NULL FROM copyhold.object_copies").await.unwrap(), "true");
}

#[tokio::test]
async fn nothing_to_write_asks_nothing() {
    let harness = Harness::new().await;
    assert_eq!(harness.queue().complete(&[]).await.unwrap(), []);
    assert_eq!(harness.queue().renew(&[], Duration::from_secs(1)).await.unwrap(), []);
    assert_eq!(harness.queue().release(&[]).await.unwrap(), []);
}
