//! The sections about the process itself: how much it does at once, how it keeps time,
//! how it is seen. All have defaults.

use std::{net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use secrecy::ExposeSecret as _;
use tracing_subscriber::EnvFilter;

use super::{
    GuardSettings, HttpSettings, LeaseSettings, LogFormat, LogSettings, Secret, ShutdownSettings, SweeperSettings,
    UnregisteredChanges, WorkerSettings,
    invalid_value::InvalidValue,
    position::Positioned,
    reader::Section,
    suggest,
    value_types::{choice, duration_text, size_text, within},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

/// Reads `[workers]`.
pub(super) fn workers(mut section: Section<'_>) -> WorkerSettings {
    let count = section.get_with("count", within(1..=1000, |count: i64| count.to_string()));
    // One part of a multipart upload, twice, must fit.
    let memory = section.get_with("memory", within(ByteSize::mib(32)..=ByteSize::tib(1), size_text));
    let sets_count = section.has("count");
    let reserved = section.get_with("reserved", within(0..=999, |reserved: i64| reserved.to_string()));
    // Cannot fail: they were just found to be within 0 and 1000.
    let small = |number: i64| usize::try_from(number).expect("a small number");
    let count_is_wrong = sets_count && count.is_none();
    let in_force = count.map_or(32, |count| small(count.value));
    if let Some(Positioned { value, position }) = &reserved
        && small(*value) >= in_force
        && !count_is_wrong
    {
        let what = format!("is {value}, which leaves none of the {in_force} in workers.count to a backlog");
        section.note_at(position, "reserved", &what, format!("set it to less than {in_force}; an eighth is usual"));
    }
    section.finish();
    WorkerSettings {
        count: in_force,
        reserved: reserved.map_or(in_force / 8, |reserved| small(reserved.value)),
        memory_bytes: memory.map_or(ByteSize::mib(256), |memory| memory.value).as_u64(),
    }
}

/// Reads `[lease]`.
pub(super) fn lease(mut section: Section<'_>) -> LeaseSettings {
    // Below three seconds a slow commit alone could lose a lease.
    let sets_timeout = section.has("timeout");
    let timeout = section.get_with("timeout", within(3 * SECOND..=HOUR, duration_text));
    let timeout_is_wrong = sets_timeout && timeout.is_none();
    let heartbeat = section.get_with("heartbeat", within(SECOND / 10..=HOUR, duration_text));
    let in_force = timeout.map_or(90 * SECOND, |timeout| timeout.value);
    if let Some(Positioned { value: heartbeat, position }) = &heartbeat
        && *heartbeat > in_force / 3
        && !timeout_is_wrong
    {
        let (heartbeat, timeout) = (duration_text(*heartbeat), duration_text(in_force));
        let what = format!("is {heartbeat}, not well under lease.timeout of {timeout}");
        let third = duration_text(whole_millis(in_force / 3));
        let todo = format!("set it to a third of the timeout or less: {third}");
        section.note_at(position, "heartbeat", &what, todo);
    }
    section.finish();
    let heartbeat = heartbeat.map_or_else(|| whole_millis(in_force / 3), |heartbeat| heartbeat.value);
    LeaseSettings { timeout: in_force, heartbeat }
}

/// A third of 100 s reads better as 33s 333ms.
fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Reads `[guard]`.
pub(super) fn guard(mut section: Section<'_>) -> GuardSettings {
    let changed = section.get_with("changed", |word: String| choice(&UnregisteredChanges::ALL, &word));
    section.finish();
    GuardSettings { changed: changed.map_or(UnregisteredChanges::Copy, |changed| changed.value) }
}

/// Reads `[sweeper]`.
pub(super) fn sweeper(mut section: Section<'_>) -> SweeperSettings {
    let every = section.get_with("every", within(SECOND / 10..=HOUR, duration_text));
    section.finish();
    SweeperSettings { every: every.map_or(30 * SECOND, |every| every.value) }
}

/// Reads `[shutdown]`.
pub(super) fn shutdown(mut section: Section<'_>) -> ShutdownSettings {
    let grace = section.get_with("grace", within(Duration::ZERO..=HOUR, duration_text));
    section.finish();
    ShutdownSettings { grace: grace.map_or(60 * SECOND, |grace| grace.value) }
}

/// Reads `[http]`.
pub(super) fn http(mut section: Section<'_>) -> HttpSettings {
    let listen = section.get_with("listen", |text: String| {
        text.parse::<SocketAddr>().map_err(|_| {
            InvalidValue::new(
                format!("is {text:?}, not an address with a port"),
                r#"write "127.0.0.1:9180", "0.0.0.0:9180" for all interfaces, or "[::1]:9180""#,
            )
        })
    });
    let token = section.get_with("token", token_text);
    section.finish();
    HttpSettings {
        listen: listen.map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9180)), |listen| listen.value),
        token: token.map(|token| token.value),
    }
}

/// Too long to be guessed, and of characters that a header can carry.
fn token_text(token: Secret) -> Result<Secret, InvalidValue> {
    check_token(token.expose_secret())?;
    Ok(token.checked(|text| check_token(text).map_err(|invalid| invalid.what)))
}

fn check_token(text: &str) -> Result<(), InvalidValue> {
    const LEAST: usize = 16;
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        let what = "contains blanks, line breaks or other characters that no token has";
        return Err(InvalidValue::new(what, "give it the token alone"));
    }
    if text.len() < LEAST {
        let what = format!("is shorter than {LEAST} characters, and could be guessed");
        return Err(InvalidValue::new(what, "make one with `openssl rand -hex 32`"));
    }
    Ok(())
}

/// Reads `[log]`.
pub(super) fn log(mut section: Section<'_>) -> LogSettings {
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = section.get_with("format", |word: String| choice(&formats, &word));
    let level = section.get_with("level", log_level);
    section.finish();
    LogSettings {
        format: format.map_or(LogFormat::Auto, |format| format.value),
        level: level.map_or_else(|| "info".to_owned(), |level| level.value),
    }
}

/// A filter takes any word that is no level for the name of a module, and a slip such as
/// `inof` would silence the log: a module must be given with its level.
fn log_level(filter: String) -> Result<String, InvalidValue> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for word in filter.split(',').map(str::trim).filter(|word| !word.contains(['=', '[', ']', '}'])) {
        if !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
            let todo = match suggest::among(word, LEVELS) {
                Some(level) => format!("did you mean {level:?}?"),
                None => r#"write off, error, warn, info, debug or trace; for a module "info,copyhold_s3=debug""#.into(),
            };
            return Err(InvalidValue::new(format!("has {word:?}, which is no level"), todo));
        }
    }
    match EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(InvalidValue::new(
            format!("is {filter:?}, which is no filter: {error}"),
            r#"write a level, or "info,copyhold_s3=debug""#,
        )),
    }
}
