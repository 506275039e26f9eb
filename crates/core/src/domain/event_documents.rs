//! Splits the body of a request into its events. It checks JSON syntax and number, not the members of an event.

use serde::de::IgnoredAny;

/// Events in one request at most.
const MAX_EVENTS: usize = 10_000;

/// Why a text holds no events that could be appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvents {
    #[error("this is not JSON: {0}")]
    NotJson(String),
    #[error("there is no event: give a JSON object, such as {{\"kind\": \"door.opened\"}}")]
    Empty,
    #[error("one request has at most {MAX_EVENTS} events, this one has {0}; split it into several requests")]
    TooMany(usize),
}

/// Returns the texts of the JSON values in `text`, each an event or an array of events. PostgreSQL reads their members.
pub fn split_events(text: &str) -> Result<Vec<&str>, InvalidEvents> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut documents, mut events) = (Vec::new(), 0);
    loop {
        let begin = values.byte_offset();
        match values.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(InvalidEvents::NotJson(error.to_string())),
            None => break,
        }
        let document = text[begin..values.byte_offset()].trim();
        // Counts anything but an array as one event; PostgreSQL refuses what is none.
        events += serde_json::from_str::<Vec<IgnoredAny>>(document).map_or(1, |elements| elements.len());
        documents.push(document);
    }
    match events {
        0 => Err(InvalidEvents::Empty),
        1..=MAX_EVENTS => Ok(documents),
        _ => Err(InvalidEvents::TooMany(events)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_or_several_in_whatever_way_they_are_written() {
        for (body, found) in [
            (r#"{"a": 1}"#, vec![r#"{"a": 1}"#]),
            ("  {\"a\":\n 1}\n", vec!["{\"a\":\n 1}"]),
            (r#"[{"a": 1}, {}]"#, vec![r#"[{"a": 1}, {}]"#]),
            (
                "{\"a\":1}\n\n{\"b\":123456789012345678901234567890}\n",
                vec!["{\"a\":1}", "{\"b\":123456789012345678901234567890}"],
            ),
        ] {
            assert_eq!(split_events(body).unwrap(), found, "{body}");
        }
    }

    #[test]
    fn what_is_no_event_or_too_many_of_them_is_refused() {
        assert_eq!(split_events(""), Err(InvalidEvents::Empty));
        assert_eq!(split_events(" \n[]"), Err(InvalidEvents::Empty));
        let nested = "[".repeat(100_000);
        for bad in ["{", "{}}", "{\"a\":1} x", "nonsense", &nested] {
            assert!(matches!(split_events(bad), Err(InvalidEvents::NotJson(_))), "{bad:.20}");
        }
        let many = format!("[{}{{}}]", "{},".repeat(MAX_EVENTS));
        assert_eq!(split_events(&many), Err(InvalidEvents::TooMany(MAX_EVENTS + 1)));
        assert_eq!(split_events(&"{}\n".repeat(MAX_EVENTS + 1)), Err(InvalidEvents::TooMany(MAX_EVENTS + 1)));
    }
}
