//! What rots at the primary, or comes back there from a backup, is copied nowhere.

use std::time::SystemTime;

use copyhold_sandbox::s3::Synthetic;

use super::*;

const BIG: u64 = 17 * MIB;
const PARTS: &str = "0f343b0931126a20f133d67c2b018a3b-2";

/// What happens to an object at the primary.
type Change = Box<dyn Fn(&Setup, &str)>;

/// Copies an object of this size from b2 to scw, and returns what is on record of it then.
async fn copied(s: &Setup, key: &str, size: u64, etag: Option<&str>) -> (Content, RecordedSource) {
    s.b2.put_synthetic(key, Synthetic::new(1, size));
    if let Some(etag) = etag {
        s.b2.set_etag(key, etag);
    }
    let told = s.copy(&Job { targets: vec![s.target("scw").await], ..s.job(key).await }).await;
    assert_eq!(told.of("scw"), Ok(Verified::Compared));
    (told.read().unwrap(), RecordedSource { reading: told.said(), recorded_us: Some(0) })
}

/// From b2, else from scw, to wasabi.
async fn to_wasabi(s: &Setup, key: &str, (content, kept): &(Content, RecordedSource)) -> Job {
    let source = async |bucket| Source { store: s.store(bucket).await, recorded: true, primary: bucket == "b2" };
    Job {
        content: Some(*content),
        kept: kept.clone(),
        sources: vec![source("b2").await, source("scw").await],
        targets: vec![s.target("wasabi").await],
        ..s.job(key).await
    }
}

#[tokio::test]
async fn rot_and_an_old_state_at_the_primary_are_left_there_and_another_replica_is_read() {
    let s = Setup::new().await;
    let changes: [(&str, Option<&str>, Change); 6] = [
        ("rot under the ETag of parts", Some(PARTS), Box::new(|s, key| s.b2.damage(key, 17))),
        ("rot under an MD5", None, Box::new(|s, key| s.b2.damage(key, 17))),
        (
            "an older one, with its MD5",
            None,
            Box::new(|s, key| {
                s.b2.put_synthetic(key, Synthetic::new(2, 1_000));
                s.b2.set_modified(key, SystemTime::UNIX_EPOCH + Duration::from_hours(1));
            }),
        ),
        (
            "an older one, in parts",
            Some(PARTS),
            Box::new(|s, key| {
                s.b2.put_synthetic_as(key, Synthetic::new(2, 1_000), "1f343b0931126a20f133d67c2b018a3b-2");
                s.b2.set_modified(key, SystemTime::UNIX_EPOCH + Duration::from_hours(1));
            }),
        ),
        (
            "rot, and a newer time alone",
            Some(PARTS),
            Box::new(|s, key| {
                s.b2.damage(key, 17);
                let modified = s.b2.inspect(key).unwrap().modified;
                s.b2.set_modified(key, modified + Duration::from_mins(1));
            }),
        ),
        (
            "another one within the second that cannot be told from damage",
            Some(PARTS),
            Box::new(|s, key| {
                let modified = s.b2.inspect(key).unwrap().modified;
                s.b2.put_synthetic_as(key, Synthetic::new(2, 1_000), "1f343b0931126a20f133d67c2b018a3b-2");
                s.b2.set_modified(key, modified);
            }),
        ),
    ];
    for (i, (what, etag, change)) in changes.iter().enumerate() {
        for size in [1_000, BIG] {
            let key = format!("{i}-{size}");
            let on_record = copied(&s, &key, size, *etag).await;
            change(&s, &key);
            let there = s.b2.inspect(&key);
            let told = s.copy(&to_wasabi(&s, &key, &on_record).await).await;
            assert_eq!((told.stale(), told.changed()), (vec!["b2"], None), "{what}, {size}");
            assert!(told.steps.iter().any(|step| matches!(step, CopyStep::Stale { park: true, .. })), "{what}, {size}");
            assert_eq!((told.of("wasabi"), told.read()), (Ok(Verified::Compared), Some(on_record.0)), "{what}, {size}");
            // The primary's words are not replaced by another's.
            assert_eq!(told.said(), None, "{what}, {size}");
            for bucket in [&s.wasabi, &s.scw] {
                assert_eq!(bucket.inspect(&key).unwrap().content, on_record.0, "{what}, {size}");
            }
            assert_eq!(s.b2.inspect(&key), there, "{what}, {size}");
        }
    }
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn an_object_that_was_written_anew_with_the_same_bytes_is_the_same() {
    let s = Setup::new().await;
    let on_record = copied(&s, "k", 1_000, Some(PARTS)).await;
    // As CopyObject onto itself leaves it.
    s.b2.put_synthetic("k", Synthetic::new(1, 1_000));
    let modified = s.b2.inspect("k").unwrap().modified;
    s.b2.set_modified("k", modified + Duration::from_mins(1));
    let told = s.copy(&to_wasabi(&s, "k", &on_record).await).await;
    assert_eq!((told.changed(), told.stale(), told.of("wasabi")), (None, vec![], Ok(Verified::Compared)));
    // What it says by now is kept.
    assert!(told.said().is_some_and(|said| Some(said) != on_record.1.reading));
}

#[tokio::test]
async fn where_no_good_copy_is_left_the_targets_are_told_why() {
    let s = Setup::new().await;
    let on_record = copied(&s, "k", 1_000, None).await;
    s.b2.damage("k", 17);
    s.scw.damage("k", 17);
    let told = s.copy(&to_wasabi(&s, "k", &on_record).await).await;
    assert_eq!((told.stale(), told.class("wasabi"), told.read()), (vec!["b2", "scw"], FailureClass::Corrupt, None));
    assert!(s.wasabi.keys().is_empty());
}

#[tokio::test]
async fn a_store_that_has_shown_md5s_is_held_to_them() {
    let s = Setup::new().await;
    let store = s.store("b2").await;
    let job = async |key: &str| {
        let sources = vec![Source { store: Arc::clone(&store), recorded: true, primary: true }];
        Job { sources, ..s.job(key).await }
    };
    for i in 0..8 {
        let key = format!("k{i}");
        s.b2.put(&key, key.clone());
        assert!(s.copy(&job(&key).await).await.is_proven());
    }
    s.b2.put("rotten", "bytes");
    s.b2.damage("rotten", 1);
    let told = s.copy(&job("rotten").await).await;
    assert_eq!((told.class("wasabi"), told.stale()), (FailureClass::Corrupt, vec!["b2"]));
    assert!(told.of("wasabi").unwrap_err().message.ends_with("they are damaged where they are kept"), "{told:?}");
}
