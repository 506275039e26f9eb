//! Measures whether a target is slow compared with the others, or stalled. It decides nothing about its copies.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use copyhold_s3::copy::WHOLE_UP_TO;

/// A target none of whose permits has come back for so long is stalled, and the others continue without it.
const HANGS_AFTER: Duration = Duration::from_secs(1);
/// A target whose copies take longer than this, and many times as long as another's, is slow.
const SLOW_FROM: Duration = Duration::from_secs(1);
const TIMES_AS_LONG: u32 = 4;

/// What is weighed where whole copies say too little: what one part takes, or an object that is sent whole.
#[expect(clippy::cast_precision_loss, reason = "a few MiB")]
const PART_BYTES: f64 = WHOLE_UP_TO as f64;

/// Whether a store takes bytes so slowly that others must not wait for it, by the speeds of single requests. How long
/// whole copies take shows it as well, but late: of large objects they end after minutes, and those to a fast target
/// take long too while a slow one holds the memory.
pub(super) fn takes_bytes_slowly(own: Option<f64>, others: impl Iterator<Item = f64>) -> bool {
    let (Some(own), Some(fastest)) = (own, others.max_by(f64::total_cmp)) else { return false };
    PART_BYTES > own * SLOW_FROM.as_secs_f64() && own * f64::from(TIMES_AS_LONG) < fastest
}

/// How fast copies to a target end.
#[derive(Debug)]
pub(super) struct TargetSpeed(Mutex<SpeedState>);

#[derive(Debug)]
struct SpeedState {
    /// When a permit was last given back.
    freed: Instant,
    /// How long a copy takes, the last ones above all; `None`: none has ended yet.
    typical: Option<Duration>,
}

impl TargetSpeed {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(SpeedState { freed: now, typical: None }))
    }

    /// Records that a copy has ended after so long. One that failed shows only that it can take that long.
    pub(super) fn record(&self, took: Duration, well: bool, now: Instant) {
        let mut state = self.lock();
        state.freed = now;
        state.typical = match state.typical {
            None if well => Some(took),
            None => (took > SLOW_FROM).then_some(took),
            Some(typical) if well => Some((typical * 3 + took) / 4),
            Some(typical) => Some(typical.max(took)),
        };
    }

    /// Whether a permit of it will be back in a moment.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.lock().freed) >= HANGS_AFTER
    }

    /// Whether it is slow, measured against the `others`.
    pub(super) fn is_slow<'a>(&self, others: impl Iterator<Item = &'a Self>) -> bool {
        let typical = |speed: &Self| speed.lock().typical;
        let (Some(own), Some(fastest)) = (typical(self), others.filter_map(typical).min()) else { return false };
        own > SLOW_FROM && own > fastest * TIMES_AS_LONG
    }

    /// A poisoned lock only means that a task panicked between two of these short steps.
    fn lock(&self) -> MutexGuard<'_, SpeedState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn speed_of(took: Duration) -> TargetSpeed {
        let speed = TargetSpeed::new(Instant::now());
        speed.record(took, true, Instant::now());
        speed
    }

    #[test]
    fn a_target_is_slow_only_next_to_a_faster_one() {
        let (slow, fast) = (speed_of(30 * SECOND), speed_of(SECOND / 100));
        assert!(slow.is_slow([&fast].into_iter()) && !fast.is_slow([&slow].into_iter()));
        assert!(!slow.is_slow([&speed_of(20 * SECOND)].into_iter()), "both are, or the objects are large");
        assert!(!slow.is_slow(std::iter::empty()));
        assert!(!speed_of(SECOND / 2).is_slow([&fast].into_iter()), "not worth reading an object twice");
    }

    #[test]
    fn a_store_that_takes_a_part_in_a_moment_is_not_slow_however_fast_another_is() {
        let slow = |own, other| takes_bytes_slowly(Some(own), std::iter::once(other));
        assert!(slow(1e6, 5e6));
        assert!(!slow(1e6, 3e6) && !slow(100e6, 1000e6));
        assert!(!takes_bytes_slowly(None, std::iter::once(1e6)) && !takes_bytes_slowly(Some(1.0), std::iter::empty()));
    }

    #[test]
    fn a_target_that_has_become_fast_is_soon_taken_for_it_and_failures_do_not_make_it_so() {
        let (slow, fast) = (speed_of(30 * SECOND), speed_of(SECOND / 100));
        slow.record(Duration::ZERO, false, Instant::now());
        assert!(slow.is_slow([&fast].into_iter()));
        for _ in 0..16 {
            slow.record(SECOND / 100, true, Instant::now());
        }
        assert!(!slow.is_slow([&fast].into_iter()));
    }

    #[test]
    fn a_target_that_never_ended_a_copy_hangs_after_a_second() {
        let start = Instant::now();
        let speed = TargetSpeed::new(start);
        assert!(!speed.is_stalled(start) && speed.is_stalled(start + SECOND));
    }
}
