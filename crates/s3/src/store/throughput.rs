//! Measures how fast a store accepts bytes, also of requests that fail.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::stall_timeout::Progress;

/// A request that is shorter than this is not measured, unless it has moved this many bytes.
const TELLING_TIME: Duration = Duration::from_secs(1);
const TELLING_BYTES: u64 = 1 << 20;

/// Bytes per second of the last requests that were large or long; `None`: there were none yet.
///
/// Includes cancelled requests: a target so slow that no request ever ends must be recognized too.
#[derive(Debug, Default)]
pub(super) struct Throughput(Mutex<Option<f64>>);

/// A request under way; measured when dropped.
#[derive(Debug)]
pub(super) struct ThroughputSample<'a> {
    speed: &'a Throughput,
    progress: &'a Progress,
    began: Instant,
}

impl Throughput {
    pub(super) fn bytes_per_second(&self) -> Option<f64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures a request that begins now.
    pub(super) fn watch<'a>(&'a self, progress: &'a Progress) -> ThroughputSample<'a> {
        ThroughputSample { speed: self, progress, began: Instant::now() }
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes of one request")]
    fn note(&self, bytes: u64, took: Duration) {
        if bytes < TELLING_BYTES && took < TELLING_TIME {
            return;
        }
        let seen = bytes as f64 / took.as_secs_f64().max(1e-6);
        let mut speed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *speed = Some(speed.map_or(seen, |before| (before * 3.0 + seen) / 4.0));
    }
}

impl Drop for ThroughputSample<'_> {
    fn drop(&mut self) {
        self.speed.note(self.progress.so_far(), self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MIB: u64 = 1 << 20;

    #[test]
    fn small_requests_say_nothing_unless_they_take_long() {
        let speed = Throughput::default();
        speed.note(10 << 10, SECOND / 50);
        assert_eq!(speed.bytes_per_second(), None);
        speed.note(10 << 10, 10 * SECOND);
        assert_eq!(speed.bytes_per_second(), Some(1024.0));
    }

    #[test]
    fn a_request_that_is_given_up_is_counted_for_what_it_has_moved() {
        let (speed, progress) = (Throughput::default(), Progress::default());
        let watch = speed.watch(&progress);
        progress.moved(64 << 20);
        drop(watch);
        assert!(speed.bytes_per_second().is_some_and(|rate| rate > 0.0));
    }

    #[test]
    fn the_last_requests_count_most() {
        let speed = Throughput::default();
        let rate = || speed.bytes_per_second().unwrap();
        speed.note(64 * MIB, SECOND);
        (0..8).for_each(|_| speed.note(MIB, SECOND));
        assert!(rate() < 8e6, "{}", rate());
        (0..4).for_each(|_| speed.note(64 * MIB, SECOND));
        assert!(rate() > 40e6, "{}", rate());
    }
}
