//! The kinds of values that settings have, each read from a node of the tree.

use std::time::Duration;

use bytesize::ByteSize;
use copyhold_core::domain;

use super::{
    invalid_value::InvalidValue,
    position::{Position, Positioned},
    sources::Sources,
    toml_tree::{Node, Value, parse_value},
};

/// A kind of value.
pub(super) trait ValueType: Sized {
    fn read(node: Node, sources: &Sources) -> Result<Self, InvalidValue>;

    /// The same, with the path of its setting, which later messages name.
    #[must_use]
    fn of_setting(self, _path: &str) -> Self {
        self
    }
}

/// Text that is not empty.
impl ValueType for String {
    fn read(node: Node, _: &Sources) -> Result<Self, InvalidValue> {
        match settled(node.value, &node.position, |value| matches!(value, Value::Text(_))) {
            Value::Text(text) if text.is_empty() => Err(InvalidValue::new("is empty", "give it a value, or remove it")),
            Value::Text(text) => Ok(text),
            other => Err(wrong_kind(&other, "text in quotes", "write it in quotes")),
        }
    }
}

/// Text that may well be empty.
pub(super) struct Text(pub(super) String);

impl ValueType for Text {
    fn read(node: Node, _: &Sources) -> Result<Self, InvalidValue> {
        match settled(node.value, &node.position, |value| matches!(value, Value::Text(_))) {
            Value::Text(text) => Ok(Self(text)),
            other => Err(wrong_kind(&other, "text in quotes", "write it in quotes")),
        }
    }
}

/// A list of texts, none of which is empty.
impl ValueType for Vec<Positioned<String>> {
    fn read(node: Node, sources: &Sources) -> Result<Self, InvalidValue> {
        const TODO: &str = r#"write the words in quotes with commas between, in brackets: ["b2", "wasabi"]"#;
        let Value::List(items) = settled(node.value, &node.position, |value| matches!(value, Value::List(_))) else {
            return Err(InvalidValue::new("is no list", TODO));
        };
        let text = |item: Node| {
            let position = item.position.clone();
            let read = String::read(item, sources);
            let value = read
                .map_err(|invalid| InvalidValue { position: invalid.position.or(Some(position.clone())), ..invalid })?;
            Ok(Positioned { value, position })
        };
        items.into_iter().map(text).collect()
    }
}

impl ValueType for bool {
    fn read(node: Node, _: &Sources) -> Result<Self, InvalidValue> {
        match settled(node.value, &node.position, |value| matches!(value, Value::Boolean(_))) {
            Value::Boolean(yes) => Ok(yes),
            other => Err(wrong_kind(&other, "true or false", "write true or false, without quotes")),
        }
    }
}

impl ValueType for i64 {
    fn read(node: Node, _: &Sources) -> Result<Self, InvalidValue> {
        match settled(node.value, &node.position, |value| matches!(value, Value::Integer(_))) {
            Value::Integer(Some(number)) => Ok(number),
            Value::Integer(None) => Err(InvalidValue::new("is beyond all bounds", "write a smaller number")),
            other => Err(wrong_kind(&other, "a whole number", "write digits alone, without quotes or unit")),
        }
    }
}

impl ValueType for Duration {
    fn read(node: Node, sources: &Sources) -> Result<Self, InvalidValue> {
        const TODO: &str = r#"write a number with its unit in quotes: "500ms", "90s", "5m" or "1h 30m""#;
        if let Value::Integer(_) | Value::List(_) | Value::Other(_) = node.value {
            return Err(wrong_kind(&node.value, "a duration", TODO));
        }
        let text = String::read(node, sources)?;
        humantime::parse_duration(&text)
            .map_err(|_| InvalidValue::new(format!("is {text:?}, which is no duration"), TODO))
    }
}

impl ValueType for ByteSize {
    fn read(node: Node, sources: &Sources) -> Result<Self, InvalidValue> {
        const TODO: &str = r#"write a number with its unit in quotes: "256MiB" or "1GiB""#;
        if let Value::Integer(_) | Value::List(_) | Value::Other(_) = node.value {
            return Err(wrong_kind(&node.value, "a size", TODO));
        }
        let text = String::read(node, sources)?;
        text.parse().map_err(|_| InvalidValue::new(format!("is {text:?}, which is no size"), TODO))
    }
}

/// A variable's text as the TOML value that it spells if that is of the wanted kind, else as text.
pub(super) fn settled(value: Value, position: &Position, wanted: impl Fn(&Value) -> bool) -> Value {
    match value {
        Value::Variable(text) => match parse_value(&text, position).filter(wanted) {
            Some(value) => value,
            None => Value::Text(text),
        },
        other => other,
    }
}

pub(super) fn wrong_kind(value: &Value, wanted: &str, todo: &str) -> InvalidValue {
    InvalidValue::new(format!("is {}, where {wanted} is needed", value.kind()), todo)
}

/// One of a few words.
pub(super) fn choice<T>(words: &[(&str, T)], text: &str) -> Result<T, InvalidValue>
where
    T: Copy,
{
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*meaning);
    }
    let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    let todo = match super::suggest::among(text, words.iter().map(|(word, _)| *word)) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => format!("write {}", all.join(" or ")),
    };
    Err(InvalidValue::new(format!("is {text:?}, not one of {}", all.join(", ")), todo))
}

/// Refuses what is outside the range; `show` writes a value as the file would.
pub(super) fn within<T: PartialOrd + Copy>(
    range: std::ops::RangeInclusive<T>,
    show: impl Fn(T) -> String,
) -> impl FnOnce(T) -> Result<T, InvalidValue> {
    move |value| {
        if range.contains(&value) {
            return Ok(value);
        }
        let (least, most) = (show(*range.start()), show(*range.end()));
        let (side, bound) = if value < *range.start() { ("less", &least) } else { ("more", &most) };
        Err(InvalidValue::new(
            format!("is {}, {side} than {bound}", show(value)),
            format!("set it to something from {least} to {most}"),
        ))
    }
}

/// A duration as the file would have it: `90s` as people write it, above two minutes `2m 5s`.
pub(super) fn duration_text(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 && duration.as_secs() < 120 {
        return format!("{}s", duration.as_secs());
    }
    humantime::format_duration(duration).to_string()
}

/// As [`domain::size_text`].
pub(super) fn size_text(size: ByteSize) -> String {
    domain::size_text(size.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_written_so_that_they_can_be_read_again() {
        for bytes in [0, 1, 1_000_000, 32 << 20, 256 << 20, (1 << 40) + 1024] {
            let size = ByteSize(bytes);
            assert_eq!(size_text(size).parse(), Ok(size));
        }
        for millis in [0, 1, 500, 90_000, 5_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(humantime::parse_duration(&duration_text(duration)), Ok(duration));
        }
        assert_eq!(size_text(ByteSize(256 << 20)), "256MiB");
    }
}
