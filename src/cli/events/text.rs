//! One event as a line of text for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::{super::output::Untrusted, feed::Event};

/// An event as people read it: when, what, about which object, and the rest.
pub(super) fn of(event: &Event) -> String {
    let mut text =
        format!("{}  {:<23}", Untrusted(&event.date_created), Untrusted(event.kind().unwrap_or("-")).to_string());
    if let Some(key) = event.data["object_key"].as_str() {
        // Cannot fail: it is a String.
        let _ = write!(text, " {}", Untrusted(key));
    }
    match &event.data {
        Value::Object(members) => {
            for (name, value) in members.iter().filter(|(name, _)| *name != "kind" && *name != "object_key") {
                let value = match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let _ = write!(text, "  {}={}", Untrusted(name), Untrusted(&value));
            }
        }
        other => {
            let _ = write!(text, "  {}", Untrusted(&other.to_string()));
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use copyhold_core::domain::Cursor;

    #[test]
    fn an_event_is_one_line_and_nothing_in_it_reaches_the_terminal_as_it_is() {
        let text = |data: Value| {
            of(&Event {
                line: String::new(),
                cursor: Cursor::BEGINNING,
                date_created: "2026-11-22T04:20:08Z".into(),
                data,
            })
        };
        assert_eq!(
            text(json!({"kind": "copy.failed", "object_key": "a\u{1b}[2J/b", "replica": "scw", "attempts": 3})),
            "2026-11-22T04:20:08Z  copy.failed             a\\u{1b}[2J/b  attempts=3  replica=scw"
        );
        assert_eq!(
            text(json!({"door\n": ["x\n"]})),
            "2026-11-22T04:20:08Z  -                        door\\n=[\"x\\\\n\"]"
        );
    }
}
