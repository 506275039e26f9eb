//! How the daemon logs: to stderr, as text on a terminal and as JSON elsewhere.
//!
//! Whatever words of others a record holds, it stays one line, and none of them reaches a terminal as an order to it.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
};

use anyhow::Context as _;
use copyhold_core::domain::{VisibleLine, visible_json};
use tracing::{Dispatch, Level, Metadata, field::Field};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    filter::filter_fn,
    fmt::{MakeWriter, format},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::{LogFormat, LogSettings};

/// Logs go to stderr: text on a terminal, JSON elsewhere, unless the configuration says otherwise.
pub(super) fn start(log: &LogSettings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level).context("log.level")?;
    // PostgreSQL's notices ("already exists, skipping") are no news, and sqlx's slow statements are named by us.
    let quiet = ["sqlx=warn", "sqlx::postgres::notice=warn"].map(|d| d.parse().context("log filter"));
    let [sqlx, notices] = quiet;
    let filter = if log.level.contains("sqlx") { filter } else { filter.add_directive(sqlx?).add_directive(notices?) };
    let terminal = io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let started = dispatch(filter, json, terminal, io::stderr).try_init();
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

fn dispatch<W>(filter: EnvFilter, json: bool, colours: bool, to: W) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    if json {
        let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
        return builder.with_writer(VisibleJson(to)).finish().with(filter_fn(shows_no_keys)).into();
    }
    let fields = format::debug_fn(write_field).delimited(" ");
    builder.with_target(false).fmt_fields(fields).with_writer(to).finish().with(filter_fn(shows_no_keys)).into()
}

/// Whether an event can be written whatever the level is: the SDK's own show access key ids, those of the AWS chain
/// from INFO on and the others from DEBUG on.
fn shows_no_keys(event: &Metadata<'_>) -> bool {
    let most = match event.target().split("::").next() {
        Some("aws_config" | "aws_credential_types") => Level::WARN,
        Some(name) if name.starts_with("aws_") => Level::INFO,
        _ => return true,
    };
    *event.level() <= most
}

/// The message as it is, any other field with its name.
fn write_field(to: &mut format::Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let mut to = VisibleLine(to);
    match field.name() {
        "message" => write!(to, "{value:?}"),
        // What the crate `log` adds to the records of its users, for machines.
        name if name.starts_with("log.") => Ok(()),
        name => write!(to, "{}={value:?}", name.strip_prefix("r#").unwrap_or(name)),
    }
}

/// Writes JSON, each record as one piece, so that a terminal shows all of it.
struct VisibleJson<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for VisibleJson<W> {
    type Writer = VisibleJson<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        VisibleJson(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for VisibleJson<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        self.0.write_all(visible_json(&text).as_bytes())?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{dispatcher, warn};

    use super::*;
    use copyhold_core::domain::visible_line;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the log has of words that erase the screen, forge a line and turn one around.
    fn logged(json: bool) -> String {
        let written = Written::default();
        let to = written.clone();
        let dispatch = dispatch(EnvFilter::new("info"), json, false, move || to.clone());
        dispatcher::with_default(&dispatch, || {
            let evil = "\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\nforged \u{7f}\u{200b}";
            warn!(error = %evil, objects = 3, host = evil, "Could not: {evil}");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_text_record_is_one_line_and_orders_a_terminal_nothing() {
        let text = logged(false);
        let line = text.strip_suffix('\n').unwrap();
        assert_eq!(visible_line(line), line);
        let evil = r"\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\nforged \u{7f}\u{200b}";
        assert!(line.contains(&format!("WARN Could not: {evil} error={evil} objects=3 host=\"")), "{line}");
    }

    #[test]
    fn a_json_record_is_one_line_without_control_characters_and_parses_to_the_same() {
        let text = logged(true);
        let line = text.strip_suffix('\n').unwrap();
        assert_eq!(visible_line(line), line);
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["error"], "\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\nforged \u{7f}\u{200b}");
        assert!(line.contains(r"\u009b31m\u202e\u2028\nforged \u007f\u200b"), "{line}");
    }

    /// Those in documents and messages, each once.
    fn documented_filters() -> Vec<String> {
        let texts = [
            include_str!("../../docs/operations.md"),
            include_str!("../../config/copyhold.toml"),
            include_str!("../config/process.rs"),
        ];
        let is_of_a_target = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
        let mut targets: Vec<String> = texts
            .iter()
            .flat_map(|text| text.match_indices("=debug").map(|(at, _)| &text[..at]))
            .map(|before| before.rsplit(|c| !is_of_a_target(c)).next().unwrap().to_owned())
            .filter(|target| target.starts_with("copyhold"))
            .collect();
        targets.sort();
        targets.dedup();
        targets
    }

    #[test]
    fn each_documented_filter_names_modules_that_there_are() {
        let filters = documented_filters();
        for shown in ["copyhold", "copyhold_db", "copyhold_s3", "copyhold_s3::copy"] {
            assert!(filters.iter().any(|filter| filter == shown), "{shown} in {filters:?}");
        }
        for target in &filters {
            let mut names = target.split("::");
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            let mut path = match names.next().unwrap().strip_prefix("copyhold_") {
                Some(of_crate) => root.join("crates").join(of_crate).join("src"),
                None => root.join("src"),
            };
            path.extend(names);
            assert!(path.is_dir() || path.with_extension("rs").is_file(), "{target} is no module");
        }
    }

    #[test]
    fn the_shortest_filter_is_all_of_copyhold_and_nothing_of_others() {
        let filter = EnvFilter::new("info,copyhold=debug");
        dispatcher::with_default(&dispatch(filter, true, false, Written::default), || {
            assert!(tracing::enabled!(target: "copyhold::worker::attempt", Level::DEBUG));
            assert!(tracing::enabled!(target: "copyhold_s3::copy", Level::DEBUG));
            assert!(tracing::enabled!(target: "copyhold_db::lease", Level::DEBUG));
            assert!(!tracing::enabled!(target: "hyper::client", Level::DEBUG));
        });
    }
}
