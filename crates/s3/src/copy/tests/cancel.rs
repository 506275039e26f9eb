//! Cancelling a copy.

use copyhold_sandbox::s3::{Op, PauseGate, Synthetic, When};

use super::*;

/// Stops a copy at the moment when a call of `op` at `bucket` waits, after `skip` that did not.
async fn stopped_at(
    s: &Setup,
    key: &str,
    bucket: &BucketHandle,
    op: Op,
    skip: u64,
    fault: fn(PauseGate) -> Fault,
) -> Told {
    let gate = PauseGate::new();
    bucket.order(fault(gate.clone()), When::op(op).skip(skip).next(1));
    let job = s.job(key).await;
    let stop = async {
        gate.holds(1).await;
        s.stop.cancel();
        // What waits for an answer is let go on; what was dropped has gone already.
        gate.open();
    };
    let (told, ()) = tokio::join!(s.copy(&job), stop);
    told
}

#[tokio::test]
async fn a_cancelled_copy_leaves_nothing_but_parts_that_are_written_down_wherever_it_was() {
    let moments: [(&str, Op, u64, CopyEnd); 5] = [
        ("b2", Op::GetObject, 0, CopyEnd::Cancelled),
        ("b2", Op::GetObject, 1, CopyEnd::Cancelled),
        ("wasabi", Op::UploadPart, 0, CopyEnd::Cancelled),
        ("wasabi", Op::UploadPart, 2, CopyEnd::Cancelled),
        // It makes the object appear, so it is left a moment to end.
        ("wasabi", Op::CompleteMultipartUpload, 0, CopyEnd::Done),
    ];
    for (bucket, op, skip, ended) in moments {
        let mut s = Setup::new().await;
        s.b2.put_synthetic("big", Synthetic::new(1, 33 * MIB));
        let bucket = s.server.bucket(bucket);
        let told = stopped_at(&s, "big", &bucket, op, skip, Fault::Hold).await;
        assert_eq!(told.ended, ended, "{op:?}");
        for (target, name) in [(&s.wasabi, "wasabi"), (&s.scw, "scw")] {
            let open = s.notebook.open(name);
            assert_eq!(target.uploads().len(), open.len(), "{op:?} {name}");
            assert!(open.iter().all(|page| !page.parts.is_empty()), "{op:?} {name}");
        }
        s.stop = CancellationToken::new();
        assert!(s.copy(&s.job("big").await).await.is_proven(), "{op:?}");
        assert!(s.is_everywhere("big") && s.leaves_no_upload(), "{op:?}");
    }
}

#[tokio::test]
async fn an_upload_whose_name_comes_after_the_end_is_thrown_away_too() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, 33 * MIB));
    let told = stopped_at(&s, "big", &s.wasabi, Op::CreateMultipartUpload, 0, Fault::HoldAnswer).await;
    assert_eq!(told.ended, CopyEnd::Cancelled);
    assert_eq!(s.wasabi.successes(Op::CreateMultipartUpload), 1);
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn a_put_is_left_a_moment_to_end_after_a_copy_was_cancelled_and_no_longer() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.scw.order(Fault::Stall, When::op(Op::PutObject));
    let told = stopped_at(&s, "k", &s.wasabi, Op::PutObject, 0, Fault::Hold).await;
    assert_eq!(told.ended, CopyEnd::Cancelled, "the one that stalls was waited for");
    let of = |name: &str| {
        told.steps.iter().any(|s| matches!(s, CopyStep::Target { replica, .. } if replica.as_str() == name))
    };
    assert!(of("wasabi"), "it ended in time: {told:?}");
    assert!(!of("scw"), "{told:?}");
}

#[tokio::test]
async fn a_copy_that_is_cancelled_before_it_begins_asks_nobody() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.stop.cancel();
    let told = s.copy(&s.job("k").await).await;
    assert_eq!((told.ended, told.steps.len(), s.b2.calls(Op::GetObject)), (CopyEnd::Cancelled, 0, 0));
}
