//! Damage, and answers that prove nothing.

use copyhold_sandbox::s3::{Metadata, Op, When};

use super::{changed::long_ago, *};

#[tokio::test]
async fn a_byte_flipped_on_the_way_from_the_source_is_caught() {
    let s = Setup::new().await;
    for (key, size) in [("small", 1_000), ("big", 17 << 20)] {
        s.b2.put(key, vec![7; size]);
        s.b2.order(Fault::FlipBody { at: 17 }, When::op(Op::GetObject).key(key).next(1));
        let told = s.copy(&s.job(key).await).await;
        assert_eq!((told.class("wasabi"), told.class("scw")), (FailureClass::Corrupt, FailureClass::Corrupt));
        assert!(told.of("scw").unwrap_err().message.starts_with("source b2: "), "{told:?}");
        assert_eq!(told.read(), None);
    }
    assert!(s.wasabi.keys().is_empty() && s.leaves_no_upload());
}

#[tokio::test]
async fn a_byte_flipped_on_the_way_to_a_target_is_refused_by_the_store() {
    let s = Setup::new().await;
    for (key, size, op) in [("small", 1_000, Op::PutObject), ("big", 17 << 20, Op::UploadPart)] {
        s.b2.put(key, vec![7; size]);
        s.wasabi.order(Fault::FlipArriving { at: 17 }, When::op(op));
        let told = s.copy(&s.job(key).await).await;
        assert_eq!(told.class("wasabi"), FailureClass::Corrupt);
        assert!(told.of("wasabi").unwrap_err().message.starts_with("target wasabi: "), "{told:?}");
        assert_eq!(told.of("scw"), Ok(Verified::Compared));
    }
    assert!(s.wasabi.keys().is_empty() && s.leaves_no_upload());
}

#[tokio::test]
async fn an_etag_that_is_no_hash_of_ours_has_the_copy_read_back() {
    let s = Setup::new().await;
    for (key, size, op) in [("small", 1_000, Op::PutObject), ("big", 17 << 20, Op::CompleteMultipartUpload)] {
        s.b2.put(key, vec![7; size]);
        s.wasabi.order(Fault::WrongEtag, When::op(op));
        let told = s.copy(&s.job(key).await).await;
        assert_eq!((told.of("wasabi"), told.of("scw")), (Ok(Verified::ReadBack), Ok(Verified::Compared)), "{told:?}");
        assert!(s.is_everywhere(key));
    }
}

#[tokio::test]
async fn a_copy_that_is_read_back_wrong_is_not_recorded() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.wasabi.order(Fault::StoreDamaged { at: 2 }, When::op(Op::PutObject).next(1));
    s.wasabi.order(Fault::WrongEtag, When::op(Op::PutObject));
    // Two faults strike two calls: damaged but with the right ETag is what no comparison can see.
    let job = s.job("k").await;
    s.copy(&job).await;
    s.wasabi.clear_faults();
    s.wasabi.order(Fault::FlipBody { at: 2 }, When::op(Op::GetObject));
    s.wasabi.order(Fault::WrongEtag, When::op(Op::PutObject));
    let told = s.copy(&job).await;
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Corrupt);
    assert!(why.message.starts_with("target wasabi: it keeps other bytes than were sent"), "{why:?}");
    assert!(told.of("scw").is_ok());
}

#[tokio::test]
async fn a_source_whose_etags_are_said_to_be_no_md5s_is_read_twice_and_believed() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.b2.order(Fault::WrongEtag, When::op(Op::GetObject));
    let mut job = s.job("k").await;
    let told = s.copy(&job).await;
    assert_eq!((told.class("wasabi"), told.read()), (FailureClass::Corrupt, None));
    assert!(
        told.of("wasabi").unwrap_err().message.contains("set md5_etags = false in [replicas.b2] and retry"),
        "{told:?}"
    );
    assert_eq!(s.b2.calls(Op::GetObject), 2);
    let facts = settings::StoreOverrides { md5_etags: Some(false), ..settings::StoreOverrides::default() };
    job.sources[0].store = s.store_of("b2", settings::Provider::Generic, facts).await;
    let told = s.copy(&job).await;
    assert!(told.is_proven(), "{told:?}");
    assert_eq!(s.b2.calls(Op::GetObject), 4);
}

#[tokio::test]
async fn an_etag_that_is_another_one_in_each_answer_is_no_md5() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.b2.set_etag("k", "0f343b0931126a20f133d67c2b018a3b");
    s.b2.order(Fault::WrongEtag, When::op(Op::GetObject).next(1));
    let told = s.copy(&s.job("k").await).await;
    assert!(told.is_proven(), "{told:?}");
}

#[tokio::test]
async fn bytes_that_a_proxy_has_compressed_on_the_way_are_not_the_object() {
    let s = Setup::new().await;
    for (key, etag) in [("md5", None), ("parts", Some("0f343b0931126a20f133d67c2b018a3b-2"))] {
        s.b2.put(key, "hello");
        if let Some(etag) = etag {
            s.b2.set_etag(key, etag);
        }
        s.b2.order(Fault::Compress, When::op(Op::GetObject));
        let told = s.copy(&s.job(key).await).await;
        assert_eq!((told.class("wasabi"), told.read()), (FailureClass::Corrupt, None), "{key}");
        assert!(told.of("wasabi").unwrap_err().message.contains("its bytes are changed on the way"), "{told:?}");
        // Nor when they are held against what was known.
        let content = Content { size_bytes: 4, hash: copyhold_core::domain::ContentHash(1) };
        let told = s.copy(&Job { content: Some(content), ..s.job(key).await }).await;
        assert_eq!((told.class("wasabi"), told.changed()), (FailureClass::Corrupt, None), "{key}");
    }
    assert!(s.wasabi.keys().is_empty() && s.scw.keys().is_empty());
}

#[tokio::test]
async fn bytes_that_a_proxy_has_decompressed_on_the_way_are_not_the_object() {
    let s = Setup::new().await;
    let gzip = || Metadata::none().with("content-encoding", "gzip");
    for (key, etag) in
        [("md5", None), ("parts", Some("0f343b0931126a20f133d67c2b018a3b-2")), ("opaque", Some("opaque-1"))]
    {
        for ranges in [false, true] {
            s.b2.put_with(key, "compressed", gzip());
            if let Some(etag) = etag {
                s.b2.set_etag(key, etag);
            }
            s.b2.order(Fault::Decompress { ranges }, When::op(Op::GetObject));
            let told = s.copy(&s.job(key).await).await;
            assert_eq!((told.class("wasabi"), told.read()), (FailureClass::Corrupt, None), "{key} {ranges}");
            assert!(told.of("wasabi").unwrap_err().message.contains("its bytes are changed on the way"), "{told:?}");
            // Nor when they are held against what was known.
            let content = Content { size_bytes: 4, hash: copyhold_core::domain::ContentHash(1) };
            let told = s.copy(&Job { content: Some(content), kept: long_ago(), ..s.job(key).await }).await;
            assert_eq!((told.class("wasabi"), told.changed()), (FailureClass::Corrupt, None), "{key} {ranges}");
            s.b2.clear_faults();
            assert!(s.copy(&s.job(key).await).await.is_proven(), "{key} {ranges}");
            s.wasabi.delete(key);
            s.scw.delete(key);
        }
    }
}

#[tokio::test]
async fn only_bytes_that_no_etag_proves_cost_a_look_at_what_the_source_has_stored() {
    let s = Setup::new().await;
    for (key, etag, looks) in [("md5", None, 0), ("opaque", Some("opaque-1"), 1)] {
        s.b2.put(key, "hello");
        if let Some(etag) = etag {
            s.b2.set_etag(key, etag);
        }
        let before = s.b2.calls(Op::HeadObject);
        assert!(s.copy(&s.job(key).await).await.is_proven(), "{key}");
        assert_eq!(s.b2.calls(Op::HeadObject) - before, looks, "{key}");
    }
}

#[tokio::test]
async fn bytes_that_came_wrong_twice_are_damaged_where_an_etag_is_surely_their_md5() {
    let s = Setup::new().await;
    for (key, size) in [("small", 1_000), ("big", 17 << 20)] {
        s.b2.put(key, vec![7; size]);
        s.b2.damage(key, 17);
        let mut job = s.job(key).await;
        job.sources[0].store = s.store_of("b2", settings::Provider::Garage, settings::StoreOverrides::default()).await;
        let told = s.copy(&job).await;
        assert_eq!(
            (told.class("wasabi"), told.class("scw"), told.read()),
            (FailureClass::Corrupt, FailureClass::Corrupt, None)
        );
        assert!(told.of("scw").unwrap_err().message.ends_with("they are damaged where they are kept"), "{told:?}");
    }
    assert!(s.wasabi.keys().is_empty() && s.leaves_no_upload());
}
