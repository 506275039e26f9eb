//! A claim takes the rows that are due, oldest first, and none that another claim holds.

use std::{collections::HashSet, time::Duration};

use copyhold_db::lease::LanePosition;

use crate::harness::{Harness, key, replica};

#[tokio::test]
async fn what_was_registered_first_is_claimed_first() {
    let harness = Harness::new().await;
    for name in ["c", "a", "b"] {
        harness.insert(name).await;
    }
    let daemon = harness.enlist(60).await;
    let leases = harness.claim(&daemon, "wasabi", 2).await;
    let mut keys: Vec<_> = leases.iter().map(|l| l.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["a", "c"]);
}

#[tokio::test]
async fn a_lease_says_what_the_row_lacks_and_what_it_has() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    harness.sql("UPDATE copyhold.object_copies SET scw = 7, size_bytes = 42 WHERE object_key = $1", "photo").await;
    let daemon = harness.enlist(60).await;
    let leases = harness.claim(&daemon, "wasabi", 10).await;
    let [lease] = &leases[..] else { panic!("{leases:?}") };
    assert_eq!(lease.key, key("photo"));
    assert_eq!((lease.size_bytes, lease.content), (Some(42), None));
    let seen: Vec<_> = lease.replicas.iter().map(|r| (r.replica.as_str(), r.recorded, r.due)).collect();
    assert_eq!(seen, [("b2", true, false), ("scw", true, false), ("wasabi", false, true)]);
    assert!(lease.age < Duration::from_mins(1));
}

#[tokio::test]
async fn many_claimers_at_once_never_get_the_same_row() {
    let harness = Harness::new().await;
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, b2)
             SELECT 'k' || i, copyhold.now_utc_micro_seconds() FROM generate_series(1, 2000) i",
        )
        .await;
    let claimers = (0..8).map(|i| {
        let (queue, lane) = (harness.queue(), replica(["wasabi", "scw"][i % 2]));
        async move {
            let daemon = queue.register_daemon("test".into(), Duration::from_mins(1)).await.unwrap();
            let mut keys = Vec::new();
            loop {
                let leases = queue.claim(&daemon, &lane, 37, LanePosition::BEGINNING).await.unwrap().leases;
                if leases.is_empty() {
                    return keys;
                }
                keys.extend(leases.into_iter().map(|l| l.key));
            }
        }
    });
    let keys: Vec<_> = futures::future::join_all(claimers).await.into_iter().flatten().collect();
    assert_eq!(keys.len(), 2000);
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 2000);
}

#[tokio::test]
async fn what_waits_is_parked_not_wanted_or_leased_is_not_claimed() {
    let harness = Harness::new().await;
    for name in ["waits", "parked", "unwanted", "leased", "due"] {
        harness.insert(name).await;
    }
    harness
        .execute(
            "UPDATE copyhold.object_copies SET due_wasabi = copyhold.now_utc_micro_seconds() + 3600000000
             WHERE object_key = 'waits';
             UPDATE copyhold.object_copies SET due_wasabi = 9000000000000000000 WHERE object_key = 'parked';
             UPDATE copyhold.object_copies SET due_wasabi = NULL WHERE object_key = 'unwanted';
             UPDATE copyhold.object_copies SET lock = 1, lease = 1 WHERE object_key = 'leased';",
        )
        .await;
    let daemon = harness.enlist(60).await;
    let leases = harness.claim(&daemon, "wasabi", 10).await;
    assert_eq!(leases.iter().map(|l| l.key.as_str()).collect::<Vec<_>>(), ["due"]);
}

#[tokio::test]
async fn a_row_that_the_application_holds_is_passed_over_and_no_other_with_it() {
    let harness = Harness::new().await;
    for name in ["held", "free"] {
        harness.insert(name).await;
    }
    let mut application = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM copyhold.object_copies WHERE object_key = 'held' FOR UPDATE")
        .execute(&mut *application)
        .await
        .unwrap();
    let daemon = harness.enlist(60).await;
    let claim = async || harness.claim(&daemon, "scw", 10).await;
    assert_eq!(claim().await.iter().map(|l| l.key.as_str()).collect::<Vec<_>>(), ["free"]);
    application.rollback().await.unwrap();
    assert_eq!(claim().await.iter().map(|l| l.key.as_str()).collect::<Vec<_>>(), ["held"]);
}

#[tokio::test]
async fn keys_come_back_byte_for_byte() {
    let harness = Harness::new().await;
    let odd = [
        "a//b",
        "/lead",
        " sp ace ",
        "%2F+",
        "ü",
        "u\u{308}",
        "tab\tnew\nline\u{7f}",
        "'; DROP TABLE x; --",
        &"é".repeat(512),
    ];
    for name in odd {
        harness.insert(name).await;
    }
    let daemon = harness.enlist(60).await;
    let leases = harness.claim(&daemon, "scw", 100).await;
    let got: HashSet<_> = leases.iter().map(|l| l.key.as_str()).collect();
    assert_eq!(got, HashSet::from(odd));
}

#[tokio::test]
async fn a_key_that_is_empty_or_too_long_cannot_be_registered() {
    let harness = Harness::new().await;
    for bad in [String::new(), "k".repeat(1025)] {
        let insert = sqlx::query("INSERT INTO copyhold.object_copies (object_key) VALUES ($1)").bind(bad);
        let error = insert.execute(&harness.pool).await.unwrap_err();
        assert!(error.to_string().contains("object_copies_object_key_check"), "{error}");
    }
}

#[tokio::test]
async fn registering_again_begins_a_new_generation_and_makes_every_wanted_copy_due() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    harness
        .execute(
            "UPDATE copyhold.object_copies SET wasabi = 5, due_scw = NULL, size_bytes = 1, content_hash = 2,
                    due_wasabi = 9000000000000000000",
        )
        .await;
    let before = harness.value("SELECT generation FROM copyhold.object_copies").await;
    let again = harness.value("SELECT copyhold.register('photo', 77)").await;
    assert_ne!(before, again);
    assert_eq!(again, harness.value("SELECT generation FROM copyhold.object_copies").await);
    let row = "SELECT (b2 IS NOT NULL, wasabi IS NULL, size_bytes, content_hash IS NULL, due_scw IS NULL,
                       due_wasabi <= copyhold.now_utc_micro_seconds()) FROM copyhold.object_copies";
    assert_eq!(harness.value(row).await.unwrap(), "(t,t,77,t,t,t)");
}

#[tokio::test]
async fn only_the_named_replicas_get_a_copy_and_an_unknown_name_is_refused() {
    let harness = Harness::new().await;
    harness.value("SELECT copyhold.register('photo', NULL, ARRAY['wasabi'])").await;
    let row = "SELECT (b2 IS NOT NULL, due_wasabi IS NOT NULL, due_scw IS NULL) FROM copyhold.object_copies";
    assert_eq!(harness.value(row).await.unwrap(), "(t,t,t)");
    let bad = sqlx::query("SELECT copyhold.register('other', NULL, ARRAY['wasabi', 'nowhere'])");
    let error = bad.execute(&harness.pool).await.unwrap_err().to_string();
    assert!(error.contains("unknown replica 'nowhere'"), "{error}");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "1");
}

#[tokio::test]
async fn a_claim_from_a_floor_on_takes_nothing_before_it() {
    let harness = Harness::new().await;
    for name in ["a", "b", "c"] {
        harness.insert(name).await;
    }
    let daemon = harness.enlist(60).await;
    let (queue, lane) = (harness.queue(), replica("wasabi"));
    let first = queue.claim(&daemon, &lane, 2, LanePosition::BEGINNING).await.unwrap();
    harness.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL").await;
    let rest = queue.claim(&daemon, &lane, 10, first.last_position.unwrap()).await.unwrap();
    assert_eq!(rest.leases.iter().map(|l| l.key.as_str()).collect::<Vec<_>>(), ["c"]);
    let none = queue.claim(&daemon, &lane, 10, rest.last_position.unwrap()).await.unwrap();
    assert!(none.leases.is_empty() && none.last_position.is_none());
    assert_eq!(harness.claim(&daemon, "wasabi", 10).await.len(), 2);
}

#[tokio::test]
async fn a_fresh_claim_takes_the_newest_and_nothing_old() {
    let harness = Harness::new().await;
    for name in ["old", "retried", "new", "newest"] {
        harness.insert(name).await;
    }
    harness
        .execute(
            "UPDATE copyhold.object_copies SET created_at = created_at - 3600000000 WHERE object_key IN ('old', 'retried');
             UPDATE copyhold.object_copies SET due_scw = copyhold.now_utc_micro_seconds() WHERE object_key = 'retried';",
        )
        .await;
    let daemon = harness.enlist(60).await;
    let claim = async |limit| {
        let claimed = harness.queue().claim_fresh(&daemon, &replica("scw"), limit).await.unwrap();
        claimed.leases.into_iter().map(|l| l.key.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(claim(1).await, ["newest"]);
    assert_eq!(claim(10).await, ["new"]);
    assert!(claim(10).await.is_empty());
}

#[tokio::test]
async fn rows_are_claimed_by_their_keys_whatever_they_lack_but_never_while_they_are_locked() {
    let harness = Harness::new().await;
    for name in ["complete", "lacking", "held", "unasked"] {
        harness.insert(name).await;
    }
    harness.sql("UPDATE copyhold.object_copies SET wasabi = 1, scw = 1 WHERE object_key = $1", "complete").await;
    let (one, other) = (harness.enlist(60).await, harness.enlist(60).await);
    harness.queue().claim_these(&one, &[key("held")]).await.unwrap();
    let keys = ["complete", "lacking", "held", "unknown"].map(key);
    let mut taken = harness.queue().claim_these(&other, &keys).await.unwrap();
    taken.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(taken.iter().map(|lease| lease.key.as_str()).collect::<Vec<_>>(), ["complete", "lacking"]);
    assert_eq!(taken[0].targets().count(), 0);
    assert_eq!(taken[1].targets().count(), 2);
}
