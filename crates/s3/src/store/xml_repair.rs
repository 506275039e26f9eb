//! Repairs values in XML that the SDK parses strictly: one date, count or flag in another form would fail a whole
//! listing.
//!
//! A value that cannot be parsed is removed, as if the store had not sent it.
//! [`WholeDocument`](super::xml_document::WholeDocument) checks that the document is complete.

use std::ops::Range;

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use xmlparser::{ElementEnd, Token, Tokenizer};

use super::dates;

/// The type that the SDK parses an element as.
#[derive(Clone, Copy)]
enum Kind {
    Date,
    Size,
    Count,
    Flag,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "LastModified" | "Initiated" | "RestoreExpiryDate" => Self::Date,
            "Size" => Self::Size,
            "MaxKeys" | "KeyCount" | "MaxUploads" | "MaxParts" | "PartNumber" => Self::Count,
            "IsTruncated" | "IsLatest" | "IsRestoreInProgress" => Self::Flag,
            _ => return None,
        })
    }

    fn is_read(self, text: &str) -> bool {
        match self {
            Self::Date => DateTime::from_str(text, DateTimeFormat::DateTimeWithOffset).is_ok(),
            Self::Size => text.parse::<u64>().is_ok_and(|size| i64::try_from(size).is_ok()),
            Self::Count => text.parse::<i32>().is_ok(),
            Self::Flag => matches!(text, "true" | "false"),
        }
    }

    /// Returns the value in the form that the SDK parses.
    fn in_order(self, text: &str) -> Option<String> {
        let text = text.trim();
        let text = match self {
            Self::Date => dates::parse(text)?.fmt(DateTimeFormat::DateTimeWithOffset).ok()?,
            Self::Size | Self::Count => text.to_owned(),
            Self::Flag => match text.to_ascii_lowercase().as_str() {
                "true" | "1" => "true".into(),
                "false" | "0" => "false".into(),
                _ => return None,
            },
        };
        self.is_read(&text).then_some(text)
    }
}

/// An element whose end tag has not come yet.
struct Open {
    kind: Kind,
    /// The number of open elements around it.
    depth: usize,
    from: usize,
    /// The position after its start tag.
    inner: usize,
    text: String,
    /// It contains other elements.
    mixed: bool,
}

/// Returns the document with every value repaired. A text that is not XML is unchanged.
pub(super) fn repaired(document: Vec<u8>) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(&document) else { return document };
    let edits = edits(text);
    if edits.is_empty() {
        return document;
    }
    let mut repaired = String::with_capacity(text.len());
    let mut at = 0;
    for (range, instead) in edits {
        repaired.push_str(&text[at..range.start]);
        repaired.push_str(&instead);
        at = range.end;
    }
    repaired.push_str(&text[at..]);
    repaired.into_bytes()
}

/// Returns the replacements, in order.
fn edits(text: &str) -> Vec<(Range<usize>, String)> {
    let (mut edits, mut depth, mut open) = (Vec::new(), 0_usize, None::<Open>);
    for token in Tokenizer::from(text) {
        let Ok(token) = token else { break };
        match token {
            Token::ElementStart { local, span, .. } => {
                depth += 1;
                if let Some(open) = &mut open {
                    open.mixed = true;
                } else if let Some(kind) = Kind::of(local.as_str()) {
                    open = Some(Open { kind, depth, from: span.start(), inner: 0, text: String::new(), mixed: false });
                }
            }
            Token::ElementEnd { end: ElementEnd::Open, span } => {
                if let Some(open) = open.as_mut().filter(|open| open.depth == depth) {
                    open.inner = span.end();
                }
            }
            Token::ElementEnd { end, span } => {
                if let Some(read) = open.take_if(|open| open.depth == depth) {
                    let empty = matches!(end, ElementEnd::Empty);
                    edits.extend(edit(&read, span.start(), span.end(), empty));
                }
                depth = depth.saturating_sub(1);
            }
            Token::Text { text } | Token::Cdata { text, .. } => {
                if let Some(open) = &mut open {
                    open.text.push_str(text.as_str());
                }
            }
            _ => {}
        }
    }
    edits
}

fn edit(read: &Open, close: usize, end: usize, empty: bool) -> Option<(Range<usize>, String)> {
    if empty || read.mixed {
        return Some((read.from..end, String::new()));
    }
    if read.kind.is_read(&read.text) {
        return None;
    }
    Some(match read.kind.in_order(&read.text) {
        Some(text) => (read.inner..close, text),
        None => (read.from..end, String::new()),
    })
}

#[cfg(test)]
mod tests {
    fn repaired(text: &str) -> String {
        String::from_utf8(super::repaired(text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn what_the_sdk_reads_stays_as_it_is() {
        for text in [
            "<L><IsTruncated>false</IsTruncated><Contents><Key>Size</Key><Size>7</Size>\
             <LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents></L>",
            "<L><Key><![CDATA[<Size>x</Size>]]></Key></L>",
            "not XML <",
            "",
        ] {
            assert_eq!(repaired(text), text);
        }
    }

    #[test]
    fn a_value_in_an_odd_form_is_put_in_order_and_one_in_none_is_left_out() {
        for (text, after) in [
            (
                "<LastModified>Mon, 1 Jan 2024 00:00:00 UTC</LastModified>",
                "<LastModified>2024-01-01T00:00:00Z</LastModified>",
            ),
            ("<LastModified>1704067200</LastModified>", "<LastModified>2024-01-01T00:00:00Z</LastModified>"),
            ("<LastModified>never</LastModified>", ""),
            ("<LastModified/>", ""),
            ("<LastModified></LastModified>", ""),
            ("<Size> 7\n</Size>", "<Size>7</Size>"),
            ("<Size>-1</Size>", ""),
            ("<Size>7.0</Size>", ""),
            ("<Size>18446744073709551615</Size>", ""),
            ("<Size><b>7</b></Size>", ""),
            ("<IsTruncated>True</IsTruncated>", "<IsTruncated>true</IsTruncated>"),
            ("<IsTruncated>no</IsTruncated>", ""),
            ("<KeyCount>many</KeyCount>", ""),
            ("<s3:Size a=\"b\">1 </s3:Size>", "<s3:Size a=\"b\">1</s3:Size>"),
        ] {
            assert_eq!(
                repaired(&format!("<L><a/>{text}<b>c</b></L>")),
                format!("<L><a/>{after}<b>c</b></L>"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_document_that_was_cut_is_still_cut() {
        let text = "<L><Size>x</Size><Size>1";
        assert_eq!(repaired(text), "<L><Size>1");
    }

    proptest::proptest! {
        #[test]
        fn no_document_at_all_breaks_it(text in "(<|>|/|Size|LastModified|1|é|&| ){0,30}") {
            let _ = repaired(&text);
        }
    }
}
