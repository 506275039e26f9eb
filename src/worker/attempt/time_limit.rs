//! How long one attempt may take, by the size of its object. Pure.

use std::time::Duration;

/// How long the work on one object may take, although the heartbeat renews its lease: a living process would hold an
/// object whose copy hangs for ever.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimit {
    /// For an object without bytes.
    pub at_least: Duration,
    /// Slower than this is no progress.
    pub bytes_per_second: u64,
}

impl Default for TimeLimit {
    fn default() -> Self {
        Self { at_least: Duration::from_mins(10), bytes_per_second: 64 << 10 }
    }
}

impl TimeLimit {
    #[must_use]
    pub fn for_size(self, size_bytes: u64) -> Duration {
        self.at_least.saturating_add(Duration::from_secs(size_bytes / self.bytes_per_second.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_object_may_take_longer_and_none_may_take_for_ever() {
        let limit = TimeLimit::default();
        assert_eq!(limit.for_size(0), Duration::from_mins(10));
        assert_eq!(limit.for_size(64 << 20), Duration::from_mins(10) + Duration::from_secs(1024));
        assert!(limit.for_size(u64::MAX) > limit.for_size(1 << 50));
    }
}
