//! Tests: the ways in which buckets differ from AWS's.

use std::collections::BTreeMap;

use aws_sdk_s3::types::{ChecksumMode, CompletedMultipartUpload, CompletedPart};

use super::super::Quirk;
use super::*;

async fn with(quirk: Quirk) -> Setup {
    Setup::with(BucketOptions { min_part_bytes: 1, ..BucketOptions::default() }.with(quirk)).await
}

const WRONG_MD5: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

impl Setup {
    async fn put_with_wrong_md5(&self, key: &str) -> Result<(), (u16, String)> {
        let put = self.client.put_object().bucket("b2").key(key).content_md5(WRONG_MD5);
        let put = put.body(ByteStream::from_static(b"hello")).send().await;
        if put.is_ok() { Ok(()) } else { Err(refusal(put)) }
    }

    /// Completes `k` from parts of these sizes.
    async fn upload_parts(&self, sizes: &[usize]) -> Result<String, (u16, String)> {
        let begun = self.client.create_multipart_upload().bucket("b2").key("k").send().await.unwrap();
        let id = begun.upload_id().unwrap();
        let mut parts = Vec::new();
        for (number, size) in (1..).zip(sizes) {
            let part = self.client.upload_part().bucket("b2").key("k").upload_id(id).part_number(number);
            let sent = part.body(vec![7; *size].into()).send().await.unwrap();
            parts.push(CompletedPart::builder().part_number(number).e_tag(sent.e_tag().unwrap()).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let done =
            self.client.complete_multipart_upload().bucket("b2").key("k").upload_id(id).multipart_upload(parts).send();
        match done.await {
            Ok(done) => Ok(done.e_tag().unwrap().to_owned()),
            refused => Err(refusal(refused)),
        }
    }
}

#[tokio::test]
async fn a_store_may_ignore_hashes() {
    let s = with(Quirk::IgnoresHashes).await;
    assert_eq!(s.put_with_wrong_md5("k").await, Ok(()));
    assert_eq!(s.b2.get("k").unwrap(), "hello");
}

#[tokio::test]
async fn a_store_may_keep_what_it_refuses() {
    let s = with(Quirk::KeepsWhatItRefuses).await;
    assert_eq!(s.put_with_wrong_md5("k").await, Err(refused(400, "BadDigest")));
    assert_eq!(s.b2.get("k").unwrap(), "hello");
}

#[tokio::test]
async fn a_store_may_ignore_conditions() {
    let s = with(Quirk::IgnoresConditions).await;
    s.put("k", b"old").await;
    let put = s.client.put_object().bucket("b2").key("k").if_none_match("*").body(ByteStream::from_static(b"new"));
    put.send().await.unwrap();
    let got = s.client.get_object().bucket("b2").key("k").if_match("\"other\"").send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"new");
}

#[tokio::test]
async fn an_etag_may_mean_nothing() {
    let s = with(Quirk::OpaqueEtags).await;
    s.put("k", b"hello").await;
    let said = s.client.head_object().bucket("b2").key("k").send().await.unwrap();
    let etag = said.e_tag().unwrap();
    assert_ne!(etag, "\"5d41402abc4b2a76b9719d911017c592\"");
    s.client.get_object().bucket("b2").key("k").if_match(etag).send().await.unwrap();
    s.b2.put("inside", "hello");
    assert_eq!(s.b2.inspect("inside").unwrap().etag, etag.trim_matches('"'));

    let usual = Setup::with(BucketOptions { min_part_bytes: 1, ..BucketOptions::default() }).await;
    let (opaque, etag) = (s.upload_parts(&[1, 2]).await.unwrap(), usual.upload_parts(&[1, 2]).await.unwrap());
    assert_ne!(opaque, etag);
    assert!(opaque.ends_with("-2\""), "{opaque}");
}

#[tokio::test]
async fn a_store_may_refuse_crc64_and_take_the_others() {
    let s = with(Quirk::RefusesCrc64).await;
    let put = || s.client.put_object().bucket("b2").key("k").body(ByteStream::from_static(b"hello"));
    assert_eq!(refusal(put().checksum_crc64_nvme("M3eFcAZSQlc=").send().await), refused(400, "InvalidArgument"));
    assert!(s.b2.keys().is_empty());
    put().checksum_crc32_c("mnG7TA==").send().await.unwrap();
}

#[tokio::test]
async fn a_store_may_check_checksums_and_forget_them() {
    let s = with(Quirk::ForgetsChecksums).await;
    let put = |crc: &str| {
        s.client.put_object().bucket("b2").key("k").checksum_crc32_c(crc).body(ByteStream::from_static(b"hello")).send()
    };
    assert_eq!(refusal(put("AAAAAA==").await), refused(400, "BadDigest"));
    assert_eq!(put("mnG7TA==").await.unwrap().checksum_crc32_c(), None);
    let head = s.client.head_object().bucket("b2").key("k").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert_eq!(head.checksum_crc32_c(), None);
}

#[tokio::test]
async fn a_store_may_want_equal_parts() {
    let s = with(Quirk::EqualParts).await;
    let invalid = Err(refused(400, "InvalidPart"));
    let mut seen = BTreeMap::new();
    for sizes in [vec![3, 3, 2], vec![3, 3, 3], vec![5], vec![3, 2, 3], vec![3, 4]] {
        seen.insert(sizes.clone(), s.upload_parts(&sizes).await.map(|_| ()));
    }
    let expected = [
        (vec![3, 2, 3], invalid.clone()),
        (vec![3, 3, 2], Ok(())),
        (vec![3, 3, 3], Ok(())),
        (vec![3, 4], invalid),
        (vec![5], Ok(())),
    ];
    assert_eq!(seen, expected.into_iter().collect());
}

#[tokio::test]
async fn a_store_may_take_fewer_parts() {
    let s = Setup::with(BucketOptions { max_part_number: 1000, ..BucketOptions::default() }).await;
    let begun = s.client.create_multipart_upload().bucket("b2").key("k").send().await.unwrap();
    let part = |number| {
        let part = s.client.upload_part().bucket("b2").key("k").upload_id(begun.upload_id().unwrap());
        part.part_number(number).body(ByteStream::from_static(b"x")).send()
    };
    part(1000).await.unwrap();
    assert_eq!(refusal(part(1001).await), refused(400, "InvalidArgument"));
}
