//! The limit of open files, which bounds the number of HTTP connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Connections for all requests but those of the readers of events.
const OTHERS: usize = 1024;
/// Open files that are no HTTP connections: stores, PostgreSQL, logs.
const ELSEWHERE: usize = 512;

/// How many connections there may be: each is an open file. Raises the limit that the process was started with as far
/// as it may itself, and logs a warning where that is not enough for the `readers` of the configuration.
pub(super) fn connections_for(readers: usize) -> usize {
    let wanted = readers.saturating_add(OTHERS);
    let allowed = raise().saturating_sub(ELSEWHERE);
    if allowed >= wanted {
        return wanted;
    }
    warn!(
        allowed,
        "Of events.readers = {readers} not all may find room: this process may have {allowed} HTTP connections, for want of \
         open files; raise its limit (LimitNOFILE in systemd, --ulimit nofile in a container) to {} or lower events.readers",
        wanted + ELSEWHERE
    );
    // However few there are, a health check must be answered.
    allowed.max(16)
}

/// The limit in force.
fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let in_force = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(error = %error, "Could not raise the limit of open files");
            current
        }
    };
    in_force.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}
