//! Keys as real applications use them, including bad practice.

use copyhold_core::domain::MAX_KEY_BYTES;
use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

/// Keys that some store, client or proxy is known to handle wrongly.
const ODD: [&str; 30] = [
    "p",
    "p/q",
    "p/",
    "/leading slash",
    "//",
    "a//b",
    "a/b",
    "trailing slash/",
    " space before and after ",
    "plus+plus",
    "space plus",
    "percent%2Fencoded",
    "percent/encoded",
    "100%",
    "%25",
    "question?mark&ampersand=equals",
    "hash#mark",
    "quotes\"and'backslash\\",
    "<xml>&amp;</xml>",
    "gr\u{fc}\u{df}e",
    "gru\u{308}\u{df}e",
    "\u{65e5}\u{672c}\u{8a9e}/\u{1f4be}.jpg",
    "right\u{202e}to left",
    "tab\tand line\nend\r\n",
    "escape\u{1b}[31m and bell\u{7}",
    "delete\u{7f}",
    "semicolon;comma,colon:star*",
    "dots/../../etc/passwd",
    "./.",
    "~tilde!$()[]{}|^`@",
];

/// The parts of random keys, beside letters.
const FRAGMENTS: [&str; 24] = [
    "/",
    "/",
    "//",
    " ",
    "+",
    "%",
    "%20",
    "%2F",
    "?",
    "#",
    "&",
    "=",
    "..",
    ".",
    "\u{e9}",
    "e\u{301}",
    "\u{1f5bc}",
    "\u{4e2d}",
    "\u{1}",
    "\n",
    "\u{7f}",
    "\\",
    "\"",
    "~",
];

/// Returns `count` different keys: traps, random mixtures of them, and mostly keys that a photo application would
/// choose.
pub(super) fn keys(count: usize, rng: &mut StdRng) -> Vec<String> {
    let mut keys: Vec<String> = traps();
    // With few objects at least half of them are ordinary.
    keys.truncate(count / 2);
    let mixtures = count / 25;
    while keys.len() < count {
        let key = if keys.len() < ODD.len() + 2 + mixtures { mixture(keys.len(), rng) } else { photo(keys.len(), rng) };
        keys.push(key);
    }
    keys
}

fn traps() -> Vec<String> {
    let longest = "k".repeat(MAX_KEY_BYTES);
    let longest_of_two_bytes = "\u{e9}".repeat(MAX_KEY_BYTES / 2);
    ODD.into_iter().map(str::to_owned).chain([longest, longest_of_two_bytes]).collect()
}

/// Returns a random mixture of the traps; its number makes it unique.
fn mixture(number: usize, rng: &mut StdRng) -> String {
    let mut key = String::new();
    for _ in 0..rng.random_range(1..=8) {
        key.push_str(FRAGMENTS.choose(rng).expect("there are some"));
        key.extend((0..rng.random_range(0..4)).map(|_| char::from(rng.random_range(b'a'..=b'z'))));
    }
    format!("{key}\u{b7}{number}")
}

fn photo(number: usize, rng: &mut StdRng) -> String {
    let (year, month) = (rng.random_range(2019..=2025), rng.random_range(1..=12));
    format!("photos/{year}/{month:02}/img_{number:06}.jpg")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng as _;

    use super::*;
    use copyhold_core::domain::ObjectKey;

    #[test]
    fn every_key_is_valid_and_there_are_no_two_alike() {
        for (seed, count) in [(1, 1), (2, 2), (3, 60), (4, 5000)] {
            let keys = keys(count, &mut StdRng::seed_from_u64(seed));
            assert_eq!(keys.len(), count);
            assert_eq!(keys.iter().collect::<HashSet<_>>().len(), count);
            for key in keys {
                ObjectKey::new(key).unwrap();
            }
        }
    }

    #[test]
    fn a_small_demo_has_all_the_traps() {
        let keys = keys(2 * traps().len(), &mut StdRng::seed_from_u64(1));
        assert!(traps().iter().all(|trap| keys.contains(trap)));
    }
}
