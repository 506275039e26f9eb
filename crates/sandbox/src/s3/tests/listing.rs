//! Tests: listings and their pages.

use std::collections::BTreeSet;

use aws_sdk_s3::primitives::DateTime;

use super::*;

/// Keys and common prefixes of all pages of so many entries, and how many pages there were.
async fn listed(s: &Setup, prefix: &str, delimiter: Option<&str>, most: i32) -> (Vec<String>, Vec<String>, usize) {
    let list = s
        .client
        .list_objects_v2()
        .bucket("b2")
        .prefix(prefix)
        .max_keys(most)
        .set_delimiter(delimiter.map(str::to_owned));
    let (mut keys, mut prefixes, mut count) = (Vec::new(), Vec::new(), 0);
    let mut pages = list.into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        let entries = page.contents().len() + page.common_prefixes().len();
        assert!(entries <= usize::try_from(most).unwrap());
        assert_eq!(page.key_count(), i32::try_from(entries).ok());
        keys.extend(page.contents().iter().filter_map(|o| o.key().map(str::to_owned)));
        prefixes.extend(page.common_prefixes().iter().filter_map(|p| p.prefix().map(str::to_owned)));
        count += 1;
    }
    (keys, prefixes, count)
}

async fn filled(keys: &[&str]) -> Setup {
    let s = Setup::new().await;
    for key in keys {
        s.b2.put(key, "x");
    }
    s
}

#[tokio::test]
async fn keys_are_listed_in_the_order_of_their_bytes() {
    let s = filled(&["b", "a/2", "a", "a/10", "B", "ü", "~"]).await;
    let (keys, _, pages) = listed(&s, "", None, 1000).await;
    assert_eq!(keys, ["B", "a", "a/10", "a/2", "b", "~", "ü"]);
    assert_eq!(pages, 1);
}

#[tokio::test]
async fn pages_of_any_size_add_up_to_the_whole() {
    let keys: Vec<String> =
        (0..57).map(|n| format!("dir{}/{n}", n % 5)).chain(["dir1".into(), "dir1/".into(), "zz".into()]).collect();
    let s = filled(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let all: BTreeSet<_> = keys.iter().cloned().collect();
    for most in [1, 2, 7, 60, 1000] {
        let (listed_keys, _, _) = listed(&s, "", None, most).await;
        assert!(listed_keys.iter().eq(all.iter()), "{most}");
        let (loose, prefixes, _) = listed(&s, "", Some("/"), most).await;
        assert_eq!(loose, ["dir1", "zz"], "{most}");
        assert_eq!(prefixes, ["dir0/", "dir1/", "dir2/", "dir3/", "dir4/"], "{most}");
    }
}

#[tokio::test]
async fn a_full_last_page_is_the_last() {
    let s = filled(&["a", "b", "c", "d"]).await;
    assert_eq!(listed(&s, "", None, 2).await.2, 2);
    let none = s.client.list_objects_v2().bucket("b2").max_keys(0).send().await.unwrap();
    assert_eq!((none.contents().len(), none.is_truncated()), (0, Some(false)));
}

#[tokio::test]
async fn a_prefix_and_a_delimiter_show_one_level() {
    let s = filled(&["p", "p/", "p/a", "p/b/1", "p/b/2", "p/c", "pq"]).await;
    let (keys, prefixes, _) = listed(&s, "p/", Some("/"), 1000).await;
    assert_eq!(keys, ["p/", "p/a", "p/c"]);
    assert_eq!(prefixes, ["p/b/"]);
    let (keys, _, _) = listed(&s, "p", None, 1000).await;
    assert_eq!(keys.len(), 7);
    assert_eq!(listed(&s, "nothing", None, 1000).await.2, 1);
}

#[tokio::test]
async fn a_prefix_is_named_once_even_before_the_last_character_there_is() {
    let s = filled(&["d/a", "d/\u{10ffff}", "d/\u{10ffff}\u{10ffff}", "e"]).await;
    for most in [1, 1000] {
        let (keys, prefixes, _) = listed(&s, "", Some("/"), most).await;
        assert_eq!((keys, prefixes), (vec!["e".to_owned()], vec!["d/".to_owned()]));
    }
}

#[tokio::test]
async fn start_after_need_not_be_a_key() {
    let s = filled(&["a", "b", "c"]).await;
    for (after, first) in [("", "a"), ("a", "b"), ("aa", "b"), ("b!", "c")] {
        let page = s.client.list_objects_v2().bucket("b2").start_after(after).send().await.unwrap();
        assert_eq!(page.contents()[0].key(), Some(first), "{after:?}");
    }
    let page = s.client.list_objects_v2().bucket("b2").start_after("c").send().await.unwrap();
    assert!(page.contents().is_empty());
}

#[tokio::test]
async fn the_first_version_of_listing_goes_on_from_a_key_or_a_prefix() {
    let s = filled(&["a/1", "a/2", "b", "c/1"]).await;
    let mut seen = Vec::new();
    let mut marker = String::new();
    loop {
        let page =
            s.client.list_objects().bucket("b2").delimiter("/").max_keys(1).marker(&marker).send().await.unwrap();
        seen.extend(page.contents().iter().filter_map(|o| o.key().map(str::to_owned)));
        seen.extend(page.common_prefixes().iter().filter_map(|p| p.prefix().map(str::to_owned)));
        match page.next_marker() {
            Some(next) => marker = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["a/", "b", "c/"]);
}

#[tokio::test]
async fn an_entry_says_what_a_head_says() {
    let s = Setup::new().await;
    s.put("k", b"hello").await;
    let page = s.client.list_objects_v2().bucket("b2").send().await.unwrap();
    let head = s.client.head_object().bucket("b2").key("k").send().await.unwrap();
    let entry = &page.contents()[0];
    assert_eq!((entry.e_tag(), entry.size()), (head.e_tag(), head.content_length()));
    assert_eq!(entry.last_modified().map(DateTime::secs), head.last_modified().map(DateTime::secs));
    assert_eq!(entry.storage_class().unwrap().as_str(), "STANDARD");
}

#[tokio::test]
async fn a_token_that_nobody_gave_out_is_refused() {
    let s = filled(&["a"]).await;
    let list = s.client.list_objects_v2().bucket("b2").continuation_token("made up").send().await;
    assert_eq!(refusal(list), refused(400, "InvalidArgument"));
    let list = s.client.list_objects_v2().bucket("nowhere").send().await;
    assert_eq!(refusal(list), refused(404, "NoSuchBucket"));
}
