//! Tests: hashes of requests are checked before anything is stored.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};

use super::super::{Fault, Metadata, Synthetic, When, synthetic};
use super::*;

/// Header and right value for `hello`, computed by `openssl` and the AWS documentation's CRC catalogue.
const OF_HELLO: [(&str, &str); 6] = [
    ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
    ("x-amz-checksum-crc32", "NhCmhg=="),
    ("x-amz-checksum-crc32c", "mnG7TA=="),
    ("x-amz-checksum-crc64nvme", "M3eFcAZSQlc="),
    ("x-amz-checksum-sha1", "qvTGHdzF6KLavt4PO0gs2a6pQ00="),
    ("x-amz-checksum-sha256", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="),
];

/// A hash of the same kind that is not that of `hello`.
fn wrong(value: &str) -> String {
    let mut hash = STANDARD.decode(value).unwrap();
    hash[0] ^= 1;
    STANDARD.encode(hash)
}

#[tokio::test]
async fn a_right_hash_of_any_kind_is_taken_and_given_back_when_asked() {
    let s = Setup::new().await;
    for (name, value) in OF_HELLO {
        let put =
            s.send(&s.presigned_put(name).await, &format!("content-length: 5\r\n{name}: {value}\r\n"), b"hello").await;
        assert_eq!(put.status, 200, "{name} {}", put.body_text());
        let head = s
            .client
            .get_object()
            .bucket("b2")
            .key(name)
            .checksum_mode(ChecksumMode::Enabled)
            .presigned(for_a_minute())
            .await
            .unwrap();
        let asked = s.send(&head, "", b"").await;
        let unasked = s.send(&s.presigned_get(name).await, "", b"").await;
        let given = format!("{name}: {}\r\n", value.to_lowercase());
        assert_eq!(asked.head.contains(&given), name != "content-md5", "{}", asked.head);
        assert_eq!(asked.head.contains("x-amz-checksum-type: full_object"), name != "content-md5");
        assert!(!unasked.head.contains("x-amz-checksum"), "{}", unasked.head);
    }
}

#[tokio::test]
async fn a_wrong_hash_of_any_kind_is_refused_and_nothing_is_stored() {
    let s = Setup::new().await;
    s.b2.put_with("k", "before", Metadata::none().with("x-amz-meta-a", "1"));
    let before = s.b2.inspect("k");
    for (name, value) in OF_HELLO {
        let headers = format!("content-length: 5\r\n{name}: {}\r\n", wrong(value));
        let put = s.send(&s.presigned_put("k").await, &headers, b"hello").await;
        assert_eq!(put.status, 400, "{name}");
        assert!(put.body_text().contains("<Code>BadDigest</Code>"), "{name}: {}", put.body_text());
        assert_eq!(s.b2.inspect("k"), before, "{name}");
    }
    assert_eq!(s.b2.writes("k"), 0);
}

#[tokio::test]
async fn a_wrong_hash_of_a_part_is_refused_and_the_part_is_not_kept() {
    let s = Setup::new().await;
    for (name, value) in OF_HELLO {
        let begun = s.client.create_multipart_upload().bucket("b2").key(name).send().await.unwrap();
        let part = s.client.upload_part().bucket("b2").key(name).upload_id(begun.upload_id().unwrap()).part_number(1);
        let part = part.presigned(for_a_minute()).await.unwrap();
        let kept = || s.b2.uploads().into_iter().find(|u| u.key == name).unwrap().parts;
        let sent = s.send(&part, &format!("content-length: 5\r\n{name}: {}\r\n", wrong(value)), b"hello").await;
        assert!(sent.body_text().contains("<Code>BadDigest</Code>"), "{name}: {}", sent.body_text());
        assert!(kept().is_empty(), "{name}");
        let sent = s.send(&part, &format!("content-length: 5\r\n{name}: {value}\r\n"), b"hello").await;
        assert_eq!(sent.status, 200, "{name}");
        assert_eq!(STANDARD.encode(kept()[&1].hash.0.to_be_bytes()), "M3eFcAZSQlc=");
    }
}

#[tokio::test]
async fn a_hash_that_is_none_is_refused_as_such() {
    let s = Setup::new().await;
    for (header, code) in [
        ("content-md5: not base64", "InvalidDigest"),
        ("content-md5: c2hvcnQ=", "InvalidDigest"),
        ("x-amz-checksum-crc32: c2hvcnQ=", "InvalidRequest"),
        ("x-amz-checksum-sha256: NhCmhg==", "InvalidRequest"),
    ] {
        let put = s.send(&s.presigned_put("k").await, &format!("content-length: 5\r\n{header}\r\n"), b"hello").await;
        assert_eq!(put.status, 400);
        assert!(put.body_text().contains(&format!("<Code>{code}</Code>")), "{header}: {}", put.body_text());
    }
    assert!(s.b2.keys().is_empty());
}

#[tokio::test]
async fn a_body_shorter_than_announced_stores_nothing() {
    let s = Setup::new().await;
    let mut stream = s.begin(&s.presigned_put("k").await, "content-length: 10\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    Heard::all_of(&mut stream).await;
    s.b2.arrived(super::super::Op::PutObject, 1).await;
    // The server is through with the request when its connection has ended.
    assert!(s.b2.keys().is_empty());
    assert_eq!(s.b2.successes(super::super::Op::PutObject), 0);
}

#[tokio::test]
async fn every_checksum_that_the_sdk_can_send_is_taken() {
    let s = Setup::new().await;
    let client = s.hashing_client();
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        // In the head, for bytes at hand; in a trailer, for a stream.
        for streamed in [false, true] {
            let bytes = bytes::Bytes::from(vec![7; 200_000]);
            let body =
                if streamed { ByteStream::from_body_1_x(s3s::Body::from(bytes.clone())) } else { bytes.clone().into() };
            let put = client
                .put_object()
                .bucket("b2")
                .key("k")
                .checksum_algorithm(algorithm.clone())
                .body(body)
                .content_length(200_000);
            put.send().await.unwrap_or_else(|e| panic!("{algorithm} {streamed}: {e:?}"));
            assert_eq!(s.b2.get("k").unwrap(), bytes);
            let got =
                s.client.get_object().bucket("b2").key("k").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
            assert!(got.checksum_type().is_some(), "{algorithm} {streamed}");
            got.body.collect().await.unwrap();
            s.b2.delete("k");
        }
    }
}

/// Replaces the body of a request after it was signed.
#[derive(Debug)]
struct Swap(&'static str);

impl Intercept for Swap {
    fn name(&self) -> &'static str {
        "Swap"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *context.request_mut().body_mut() = SdkBody::from(self.0);
        Ok(())
    }
}

#[tokio::test]
async fn a_wrong_hash_in_a_trailer_stores_nothing() {
    let s = Setup::new().await;
    // Damaged behind the chunks' signatures, so that the trailer alone can tell.
    s.b2.order(Fault::FlipArriving { at: 2 }, When::always().next(1));
    let put = || {
        let stream = ByteStream::from_body_1_x(s3s::Body::from(bytes::Bytes::from_static(b"hello")));
        let put = s.hashing_client().put_object().bucket("b2").key("k").content_length(5);
        put.checksum_algorithm(ChecksumAlgorithm::Crc32).body(stream).send()
    };
    assert_eq!(refusal(put().await), refused(400, "BadDigest"));
    assert!(s.b2.keys().is_empty());
    put().await.unwrap();
}

#[tokio::test]
async fn a_body_that_is_not_what_was_signed_is_refused() {
    let s = Setup::new().await;
    let put = s.client.put_object().bucket("b2").key("k").body(ByteStream::from_static(b"hello")).customize();
    assert_eq!(refusal(put.interceptor(Swap("jello")).send().await), refused(400, "XAmzContentSHA256Mismatch"));
    assert!(s.b2.keys().is_empty());
}

#[tokio::test]
async fn a_checksum_that_is_announced_and_not_sent_is_missed() {
    let s = Setup::new().await;
    // What the SDK does when it may not calculate by itself.
    let put = s
        .client
        .put_object()
        .bucket("b2")
        .key("k")
        .checksum_algorithm(ChecksumAlgorithm::Crc32)
        .body(ByteStream::from_static(b"hello"));
    assert_eq!(refusal(put.send().await), refused(400, "InvalidRequest"));
}

#[tokio::test]
async fn the_etag_of_a_simple_object_is_its_md5() {
    let s = Setup::new().await;
    let put = s.client.put_object().bucket("b2").key("k").body(vec![9; 123_456].into()).send().await.unwrap();
    let md5 = super::super::api::etag::hex(&Md5::digest(vec![9; 123_456]));
    assert_eq!(put.e_tag(), Some(format!("\"{md5}\"").as_str()));
}

#[tokio::test]
async fn what_the_server_made_is_known_by_its_md5_and_nothing_else_passes_for_it() {
    let s = Setup::new().await;
    let made = synthetic::bytes(3, 0..100_000);
    s.b2.put_synthetic("made", Synthetic::new(3, 100_000));
    let md5 = STANDARD.encode(Md5::digest(&made));
    let put = async |bytes: &[u8]| {
        let head = format!("content-length: {}\r\ncontent-md5: {md5}\r\n", bytes.len());
        s.send(&s.presigned_put("copy").await, &head, bytes).await
    };
    let mut damaged = made.to_vec();
    damaged[77_777] ^= 1;
    for other in [&damaged, &made[..99_999], b""] {
        assert_eq!(put(other).await.status, 400);
    }
    assert_eq!(s.b2.inspect("copy"), None);
    assert_eq!(put(&made).await.status, 200);
    let (made, copy) = (s.b2.inspect("made").unwrap(), s.b2.inspect("copy").unwrap());
    assert_eq!((copy.content, copy.etag), (made.content, made.etag));
}

#[tokio::test]
async fn damage_on_order_strikes_what_the_server_made_too() {
    let s = Setup::new().await;
    let made = synthetic::bytes(3, 0..1000);
    s.b2.put_synthetic("made", Synthetic::new(3, 1000));
    let head = format!("content-length: 1000\r\ncontent-md5: {}\r\n", STANDARD.encode(Md5::digest(&made)));
    let put = async || s.send(&s.presigned_put("copy").await, &head, &made).await.status;
    s.b2.order(Fault::FlipArriving { at: 500 }, When::always().next(1));
    assert_eq!(put().await, 400);
    s.b2.order(Fault::StoreDamaged { at: 500 }, When::always().next(1));
    assert_eq!(put().await, 200);
    assert_ne!(s.b2.inspect("copy").unwrap().content, s.b2.inspect("made").unwrap().content);
}
