use serde::de::IgnoredAny;

/// Events of one request.
const MOST: usize = 10_000;

/// Why a text holds no events that could be appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEvents {
    #[error("this is not JSON: {0}")]
    NotJson(String),
    #[error("there is no event: give a JSON object, such as {{\"kind\": \"door.opened\"}}")]
    Empty,
    #[error("there are {MOST} events at most in one request, and these are {0}: send them in several")]
    TooMany(usize),
}

/// The texts of JSON values one after another, each an event or an array of events; what is in them is for PostgreSQL
/// to read.
pub fn documents(text: &str) -> Result<Vec<&str>, NoEvents> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut documents, mut events) = (Vec::new(), 0);
    loop {
        let begin = values.byte_offset();
        match values.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(NoEvents::NotJson(error.to_string())),
            None => break,
        }
        let document = text[begin..values.byte_offset()].trim();
        // Anything but an array is one event, or none: PostgreSQL says so.
        events += serde_json::from_str::<Vec<IgnoredAny>>(document).map_or(1, |elements| elements.len());
        documents.push(document);
    }
    match events {
        0 => Err(NoEvents::Empty),
        1..=MOST => Ok(documents),
        _ => Err(NoEvents::TooMany(events)),
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
            assert_eq!(documents(body).unwrap(), found, "{body}");
        }
    }

    #[test]
    fn what_is_no_event_or_too_many_of_them_is_refused() {
        assert_eq!(documents(""), Err(NoEvents::Empty));
        assert_eq!(documents(" \n[]"), Err(NoEvents::Empty));
        let nested = "[".repeat(100_000);
        for bad in ["{", "{}}", "{\"a\":1} x", "nonsense", &nested] {
            assert!(matches!(documents(bad), Err(NoEvents::NotJson(_))), "{bad:.20}");
        }
        let many = format!("[{}{{}}]", "{},".repeat(MOST));
        assert_eq!(documents(&many), Err(NoEvents::TooMany(MOST + 1)));
        assert_eq!(documents(&"{}\n".repeat(MOST + 1)), Err(NoEvents::TooMany(MOST + 1)));
    }
}
