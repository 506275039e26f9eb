//! Tests: keys are kept byte for byte.

use aws_sdk_s3::types::EncodingType;

use super::*;

/// Keys that something on the way might want to tidy.
fn odd_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a/b",
        "a//b",
        "/a",
        "//",
        "a/",
        "p",
        "p/q",
        "p/q/r",
        " a ",
        "  a",
        "a+b",
        "a b",
        "a%20b",
        "a%2Fb",
        "%",
        "%%zz",
        "a?b=c#d",
        "a&b<c>\"d'",
        "ü",
        "u\u{308}",
        "日本語",
        "🦀",
        "a\u{202e}b",
        "\u{1}\u{1f}\u{7f}",
        "tab\there",
        "new\nline",
        "cr\rlf\r\n",
        "a\\b",
        "a:b*c|d",
        "..a",
        "a=b;c,d",
        "~tilde",
        "x-amz-meta-a",
        "\u{fffd}",
        "\u{10ffff}x",
        "a/./b",
        "a/../b",
        ".",
        "..",
        "../up",
    ]
    .map(str::to_owned)
    .to_vec();
    keys.push("é".repeat(512));
    keys.push(format!("long/{}", "x".repeat(1019)));
    keys
}

#[tokio::test]
async fn every_key_is_kept_bit_for_bit() {
    let s = Setup::new().await;
    let keys = odd_keys();
    for key in &keys {
        s.put(key, key.as_bytes()).await;
    }
    for key in &keys {
        assert_eq!(s.get(key).await, key.as_bytes(), "{key:?}");
    }
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(s.b2.keys(), sorted);
}

#[tokio::test]
async fn every_key_survives_a_listing_with_url_encoding() {
    let s = Setup::new().await;
    let mut keys = odd_keys();
    for key in &keys {
        s.b2.put(key, "x");
    }
    let mut listed = Vec::new();
    let mut pages =
        s.client.list_objects_v2().bucket("b2").encoding_type(EncodingType::Url).max_keys(5).into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents() {
            let key = object.key().unwrap().replace('+', "%20");
            listed.push(percent_decoded(&key));
        }
    }
    keys.sort_unstable();
    assert_eq!(listed, keys);
}

#[tokio::test]
async fn every_key_can_be_uploaded_in_parts_and_is_named_bit_for_bit_in_answers() {
    let s = Setup::new().await;
    for key in odd_keys() {
        let begun = s.client.create_multipart_upload().bucket("b2").key(&key).send().await.unwrap();
        assert_eq!(begun.key(), Some(key.as_str()));
        let abort = s.client.abort_multipart_upload().bucket("b2").key(&key).upload_id(begun.upload_id().unwrap());
        abort.send().await.unwrap();
    }
    assert!(s.b2.uploads().is_empty());
}

#[tokio::test]
async fn a_listing_without_url_encoding_names_control_characters_by_reference() {
    let s = Setup::new().await;
    let key = "\u{1}\u{1f}\u{7f} \r\n\t";
    s.b2.put(key, "x");
    let listed = s.client.list_objects_v2().bucket("b2").send().await.unwrap();
    assert_eq!(listed.contents()[0].key(), Some(key));
}

#[tokio::test]
async fn stored_xml_is_answered_as_it_is() {
    let s = Setup::new().await;
    let xml = "<?xml version=\"1.1\"?><a>\u{1}\r\n</a>";
    let put = s.client.put_object().bucket("b2").key("a.xml").content_type("application/xml");
    put.body(ByteStream::from(xml.as_bytes().to_vec())).send().await.unwrap();
    assert_eq!(s.get("a.xml").await, xml.as_bytes());
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_key_of_1025_bytes_is_too_long() {
    let s = Setup::new().await;
    let put = s.client.put_object().bucket("b2").key("x".repeat(1025)).body(ByteStream::from_static(b"x"));
    assert_eq!(refusal(put.send().await), refused(400, "KeyTooLongError"));
    assert!(s.b2.keys().is_empty());
}
