//! Tests: multipart uploads.

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart};
use md5::{Digest as _, Md5};

use super::super::Op;
use super::*;

const MIB: usize = 1024 * 1024;

impl Setup {
    async fn begin_upload(&self, key: &str) -> String {
        let begun = self.client.create_multipart_upload().bucket("b2").key(key).send().await.unwrap();
        begun.upload_id().unwrap().to_owned()
    }

    async fn part(&self, key: &str, id: &str, number: i32, bytes: Vec<u8>) -> CompletedPart {
        let sent = self.client.upload_part().bucket("b2").key(key).upload_id(id).part_number(number).body(bytes.into());
        let etag = sent.send().await.unwrap().e_tag().unwrap().to_owned();
        CompletedPart::builder().part_number(number).e_tag(etag).build()
    }

    fn completing(
        &self,
        key: &str,
        id: &str,
        parts: &[CompletedPart],
    ) -> aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
        self.client.complete_multipart_upload().bucket("b2").key(key).upload_id(id).multipart_upload(parts)
    }
}

#[tokio::test]
async fn parts_become_one_object_with_the_etag_of_parts() {
    let s = Setup::new().await;
    let id = s.begin_upload("k").await;
    let (one, two) = (vec![1; 5 * MIB], vec![2; 17]);
    // In any order: the numbers decide.
    let second = s.part("k", &id, 2, two.clone()).await;
    let first = s.part("k", &id, 1, one.clone()).await;
    assert_eq!(s.b2.get("k"), None);
    let done = s.completing("k", &id, &[first, second]).send().await.unwrap();

    let md5s = [Md5::digest(&one), Md5::digest(&two)].concat();
    let etag = format!("\"{}-2\"", super::super::api::etag::hex(&Md5::digest(&md5s)));
    assert_eq!(done.e_tag(), Some(etag.as_str()));
    let whole = [one, two].concat();
    assert_eq!(s.get("k").await, whole);
    let info = s.b2.inspect("k").unwrap();
    assert_eq!(info.content.hash.0, crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &whole));
    assert_eq!(info.content.size_bytes, whole.len() as u64);
    assert_eq!(s.b2.writes("k"), 1);
    assert!(s.b2.uploads().is_empty());
}

#[tokio::test]
async fn a_range_may_span_parts() {
    let s = Setup::with(BucketOptions { min_part_bytes: 1, ..BucketOptions::default() }).await;
    let id = s.begin_upload("k").await;
    let parts = [
        s.part("k", &id, 1, b"abc".to_vec()).await,
        s.part("k", &id, 2, b"def".to_vec()).await,
        s.part("k", &id, 7, b"ghi".to_vec()).await,
    ];
    s.completing("k", &id, &parts).send().await.unwrap();
    let got = s.client.get_object().bucket("b2").key("k").range("bytes=2-6").send().await.unwrap();
    assert_eq!(got.content_range(), Some("bytes 2-6/9"));
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"cdefg");
}

#[tokio::test]
async fn what_the_upload_was_begun_with_is_what_the_object_carries() {
    let s = Setup::new().await;
    let begun = s.client.create_multipart_upload().bucket("b2").key("k").content_type("image/png").metadata("a", "1");
    let id = begun.cache_control("no-cache").send().await.unwrap().upload_id().unwrap().to_owned();
    let part = s.part("k", &id, 1, b"x".to_vec()).await;
    s.completing("k", &id, &[part]).send().await.unwrap();
    let head = s.client.head_object().bucket("b2").key("k").send().await.unwrap();
    assert_eq!((head.content_type(), head.cache_control()), (Some("image/png"), Some("no-cache")));
    assert_eq!(head.metadata().unwrap()["a"], "1");
}

#[tokio::test]
async fn a_part_that_is_not_the_last_must_be_large_enough() {
    let s = Setup::new().await;
    let id = s.begin_upload("k").await;
    let parts = [s.part("k", &id, 1, vec![0; 5 * MIB - 1]).await, s.part("k", &id, 2, vec![0; 5 * MIB]).await];
    assert_eq!(refusal(s.completing("k", &id, &parts).send().await), refused(400, "EntityTooSmall"));
    assert_eq!(s.b2.keys(), Vec::<String>::new());
    // A last part may be small, and parts that were sent may be left out.
    s.completing("k", &id, &parts[..1]).send().await.unwrap();
}

#[tokio::test]
async fn parts_that_are_out_of_order_unknown_or_different_are_refused() {
    let s = Setup::with(BucketOptions { min_part_bytes: 1, ..BucketOptions::default() }).await;
    let id = s.begin_upload("k").await;
    let (one, two) = (s.part("k", &id, 1, b"a".to_vec()).await, s.part("k", &id, 2, b"b".to_vec()).await);
    let code = async |parts: &[CompletedPart]| refusal(s.completing("k", &id, parts).send().await).1;
    assert_eq!(code(&[two.clone(), one.clone()]).await, "InvalidPartOrder");
    assert_eq!(code(&[one.clone(), one.clone()]).await, "InvalidPartOrder");
    let unknown = CompletedPart::builder().part_number(3).e_tag(two.e_tag().unwrap()).build();
    assert_eq!(code(&[one.clone(), unknown]).await, "InvalidPart");
    let other = CompletedPart::builder().part_number(2).e_tag(one.e_tag().unwrap()).build();
    assert_eq!(code(&[one.clone(), other]).await, "InvalidPart");
    assert_eq!(code(&[]).await, "MalformedXML");
    assert_eq!(s.b2.uploads().len(), 1, "a refused completion leaves the upload as it was");
    s.completing("k", &id, &[one, two]).send().await.unwrap();
}

#[tokio::test]
async fn a_part_sent_again_replaces_the_first() {
    let s = Setup::new().await;
    let id = s.begin_upload("k").await;
    let first = s.part("k", &id, 1, b"old".to_vec()).await;
    let second = s.part("k", &id, 1, b"new".to_vec()).await;
    assert_eq!(refusal(s.completing("k", &id, &[first]).send().await).1, "InvalidPart");
    s.completing("k", &id, &[second]).send().await.unwrap();
    assert_eq!(s.get("k").await, b"new");
}

#[tokio::test]
async fn an_upload_that_is_over_is_unknown() {
    let s = Setup::new().await;
    let gone = refused(404, "NoSuchUpload");
    let id = s.begin_upload("k").await;
    let part = s.part("k", &id, 1, b"x".to_vec()).await;
    s.client.abort_multipart_upload().bucket("b2").key("k").upload_id(&id).send().await.unwrap();
    assert_eq!(refusal(s.client.abort_multipart_upload().bucket("b2").key("k").upload_id(&id).send().await), gone);
    assert_eq!(refusal(s.completing("k", &id, &[part]).send().await), gone);
    let late = s.client.upload_part().bucket("b2").key("k").upload_id(&id).part_number(1).body(vec![0; 4 * MIB].into());
    assert_eq!(refusal(late.send().await), gone);
    assert_eq!(refusal(s.client.list_parts().bucket("b2").key("k").upload_id(&id).send().await), gone);

    let id = s.begin_upload("k").await;
    let part = s.part("k", &id, 1, b"x".to_vec()).await;
    let other_key = s.client.abort_multipart_upload().bucket("b2").key("other").upload_id(&id).send().await;
    assert_eq!(refusal(other_key), gone);
    s.completing("k", &id, std::slice::from_ref(&part)).send().await.unwrap();
    assert_eq!(refusal(s.completing("k", &id, &[part]).send().await), gone);

    let id = s.begin_upload("k").await;
    s.b2.expire_uploads();
    assert_eq!(refusal(s.client.list_parts().bucket("b2").key("k").upload_id(&id).send().await), gone);
}

#[tokio::test]
async fn part_numbers_go_from_1_to_10000() {
    let s = Setup::new().await;
    let id = s.begin_upload("k").await;
    s.part("k", &id, 10_000, b"x".to_vec()).await;
    for number in [0, 10_001] {
        let sent = s
            .client
            .upload_part()
            .bucket("b2")
            .key("k")
            .upload_id(&id)
            .part_number(number)
            .body(ByteStream::from_static(b"x"));
        assert_eq!(refusal(sent.send().await), refused(400, "InvalidArgument"));
    }
}

#[tokio::test]
async fn parts_are_listed_page_by_page() {
    let s = Setup::new().await;
    let id = s.begin_upload("k").await;
    for number in [3, 1, 9, 4] {
        s.part("k", &id, number, vec![0; usize::try_from(number).unwrap()]).await;
    }
    let mut pages = s.client.list_parts().bucket("b2").key("k").upload_id(&id).max_parts(3).into_paginator().send();
    let mut seen = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        seen.push(page.parts().iter().map(|p| (p.part_number().unwrap(), p.size().unwrap())).collect::<Vec<_>>());
    }
    assert_eq!(seen, [vec![(1, 1), (3, 3), (4, 4)], vec![(9, 9)]]);
    let known = &s.b2.uploads()[0];
    assert_eq!((known.key.as_str(), known.id.as_str()), ("k", id.as_str()));
    assert_eq!(
        known.parts.iter().map(|(n, c)| (*n, c.size_bytes)).collect::<Vec<_>>(),
        [(1, 1), (3, 3), (4, 4), (9, 9)]
    );
}

#[tokio::test]
async fn unfinished_uploads_are_listed_by_key_and_beginning() {
    let s = Setup::new().await;
    let mut begun = Vec::new();
    for key in ["b", "a b", "b", "c/d"] {
        begun.push((key.to_owned(), s.begin_upload(key).await));
    }
    begun.sort();
    let mut seen = Vec::new();
    let (mut key, mut id) = (None, None);
    loop {
        let page =
            s.client.list_multipart_uploads().bucket("b2").max_uploads(1).set_key_marker(key).set_upload_id_marker(id);
        let page = page.send().await.unwrap();
        seen.extend(page.uploads().iter().map(|u| (u.key().unwrap().to_owned(), u.upload_id().unwrap().to_owned())));
        if page.is_truncated() != Some(true) {
            break;
        }
        (key, id) = (page.next_key_marker().map(str::to_owned), page.next_upload_id_marker().map(str::to_owned));
    }
    assert_eq!(seen, begun);
    let under = s.client.list_multipart_uploads().bucket("b2").prefix("c/").send().await.unwrap();
    assert_eq!(under.uploads().len(), 1);
}

#[tokio::test]
async fn a_completion_if_absent_yields_to_what_is_there() {
    let s = Setup::new().await;
    let id = s.begin_upload("k").await;
    let part = s.part("k", &id, 1, b"late".to_vec()).await;
    s.put("k", b"early").await;
    let completing = s.completing("k", &id, &[part]).if_none_match("*").send().await;
    assert_eq!(refusal(completing), refused(412, "PreconditionFailed"));
    assert_eq!(s.get("k").await, b"early");
}

#[tokio::test]
async fn a_part_may_be_copied_from_another_object() {
    let s = Setup::with(BucketOptions { min_part_bytes: 1, ..BucketOptions::default() }).await;
    s.server.create_bucket("wasabi", BucketOptions::default()).put("source", "0123456789");
    let id = s.begin_upload("k").await;
    let copy =
        s.client.upload_part_copy().bucket("b2").key("k").upload_id(&id).part_number(1).copy_source("wasabi/source");
    let copied = copy.copy_source_range("bytes=2-4").send().await.unwrap();
    let etag = copied.copy_part_result().unwrap().e_tag().unwrap();
    let part = CompletedPart::builder().part_number(1).e_tag(etag).build();
    s.completing("k", &id, &[part]).send().await.unwrap();
    assert_eq!(s.get("k").await, b"234");
    assert_eq!(s.b2.successes(Op::UploadPartCopy), 1);
}

#[tokio::test]
async fn the_checksum_of_the_whole_follows_from_the_parts() {
    for (algorithm, kind) in [
        (ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject),
        (ChecksumAlgorithm::Crc32, ChecksumType::FullObject),
        (ChecksumAlgorithm::Crc32C, ChecksumType::FullObject),
        (ChecksumAlgorithm::Crc32C, ChecksumType::Composite),
        (ChecksumAlgorithm::Sha256, ChecksumType::Composite),
    ] {
        let s = Setup::with(BucketOptions { min_part_bytes: 1, ..BucketOptions::default() }).await;
        let client = s.hashing_client();
        let begun = client.create_multipart_upload().bucket("b2").key("k").checksum_algorithm(algorithm.clone());
        let id = begun.checksum_type(kind.clone()).send().await.unwrap().upload_id().unwrap().to_owned();
        let mut parts = Vec::new();
        for (number, bytes) in [(1, b"hello ".as_slice()), (2, b"world")] {
            let part = client.upload_part().bucket("b2").key("k").upload_id(&id).part_number(number);
            let sent = part.checksum_algorithm(algorithm.clone()).body(bytes.to_vec().into()).send().await.unwrap();
            let part = CompletedPart::builder().part_number(number).e_tag(sent.e_tag().unwrap());
            let part = part.set_checksum_crc32_c(sent.checksum_crc32_c().map(str::to_owned));
            parts.push(part.set_checksum_sha256(sent.checksum_sha256().map(str::to_owned)).build());
        }
        s.completing("k", &id, &parts).send().await.unwrap();

        client
            .put_object()
            .bucket("b2")
            .key("whole")
            .checksum_algorithm(algorithm.clone())
            .body(b"hello world".to_vec().into())
            .send()
            .await
            .unwrap();
        let head = async |key: &str| {
            s.client.head_object().bucket("b2").key(key).checksum_mode(ChecksumMode::Enabled).send().await.unwrap()
        };
        let (joined, whole) = (head("k").await, head("whole").await);
        assert_eq!(joined.checksum_type(), Some(&kind), "{algorithm}");
        if kind == ChecksumType::FullObject {
            assert_eq!(joined.checksum_crc64_nvme(), whole.checksum_crc64_nvme(), "{algorithm}");
            assert_eq!(joined.checksum_crc32(), whole.checksum_crc32(), "{algorithm}");
            assert_eq!(joined.checksum_crc32_c(), whole.checksum_crc32_c(), "{algorithm}");
        } else {
            let composite = joined.checksum_crc32_c().or(joined.checksum_sha256()).unwrap();
            assert!(composite.ends_with("-2"), "{composite}");
        }
        // The SDK compares what it reads with what it is told.
        let got =
            s.client.get_object().bucket("b2").key("k").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
        assert_eq!(got.body.collect().await.unwrap().to_vec(), b"hello world");
    }
}

#[tokio::test]
async fn a_wrong_checksum_of_the_whole_stops_the_completion() {
    let s = Setup::new().await;
    let id = s.begin_upload("k").await;
    let part = s.part("k", &id, 1, b"hello".to_vec()).await;
    let wrong = s.completing("k", &id, std::slice::from_ref(&part)).checksum_crc64_nvme("AAAAAAAAAAA=").send().await;
    assert_eq!(refusal(wrong), refused(400, "BadDigest"));
    assert!(s.b2.keys().is_empty());
    let size = s.completing("k", &id, std::slice::from_ref(&part)).mpu_object_size(6).send().await;
    assert_eq!(refusal(size), refused(400, "InvalidRequest"));
    s.completing("k", &id, &[part]).mpu_object_size(5).send().await.unwrap();
}
