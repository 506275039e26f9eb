//! Object keys, byte for byte, and the escaping of untrusted text.

use std::fmt;

use super::terminal::is_unsafe;

/// The longest key that S3 knows, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;

/// A key exactly as the source spells it: never trimmed, decoded or normalized,
/// because `a//b` and `a/b` are two objects.
///
/// `Display` and `Debug` escape it, since a key is untrusted text: any uploader
/// chooses it, and it ends up on terminals and in logs. [`ObjectKey::as_str`]
/// returns the bytes themselves.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

/// Why a string is not a valid key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("a key cannot be empty")]
    Empty,
    #[error("a key has at most {MAX_KEY_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    #[error("a key with a NUL byte cannot be kept in PostgreSQL")]
    Nul,
}

impl ObjectKey {
    /// Accepts `key` unchanged, or returns why it is invalid.
    pub fn new(key: impl Into<String>) -> Result<Self, InvalidKey> {
        let key = key.into();
        match key.len() {
            0 => Err(InvalidKey::Empty),
            n if n > MAX_KEY_BYTES => Err(InvalidKey::TooLong(n)),
            _ if key.contains('\0') => Err(InvalidKey::Nul),
            _ => Ok(Self(key)),
        }
    }

    /// Returns the unescaped key, for stores and statements. Do not show it to people.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(&self.0, f)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Writes untrusted text so that it cannot move a cursor, hide itself, or reverse
/// the rest of a line; readable characters stay as they are.
pub fn escape(text: &str, f: &mut impl fmt::Write) -> fmt::Result {
    for c in text.chars() {
        if is_unsafe(c) || c == '\\' {
            write!(f, "{}", c.escape_default())?;
        } else {
            f.write_char(c)?;
        }
    }
    Ok(())
}

/// The first `chars` characters of untrusted text, escaped.
#[must_use]
pub fn escaped(text: &str, chars: usize) -> String {
    let end = text.char_indices().nth(chars).map_or(text.len(), |(end, _)| end);
    let mut shown = String::new();
    // Cannot fail: a String takes all that is written to it.
    let _ = escape(&text[..end], &mut shown);
    shown
}

/// Escapes the first `chars` characters of the text, and marks with `…` that the rest is left out.
#[must_use]
pub fn excerpt(text: &str, chars: usize) -> String {
    let mut shown = escaped(text, chars);
    if text.chars().nth(chars).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_cut_between_characters_and_says_so() {
        assert_eq!(excerpt("käse\n", 2), "kä…");
        assert_eq!(excerpt("käse\n", 5), "käse\\n");
        assert_eq!(escaped("käse\n", 4), "käse");
        assert_eq!(escaped("", 0), "");
    }

    #[test]
    fn a_key_is_kept_byte_for_byte() {
        for key in ["a//b", "a/b", " a ", "a%2Fb", "ü", "u\u{308}", "\u{7f}\n"] {
            assert_eq!(ObjectKey::new(key).unwrap().as_str(), key);
        }
    }

    #[test]
    fn what_no_store_or_database_can_hold_is_no_key() {
        assert_eq!(ObjectKey::new(""), Err(InvalidKey::Empty));
        assert_eq!(ObjectKey::new("é".repeat(513)), Err(InvalidKey::TooLong(1026)));
        assert_eq!(ObjectKey::new("a\0b"), Err(InvalidKey::Nul));
        assert!(ObjectKey::new("é".repeat(512)).is_ok());
    }

    #[test]
    fn a_shown_key_cannot_touch_the_terminal() {
        let key = ObjectKey::new("a\x1b[2J\u{202e}b\\n\u{e9}").unwrap();
        assert_eq!(key.to_string(), "a\\u{1b}[2J\\u{202e}b\\\\n\u{e9}");
    }
}
