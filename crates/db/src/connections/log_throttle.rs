//! Throttles the log of a repeated failure: at once, then once a minute with the number of failures since.
//!
//! It decides only when to log; the caller writes the message.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often the same failure is logged.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// The failures of one component and one kind.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Repeated>);

#[derive(Debug, Default)]
struct Repeated {
    /// `None`: it is not failing.
    logged_at: Option<Instant>,
    /// Failures since then.
    unlogged: u64,
}

impl LogThrottle {
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Repeated { logged_at: None, unlogged: 0 }))
    }

    /// Counts a failure. Calls `log` if it has to be logged now, with the number of failures since the last log, this
    /// one included; `None`: this is the first failure.
    pub fn fails(&self, log: impl FnOnce(Option<u64>)) {
        if let Some(times) = self.fails_at(Instant::now()) {
            log((times > 0).then_some(times));
        }
    }

    /// Records a success: the next failure is logged at once.
    pub fn is_over(&self) {
        *self.state() = Repeated::default();
    }

    /// `Some`: it has to be logged; 0: for the first time.
    fn fails_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        state.unlogged += 1;
        let is_due = state.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= LOG_EVERY);
        is_due.then(|| {
            let times = std::mem::take(&mut state.unlogged);
            state.logged_at.replace(now).map_or(0, |_| times)
        })
    }

    /// A poisoned lock only means that a thread panicked between two short steps.
    fn state(&self) -> MutexGuard<'_, Repeated> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_logged_at_once_then_once_a_minute_with_its_count() {
        let throttle = LogThrottle::new();
        let begun = Instant::now();
        let logged: Vec<_> = (0..150).map(|second| throttle.fails_at(begun + Duration::from_secs(second))).collect();
        let when: Vec<_> = (0..).zip(&logged).filter_map(|(second, logged)| Some((second, (*logged)?))).collect();
        assert_eq!(when, [(0, 0), (60, 60), (120, 60)]);
        throttle.is_over();
        assert_eq!(throttle.fails_at(begun + Duration::from_secs(151)), Some(0));
    }
}
