use super::*;

#[tokio::test]
async fn every_write_and_every_deletion_is_a_version_until_it_is_deleted_by_its_id() {
    let s = Setup::with(BucketOptions::versioned()).await;
    let status = s.client.get_bucket_versioning().bucket("b2").send().await.unwrap();
    assert_eq!(status.status().unwrap().as_str(), "Enabled");
    s.put("k", b"old").await;
    s.put("k", b"new").await;
    s.client.delete_object().bucket("b2").key("k").send().await.unwrap();
    assert_eq!(s.b2.get("k"), None);
    let list = || s.client.list_object_versions().bucket("b2").prefix("k").send();
    let all = list().await.unwrap();
    assert_eq!((all.versions().len(), all.delete_markers().len()), (2, 1));
    let ids = |versions: Vec<Option<&str>>| versions.into_iter().map(|id| id.unwrap().to_owned()).collect::<Vec<_>>();
    let markers = ids(all.delete_markers().iter().map(|m| m.version_id()).collect());
    for id in markers {
        s.client.delete_object().bucket("b2").key("k").version_id(id).send().await.unwrap();
    }
    // Newest first: with the marker gone it is seen again.
    assert_eq!(s.b2.get("k").unwrap(), "new");
    for id in ids(all.versions().iter().map(|v| v.version_id()).collect()) {
        s.client.delete_object().bucket("b2").key("k").version_id(id).send().await.unwrap();
    }
    assert!(s.b2.versions().is_empty() && s.b2.keys().is_empty());
}

#[tokio::test]
async fn a_listing_of_versions_comes_in_pages() {
    let s = Setup::with(BucketOptions::versioned()).await;
    for key in ["a", "b b", "c"] {
        s.put(key, b"1").await;
        s.put(key, b"2").await;
    }
    let (mut key, mut id, mut seen) = (None, None, Vec::new());
    loop {
        let page = s.client.list_object_versions().bucket("b2").max_keys(1);
        let page = page.set_key_marker(key).set_version_id_marker(id).send().await.unwrap();
        seen.extend(page.versions().iter().map(|v| (v.key().unwrap().to_owned(), v.is_latest().unwrap())));
        if page.is_truncated() != Some(true) {
            break;
        }
        (key, id) = (page.next_key_marker, page.next_version_id_marker);
    }
    let expected = ["a", "b b", "c"].into_iter().flat_map(|key| [(key.to_owned(), true), (key.to_owned(), false)]);
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_locked_stays_and_what_is_not_says_that_there_is_no_lock() {
    let s = Setup::with(BucketOptions::locked(7)).await;
    let lock = s.client.get_object_lock_configuration().bucket("b2").send().await.unwrap();
    let rule = lock.object_lock_configuration.unwrap().rule.unwrap().default_retention.unwrap();
    assert_eq!(rule.days, Some(7));
    s.put("k", b"kept").await;
    let all = s.client.list_object_versions().bucket("b2").send().await.unwrap();
    let id = all.versions()[0].version_id().unwrap();
    let deleted = s.client.delete_object().bucket("b2").key("k").version_id(id).send().await;
    assert_eq!(refusal(deleted), refused(403, "AccessDenied"));
    let plain = Setup::new().await;
    let lock = plain.client.get_object_lock_configuration().bucket("b2").send().await;
    assert_eq!(refusal(lock), refused(404, "ObjectLockConfigurationNotFoundError"));
}
