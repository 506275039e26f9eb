//! How results look on a terminal, and in a pipe.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use bytesize::ByteSize;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::domain::ObjectKey;

/// One line of a result. A reader that has gone, as in `| head`, is no error.
pub(super) fn line(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// As [`line()`], for one of many: false if nobody reads them any more.
pub(super) fn goes_on(text: &str) -> io::Result<bool> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// A table: with rules on a terminal, plain columns elsewhere. All columns but the first `text` ones are numbers.
pub(super) fn table(heads: &[&str], text: usize, rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    let terminal = io::stdout().is_terminal();
    table.load_style(if terminal { presets::UTF8_HORIZONTAL_ONLY } else { presets::NOTHING });
    if terminal {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    let aligned = |(i, text_of): (usize, String)| {
        let cell = Cell::new(text_of);
        if i < text { cell } else { cell.set_alignment(CellAlignment::Right) }
    };
    table.set_header(heads.iter().map(ToString::to_string).enumerate().map(aligned));
    for row in rows {
        table.add_row(row.into_iter().enumerate().map(aligned));
    }
    table
}

/// How wide the terminal is; `None`: the result goes elsewhere.
pub(super) fn width() -> Option<usize> {
    io::stdout().is_terminal().then(|| Table::new().width()).flatten().map(usize::from)
}

/// `1.5 GiB`
pub(super) fn bytes(bytes: i64) -> String {
    ByteSize::b(u64::try_from(bytes).unwrap_or_default()).display().iec().to_string()
}

/// `2h 3m`, with two units at most; `-` for none.
pub(super) fn age(seconds: Option<f64>) -> String {
    let Some(age) = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()) else { return "-".into() };
    if age < Duration::from_secs(1) {
        return "<1s".into();
    }
    let whole = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// `1 copy`, `3 copies`
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Some keys for a message, escaped; how many there are besides.
pub(super) fn some_keys(keys: &[ObjectKey]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = keys.iter().take(SHOWN).map(|key| format!("\"{key}\"")).collect();
    let more = keys.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", shown.join(", "))
}

/// Untrusted text, safe for a terminal.
pub(super) struct Untrusted<'a>(pub &'a str);

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::domain::escape(self.0, f)
    }
}
