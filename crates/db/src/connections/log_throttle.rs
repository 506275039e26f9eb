//! Throttles the log of a repeated failure: at once, then once a minute with the number of failures since.
//!
//! It decides only when to log; the caller has the words.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often the same failure is logged.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// The failures of one component and one kind.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Repeated>);

#[derive(Debug, Default)]
struct Repeated {
    /// `None`: it is not failing.
    told_at: Option<Instant>,
    /// Failures since then.
    untold: u64,
}

impl LogThrottle {
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Repeated { told_at: None, untold: 0 }))
    }

    /// Counts a failure. Calls `tell` if it has to be logged now, with the number of failures since the last log, this
    /// one included; `None`: this is the first failure.
    pub fn fails(&self, tell: impl FnOnce(Option<u64>)) {
        if let Some(times) = self.fails_at(Instant::now()) {
            tell((times > 0).then_some(times));
        }
    }

    /// Records a success: the next failure is logged at once.
    pub fn is_over(&self) {
        *self.state() = Repeated::default();
    }

    /// `Some`: it has to be logged; 0: for the first time.
    fn fails_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        state.untold += 1;
        let is_due = state.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_EVERY);
        is_due.then(|| {
            let times = std::mem::take(&mut state.untold);
            state.told_at.replace(now).map_or(0, |_| times)
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
    fn a_failure_is_told_at_once_then_once_a_minute_with_how_often_it_came() {
        let complaint = LogThrottle::new();
        let begun = Instant::now();
        let told: Vec<_> = (0..150).map(|second| complaint.fails_at(begun + Duration::from_secs(second))).collect();
        let when: Vec<_> = (0..).zip(&told).filter_map(|(second, told)| Some((second, (*told)?))).collect();
        assert_eq!(when, [(0, 0), (60, 60), (120, 60)]);
        complaint.is_over();
        assert_eq!(complaint.fails_at(begun + Duration::from_secs(151)), Some(0));
    }
}
