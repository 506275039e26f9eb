//! Traits of a key for which a store may keep the object under another name, or confuse it with another key.
//!
//! It knows no store's behaviour: the caller asks a store how it kept a key, once for each trait.

use std::collections::BTreeSet;

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

/// A store may truncate a longer key or segment. Bytes.
const LONG: usize = 128;
/// Keys that a listing is asked for begin like the key, up to here at most.
const PREFIX_BYTES: usize = 64;
/// From here on, characters of one block of 256 are alike.
const BLOCKS_FROM: u32 = 0x3000;

/// An unusual property of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyTrait {
    /// The length of the key in bytes. A store that keeps this length keeps shorter keys too.
    Long(u16),
    /// The length of its longest segment in bytes.
    LongSegment(u16),
    /// A character, or the first of its block, and its position in its segment.
    Character(u32, SegmentPosition),
}

/// The position of a character in a segment of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentPosition {
    First,
    Inside,
    Last,
}

/// The unusual traits of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusualKey {
    pub traits: BTreeSet<KeyTrait>,
    /// The number of plain bytes at its beginning.
    pub plain_bytes: usize,
}

impl UnusualKey {
    /// Returns `None` for a plain key: letters, digits, `-` and `_`, single slashes and dots inside, not long.
    #[must_use]
    pub fn of(key: &str) -> Option<Self> {
        let mut traits = BTreeSet::new();
        let mut plain_bytes = PREFIX_BYTES.min(key.len());
        let mut before = '/';
        let mut rest = key.char_indices().peekable();
        while let Some((at, c)) = rest.next() {
            let after = rest.peek().map_or('/', |(_, after)| *after);
            let standing = if before == '/' {
                SegmentPosition::First
            } else if after == '/' {
                SegmentPosition::Last
            } else {
                SegmentPosition::Inside
            };
            let is_plain = match c {
                '-' | '_' => true,
                '/' => before != '/' && rest.peek().is_some(),
                '.' => standing == SegmentPosition::Inside,
                c => c.is_ascii_alphanumeric(),
            };
            if !is_plain {
                let code = u32::from(c);
                traits.insert(KeyTrait::Character(if code < BLOCKS_FROM { code } else { code & !0xff }, standing));
                plain_bytes = plain_bytes.min(at);
            }
            before = c;
        }
        // Cannot fail: a key has at most 1,024 bytes.
        let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        if key.len() > LONG {
            traits.insert(KeyTrait::Long(length(key.len())));
        }
        let segment = key.split('/').map(str::len).max().unwrap_or(0);
        if segment > LONG {
            traits.insert(KeyTrait::LongSegment(length(segment)));
        }
        (!traits.is_empty()).then_some(Self { traits, plain_bytes })
    }
}

/// Returns whether a store with these kept traits keeps this one too.
#[must_use]
pub fn is_kept(kept: &BTreeSet<KeyTrait>, one: KeyTrait) -> bool {
    match one {
        KeyTrait::Long(_) => kept.range(one..=KeyTrait::Long(u16::MAX)).next().is_some(),
        KeyTrait::LongSegment(_) => kept.range(one..=KeyTrait::LongSegment(u16::MAX)).next().is_some(),
        KeyTrait::Character(..) => kept.contains(&one),
    }
}

/// Returns other keys that a store might confuse with this one although it keeps both names, as databases do whose
/// collation treats letters as equal.
#[must_use]
pub fn lookalikes(key: &str) -> Vec<String> {
    let lowered = |c: char| c.to_uppercase().flat_map(char::to_lowercase);
    distinct(
        key,
        [
            key.nfkc().collect(),
            key.nfd().filter(|c| !is_combining_mark(*c)).nfc().collect(),
            key.chars().flat_map(|c| if c.is_ascii() { vec![c] } else { lowered(c).collect() }).collect(),
            key.chars().filter(|c| !is_unseen(*c)).collect(),
            // To some databases all characters outside the basic plane are one.
            key.chars()
                .map(|c| if c > '\u{ffff}' { char::from_u32(u32::from(c) ^ 1).unwrap_or(c) } else { c })
                .collect(),
        ],
    )
}

/// Returns names under which a store is likely to keep the object if it does not keep the key itself.
#[must_use]
pub fn simplified(key: &str) -> Vec<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let replaced = |by: char| key.chars().map(|c| if is_plain(c) { c } else { by }).collect();
    let outside = |by: char| key.chars().map(|c| if c > '\u{ffff}' { by } else { c }).collect();
    distinct(
        key,
        [
            key.trim().to_owned(),
            key.split('/').map(str::trim).collect::<Vec<_>>().join("/"),
            key.chars().filter(|c| is_plain(*c)).collect(),
            key.chars().filter(char::is_ascii).collect(),
            replaced('_'),
            replaced('?'),
            outside('?'),
            key.replace(':', "/"),
        ],
    )
}

/// Returns whether a store may have derived `name` from `key`: one has the letters and digits of the other, in the same
/// order, and perhaps more.
#[must_use]
pub fn may_be_made_of(key: &str, name: &str) -> bool {
    let letters = |text: &str| -> Vec<char> {
        let apart = text.nfkd().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
        apart.filter(|c| c.is_alphanumeric()).collect()
    };
    let (key, name) = (letters(key), letters(name));
    let (short, long) = if key.len() < name.len() { (&key, &name) } else { (&name, &key) };
    let mut long = long.iter();
    short.iter().all(|c| long.any(|other| other == c))
}

/// Control characters and those that take no room.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

fn distinct<const N: usize>(key: &str, others: [String; N]) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for other in others {
        if other != key && !distinct.contains(&other) {
            distinct.push(other);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_key_has_nothing_unusual_and_costs_nothing() {
        let deep = format!("{}k", "k/".repeat(60));
        for plain in ["photos/2026/IMG_0001.JPG", "a-b_c.tar.gz", "x", &deep] {
            assert_eq!(UnusualKey::of(plain), None, "{plain}");
        }
    }

    #[test]
    fn each_kind_of_key_that_stores_were_seen_to_alter_is_unusual() {
        let long = "x".repeat(129);
        for odd in [
            "file\u{ff11}.txt",
            "a\u{1f600}.txt",
            "caf\u{e9}",
            "a:b",
            "a?1",
            "a#1",
            "a;v=1",
            "stra\u{df}e",
            "k\t",
            "k\u{1}z",
            "k\u{200b}z",
            "a b",
            " k",
            "k ",
            "a//b",
            "/a",
            "a/",
            "a/./b",
            ".a",
            "a.",
            &long,
        ] {
            assert!(UnusualKey::of(odd).is_some(), "{odd}");
        }
        assert_eq!(UnusualKey::of("dir/caf\u{e9}").unwrap().plain_bytes, 7);
        assert_eq!(UnusualKey::of(" k").unwrap().plain_bytes, 0);
    }

    #[test]
    fn a_length_that_was_kept_speaks_for_shorter_ones_and_a_blank_inside_not_for_one_in_front() {
        let kept = UnusualKey::of(&"x".repeat(300)).unwrap().traits;
        let is_known = |key: &str| UnusualKey::of(key).unwrap().traits.iter().all(|one| is_kept(&kept, *one));
        assert!(is_known(&"y".repeat(300)) && is_known(&"y".repeat(200)) && !is_known(&"y".repeat(301)));
        let kept = UnusualKey::of("a b").unwrap().traits;
        assert!(!UnusualKey::of(" ab").unwrap().traits.iter().all(|one| is_kept(&kept, *one)));
    }

    #[test]
    fn names_that_stores_make_of_a_key_are_known_from_those_of_other_objects() {
        for (key, name) in [
            ("a\u{1f600}.txt", "a?.txt"),
            ("caf\u{e9}", "caf"),
            ("caf\u{e9}", "cafe"),
            ("na\u{ef}ve", "nave"),
            ("file\u{ff11}", "file1"),
            ("a:b", "a/b"),
            ("a#1", "a"),
            ("stra\u{df}e", "strasse"),
            ("a b", "a%20b"),
        ] {
            assert!(may_be_made_of(key, name), "{key} {name}");
        }
        for (key, name) in [("d/\u{fc}1", "d/\u{fc}2"), ("\u{65e5}.txt", "\u{4e2d}.txt"), ("\u{f6}.txt", "\u{fc}.txt")]
        {
            assert!(!may_be_made_of(key, name), "{key} {name}");
        }
    }

    #[test]
    fn lookalikes_differ_from_the_key_and_a_plain_key_has_none() {
        assert_eq!(lookalikes("photos/A.jpg"), Vec::<String>::new());
        assert_eq!(lookalikes("stra\u{df}e"), ["strasse"]);
        assert_eq!(lookalikes("caf\u{e9}"), ["cafe"]);
        assert_eq!(lookalikes("\u{1f600}"), ["\u{1f601}"]);
    }
}
