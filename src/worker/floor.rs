use std::time::{Duration, Instant};

use crate::queue::Position;

/// Asking from the beginning may take this share of the time: a fiftieth.
const REST: u32 = 50;
/// If it takes longer than this, somebody's long transaction keeps dead entries in front.
const CHEAP: Duration = Duration::from_millis(2);
/// Then it is done no more often than this.
const DEAR_AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// From where on a lane is asked.
///
/// Rows are taken in order, so what lies before the last one taken is dead, and reading it again costs more with
/// every claim. But a row may appear there later: committed late, released, swept. So now and then the lane is asked
/// from its beginning, and the dearer that is, the more seldom.
#[derive(Debug)]
pub(super) struct Floor {
    at: Position,
    from_the_beginning_at: Option<Instant>,
}

/// One question to a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub from: Position,
    asked: Instant,
}

impl Floor {
    pub(super) fn new() -> Self {
        Self { at: Position::BEGINNING, from_the_beginning_at: None }
    }

    /// From where to ask now.
    pub(super) fn question(&self, now: Instant) -> Question {
        let beginning = self.from_the_beginning_at.is_none_or(|at| at <= now);
        Question { from: if beginning { Position::BEGINNING } else { self.at }, asked: now }
    }

    /// What came of it: the last place that was taken, if any, and when.
    pub(super) fn answered(&mut self, question: Question, last: Option<Position>, now: Instant) {
        if question.from == Position::BEGINNING {
            let took = now.saturating_duration_since(question.asked);
            let rest = took * REST;
            let rest = if took > CHEAP { rest.max(DEAR_AT_MOST_EVERY) } else { rest };
            self.from_the_beginning_at = Some(now + rest);
        }
        // Never back: what was found before the floor came late.
        self.at = self.at.max(last.unwrap_or(Position::BEGINNING));
    }

    /// How long until it may be asked from the beginning again.
    pub(super) fn until_beginning(&self, now: Instant) -> Duration {
        self.from_the_beginning_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_cheap_lane_is_asked_from_its_beginning_a_fiftieth_of_the_time() {
        let start = Instant::now();
        let mut floor = Floor::new();
        let question = floor.question(start);
        assert_eq!(question.from, Position::BEGINNING);
        floor.answered(question, None, start + MS);
        assert_eq!(floor.until_beginning(start + MS), 50 * MS);
        assert_eq!(floor.question(start + 51 * MS).from, Position::BEGINNING);
    }

    #[test]
    fn a_lane_full_of_dead_entries_is_asked_from_its_beginning_every_five_seconds_at_most() {
        let start = Instant::now();
        let mut floor = Floor::new();
        floor.answered(floor.question(start), None, start + 40 * MS);
        assert_eq!(floor.until_beginning(start + 40 * MS), Duration::from_secs(5));
        let mut floor = Floor::new();
        floor.answered(floor.question(start), None, start + 1000 * MS);
        assert_eq!(floor.until_beginning(start + 1000 * MS), Duration::from_secs(50));
    }
}
