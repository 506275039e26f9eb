//! Reads `[events]`.

use std::time::Duration;

use bytesize::ByteSize;
use copyhold_core::domain::{EventKind, EventKinds, UnknownKind};

use super::{
    EventSettings,
    invalid_value::InvalidValue,
    reader::Section,
    suggest,
    value_types::{duration_text, size_text, within},
};

const DAY: Duration = Duration::from_hours(24);
/// As durations are written: with a quarter of a day more than 365.
const YEAR: Duration = Duration::from_hours(8766);

pub(super) fn read(mut section: Section<'_>) -> EventSettings {
    let kinds = section.get_with("kinds", |text: String| text.parse().map_err(unknown_kind));
    let keep_for = section.get_with("keep_for", within(Duration::from_hours(1)..=10 * YEAR, duration_text));
    let keep_bytes = section.get_with("keep_bytes", within(ByteSize::mib(64)..=ByteSize::tib(16), size_text));
    let buffer = section.get_with("buffer", within(ByteSize::mib(1)..=ByteSize::gib(1), size_text));
    let readers = section.get_with("readers", within(1..=100_000, |readers: i64| readers.to_string()));
    section.finish();
    EventSettings {
        kinds: kinds.map_or_else(EventKinds::all, |kinds| kinds.value),
        keep_for: keep_for.map_or(7 * DAY, |keep_for| keep_for.value),
        keep_bytes: keep_bytes.map_or(ByteSize::gib(2), |bytes| bytes.value).as_u64(),
        buffer_bytes: buffer.map_or(ByteSize::mib(16), |bytes| bytes.value).as_u64(),
        // Cannot fail: it was just found to be within 1 and 100,000.
        readers: readers.map_or(2000, |readers| usize::try_from(readers.value).expect("a small number")),
    }
}

fn unknown_kind(UnknownKind(word): UnknownKind) -> InvalidValue {
    let all = EventKind::ALL.map(EventKind::as_str);
    let todo = match suggest::among(&word, all) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => format!("write \"all\", \"none\", or some of {} with commas between", all.join(", ")),
    };
    InvalidValue::new(format!("has {word:?}, which is no kind of event"), todo)
}
