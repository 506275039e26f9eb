//! Repairs headers of answers for the SDK, which fails a call for any header that it cannot parse.
//!
//! An optional header that cannot be read is dropped. A header that travels with an object is kept, and marked if it
//! cannot be carried over: [`Metadata::unfit`](super::Metadata::unfit) then names it, and the object is refused.

use std::borrow::Cow;

use aws_sdk_s3::primitives::DateTimeFormat;
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use super::dates;

/// The most headers of one answer. An object may have some hundred of metadata; hyper's default is 100.
pub(super) const MOST_HEADERS: usize = 1_000;

/// Marks a value that cannot be carried over: the replacement character, which lossy decoding also yields.
pub(super) const UNREADABLE: char = '\u{fffd}';
const USER_METADATA: &str = "x-amz-meta-";
/// Headers that travel with an object, and have one value.
const SINGLE: [&str; 3] = ["content-type", "content-disposition", "expires"];
/// Headers that travel with an object, and may be sent in several lines.
const LISTS: [&str; 3] = ["content-encoding", "content-language", "cache-control"];
/// Headers that only the SDK reads, as dates, numbers or booleans.
const UNUSED: [&str; 5] = [
    "x-amz-object-lock-retain-until-date",
    "x-amz-abort-date",
    "x-amz-mp-parts-count",
    "x-amz-server-side-encryption-bucket-key-enabled",
    "x-amz-object-size",
];
/// Headers that identify the content: two different values identify nothing.
const OF_CONTENT: [&str; 5] = ["etag", "content-length", "content-range", "last-modified", "x-amz-version-id"];

enum Repair {
    None,
    Replace(HeaderValue),
    Remove,
}

/// Makes every header that the SDK parses parseable.
pub(super) fn repair(headers: &mut HeaderMap) {
    let mut repairs = Vec::new();
    for name in headers.keys() {
        let values: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
        match repaired(name.as_str(), &values) {
            Repair::None => {}
            repair => repairs.push((name.clone(), repair)),
        }
    }
    for (name, repair) in repairs {
        put(headers, name, repair);
    }
}

/// Marks headers that travel with an object and were dropped from its answer, so that the object is refused and the
/// header named.
pub(super) fn mark(headers: &mut HeaderMap, left_out: &[String]) {
    for name in left_out.iter().filter(|name| is_carried(name)) {
        match (HeaderName::try_from(name), HeaderValue::from_bytes(UNREADABLE.to_string().as_bytes())) {
            (Ok(name), Ok(unreadable)) => drop(headers.insert(name, unreadable)),
            // Under no name that there could be.
            _ => drop(headers.insert("x-amz-missing-meta", HeaderValue::from_static("1"))),
        }
    }
}

/// Returns whether it travels with an object.
fn is_carried(name: &str) -> bool {
    name.starts_with(USER_METADATA) || LISTS.contains(&name) || SINGLE.contains(&name)
}

fn put(headers: &mut HeaderMap, name: HeaderName, repair: Repair) {
    match repair {
        Repair::Replace(value) => drop(headers.insert(name, value)),
        Repair::Remove => drop(headers.remove(name)),
        Repair::None => {}
    }
}

fn repaired(name: &str, values: &[&HeaderValue]) -> Repair {
    let texts: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let plain = texts.len() == 1 && is_text(&texts[0]);
    if is_carried(name) {
        return if plain { Repair::None } else { replace(&one_of_several(name, &texts)) };
    }
    if UNUSED.contains(&name) {
        return Repair::Remove;
    }
    let same = texts.iter().all(|text| *text == texts[0]);
    let readable = same && is_text(&texts[0]);
    let text = texts[0].trim();
    match name {
        "last-modified" | "date" => of_date(if readable { text } else { "" }, plain),
        "x-amz-delete-marker" => match text.to_ascii_lowercase().as_str() {
            word @ ("true" | "false") if readable => replace(word),
            _ => Repair::Remove,
        },
        // Callers only ask whether there are any.
        "x-amz-missing-meta" | "x-amz-tagging-count" => replace(if is_none(&texts) { "0" } else { "1" }),
        "x-amz-object-lock-mode" if text.eq_ignore_ascii_case("none") => Repair::Remove,
        "x-amz-object-lock-legal-hold" if readable => replace(&text.to_ascii_uppercase()),
        _ if !is_of_s3(name) || plain && !text.is_empty() => Repair::None,
        _ if readable && !text.is_empty() => replace(text),
        _ if OF_CONTENT.contains(&name) => Repair::Remove,
        _ => texts
            .iter()
            .find(|text| !text.trim().is_empty() && is_text(text))
            .map_or(Repair::Remove, |text| replace(text)),
    }
}

/// Headers that the SDK parses. Others, of a proxy or cookies, do not matter.
fn is_of_s3(name: &str) -> bool {
    const OTHERS: [&str; 5] = ["etag", "content-length", "content-range", "accept-ranges", "age"];
    name.starts_with("x-amz-") || OTHERS.contains(&name)
}

/// Joins the lines of one header into one, as AWS does.
fn one_of_several(name: &str, texts: &[Cow<'_, str>]) -> String {
    if name.starts_with(USER_METADATA) {
        texts.join(",")
    } else if LISTS.contains(&name) {
        texts.join(", ")
    } else if texts.iter().all(|text| *text == texts[0]) {
        texts[0].clone().into_owned()
    } else {
        texts.join(&format!(" {UNREADABLE} "))
    }
}

fn of_date(text: &str, plain: bool) -> Repair {
    let Some(date) = dates::parse(text) else { return Repair::Remove };
    match date.fmt(DateTimeFormat::HttpDate) {
        Ok(standard) if standard == text && plain => Repair::None,
        Ok(standard) => replace(&standard),
        Err(_) => Repair::Remove,
    }
}

/// Nothing, or zero.
fn is_none(texts: &[Cow<'_, str>]) -> bool {
    texts.iter().all(|text| text.trim().bytes().all(|b| b == b'0'))
}

#[expect(clippy::ptr_arg, reason = "whether it is borrowed is the question: then nothing of it was replaced")]
fn is_text(text: &Cow<'_, str>) -> bool {
    matches!(text, Cow::Borrowed(_))
}

fn replace(text: &str) -> Repair {
    HeaderValue::from_bytes(text.as_bytes()).map_or(Repair::Remove, Repair::Replace)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The headers after the repair, each as often as it is there.
    fn after(given: &[(&'static str, &[u8])]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        repair(&mut headers);
        let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
        let mut all: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.sort();
        all
    }

    fn one(name: &'static str, value: &[u8]) -> Option<String> {
        after(&[(name, value)]).pop().map(|(_, value)| value)
    }

    #[test]
    fn what_nobody_needs_and_cannot_be_read_is_left_out() {
        for (name, value) in [
            ("last-modified", "never"),
            ("last-modified", ""),
            ("x-amz-delete-marker", "perhaps"),
            ("x-amz-server-side-encryption-bucket-key-enabled", "True"),
            ("x-amz-mp-parts-count", ""),
            ("x-amz-object-lock-retain-until-date", "2030-01-01"),
            ("x-amz-object-lock-mode", "None"),
            ("x-amz-server-side-encryption", ""),
            ("x-amz-version-id", ""),
            ("x-amz-expiration", "\u{e9}"),
        ] {
            let left = one(name, value.as_bytes());
            assert!(left.is_none() || left.as_deref() == Some(value) && !value.is_ascii(), "{name}: {left:?}");
        }
        assert_eq!(one("x-amz-expiration", b"\xff"), None);
        assert_eq!(after(&[("etag", b"\"a\""), ("etag", b"\"b\"")]), []);
        assert_eq!(after(&[("etag", b"\"a\""), ("etag", b"\"a\"")]), [("etag".into(), "\"a\"".into())]);
        assert_eq!(after(&[("x-amz-id-2", b"1"), ("x-amz-id-2", b"2")]), [("x-amz-id-2".into(), "1".into())]);
    }

    #[test]
    fn what_is_needed_is_put_as_the_sdk_reads_it() {
        let told = |name, value: &str| one(name, value.as_bytes()).unwrap();
        for date in ["2024-01-01T00:00:00.000Z", "Mon, 1 Jan 2024 00:00:00 UTC", "1704067200"] {
            assert_eq!(told("last-modified", date), "Mon, 01 Jan 2024 00:00:00 GMT", "{date}");
        }
        assert_eq!(told("x-amz-delete-marker", "True"), "true");
        assert_eq!(told("x-amz-object-lock-legal-hold", "on"), "ON");
        for (count, some) in [("", "0"), ("0", "0"), ("3", "1"), ("1, 2", "1"), ("99999999999", "1"), ("some", "1")] {
            assert_eq!(told("x-amz-tagging-count", count), some, "{count}");
            assert_eq!(told("x-amz-missing-meta", count), some, "{count}");
        }
    }

    #[test]
    fn metadata_in_several_lines_is_joined_as_aws_does_and_never_lost() {
        let of = |name: &'static str, values: [&'static [u8]; 2]| after(&values.map(|value| (name, value)));
        assert_eq!(of("x-amz-meta-a", [b"1", b"2"]), [("x-amz-meta-a".into(), "1,2".into())]);
        assert_eq!(of("cache-control", [b"no-cache", b"private"])[0].1, "no-cache, private");
        assert_eq!(of("content-type", [b"text/css", b"text/css"])[0].1, "text/css");
        // It is unclear which of the two it is: marked, so that the object is refused and the header named.
        for marked in [of("content-type", [b"text/css", b"text/html"]), of("x-amz-meta-a", [b"a\xff", b"b"])] {
            assert!(marked.len() == 1 && marked[0].1.contains(UNREADABLE), "{marked:?}");
        }
    }

    #[test]
    fn headers_that_the_sdk_does_not_read_stay_as_they_are() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1", "b=2"] {
            headers.append("set-cookie", HeaderValue::from_static(cookie));
        }
        headers.insert("x-served-by", HeaderValue::from_bytes(b"\xff").unwrap());
        let before = headers.clone();
        repair(&mut headers);
        assert_eq!(headers, before);
    }
}
