//! The ways in which a store treats different keys as the same object (case folding and the like).
//!
//! It does not know which store folds or which keys are registered.

use std::{borrow::Cow, fmt};

use unicode_normalization::UnicodeNormalization as _;

/// One way in which a store treats different keys as the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fold {
    /// `A` and `a`, as on file systems of macOS and Windows.
    Case,
    /// A letter with its accent, in one character or in two.
    Unicode,
    /// Blanks at the end of a segment, or in front of the key.
    Blanks,
    /// Dots at the end of a segment, as on Windows.
    Dots,
    /// `//` in the middle and `/`.
    Slashes,
    /// A `/` in front.
    LeadingSlash,
    /// A `/` at the end.
    TrailingSlash,
    /// `.` and `..` as segments.
    Paths,
    /// `%41` and `A`: decoded once too often.
    Escapes,
    /// `+` and a blank.
    Plus,
    /// `\` and `/`.
    Backslash,
}

impl Fold {
    pub const ALL: [Self; 11] = [
        Self::Case,
        Self::Unicode,
        Self::Blanks,
        Self::Dots,
        Self::Slashes,
        Self::LeadingSlash,
        Self::TrailingSlash,
        Self::Paths,
        Self::Escapes,
        Self::Plus,
        Self::Backslash,
    ];

    /// Returns, for people, how such keys differ.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Case => "capitals",
            Self::Unicode => "Unicode's normal form",
            Self::Blanks => "blanks at an end",
            Self::Dots => "dots at an end",
            Self::Slashes => "repeated slashes",
            Self::LeadingSlash => "a slash in front",
            Self::TrailingSlash => "a slash at the end",
            Self::Paths => "segments of dots",
            Self::Escapes => "percent escapes",
            Self::Plus => "plus and blank",
            Self::Backslash => "slash and backslash",
        }
    }

    /// Returns the canonical form of `key` under this fold.
    #[must_use]
    pub fn of(self, key: &str) -> Cow<'_, str> {
        let folded = match self {
            Self::Case => key.chars().flat_map(char::to_lowercase).collect(),
            Self::Unicode => key.nfc().collect(),
            Self::Blanks => segments(key.trim_start(), str::trim_end),
            Self::Dots => segments(key, |segment| segment.trim_end_matches('.')),
            Self::Slashes => squeezed(key),
            Self::LeadingSlash => key.trim_start_matches('/').to_owned(),
            Self::TrailingSlash => key.trim_end_matches('/').to_owned(),
            Self::Paths => walked(key),
            Self::Escapes => decoded(key),
            Self::Plus => key.replace('+', " "),
            Self::Backslash => key.replace('\\', "/"),
        };
        if folded == key { Cow::Borrowed(key) } else { Cow::Owned(folded) }
    }

    /// Returns another key that such a store treats as `key`, and that an application is unlikely to use.
    /// `None`: there is none.
    #[must_use]
    pub fn other(self, key: &str) -> Option<String> {
        let other = match self {
            Self::Case => key.chars().enumerate().map(|(i, c)| swapped(c, i)).collect(),
            Self::Unicode => {
                let apart: String = key.nfd().collect();
                if apart == key { key.nfc().collect() } else { apart }
            }
            Self::Blanks => format!("{key}   "),
            Self::Dots if key.ends_with('/') => return None,
            Self::Dots => format!("{key}..."),
            Self::Slashes => {
                let at = 1 + key.get(1..)?.find('/')?;
                format!("{}//{}", &key[..at], &key[at..])
            }
            Self::LeadingSlash => format!("/{key}"),
            Self::TrailingSlash => format!("{key}/"),
            Self::Paths => match key.split_once('/') {
                Some((first, rest)) if !first.is_empty() => format!("{first}/././{rest}"),
                _ => format!("./././{key}"),
            },
            Self::Escapes => {
                let escaped = |(at, c)| format!("{}%{:02X}{}", &key[..at], u32::from(c), &key[at + 1..]);
                // A character behind a `%` may be a part of an escape: without it, the key would be another one.
                let letters = key.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric());
                letters.map(escaped).find(|other| decoded(other) == decoded(key))?
            }
            Self::Plus if key.contains('+') => key.replace('+', " "),
            Self::Plus => key.replace(' ', "+"),
            Self::Backslash if key.contains('\\') => key.replace('\\', "/"),
            Self::Backslash => key.replace('/', "\\"),
        };
        (other != key).then_some(other)
    }
}

/// Returns the character with its case changed at some positions and kept at others: `IMG_1` becomes `iMg_1`. A
/// longer key so becomes neither all capitals nor all small letters.
fn swapped(c: char, at: usize) -> char {
    if c.is_ascii_lowercase() && at % 3 != 1 {
        c.to_ascii_uppercase()
    } else if c.is_ascii_uppercase() && at.is_multiple_of(2) {
        c.to_ascii_lowercase()
    } else {
        c
    }
}

fn segments(key: &str, each: impl Fn(&str) -> &str) -> String {
    key.split('/').map(each).collect::<Vec<_>>().join("/")
}

/// A `/` in front stays: that it is dropped is another habit.
fn squeezed(key: &str) -> String {
    let mut squeezed = String::with_capacity(key.len());
    for c in key.chars() {
        if !(c == '/' && squeezed.ends_with('/')) {
            squeezed.push(c);
        }
    }
    squeezed
}

fn walked(key: &str) -> String {
    let mut walked: Vec<&str> = Vec::new();
    for segment in key.split('/') {
        match segment {
            "." => {}
            ".." => drop(walked.pop()),
            segment => walked.push(segment),
        }
    }
    walked.join("/")
}

/// Decodes the key; what cannot be decoded stays as it is.
fn decoded(key: &str) -> String {
    let (bytes, mut decoded) = (key.as_bytes(), Vec::with_capacity(key.len()));
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| bytes[at] == b'%');
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The ways in which one store folds keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folds(u16);

impl Folds {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub const fn with(self, fold: Fold) -> Self {
        Self(self.0 | 1 << fold as u16)
    }

    #[must_use]
    pub const fn has(self, fold: Fold) -> bool {
        self.0 & 1 << fold as u16 != 0
    }

    /// Returns whether a store with these folds treats both keys as the same, and each is among the other's spellings.
    #[must_use]
    pub fn are_one(self, one: &str, other: &str) -> bool {
        self.folded(one) == self.folded(other)
            && is_spelled(&self.spellings(one), other)
            && is_spelled(&self.spellings(other), one)
    }

    /// Returns the likely spellings that a store with these folds treats as `key`: consecutive pieces, each with its
    /// alternatives.
    #[must_use]
    pub fn spellings(self, key: &str) -> Vec<Vec<String>> {
        let folded = self.folded(key);
        let tails = self.tails();
        let after_tails = |ends: &[&str]| -> Vec<String> {
            tails.iter().flat_map(|tail| ends.iter().map(move |end| format!("{tail}{end}"))).collect()
        };
        let mut pieces = Vec::new();
        add(&mut pieces, self.fronts());
        for c in folded.chars() {
            if c == '/' {
                add(&mut pieces, after_tails(&self.separators()));
            } else {
                add(&mut pieces, self.of_char(c));
            }
        }
        let trailing: &[&str] = if self.has(Fold::TrailingSlash) { &["", "/"] } else { &[""] };
        add(&mut pieces, after_tails(trailing));
        pieces
    }

    /// Returns the canonical form under all folds. Repeats, because one fold may enable another.
    fn folded(self, key: &str) -> String {
        let mut folded = key.to_owned();
        for _ in 0..4 {
            let before = folded.clone();
            for fold in Fold::ALL.into_iter().filter(|fold| self.has(*fold)) {
                folded = fold.of(&folded).into_owned();
            }
            if folded == before {
                break;
            }
        }
        folded
    }

    fn fronts(self) -> Vec<String> {
        let mut fronts = vec![""];
        if self.has(Fold::LeadingSlash) {
            fronts.extend(["/", "//"]);
        }
        if self.has(Fold::Blanks) {
            fronts.extend([" ", "  ", "\t"]);
        }
        if self.has(Fold::Paths) {
            fronts.push("./");
        }
        fronts.into_iter().map(str::to_owned).collect()
    }

    /// Returns what the store may ignore at the end of a segment.
    fn tails(self) -> Vec<&'static str> {
        let mut tails = vec![""];
        if self.has(Fold::Blanks) {
            tails.extend([" ", "  ", "   ", "\t"]);
        }
        if self.has(Fold::Dots) {
            tails.extend([".", "..", "..."]);
        }
        if self.has(Fold::Blanks) && self.has(Fold::Dots) {
            tails.extend([" .", ". "]);
        }
        tails
    }

    fn separators(self) -> Vec<&'static str> {
        let mut separators = vec!["/"];
        if self.has(Fold::Slashes) {
            separators.extend(["//", "///"]);
        }
        if self.has(Fold::Paths) {
            separators.extend(["/./", "/././"]);
        }
        if self.has(Fold::Backslash) {
            separators.push("\\");
        }
        if self.has(Fold::Escapes) {
            separators.extend(["%2F", "%2f"]);
        }
        separators
    }

    fn of_char(self, c: char) -> Vec<String> {
        let mut all = vec![c.to_string()];
        if self.has(Fold::Case) {
            all.push(c.to_uppercase().collect());
        }
        if self.has(Fold::Unicode) {
            let apart: Vec<String> = all.iter().map(|text| text.nfd().collect()).collect();
            all.extend(apart);
        }
        if self.has(Fold::Plus) && c == ' ' {
            all.push("+".to_owned());
        }
        if self.has(Fold::Escapes) {
            let escaped = |upper: bool| {
                let byte = move |b: u8| if upper { format!("%{b:02X}") } else { format!("%{b:02x}") };
                move |text: &String| text.bytes().map(byte).collect::<String>()
            };
            let more: Vec<String> = all.iter().map(escaped(true)).chain(all.iter().map(escaped(false))).collect();
            all.extend(more);
        }
        all
    }

    fn iter(self) -> impl Iterator<Item = Fold> {
        Fold::ALL.into_iter().filter(move |fold| self.has(*fold))
    }
}

/// Returns whether `other` is one of the spellings.
fn is_spelled(pieces: &[Vec<String>], other: &str) -> bool {
    match pieces.split_first() {
        None => other.is_empty(),
        Some((piece, rest)) => {
            piece.iter().any(|text| other.strip_prefix(text.as_str()).is_some_and(|other| is_spelled(rest, other)))
        }
    }
}

/// Adds a piece; pieces without a choice become one.
fn add(pieces: &mut Vec<Vec<String>>, mut alternatives: Vec<String>) {
    alternatives.sort_unstable();
    alternatives.dedup();
    match (pieces.last_mut().map(Vec::as_mut_slice), alternatives.as_slice()) {
        (Some([last]), [only]) => last.push_str(only),
        _ => pieces.push(alternatives),
    }
}

/// For people.
impl fmt::Display for Folds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.iter().map(Fold::as_str).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_two_keys_that_a_store_takes_for_one_is_a_spelling_of_the_other() {
        for (fold, one, other) in [
            (Fold::Case, "Photo.jpg", "photo.jpg"),
            (Fold::Case, "PHOTO.jpg", "photo.JPG"),
            (Fold::Case, "\u{c4}", "\u{e4}"),
            (Fold::Unicode, "cafe\u{301}", "caf\u{e9}"),
            (Fold::Blanks, "a ", "a"),
            (Fold::Blanks, "a\t", " a"),
            (Fold::Blanks, "a /b", "a/b"),
            (Fold::Dots, "a.", "a"),
            (Fold::Dots, "a./b..", "a/b"),
            (Fold::Slashes, "x//y", "x/y"),
            (Fold::LeadingSlash, "/x", "x"),
            (Fold::TrailingSlash, "x/", "x"),
            (Fold::Paths, "./x", "x"),
            (Fold::Paths, "a/./x", "a/x"),
            (Fold::Escapes, "%41", "A"),
            (Fold::Escapes, "a%2fb", "a%2Fb"),
            (Fold::Escapes, "%C3%a9", "\u{e9}"),
            (Fold::Plus, "a+b", "a b"),
            (Fold::Backslash, "a\\b", "a/b"),
        ] {
            let folds = Folds::NONE.with(fold);
            // Both ways of writing each byte of a character with several bytes are too many.
            let both = one != "%C3%a9";
            assert!(!both || is_spelled(&folds.spellings(other), one), "{fold:?} {one}");
            assert!(is_spelled(&folds.spellings(one), other), "{fold:?} {other}");
        }
        let all: Folds = Fold::ALL.into_iter().fold(Folds::NONE, Folds::with);
        assert!(is_spelled(&all.spellings("Cafe\u{301}//x "), "caf\u{e9}/X"));
    }

    #[test]
    fn where_nothing_is_folded_a_key_has_one_spelling() {
        let key = "/A//.. %41+\\";
        assert_eq!(Folds::NONE.spellings(key), [[key]]);
        assert_eq!(Folds::NONE.with(Fold::Unicode).spellings("photos/a.jpg"), [["photos/a.jpg"]]);
    }

    proptest::proptest! {
        #[test]
        fn a_key_and_what_a_store_is_asked_for_in_its_place_are_spellings_of_each_other(
            text in "[a-zA-Z%0-9]{1,5}[a-zA-Z/. +\\\\\u{e9}%0-9]{0,10}[a-z]",
        ) {
            for fold in Fold::ALL {
                let folds = Folds::NONE.with(fold);
                if let Some(other) = fold.other(&text) {
                    proptest::prop_assert_ne!(&other, &text);
                    proptest::prop_assert_eq!(fold.of(&other), fold.of(&text), "{:?} {}", fold, other);
                    proptest::prop_assert_eq!(folds.spellings(&other), folds.spellings(&text), "{:?} {}", fold, other);
                }
            }
        }
    }
}
