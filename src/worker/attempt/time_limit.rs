use std::time::Duration;

/// How long the work on one object may take, whatever its holder's heartbeat says: one that hangs would be held for
/// ever by a process that lives.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// For an object without bytes.
    pub at_least: Duration,
    /// Slower than this is no progress.
    pub bytes_per_second: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { at_least: Duration::from_mins(10), bytes_per_second: 64 << 10 }
    }
}

impl Allowance {
    #[must_use]
    pub fn of(self, size_bytes: u64) -> Duration {
        self.at_least.saturating_add(Duration::from_secs(size_bytes / self.bytes_per_second.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_object_may_take_longer_and_none_may_take_for_ever() {
        let allowance = Allowance::default();
        assert_eq!(allowance.of(0), Duration::from_mins(10));
        assert_eq!(allowance.of(64 << 20), Duration::from_mins(10) + Duration::from_secs(1024));
        assert!(allowance.of(u64::MAX) > allowance.of(1 << 50));
    }
}
