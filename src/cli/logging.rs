use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Log, LogFormat};

/// Logs go to stderr: text on a terminal, JSON elsewhere, unless the configuration says otherwise.
pub(super) fn start(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level).context("log.level")?;
    // PostgreSQL's notices ("already exists, skipping") are no news, and sqlx's slow statements are named by us.
    let quiet = ["sqlx=warn", "sqlx::postgres::notice=warn"].map(|d| d.parse().context("log filter"));
    let [sqlx, notices] = quiet;
    let filter = if log.level.contains("sqlx") { filter } else { filter.add_directive(sqlx?).add_directive(notices?) };
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let no_keys = filter_fn(shows_no_keys);
    let started = if json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .finish()
            .with(no_keys)
            .try_init()
    } else {
        builder.with_target(false).finish().with(no_keys).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// Whether an event can be written whatever the level is: the SDK's own show access key ids, those of the AWS chain from INFO
/// on and the others from DEBUG on.
fn shows_no_keys(event: &Metadata<'_>) -> bool {
    let most = match event.target().split("::").next() {
        Some("aws_config" | "aws_credential_types") => Level::WARN,
        Some(name) if name.starts_with("aws_") => Level::INFO,
        _ => return true,
    };
    *event.level() <= most
}
