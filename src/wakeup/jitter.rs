//! Spreads what many daemons do periodically.

use std::time::Duration;

use rand::RngExt as _;

/// Returns `pause` ± 20 %, so that daemons do not run in step.
#[must_use]
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.8..1.2))
}
