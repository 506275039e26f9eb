//! Removes control and invisible characters from whole lines and documents before a terminal shows them.
//!
//! Keys and other single values go through [`escape`](super::escape), which is reversible. The functions here are the
//! second line of defence: their output cannot move a cursor or reverse a line.

use std::{borrow::Cow, fmt};

/// Returns whether a terminal executes this character, shows nothing for it, or treats it as the end of a line.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    // C0, DEL and C1.
    c.is_control() || is_invisible(c)
}

/// Unicode's Default_Ignorable_Code_Point with all that changes directions or has no width, line and paragraph separators,
/// and the annotation characters.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Escapes unsafe characters in text of several lines; line ends stay.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c != '\n' && is_unsafe(c), |c, to| to.extend(c.escape_default()))
}

/// Escapes unsafe characters in text of one line; line ends are escaped too.
#[must_use]
pub fn visible_line(text: &str) -> Cow<'_, str> {
    replaced(text, is_unsafe, |c, to| to.extend(c.escape_default()))
}

/// Escapes unsafe characters of a JSON document as `\u00XX`; line ends between its values stay.
#[must_use]
pub fn visible_json(text: &str) -> Cow<'_, str> {
    replaced(
        text,
        |c| c != '\n' && is_unsafe(c),
        |c, to| {
            // Raw, these can only stand between values: there they are as good as a blank.
            if c < ' ' {
                to.push(' ');
                return;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Cannot fail: a String takes all that is written to it.
                let _ = fmt::Write::write_fmt(to, format_args!("\\u{unit:04x}"));
            }
        },
    )
}

/// A writer that escapes unsafe characters and line ends.
#[derive(Debug)]
pub struct VisibleLine<W>(pub W);

impl<W: fmt::Write> fmt::Write for VisibleLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&visible_line(text))
    }
}

fn replaced(text: &str, which: impl Fn(char) -> bool, by: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let Some(first) = text.find(&which) else { return Cow::Borrowed(text) };
    let (clean, rest) = text.split_at(first);
    let mut all = String::with_capacity(text.len() + 16);
    all.push_str(clean);
    for c in rest.chars() {
        if which(c) {
            by(c, &mut all);
        } else {
            all.push(c);
        }
    }
    Cow::Owned(all)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// One of each kind: C0, DEL, C1, soft hyphen, direction, zero width, line and paragraph separators, tags, selectors.
    const ALL: &str = "\0\u{7}\u{8}\t\r\u{1b}\u{7f}\u{80}\u{9b}\u{9f}\u{ad}\u{61c}\u{200b}\u{200d}\u{200e}\u{2028}\u{2029}\u{202a}\
                       \u{202e}\u{2060}\u{2066}\u{2069}\u{feff}\u{fff9}\u{3164}\u{fe0f}\u{e0001}\u{e0061}\u{e01ef}";

    #[test]
    fn nothing_that_a_terminal_obeys_or_hides_stays() {
        assert!(ALL.chars().all(is_unsafe));
        for shown in [visible(ALL), visible_line(ALL), visible_json(ALL)] {
            assert!(!shown.chars().any(is_unsafe), "{shown:?}");
        }
        assert_eq!(visible("a\u{1b}[31m\nb\u{9b}2J"), "a\\u{1b}[31m\nb\\u{9b}2J");
        assert_eq!(visible_line("a\nb"), "a\\nb");
        let mut written = VisibleLine(String::new());
        written.write_str("a\u{202e}\nb").unwrap();
        assert_eq!(written.0, "a\\u{202e}\\nb");
    }

    #[test]
    fn what_people_read_stays_as_it_is() {
        for text in ["", "plain", "caf\u{e9} \u{65e5}\u{672c} \u{1f600} \\u{1b}", "two\nlines"] {
            assert!(matches!(visible(text), Cow::Borrowed(same) if same == text), "{text}");
            assert!(matches!(visible_json(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn json_says_the_same_afterwards() {
        let value = serde_json::json!({ "key": ALL, "e\u{9b}": [ALL, "\u{1f600}"] });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = visible_json(&text);
            assert!(!shown.chars().any(|c| c != '\n' && is_unsafe(c)), "{shown}");
            assert!(
                shown.contains("\\u009b") && shown.contains("\\u202e") && shown.contains("\\udb40\\udc01"),
                "{shown}"
            );
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
        assert_eq!(visible_json("{\t\"a\":\r1}"), "{ \"a\": 1}");
    }
}
