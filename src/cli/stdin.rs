//! Standard input, which may be anything and may have no end.
//!
//! Must not hold more of it than what is asked for can have.

use std::io::{BufRead, Read};

use anyhow::{Context as _, bail, ensure};
use copyhold_core::domain::MAX_KEY_BYTES;

/// Keys at once, in bytes: some ten million of them.
const KEYS_BYTES: u64 = 1 << 30;
/// Events at once, in bytes: there are 10,000 at most, and few are large.
const EVENTS_BYTES: u64 = 64 << 20;

/// What ends a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyEnd {
    Line,
    Nul,
}

impl KeyEnd {
    /// What a key is called in a message, with its number.
    pub(super) fn counts(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Nul => "key",
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Line => b'\n',
            Self::Nul => 0,
        }
    }
}

/// Keys with the numbers of their lines, from 1; empty lines are counted and left out. What is too long for a key ends
/// it with an error, however long it is.
pub(super) fn keys(input: impl BufRead, end: KeyEnd) -> anyhow::Result<Vec<(u64, String)>> {
    keys_up_to(input, end, KEYS_BYTES)
}

fn keys_up_to(input: impl BufRead, end: KeyEnd, most: u64) -> anyhow::Result<Vec<(u64, String)>> {
    let mut input = input.take(most.saturating_add(1));
    let (mut keys, mut key) = (Vec::new(), Vec::new());
    for number in 1.. {
        let of = end.counts();
        key.clear();
        // The longest key, and its end.
        let longest = MAX_KEY_BYTES as u64 + 1;
        let read = (&mut input).take(longest).read_until(end.byte(), &mut key).context("cannot read standard input")?;
        ensure!(
            input.limit() > 0,
            "standard input has more than {most} bytes, at {of} {number}: give the keys in several"
        );
        if read == 0 {
            break;
        }
        if key.last() == Some(&end.byte()) {
            key.pop();
        } else if key.len() > MAX_KEY_BYTES {
            let hint = match end {
                KeyEnd::Line => "give one key a line",
                KeyEnd::Nul => "end each key with a NUL byte",
            };
            bail!("standard input, {of} {number}: longer than {MAX_KEY_BYTES} bytes, which no key is; {hint}");
        }
        if key.is_empty() {
            continue;
        }
        match String::from_utf8(std::mem::take(&mut key)) {
            Ok(key) => keys.push((number, key)),
            Err(_) => bail!("standard input, {of} {number}: not UTF-8"),
        }
    }
    Ok(keys)
}

/// The text of events.
pub(super) fn events(input: impl Read) -> anyhow::Result<String> {
    events_up_to(input, EVENTS_BYTES)
}

fn events_up_to(input: impl Read, most: u64) -> anyhow::Result<String> {
    let mut text = Vec::new();
    input.take(most + 1).read_to_end(&mut text).context("cannot read standard input")?;
    let line = |of: &[u8]| of.split(|byte| *byte == b'\n').count();
    if text.len() as u64 > most {
        bail!("standard input has more than {most} bytes, at line {}: append the events in several", line(&text));
    }
    String::from_utf8(text).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        anyhow::anyhow!("standard input, line {}: not UTF-8", line(good))
    })
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufReader};

    use super::*;

    fn wrong(input: impl Read, end: KeyEnd) -> String {
        keys_up_to(BufReader::new(input), end, 10_000).unwrap_err().to_string()
    }

    #[test]
    fn keys_are_taken_byte_for_byte_with_the_numbers_of_their_lines() {
        let lines = keys(&b"a\n\n b \r\nlast"[..], KeyEnd::Line).unwrap();
        assert_eq!(lines, [(1, "a".into()), (3, " b \r".into()), (4, "last".into())]);
        let nuls = keys(&b"a\nb\0\0c\0"[..], KeyEnd::Nul).unwrap();
        assert_eq!(nuls, [(1, "a\nb".into()), (3, "c".into())]);
        let longest = "k".repeat(MAX_KEY_BYTES);
        assert_eq!(keys(format!("{longest}\n{longest}").as_bytes(), KeyEnd::Line).unwrap().len(), 2);
        assert_eq!(keys(io::empty(), KeyEnd::Line).unwrap(), []);
    }

    #[test]
    fn a_line_without_end_and_input_without_end_are_refused_by_number() {
        let endless = io::repeat(b'x');
        let text = wrong((&b"a\n\n"[..]).chain(endless), KeyEnd::Line);
        assert_eq!(text, "standard input, line 3: longer than 1024 bytes, which no key is; give one key a line");
        let text = wrong((&b"a\0"[..]).chain(io::repeat(b'\n')), KeyEnd::Nul);
        assert_eq!(
            text,
            "standard input, key 2: longer than 1024 bytes, which no key is; end each key with a NUL byte"
        );
        let text = wrong(io::repeat(b'\n'), KeyEnd::Line);
        assert_eq!(text, "standard input has more than 10000 bytes, at line 10001: give the keys in several");
        assert_eq!(wrong(&b"a\n\xff\n"[..], KeyEnd::Line), "standard input, line 2: not UTF-8");
    }

    #[test]
    fn events_without_end_are_refused_by_line() {
        let wrong = |input: &mut dyn Read| events_up_to(input, 1_000).unwrap_err().to_string();
        let says = "standard input has more than 1000 bytes, at line 3: append the events in several";
        assert_eq!(wrong(&mut (&b"{}\n{}\n"[..]).chain(io::repeat(b' '))), says);
        assert_eq!(wrong(&mut &b"{}\n{}\n\xff"[..]), "standard input, line 3: not UTF-8");
        assert_eq!(events(&b"{}\n{}"[..]).unwrap(), "{}\n{}");
    }
}
