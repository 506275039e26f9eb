//! Spreads the looks of the idle daemons that one notification has woken, so that the first takes the work.

use std::time::Duration;

/// A daemon's position among those that a notification wakes: the first claims the work before the others look.
#[derive(Debug, Default)]
pub struct StaggeredWakeup {
    ahead: u32,
    /// How often in a row it found nothing after its wait.
    empty_in_a_row: u32,
}

impl StaggeredWakeup {
    /// Longer than a claim takes on a quiet machine.
    const STEP: Duration = Duration::from_millis(3);
    const LONGEST: Duration = Duration::from_millis(60);

    /// `ahead`: how many of the other idle daemons look first.
    pub fn set_ahead(&mut self, ahead: u32) {
        self.ahead = ahead;
    }

    /// No other daemon looks first: this one has to find the work.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.ahead == 0
    }

    /// How long this daemon waits for the others.
    #[must_use]
    pub fn wait(&self) -> Duration {
        let steps = self.ahead.saturating_mul(1 << self.empty_in_a_row.min(8));
        Self::STEP.saturating_mul(steps).min(Self::LONGEST)
    }

    /// Records the result of a look. Where the first daemon takes all work the others look ever later, so that one look
    /// serves several notifications.
    pub fn record(&mut self, something: bool) {
        self.empty_in_a_row = if something { 0 } else { self.empty_in_a_row.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_never_waits_and_the_others_give_way_longer_while_it_takes_all() {
        let mut stagger = StaggeredWakeup::default();
        stagger.record(false);
        assert_eq!(stagger.wait(), Duration::ZERO);
        assert!(stagger.is_first());
        stagger.set_ahead(2);
        assert!(!stagger.is_first());
        assert_eq!(stagger.wait(), Duration::from_millis(12));
        stagger.record(false);
        assert_eq!(stagger.wait(), Duration::from_millis(24));
        (0..100).for_each(|_| stagger.record(false));
        assert_eq!(stagger.wait(), StaggeredWakeup::LONGEST);
        stagger.record(true);
        assert_eq!(stagger.wait(), Duration::from_millis(6));
    }
}
