//! Tests: faults that answer wrongly, late or not at all.

use super::super::{ErrorAnswer, Fault, Op, PauseGate, When};
use aws_sdk_s3::operation::RequestId as _;

use super::*;

impl Setup {
    async fn try_put(&self, key: &str) -> Option<(u16, String)> {
        let put = self.client.put_object().bucket("b2").key(key).body(ByteStream::from_static(b"hello")).send().await;
        put.is_err().then(|| refusal(put))
    }
}

#[tokio::test]
async fn an_ordered_answer_is_given_in_place_of_the_store_s() {
    let s = Setup::new().await;
    for (fault, status, code) in [
        (Fault::internal_error(), 500, "InternalError"),
        (Fault::slow_down(), 503, "SlowDown"),
        (Fault::access_denied(), 403, "AccessDenied"),
        (Fault::forbidden("InvalidObjectState"), 403, "InvalidObjectState"),
        (Fault::forbidden("QuotaExceeded"), 403, "QuotaExceeded"),
        (Fault::no_such_bucket(), 404, "NoSuchBucket"),
        (Fault::answer(507, "InsufficientStorage"), 507, "InsufficientStorage"),
    ] {
        let order = s.b2.order(fault, When::always());
        assert_eq!(s.try_put("k").await, Some(refused(status, code)));
        order.clear();
    }
    assert!(s.b2.keys().is_empty());
    assert_eq!((s.b2.calls(Op::PutObject), s.b2.successes(Op::PutObject)), (7, 0));
    assert_eq!(s.try_put("k").await, None);
}

#[tokio::test]
async fn a_throttled_client_may_be_told_when_to_come_back() {
    let s = Setup::new().await;
    s.b2.order(Fault::slow_down_for(Duration::from_secs(7)), When::always());
    let heard = s.send(&s.presigned_get("k").await, "", b"").await;
    assert_eq!(heard.status, 503);
    assert!(heard.head.contains("retry-after: 7\r\n"), "{}", heard.head);
    let own = ErrorAnswer {
        status: 429,
        code: "TooManyRequests".into(),
        message: "slowly & <gently>".into(),
        retry_after: None,
    };
    s.b2.clear_faults();
    s.b2.order(Fault::Answer(own), When::always());
    let error = s.client.get_object().bucket("b2").key("k").send().await.unwrap_err();
    assert_eq!(error.message(), Some("slowly & <gently>"));
    assert_eq!(error.request_id(), Some("2"), "answers are numbered");
}

#[tokio::test]
async fn a_fault_strikes_whom_it_is_meant_for() {
    let s = Setup::new().await;
    s.server.create_bucket("scw", BucketOptions::default()).put("k", "x");
    s.b2.put("k", "x");
    s.b2.put("k/1", "x");
    s.b2.put("l", "x");
    let get = async |bucket: &str, key: &str| s.client.get_object().bucket(bucket).key(key).send().await.is_ok();
    let reached = async || [get("scw", "k").await, get("b2", "k").await, get("b2", "k/1").await, get("b2", "l").await];
    for (when, expected) in [
        (When::always(), [true, false, false, false]),
        (When::op(Op::GetObject), [true, false, false, false]),
        (When::op(Op::PutObject), [true, true, true, true]),
        (When::always().key("k"), [true, false, true, true]),
        (When::always().prefix("k"), [true, false, false, true]),
        (When::op(Op::GetObject).prefix("k/"), [true, true, false, true]),
    ] {
        let order = s.b2.order(Fault::internal_error(), when.clone());
        assert_eq!(reached().await, expected, "{when:?}");
        order.clear();
    }
    s.server.order(Fault::internal_error(), When::always().key("k"));
    assert_eq!(reached().await, [false, false, true, true]);
    s.server.clear_faults();
    assert_eq!(reached().await, [true; 4]);
}

#[tokio::test]
async fn a_fault_strikes_as_often_as_it_is_ordered() {
    let s = Setup::new().await;
    let order = s.b2.order(Fault::slow_down(), When::op(Op::PutObject).skip(1).next(2));
    s.b2.order(Fault::internal_error(), When::op(Op::PutObject).skip(1).next(1));
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(s.try_put("k").await.map_or(200, |(status, _)| status));
    }
    // The second order sees only what the first lets through.
    assert_eq!(seen, [200, 503, 503, 500, 200]);
    assert_eq!(order.strikes(), 2);
    order.struck(2).await;
}

#[tokio::test]
async fn chance_is_the_same_for_the_same_seed() {
    let s = Setup::new().await;
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let order = s.b2.order(Fault::internal_error(), When::always().chance(0.5, seed));
        let mut struck = Vec::new();
        for _ in 0..40 {
            struck.push(s.try_put("k").await.is_some());
        }
        let hits = struck.iter().filter(|s| **s).count();
        assert!((8..=32).contains(&hits), "{hits}");
        assert_eq!(order.strikes(), hits as u64);
        order.clear();
        runs.push(struck);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn a_held_call_waits_at_the_gate_and_then_goes_on() {
    let s = Setup::new().await;
    let gate = PauseGate::new();
    s.b2.order(Fault::Hold(gate.clone()), When::op(Op::PutObject).key("k").next(1));
    let put = tokio::spawn(s.client.put_object().bucket("b2").key("k").body(ByteStream::from_static(b"hello")).send());
    gate.holds(1).await;
    assert_eq!((s.b2.calls(Op::PutObject), s.b2.get("k")), (1, None));
    s.put("other", b"passes").await;
    gate.open();
    put.await.unwrap().unwrap();
    assert_eq!(s.b2.get("k").unwrap(), "hello");
}

#[tokio::test]
async fn what_is_ordered_while_a_call_is_held_strikes_it_when_it_goes_on() {
    let s = Setup::new().await;
    let gate = PauseGate::new();
    s.b2.order(Fault::Hold(gate.clone()), When::op(Op::PutObject));
    let put = tokio::spawn(s.client.put_object().bucket("b2").key("k").body(ByteStream::from_static(b"hello")).send());
    gate.holds(1).await;
    s.b2.order(Fault::internal_error(), Op::PutObject);
    gate.open();
    assert_eq!(refusal(put.await.unwrap()), refused(500, "InternalError"));
}

#[tokio::test]
async fn a_held_answer_comes_after_the_deed() {
    let s = Setup::new().await;
    let gate = PauseGate::new();
    s.b2.order(Fault::HoldAnswer(gate.clone()), When::op(Op::PutObject));
    let put = tokio::spawn(s.client.put_object().bucket("b2").key("k").body(ByteStream::from_static(b"hello")).send());
    gate.holds(1).await;
    assert_eq!(s.b2.get("k").unwrap(), "hello");
    assert!(!put.is_finished());
    gate.open();
    put.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_the_gate() {
    let s = Setup::new().await;
    let gate = PauseGate::new();
    s.b2.order(Fault::Hold(gate.clone()), When::always());
    let get = tokio::spawn(s.client.get_object().bucket("b2").key("k").send());
    gate.holds(1).await;
    get.abort();
    gate.empty().await;
}

#[tokio::test]
async fn a_stalled_call_goes_on_when_the_order_is_cleared() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    let order = s.b2.order(Fault::Stall, When::always());
    let get = tokio::spawn(s.client.get_object().bucket("b2").key("k").send());
    order.struck(1).await;
    assert!(!get.is_finished());
    order.clear();
    get.await.unwrap().unwrap();
}

#[tokio::test]
async fn clearing_a_bucket_opens_its_gates_and_leaves_the_others() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    let gate = PauseGate::new();
    s.b2.order(Fault::Hold(gate.clone()), When::always());
    let scw = s.server.create_bucket("scw", BucketOptions::default());
    scw.order(Fault::internal_error(), When::always());
    let get = tokio::spawn(s.client.get_object().bucket("b2").key("k").send());
    gate.holds(1).await;
    s.b2.clear_faults();
    get.await.unwrap().unwrap();
    assert_eq!(refusal(s.client.get_object().bucket("scw").key("k").send().await).0, 500);
}

#[tokio::test]
async fn a_bit_that_flips_on_arrival_is_noticed_by_the_hash() {
    let s = Setup::new().await;
    s.b2.order(Fault::FlipArriving { at: 3 }, When::op(Op::PutObject).next(3));
    let put = || s.client.put_object().bucket("b2").key("k").body(ByteStream::from_static(b"hello"));
    assert_eq!(refusal(put().content_md5("XUFAKrxLKna5cZ2REBfFkg==").send().await), refused(400, "BadDigest"));
    assert_eq!(refusal(put().checksum_crc64_nvme("M3eFcAZSQlc=").send().await), refused(400, "BadDigest"));
    // Even without a hash of its own a signed body is protected.
    assert_eq!(refusal(put().send().await), refused(400, "XAmzContentSHA256Mismatch"));
    assert!(s.b2.keys().is_empty());
    put().send().await.unwrap();
}

#[tokio::test]
async fn a_bit_that_flips_in_an_unprotected_body_is_stored_and_the_etag_tells() {
    let s = Setup::new().await;
    s.b2.order(Fault::FlipArriving { at: 0 }, Op::PutObject);
    let put = s.send(&s.presigned_put("k").await, "content-length: 5\r\n", b"hello").await;
    assert_eq!(put.status, 200);
    assert_eq!(s.b2.get("k").unwrap(), "iello");
    assert!(!put.head.contains("5d41402abc4b2a76b9719d911017c592"), "{}", put.head);
}

#[tokio::test]
async fn silent_damage_answers_as_if_nothing_had_happened() {
    let s = Setup::new().await;
    s.b2.order(Fault::StoreDamaged { at: 4 }, Op::PutObject);
    let put = s
        .client
        .put_object()
        .bucket("b2")
        .key("k")
        .content_md5("XUFAKrxLKna5cZ2REBfFkg==")
        .body(ByteStream::from_static(b"hello"));
    assert_eq!(put.send().await.unwrap().e_tag(), Some("\"5d41402abc4b2a76b9719d911017c592\""));
    let head = s.client.head_object().bucket("b2").key("k").send().await.unwrap();
    assert_eq!(head.e_tag(), Some("\"5d41402abc4b2a76b9719d911017c592\""));
    assert_eq!(s.get("k").await, b"helln");
    let truth = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, b"helln");
    assert_eq!(s.b2.inspect("k").unwrap().content.hash.0, truth, "inspection tells the truth");
}

#[tokio::test]
async fn silent_damage_reaches_parts_and_forgotten_bytes() {
    let s = Setup::with(BucketOptions::digest_only()).await;
    s.b2.order(Fault::StoreDamaged { at: 0 }, Op::UploadPart);
    let begun = s.client.create_multipart_upload().bucket("b2").key("k").send().await.unwrap();
    let part = s.client.upload_part().bucket("b2").key("k").upload_id(begun.upload_id().unwrap()).part_number(1);
    let sent = part.body(ByteStream::from_static(b"hello")).send().await.unwrap();
    assert_eq!(sent.e_tag(), Some("\"5d41402abc4b2a76b9719d911017c592\""));
    let truth = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, b"iello");
    assert_eq!(s.b2.uploads()[0].parts[&1].hash.0, truth);
}

#[tokio::test]
async fn rot_changes_the_bytes_and_not_the_etag() {
    let s = Setup::new().await;
    s.put("k", b"hello").await;
    let before = s.b2.inspect("k").unwrap();
    s.b2.damage("k", 1);
    let after = s.b2.inspect("k").unwrap();
    assert_eq!(s.get("k").await, b"hdllo");
    assert_eq!((&after.etag, after.modified), (&before.etag, before.modified));
    assert_ne!(after.content.hash, before.content.hash);
}

#[tokio::test]
async fn a_wrong_etag_is_said_wherever_one_is_said() {
    let s = Setup::new().await;
    let right = "\"5d41402abc4b2a76b9719d911017c592\"";
    s.b2.order(Fault::WrongEtag, When::always());
    let put = s.client.put_object().bucket("b2").key("k").body(ByteStream::from_static(b"hello")).send().await.unwrap();
    let get = s.client.get_object().bucket("b2").key("k").send().await.unwrap();
    let head = s.client.head_object().bucket("b2").key("k").send().await.unwrap();
    s.server.create_bucket("wasabi", BucketOptions::default()).put("k", "hello");
    let copy = s.client.copy_object().copy_source("wasabi/k").bucket("b2").key("l").send().await.unwrap();
    let copied = copy.copy_object_result().unwrap().e_tag();
    for said in [put.e_tag(), get.e_tag(), head.e_tag(), copied] {
        let said = said.unwrap();
        assert_eq!(said.len(), right.len());
        assert_ne!(said, right);
    }
    assert_eq!(format!("\"{}\"", s.b2.inspect("k").unwrap().etag), right);
}
