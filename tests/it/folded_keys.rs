//! A store that treats two keys as one: no copy is recorded there that is not there, and each object's failure names the other.

use copyhold_core::domain::{Fold, Folds};
use copyhold_sandbox::s3::{BucketOptions, Op, Quirk};

use crate::harness::{DaemonProcess, Harness, key, printed, replica};

/// A store of these habits, which was never probed, in the place of scw.
async fn folding(habit: Quirk) -> (Harness, DaemonProcess) {
    let harness = Harness::new().await;
    harness.s3.create_bucket("photos-scw", BucketOptions::default().with(habit));
    let daemon = harness.daemon().await;
    (harness, daemon)
}

async fn register(harness: &Harness, keys: &[&str]) {
    for key in keys {
        harness.bucket("b2").put(key, format!("the object {key}"));
        harness.sql("SELECT copyhold.register($1)", key).await;
    }
}

/// Parked at scw alone, all of them.
const ALL_PARKED: &str =
    "SELECT bool_and(scw IS NULL AND due_scw = 9000000000000000000 AND wasabi IS NOT NULL AND lock IS NULL)
    FROM copyhold.object_copies";

#[tokio::test]
async fn objects_whose_keys_a_store_takes_for_one_are_parked_there_by_name_and_copied_elsewhere() {
    for (habit, keys, kept) in [
        (Quirk::FoldsCapitals, ["PHOTOS/Photo.jpg", "photos/pHoto.JPG"], "photos/photo.jpg"),
        (Quirk::ComposesKeys, ["cafe\u{301}", "caf\u{e9}"], "caf\u{e9}"),
        (Quirk::TrimsKeys, ["a ", "a."], "a"),
        (Quirk::TidiesKeys, ["x//y", "/x/./y"], "x/y"),
        (Quirk::DecodesTwice, ["%41", "A"], "A"),
    ] {
        let (harness, _daemon) = folding(habit).await;
        register(&harness, &keys).await;
        harness.until(ALL_PARKED).await;
        for (one, other) in [(keys[0], keys[1]), (keys[1], keys[0])] {
            let text = printed(&harness.run(&["explain", one]).await);
            for words in [format!("\"{}\"", other.escape_default()), "for one".into(), "copyhold forget".into()] {
                assert!(text.replace("\\\\", "\\").contains(&words), "{habit:?}, {words}: {text}");
            }
            assert_eq!(harness.bucket("wasabi").get(one).unwrap(), format!("the object {one}"), "{habit:?}");
        }
        // One of them alone is copied.
        harness.sql("DELETE FROM copyhold.object_copies WHERE object_key = $1", keys[1]).await;
        assert!(harness.run(&["retry", keys[0]]).await.status.success());
        harness.until("SELECT scw IS NOT NULL FROM copyhold.object_copies").await;
        assert_eq!(harness.bucket("scw").get(kept).unwrap(), format!("the object {}", keys[0]), "{habit:?}");
    }
}

#[tokio::test]
async fn a_key_that_shows_no_folding_by_itself_does_not_hide_it_from_the_next() {
    let (harness, _daemon) = folding(Quirk::DecodesTwice).await;
    for key in ["%41", "A"] {
        register(&harness, &[key]).await;
        harness.until("SELECT bool_and(wasabi IS NOT NULL AND lock IS NULL) FROM copyhold.object_copies").await;
    }
    harness.until(ALL_PARKED).await;
}

#[tokio::test]
async fn a_copy_of_before_that_another_object_overwrites_loses_its_record_and_others_keep_theirs() {
    let (harness, mut daemon) = folding(Quirk::FoldsCapitals).await;
    register(&harness, &["pHoto.jpg", "Other.jpg"]).await;
    harness.until("SELECT count(scw) = 2 FROM copyhold.object_copies").await;
    // A process that knows nothing of it.
    daemon.kill().await;
    let daemon = harness.daemon().await;
    register(&harness, &["Photo.jpg"]).await;
    daemon.until_logged("revoked the record of pHoto.jpg there").await;
    harness.until("SELECT bool_and((scw IS NULL) = (object_key ILIKE '%hoto.jpg')) FROM copyhold.object_copies").await;
    let events = "SELECT count(*) FROM copyhold.log WHERE event_data->>'kind' = 'copy.lost' AND event_data->>'object_key' = 'pHoto.jpg'";
    assert_eq!(harness.value(events).await.unwrap(), "1");
    // Registered again, it finds the other as well.
    register(&harness, &["pHoto.jpg"]).await;
    harness
        .until("SELECT due_scw = 9000000000000000000 FROM copyhold.object_copies WHERE object_key = 'pHoto.jpg'")
        .await;
    assert_eq!(harness.value("SELECT count(scw) FROM copyhold.object_copies").await.unwrap(), "1");
}

#[tokio::test]
async fn a_copy_that_a_store_lists_under_another_name_is_parked_by_name_and_never_recorded() {
    let (harness, _daemon) = folding(Quirk::SimplifiesKeys).await;
    let long = ["x".repeat(201), "x".repeat(202)];
    let odd = ["file\u{ff11}", "a\u{1f600}", "a\u{1f601}", "d/x:y", "k\t", " k", &long[0], &long[1]];
    register(&harness, &odd).await;
    harness.until(ALL_PARKED).await;
    let text = printed(&harness.run(&["explain", "d/x:y"]).await).replace("\\\\", "\\");
    for words in ["under the name \"d/x_y\"", "another object's"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test]
async fn the_record_of_an_object_that_such_a_copy_was_written_over_is_taken_back_once() {
    let (harness, daemon) = folding(Quirk::SimplifiesKeys).await;
    let of = |key: &str| format!("SELECT scw IS NOT NULL FROM copyhold.object_copies WHERE object_key = '{key}'");
    register(&harness, &["d/x_y", "other"]).await;
    harness.until("SELECT count(scw) = 2 FROM copyhold.object_copies").await;
    register(&harness, &["d/x:y"]).await;
    daemon.until_logged("revoked the record of d/x_y there").await;
    harness.until("SELECT bool_and((scw IS NULL) = (object_key <> 'other')) FROM copyhold.object_copies").await;
    // Copied again it is right, and the other object writes nothing over it any more.
    assert!(harness.run(&["retry", "d/x_y"]).await.status.success());
    harness.until(&of("d/x_y")).await;
    assert_eq!(harness.bucket("scw").get("d/x_y").unwrap(), "the object d/x_y");
    assert!(harness.run(&["retry", "d/x:y"]).await.status.success());
    let parked =
        "SELECT due_scw = 9000000000000000000 AND lock IS NULL FROM copyhold.object_copies WHERE object_key = 'd/x:y'";
    harness.until(parked).await;
    assert_eq!(harness.bucket("scw").get("d/x_y").unwrap(), "the object d/x_y");
    assert_eq!(harness.value(&of("d/x_y")).await.unwrap(), "true");
}

#[tokio::test]
async fn a_plain_key_asks_for_no_listing_and_an_unusual_one_for_one_listing_per_trait() {
    let harness = Harness::unhurried().await;
    let _daemon = harness.daemon().await;
    let listings = || harness.bucket("scw").calls(Op::ListObjectsV2);
    register(&harness, &["photos/a_b-1.jpg"]).await;
    harness.until("SELECT count(scw) = 1 FROM copyhold.object_copies").await;
    let before = listings();
    register(&harness, &["photos/a_b-2.jpg"]).await;
    harness.until("SELECT count(scw) = 2 FROM copyhold.object_copies").await;
    assert_eq!(listings(), before);
    register(&harness, &["photos/caf\u{e9}.jpg"]).await;
    harness.until("SELECT count(scw) = 3 FROM copyhold.object_copies").await;
    assert_eq!(listings(), before + 1);
    register(&harness, &["photos/\u{e9}t\u{e9}/\u{e9}.jpg", "photos/caf\u{e9} 2.jpg"]).await;
    harness.until("SELECT count(scw) = 5 FROM copyhold.object_copies").await;
    assert!(listings() <= before + 3, "{} and {before}", listings());
}

#[tokio::test]
async fn a_store_that_keeps_keys_apart_is_asked_for_other_spellings_once() {
    let harness = Harness::unhurried().await;
    let _daemon = harness.daemon().await;
    let keys = ["Photos/a+b 1.jpg", "photos/a+b 2.jpg", "PHOTOS/c+d 3.JPG", "Photos/a b 1.jpg"];
    register(&harness, &keys[..1]).await;
    harness.until("SELECT count(scw) = 1 FROM copyhold.object_copies").await;
    let asked = harness.bucket("scw").calls(Op::HeadObject);
    assert!(asked > 0);
    register(&harness, &keys[1..]).await;
    harness.until("SELECT count(scw) = 4 FROM copyhold.object_copies").await;
    assert_eq!(harness.bucket("scw").calls(Op::HeadObject), asked);
}

#[tokio::test]
async fn registered_twins_are_found_by_the_keys_index_whatever_else_is_registered() {
    let harness = Harness::new().await;
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key)
             SELECT 'Photos/IMG_' || lpad(n::text, 5, '0') || '.JPG' FROM generate_series(1, 20000) n;
             INSERT INTO copyhold.object_copies (object_key, due_scw)
             VALUES ('photos/img_00007.jpg', 0), ('PHOTOS/Img_00007.jpg', NULL), ('photos/img_00007.jpg2', 0);
             ANALYZE copyhold.object_copies",
        )
        .await;
    let folds = Folds::NONE.with(Fold::Case);
    let twins = async |name: &str, folds| {
        let twins = harness.queue().key_twins(&key(name), &replica("scw"), folds).await.unwrap();
        twins.into_iter().map(|twin| twin.key.as_str().to_owned()).collect::<Vec<_>>()
    };
    // One that is not wanted there does no harm.
    assert_eq!(twins("Photos/IMG_00007.JPG", folds).await, ["photos/img_00007.jpg"]);
    assert_eq!(twins("PHOTOS/Img_00007.jpg", folds).await, ["Photos/IMG_00007.JPG", "photos/img_00007.jpg"]);
    assert_eq!(twins("Photos/IMG_00008.JPG", folds).await, Vec::<String>::new());
    assert_eq!(twins("photos/img_00007.jpg", Folds::NONE).await, Vec::<String>::new());
}
