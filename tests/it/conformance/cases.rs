//! The cases of the suite: objects by size, key, metadata and course of the upload.

use copyhold_sandbox::s3::Synthetic;

use super::{
    MANY, PART_BYTES,
    object::{Headers, Object},
};

/// Room for four parts: an object of many is never in memory as a whole.
pub const SMALL_MEMORY: u64 = 4 * PART_BYTES;
const MUCH_MEMORY: u64 = 64 << 20;
/// So little that parts are not held: they pass through it.
const TOO_LITTLE_TO_HOLD: u64 = 3 * PART_BYTES;

/// One thing that a copy must do at every store.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub object: Object,
    pub course: Course,
}

#[derive(Clone, Copy, Debug)]
pub enum Course {
    /// `twin`: another object, with which a store that tidies keys would mix it up.
    Plain {
        twin: Option<&'static str>,
        memory_bytes: u64,
    },
    ChangedInTheMiddle,
    GoneOnWith,
    ChangedBetween,
    Forgotten,
    Found,
}

pub fn all() -> Vec<Case> {
    let all = [sizes(), keys(), metadata(), uploads()].into_iter().flatten();
    // Each has bytes of its own.
    let seeded = (1..).zip(all).map(|(seed, mut case)| {
        case.object.bytes.seed = seed;
        case
    });
    seeded.collect()
}

fn plain(name: impl Into<String>, object: Object) -> Case {
    Case { name: name.into(), object, course: Course::Plain { twin: None, memory_bytes: MUCH_MEMORY } }
}

fn of_size(key: &str, size_bytes: u64) -> Object {
    Object::new(key, Synthetic::new(0, size_bytes))
}

fn many_parts(key: &str) -> Object {
    of_size(key, u64::from(MANY - 1) * PART_BYTES + 17)
}

fn sizes() -> Vec<Case> {
    let sizes = [
        ("of no byte", 0),
        ("of one byte", 1),
        ("of one part less a byte", PART_BYTES - 1),
        ("of one part", PART_BYTES),
        ("of one part and a byte", PART_BYTES + 1),
        ("of two parts less a byte", 2 * PART_BYTES - 1),
        ("of two parts", 2 * PART_BYTES),
    ];
    let mut all: Vec<_> =
        sizes.into_iter().map(|(name, size)| plain(format!("size: {name}"), of_size("size", size))).collect();
    all.push(plain("size: of many parts", many_parts("size")));
    all.push(Case {
        course: Course::Plain { twin: None, memory_bytes: TOO_LITTLE_TO_HOLD },
        ..plain("size: of many parts that are not held", many_parts("size"))
    });
    all.push(plain("size: written in parts", Object { in_parts: true, ..many_parts("size") }));
    all
}

fn keys() -> Vec<Case> {
    let (long, wide) = ("k".repeat(1024), "\u{fc}".repeat(512));
    let all: [(&str, &str, Option<&'static str>); 28] = [
        ("a space", "a b", Some("a+b")),
        ("spaces around", " a ", Some("a")),
        ("two slashes", "a//b", Some("a/b")),
        ("a leading slash", "/a", Some("a")),
        ("two leading slashes", "//a", Some("/a")),
        ("a trailing slash", "a/", Some("a")),
        ("a slash alone", "/", None),
        ("a folder and a file of one name", "a/b", Some("a")),
        ("a plus", "a+b", Some("a b")),
        ("an escaped slash", "a%2Fb", Some("a/b")),
        ("an escaped space", "a%20b", Some("a b")),
        ("a percent sign", "100%", None),
        ("a question", "?a=b&c#d", None),
        ("quotes and brackets", "'\"<>{}|^`~*!()&;", None),
        ("a backslash", "a\\b", Some("a/b")),
        ("an emoji", "\u{1f600}", None),
        ("an umlaut", "\u{fc}", Some("u\u{308}")),
        ("an umlaut in two", "u\u{308}", Some("\u{fc}")),
        ("1,024 bytes", &long, None),
        ("1,024 bytes of umlauts", &wide, None),
        ("one dot", ".", None),
        ("two dots", "..", None),
        ("a dot between", "a/./b", Some("a/b")),
        ("two dots between", "a/../b", Some("b")),
        ("two dots in front", "../a", Some("a")),
        ("a line's end and a tab", "a\nb\tc", None),
        ("the first control character", "a\u{1}b", None),
        ("the last control character", "a\u{7f}b", None),
    ];
    let case = |(name, key, twin): (&str, &str, Option<&'static str>)| Case {
        course: Course::Plain { twin, memory_bytes: MUCH_MEMORY },
        ..plain(format!("key: {name}"), of_size(key, 1_000))
    };
    let mut all: Vec<_> = all.into_iter().map(case).collect();
    // An upload in parts names its key in other ways.
    for (name, key) in [("odd, in parts", "a+b //%2F/../\u{fc}?c&d"), ("of control characters, in parts", "\n\u{1}")] {
        all.push(plain(format!("key: {name}"), of_size(key, PART_BYTES + 1)));
    }
    all
}

fn metadata() -> Vec<Case> {
    let single = [
        ("content-type", "text/html; charset=\"utf-8\""),
        ("content-encoding", "gzip"),
        ("content-disposition", "attachment; filename=\"a b.html\"; filename*=UTF-8''%C3%BC"),
        ("content-language", "de, en"),
        ("cache-control", "max-age=60, public"),
        ("expires", "Thu, 01 Dec 2094 16:00:00 GMT"),
        ("x-amz-meta-name", "=?UTF-8?B?w7w=?="),
        ("x-amz-meta-two-words", "a  b,c; d=\"e\""),
    ];
    let carries = |name: &str, headers: Headers| {
        let object = Object { headers, ..of_size("metadata", 1_000) };
        plain(format!("metadata: {name}"), object)
    };
    let of = |headers: &[(&str, &str)]| -> Headers {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let mut all: Vec<_> = single.iter().map(|header| carries(header.0, of(&[*header]))).collect();
    all.push(carries("none", Headers::new()));
    all.push(carries("an expires that is no date", of(&[("expires", "next Tuesday")])));
    all.push(carries("an empty value", of(&[("x-amz-meta-empty", "")])));
    all.push(carries("2 KiB of it", of(&[("x-amz-meta-note", &"n".repeat(2_048 - "note".len()))])));
    let many = (0..50).map(|n| (format!("x-amz-meta-name-{n}"), format!("value {n}")));
    all.push(carries("many names", many.collect()));
    all.push(carries("all at once", of(&single)));
    let in_parts = Object { headers: of(&single), ..of_size("metadata", PART_BYTES + 1) };
    all.push(plain("metadata: all at once, in parts", in_parts));
    all
}

fn uploads() -> Vec<Case> {
    let case = |name: &str, course| Case { course, ..plain(name, many_parts("upload")) };
    vec![
        case("a source that changes in the middle", Course::ChangedInTheMiddle),
        case("an upload that is gone on with", Course::GoneOnWith),
        case("an upload begun with another content", Course::ChangedBetween),
        case("an upload that the store has forgotten", Course::Forgotten),
        case("an upload whose name was lost", Course::Found),
        Case { object: of_size("a+b //%2F \u{fc}", 0), ..case("an odd upload whose name was lost", Course::Found) },
    ]
}
