//! Sizes that would not fit in memory, if anything were kept or copied.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::super::{Op, Synthetic, synthetic};
use super::*;

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn a_made_object_is_read_like_any_other() {
    let s = Setup::new().await;
    let object = Synthetic::new(42, 3 * MIB + 17);
    s.b2.put_synthetic("k", object);
    let whole = s.get("k").await;
    assert_eq!(whole, synthetic::bytes(42, 0..3 * MIB + 17));
    let got = s.client.get_object().bucket("b2").key("k").range("bytes=1000000-2000000").send().await.unwrap();
    assert_eq!(got.content_range(), Some("bytes 1000000-2000000/3145745"));
    assert_eq!(got.body.collect().await.unwrap().to_vec(), whole[1_000_000..=2_000_000]);
    let info = s.b2.inspect("k").unwrap();
    assert_eq!(info.content.hash, object.hash());
    assert_eq!(info.etag, super::super::api::etag::hex(&object.md5()));
    assert_eq!(s.b2.pieces("k").unwrap().map(|p| p.len() as u64).sum::<u64>(), object.size_bytes);
}

#[tokio::test]
async fn a_made_object_may_look_as_if_uploaded_in_parts() {
    let s = Setup::new().await;
    let object = Synthetic::new(1, 12 * MIB);
    s.b2.put_synthetic_in_parts("k", object, 5 * MIB);
    let etag = s.b2.inspect("k").unwrap().etag;
    assert!(etag.ends_with("-3"), "{etag}");

    let copy = Setup::new().await;
    upload(&copy, object, 5 * MIB).await;
    assert_eq!(copy.b2.inspect("k").unwrap().etag, etag);
}

#[tokio::test]
async fn a_forgetful_bucket_knows_length_and_hashes_and_says_that_it_knows_no_bytes() {
    let s = Setup::with(BucketOptions::digest_only()).await;
    s.put("k", b"hello").await;
    let head = s.client.head_object().bucket("b2").key("k").send().await.unwrap();
    assert_eq!((head.content_length(), head.e_tag()), (Some(5), Some("\"5d41402abc4b2a76b9719d911017c592\"")));
    let info = s.b2.inspect("k").unwrap();
    assert_eq!(info.content.hash.0, crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, b"hello"));
    assert_eq!(refusal(s.client.get_object().bucket("b2").key("k").send().await), refused(422, "SandboxBytesNotKept"));
    assert_eq!(s.b2.get("k"), None);
    let md5 = s
        .client
        .put_object()
        .bucket("b2")
        .key("k")
        .content_md5("AAAAAAAAAAAAAAAAAAAAAA==")
        .body(ByteStream::from_static(b"x"));
    assert_eq!(refusal(md5.send().await), refused(400, "BadDigest"));
}

/// Uploads `k` in parts, one after the other, as a copier does.
async fn upload(s: &Setup, object: Synthetic, part_bytes: u64) {
    let begun = s.client.create_multipart_upload().bucket("b2").key("k").send().await.unwrap();
    let id = begun.upload_id().unwrap();
    let mut parts = Vec::new();
    for (number, start) in (1..).zip((0..object.size_bytes).step_by(usize::try_from(part_bytes).unwrap())) {
        let end = object.size_bytes.min(start + part_bytes);
        let part = s.client.upload_part().bucket("b2").key("k").upload_id(id).part_number(number);
        let sent = part.body(synthetic::bytes(object.seed, start..end).into()).send().await.unwrap();
        parts.push(CompletedPart::builder().part_number(number).e_tag(sent.e_tag().unwrap()).build());
    }
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    s.client
        .complete_multipart_upload()
        .bucket("b2")
        .key("k")
        .upload_id(id)
        .multipart_upload(parts)
        .send()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_pass_through_a_forgetful_bucket_and_add_up() {
    let s = Setup::with(BucketOptions::digest_only()).await;
    let object = Synthetic::new(9, 64 * MIB + 1);
    upload(&s, object, 8 * MIB).await;
    let info = s.b2.inspect("k").unwrap();
    assert_eq!((info.content.size_bytes, info.content.hash), (object.size_bytes, object.hash()));
    assert!(info.etag.ends_with("-9"));
    assert_eq!((s.b2.successes(Op::UploadPart), s.b2.writes("k")), (9, 1));
}
