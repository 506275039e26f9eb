//! Measures whether a store keeps keys apart that differ in little: the *twins* of each other.
//!
//! It writes each twin with a content of its own, and reads all of them back after the last was written. A twin that a
//! store refuses is no harm. One that shows another twin's content is: the later copy replaced the earlier, whose
//! recorded time would be false from then on.

use copyhold_core::domain::{MAX_KEY_BYTES, ObjectKey};

use super::{
    Ended, Probe,
    calls::PutOptions,
    facts::{Fact, Found},
};

/// Pairs that a message names at most.
const PAIRS_TOLD: usize = 3;
/// Of a long key, its end is shown.
const SHOWN_CHARS: usize = 24;
const TODO: &str = "of two such objects the later copy replaces the earlier, whose recorded time is then false: use a \
                    store that keeps them apart, or never register both";

/// Keys that differ in one kind of detail.
struct KeyFamily {
    name: &'static str,
    says: &'static str,
    ends: &'static [&'static str],
}

const FAMILIES: &[KeyFamily] = &[
    KeyFamily {
        name: "twins_capitals",
        says: "keys that differ in capitals stay apart",
        ends: &["Photo.JPG", "photo.jpg", "PHOTO.JPG", "dir/x", "Dir/x", "\u{e9}", "\u{c9}", "stra\u{df}e", "strasse"],
    },
    KeyFamily {
        name: "twins_normal_form",
        says: "keys that differ in Unicode's normal form stay apart",
        ends: &[
            "caf\u{e9}",
            "cafe\u{301}", // NFC, NFD
            "\u{fb01}x",
            "fix", // and those that differ in compatibility alone
            "\u{ff21}",
            "A",
            "\u{2126}",
            "\u{3a9}",
        ],
    },
    KeyFamily {
        name: "twins_invisible",
        says: "keys that differ in what is not seen stay apart",
        ends: &["ab", "a\u{200b}b", "a\u{ad}b", "a\u{fe0f}b", "\u{feff}ab", "a b", "a\u{a0}b"],
    },
    KeyFamily {
        name: "twins_outside_the_basic_plane",
        says: "keys that differ in characters of four bytes stay apart",
        ends: &["a\u{1f600}b", "a\u{1f601}b", "a\u{20000}b", "a?b", "ab"],
    },
    KeyFamily {
        name: "twins_trimmed",
        says: "keys that differ in blanks and dots at an end stay apart",
        ends: &["a", "a ", "a  ", " a", "a.", "a..", ".a", "d/a", "d /a", "d./a", "d/ a", "a\t", "\ta"],
    },
    KeyFamily {
        name: "twins_slashes",
        says: "keys that differ in slashes stay apart",
        ends: &["x/y", "x//y", "x///y", "x\\y", "x:y", "x/y/", "x/y//"],
    },
    KeyFamily {
        name: "twins_segments",
        says: "keys that differ in . and .. stay apart",
        ends: &["x/y", "x/./y", "x/z/../y", "./x/y", "x/y/."],
    },
    KeyFamily {
        name: "twins_escapes",
        says: "keys that differ in escapes stay apart",
        ends: &[
            "aA", "a%41", "a%2541", "a/b", "a%2Fb", "a%2fb", "a+b", "a b", "a%20b", "a%2Bb", "a&b", "a&amp;b", "%FF",
            "%ff",
        ],
    },
    KeyFamily {
        name: "twins_cut",
        says: "keys that differ behind ? # ; : @ stay apart",
        ends: &["a", "a?b", "a?c", "a#b", "a#c", "a;b", "a;c", "a:b", "a:c", "a@b", "a@c"],
    },
    KeyFamily {
        name: "twins_replaced",
        says: "keys that differ in special characters stay apart",
        ends: &["a_b", "a*b", "a|b", "a<b", "a\"b", "a'b", "a-b", "ab"],
    },
];

impl Probe<'_> {
    pub(super) async fn twins(&mut self) -> Result<(), Ended> {
        for family in FAMILIES {
            self.going_on()?;
            // If they cannot be deleted, control characters break every unencoded listing.
            let stays = self.retention.is_some();
            let ends = family.ends.iter().filter(|end| !(stays && end.contains(char::is_control)));
            let keys = ends.map(|end| self.key(&format!("{}/{end}", family.name))).collect();
            let found = self.stay_apart(keys).await;
            self.found(Fact::needed(family.name, family.says, found));
        }
        self.going_on()?;
        // As long as a key may be: stores that keep keys as file names or in columns may truncate them.
        let bytes = self.profile().keys.max_bytes.min(MAX_KEY_BYTES);
        let stem = "l".repeat(bytes.saturating_sub(self.prefix.len() + 1));
        let keys = ["a", "b"].map(|end| self.key(&format!("{stem}{end}"))).to_vec();
        let found = self.stay_apart(keys).await;
        self.found(Fact::needed("twins_long", "long keys that differ in their last byte stay apart", found));
        Ok(())
    }

    /// Writes all of these keys, each with its own content, and checks that each still has that content.
    async fn stay_apart(&mut self, keys: Vec<ObjectKey>) -> Found {
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for key in keys {
            // The profile refuses such a key, so no copy is written to it.
            if self.profile().refuses_key(&key).is_some() {
                continue;
            }
            match self.put(&key, &content(&key), PutOptions::default()).await {
                Ok(_) => taken.push(key),
                // For any reason: a copy to this key fails, and replaces no other object.
                Err(_) => refused.push(self.end_of(&key)),
            }
        }
        let (mut merged, mut lost) = (Vec::new(), Vec::new());
        for key in &taken {
            match self.read_if_there(key).await {
                Ok(Some(there)) if there == content(key) => {}
                Ok(Some(there)) => match taken.iter().find(|other| there == content(other)) {
                    Some(other) => merged.push(format!("{} and {}", self.end_of(key), self.end_of(other))),
                    None => lost.push(format!("{} holds other bytes", self.end_of(key))),
                },
                Ok(None) => lost.push(format!("{} was taken, and is not there", self.end_of(key))),
                Err(error) => return Found::unclear(&error),
            }
        }
        if !merged.is_empty() {
            Found::no(format!("it takes {} for one key; {TODO}", first_of(&merged)))
        } else if !lost.is_empty() {
            Found::no(format!("{}; {TODO}", first_of(&lost)))
        } else if refused.is_empty() {
            Found::yes("")
        } else {
            Found::yes(format!("refused: {}", first_of(&refused)))
        }
    }

    /// Returns the end of one of the probe's keys for messages: in ASCII, because twins look alike otherwise.
    fn end_of(&self, key: &ObjectKey) -> String {
        let end = key.as_str().strip_prefix(&self.prefix).unwrap_or(key.as_str());
        let end = end.split_once('/').filter(|(family, _)| family.starts_with("twins_")).map_or(end, |(_, end)| end);
        let from = end.char_indices().rev().nth(SHOWN_CHARS).map_or(0, |(at, _)| at);
        format!("\"{}\"", end[from..].escape_default())
    }
}

fn content(key: &ObjectKey) -> Vec<u8> {
    format!("the object of {key}").into_bytes()
}

fn first_of(texts: &[String]) -> String {
    let first = texts.iter().take(PAIRS_TOLD).cloned().collect::<Vec<_>>().join(", ");
    match texts.len().saturating_sub(PAIRS_TOLD) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
