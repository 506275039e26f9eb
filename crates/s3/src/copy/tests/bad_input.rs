//! What a person reads of an object that cannot be copied: what is wrong, where, and what to do.

use copyhold_sandbox::s3::{ErrorAnswer, Metadata, Op, When};

use super::*;

fn said(status: u16, code: &str, message: &str) -> Fault {
    Fault::Answer(ErrorAnswer { status, code: code.into(), message: message.into(), retry_after: None })
}

/// How it ended at wasabi, without the request's number.
async fn told(s: &Setup) -> (FailureClass, String) {
    let why = s.copy(&s.job("k").await).await.of("wasabi").unwrap_err();
    let (before, after) = why.message.split_once(" (request ").unwrap_or((&why.message, ""));
    let after = after.split_once(')').map_or("", |(_, after)| after);
    (why.class, format!("{before}{after}"))
}

#[tokio::test]
async fn what_a_source_will_not_give_is_told_with_what_to_do() {
    let encrypted =
        "The object was stored using a form of Server Side Encryption. The correct parameters must be provided.";
    for (fault, class, words) in [
        (
            said(400, "InvalidRequest", encrypted),
            FailureClass::Refused,
            format!(
                "source b2: GetObject: 400 InvalidRequest: {encrypted} (it is encrypted with a key of its owner's, SSE-C, \
                 which Copyhold is never given; have its owner copy it)"
            ),
        ),
        (
            said(403, "InvalidObjectState", "The operation is not valid for the object's storage class"),
            FailureClass::Archived,
            "source b2: GetObject: 403 InvalidObjectState: The operation is not valid for the object's storage class \
             (restore it there, then retry)"
                .into(),
        ),
    ] {
        let s = Setup::new().await;
        s.b2.put("k", "hello");
        s.b2.order(fault, When::op(Op::GetObject));
        assert_eq!(told(&s).await, (class, words));
        assert!(s.wasabi.keys().is_empty());
    }
}

#[tokio::test]
async fn what_a_target_will_not_take_is_told_in_its_own_words() {
    let cases = [
        (
            400,
            "MetadataTooLarge",
            "Your metadata headers exceed the maximum allowed metadata size",
            FailureClass::Refused,
            "",
        ),
        (400, "KeyTooLongError", "Your key is too long", FailureClass::Refused, ""),
        (400, "XMinioInvalidObjectName", "Object name contains unsupported characters.", FailureClass::Refused, ""),
        (
            403,
            "QuotaExceeded",
            "The quota is used up",
            FailureClass::Full,
            " (make room there, or raise the account's or the bucket's limit)",
        ),
        (
            403,
            "AccessDenied",
            "Cannot upload files, storage cap exceeded.",
            FailureClass::Full,
            " (make room there, or raise the account's or the bucket's limit)",
        ),
    ];
    for (status, code, message, class, advice) in cases {
        let s = Setup::new().await;
        s.b2.put_with("k", "hello", Metadata::none().with("x-amz-meta-note", "n".repeat(2_000)));
        s.wasabi.order(said(status, code, message), When::op(Op::PutObject));
        let words = format!("target wasabi: PutObject: {status} {code}: {message}{advice}");
        assert_eq!(told(&s).await, (class, words));
        // The other has it.
        assert_eq!(s.scw.keys(), ["k"]);
    }
}

#[tokio::test]
async fn an_object_behind_a_delete_marker_is_gone_and_says_why() {
    let s = Setup::with(BucketOptions::versioned()).await;
    s.b2.put("k", "hello");
    s.b2.delete("k");
    let words = "source b2: GetObject: 404 NoSuchKey: it was deleted there, and older versions of it may still exist. \
                 The specified key does not exist.";
    assert_eq!(told(&s).await, (FailureClass::Gone, words.to_owned()));
    // At a target it does no harm, on the first attempt or a later one.
    s.b2.put("k", "hello");
    for again in [false, true] {
        s.wasabi.put("k", "older");
        s.wasabi.delete("k");
        let mut job = s.job("k").await;
        job.targets.iter_mut().for_each(|target| target.again = again);
        assert!(s.copy(&job).await.is_proven());
        assert!(s.is_everywhere("k"));
    }
}

#[tokio::test]
async fn a_source_bucket_that_was_swapped_for_another_gives_nothing_under_the_old_names() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    let known = s.copy(&s.job("k").await).await.read();
    s.wasabi.delete("k");
    // An empty one, and one that holds something else.
    let swapped = s.server.create_bucket("b2", BucketOptions::default());
    let job = Job { content: known, kept: super::changed::long_ago(), ..s.job("k").await };
    assert_eq!(s.copy(&job).await.class("wasabi"), FailureClass::Gone);
    swapped.put("k", "other");
    let told = s.copy(&job).await;
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Changed);
    assert!(why.message.starts_with("source b2: the object is no longer what this generation's first read found"));
    assert!(s.wasabi.keys().is_empty());
    assert_eq!(s.scw.get("k").unwrap(), "hello");
}
