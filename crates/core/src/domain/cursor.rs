//! A reader's position in the event log: an id, and the epoch of its log.

use std::{fmt, str::FromStr};

/// Identifies one event log: ids of another log mean something else. Eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

/// A reader's position: `12345@1a2b3c4d`, or `12345` if the reader does not know which log it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last event that the reader has received; 0: none.
    pub id: i64,
    /// The log that the event belongs to.
    pub epoch: Option<Epoch>,
}

/// Why a text is not a cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCursor {
    #[error("an event's id is a number, as in 12345 or 12345@1a2b3c4d, not {0:?}")]
    NoNumber(String),
    #[error("an event's id is not negative: {0}")]
    Negative(String),
    #[error("no event's id is as large as {0}; the greatest is {max}", max = i64::MAX)]
    TooLarge(String),
    #[error("the @ of an event's id is followed by the eight hexadecimal digits that came with it, not {0:?}")]
    Epoch(String),
}

impl Cursor {
    /// Before the first event of a log.
    pub const BEGINNING: Self = Self { id: 0, epoch: None };

    #[must_use]
    pub const fn new(id: i64, epoch: Epoch) -> Self {
        Self { id, epoch: Some(epoch) }
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (id, epoch) = match text.split_once('@') {
            Some((id, epoch)) => (id, Some(epoch.parse()?)),
            None => (text, None),
        };
        let digits = id.strip_prefix('-').unwrap_or(id);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidCursor::NoNumber(shortened(id)));
        }
        if digits.len() < id.len() {
            return Err(InvalidCursor::Negative(shortened(id)));
        }
        // Digits alone: it can only be too large.
        let id = id.parse().map_err(|_| InvalidCursor::TooLarge(shortened(id)))?;
        Ok(Self { id, epoch })
    }
}

impl FromStr for Epoch {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let hexadecimal = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let bits = u32::from_str_radix(text, 16).ok().filter(|_| hexadecimal);
        bits.map(Self).ok_or_else(|| InvalidCursor::Epoch(shortened(text)))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            Some(epoch) => write!(f, "{}@{epoch}", self.id),
            None => self.id.fmt(f),
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Returns untrusted text, cut to a length that fits into a sentence.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        for text in ["0", "12345", "12345@1a2b3c4d", "9223372036854775807@00000000"] {
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        let cursor = "7@ffffffff".parse::<Cursor>().unwrap();
        assert_eq!(cursor, Cursor::new(7, Epoch(u32::MAX)));
    }

    #[test]
    fn an_invalid_cursor_is_answered_with_what_a_cursor_is() {
        let wrong = |text: &str| text.parse::<Cursor>().unwrap_err();
        for text in ["", "x", "1x", "+1", " 1", "-", "1.5", "--1", "@1a2b3c4d", "latest"] {
            assert!(matches!(wrong(text), InvalidCursor::NoNumber(_)), "{text}");
        }
        assert_eq!(wrong("-5"), InvalidCursor::Negative("-5".into()));
        assert_eq!(wrong("9223372036854775808"), InvalidCursor::TooLarge("9223372036854775808".into()));
        for epoch in ["", "1a2b3c4", "1a2b3c4d5", "+a2b3c4d", "1a2b3c4g", "1a2b@c4d"] {
            assert!(matches!(wrong(&format!("1@{epoch}")), InvalidCursor::Epoch(_)), "{epoch}");
        }
        let long = wrong(&"é".repeat(1000)).to_string();
        assert!(long.len() < 200, "{long}");
    }
}
