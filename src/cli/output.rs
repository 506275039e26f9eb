//! Prints results on a terminal or into a pipe.
//!
//! All that a command prints goes through here: control characters in untrusted text never reach a terminal as
//! commands.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use bytesize::ByteSize;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use copyhold_core::domain::{ObjectKey, visible, visible_json, visible_line};
use serde::Serialize;

/// One line of a result, or several. A reader that has gone, as in `| head`, is no error.
pub(super) fn line(text: &str) -> io::Result<()> {
    goes_on(text).map(drop)
}

/// As [`line()`], for one of many: false if the reader has gone.
pub(super) fn goes_on(text: &str) -> io::Result<bool> {
    print(&visible(text))
}

/// A result as one JSON document.
pub(super) fn json(result: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(result).context("the result as JSON")?;
    print(&visible_json(&text))?;
    Ok(())
}

/// A line that is JSON already, one of many: false if the reader has gone.
pub(super) fn json_goes_on(line: &str) -> io::Result<bool> {
    print(&visible_json(line))
}

/// A remark beside the result, on stderr. A closed stderr is ignored.
pub(super) fn aside(text: &str) {
    let _ = writeln!(io::stderr(), "{}", visible(text));
}

fn print(text: &str) -> io::Result<bool> {
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
        let cell = Cell::new(visible_line(&text_of));
        if i < text { cell } else { cell.set_alignment(CellAlignment::Right) }
    };
    table.set_header(heads.iter().map(ToString::to_string).enumerate().map(aligned));
    for row in rows {
        table.add_row(row.into_iter().enumerate().map(aligned));
    }
    table
}

/// Returns the width of the terminal; `None`: the result goes elsewhere.
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

/// Some keys for a message, escaped, and the number of the others.
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
        copyhold_core::domain::escape(self.0, f)
    }
}
