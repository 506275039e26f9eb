//! Who of many idle daemons looks first for what one notice has announced to all of them.

use std::time::Duration;

/// A daemon's place among those that a notice wakes: the first takes what has come before the others look.
#[derive(Debug, Default)]
pub struct Turn {
    before: u32,
    /// How often in a row it found nothing when its turn came.
    in_vain: u32,
}

impl Turn {
    /// Longer than a claim takes on a quiet machine.
    const STEP: Duration = Duration::from_millis(3);
    const LONGEST: Duration = Duration::from_millis(60);

    /// `before`: how many of those who want to be woken come first.
    pub fn comes_after(&mut self, before: u32) {
        self.before = before;
    }

    /// Nobody comes first: what there is, this daemon has to find.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.before == 0
    }

    /// How long this daemon lets the others go first.
    #[must_use]
    pub fn wait(&self) -> Duration {
        let steps = self.before.saturating_mul(1 << self.in_vain.min(8));
        Self::STEP.saturating_mul(steps).min(Self::LONGEST)
    }

    /// What came of it. Where the first takes all that comes the others look ever later, and so at several notices in
    /// one look.
    pub fn found(&mut self, something: bool) {
        self.in_vain = if something { 0 } else { self.in_vain.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_never_waits_and_the_others_give_way_longer_while_it_takes_all() {
        let mut turn = Turn::default();
        turn.found(false);
        assert_eq!(turn.wait(), Duration::ZERO);
        assert!(turn.is_first());
        turn.comes_after(2);
        assert!(!turn.is_first());
        assert_eq!(turn.wait(), Duration::from_millis(12));
        turn.found(false);
        assert_eq!(turn.wait(), Duration::from_millis(24));
        (0..100).for_each(|_| turn.found(false));
        assert_eq!(turn.wait(), Turn::LONGEST);
        turn.found(true);
        assert_eq!(turn.wait(), Duration::from_millis(6));
    }
}
