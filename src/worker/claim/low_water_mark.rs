//! The position from which a lane is asked, and when it is asked from its beginning. Pure.

use std::time::{Duration, Instant};

use copyhold_db::lease::LanePosition;

/// Queries from the beginning may take a fiftieth of the time.
const REST: u32 = 50;
/// If it takes longer than this, a long transaction keeps dead entries in front.
const CHEAP: Duration = Duration::from_millis(2);
/// Then the lane is asked from its beginning no more often than this.
const DEAR_AT_MOST_EVERY: Duration = Duration::from_secs(5);
/// But at least so often after one that was slow: an answer that was slow for another reason, on a busy machine or
/// after an outage, must not hide rows for minutes.
const AT_LEAST_EVERY: Duration = Duration::from_secs(10);
/// And after several in a row, which leave no doubt. Behind a million dead entries such a query takes half a second:
/// every ten seconds that would be one claim in a hundred at ten objects a second.
const DEAR_AT_LEAST_EVERY: Duration = Duration::from_secs(30);

/// The position from which a lane is asked.
///
/// Rows are taken in order, so what lies before the last one taken is dead, and reading it again costs more with
/// every claim. But a row may appear there later: committed late, released, swept. So now and then the lane is asked
/// from its beginning, and the more that costs, the more rarely.
#[derive(Debug)]
pub struct LowWaterMark {
    at: LanePosition,
    from_the_beginning_at: Option<Instant>,
    /// The last query from the beginning was slow.
    was_dear: bool,
}

/// One query of a lane.
#[derive(Debug, Clone, Copy)]
pub struct LaneQuery {
    pub from: LanePosition,
    asked: Instant,
}

impl Default for LowWaterMark {
    fn default() -> Self {
        Self::new()
    }
}

impl LowWaterMark {
    #[must_use]
    pub fn new() -> Self {
        Self { at: LanePosition::BEGINNING, from_the_beginning_at: None, was_dear: false }
    }

    /// Returns the query to send now.
    #[must_use]
    pub fn query(&self, now: Instant) -> LaneQuery {
        let beginning = self.from_the_beginning_at.is_none_or(|at| at <= now);
        LaneQuery { from: if beginning { LanePosition::BEGINNING } else { self.at }, asked: now }
    }

    /// Records the answer: the last position that was claimed, if any, whether it has as many rows as requested, and
    /// when it came.
    pub fn record_answer(&mut self, query: LaneQuery, last: Option<LanePosition>, filled: bool, now: Instant) {
        if query.from == LanePosition::BEGINNING {
            let took = now.saturating_duration_since(query.asked);
            let is_dear = took > CHEAP;
            let was_dear = std::mem::replace(&mut self.was_dear, is_dear);
            let longest = if was_dear { DEAR_AT_LEAST_EVERY } else { AT_LEAST_EVERY };
            let rest = took * REST;
            let rest = if is_dear { rest.clamp(DEAR_AT_MOST_EVERY, longest) } else { rest };
            self.from_the_beginning_at = Some(now + rest);
        }
        self.at = match last {
            // There may be more right behind it, even before the mark: a slow target leaves many rows there, and
            // each of the next queries resumes where this one ended.
            Some(last) if filled => last,
            // That was all: the rows before the mark appeared late.
            Some(last) => self.at.max(last),
            None => self.at,
        };
    }

    /// How long until it may be asked from the beginning again.
    #[must_use]
    pub fn until_beginning(&self, now: Instant) -> Duration {
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
        let mut mark = LowWaterMark::new();
        let query = mark.query(start);
        assert_eq!(query.from, LanePosition::BEGINNING);
        mark.record_answer(query, None, false, start + MS);
        assert_eq!(mark.until_beginning(start + MS), 50 * MS);
        assert_eq!(mark.query(start + 51 * MS).from, LanePosition::BEGINNING);
    }

    #[test]
    fn a_lane_full_of_dead_entries_is_asked_from_its_beginning_every_five_seconds_at_most() {
        let start = Instant::now();
        let mut mark = LowWaterMark::new();
        mark.record_answer(mark.query(start), None, false, start + 40 * MS);
        assert_eq!(mark.until_beginning(start + 40 * MS), Duration::from_secs(5));
    }

    #[test]
    fn one_slow_answer_hides_no_row_for_longer_than_ten_seconds() {
        let start = Instant::now();
        let mut mark = LowWaterMark::new();
        mark.record_answer(mark.query(start), None, false, start + 5000 * MS);
        assert_eq!(mark.until_beginning(start + 5000 * MS), Duration::from_secs(10));
    }

    #[test]
    fn a_lane_that_is_dear_time_and_again_is_asked_from_its_beginning_more_seldom_yet() {
        let (start, took) = (Instant::now(), 577 * MS);
        let mut mark = LowWaterMark::new();
        mark.record_answer(mark.query(start), None, false, start + took);
        let again = start + took + Duration::from_secs(10);
        mark.record_answer(mark.query(again), None, false, again + took);
        assert_eq!(mark.until_beginning(again + took), 50 * took, "a fiftieth of the time");
        let cheap = again + took + 50 * took;
        mark.record_answer(mark.query(cheap), None, false, cheap + MS);
        let slow = cheap + 100 * MS;
        mark.record_answer(mark.query(slow), None, false, slow + took);
        assert_eq!(mark.until_beginning(slow + took), Duration::from_secs(10), "the vacuum has been there meanwhile");
    }

    #[test]
    fn many_rows_before_the_floor_are_taken_one_batch_after_the_other_without_a_pause() {
        let (at, start) = (|id| LanePosition { due: 1, id }, Instant::now());
        let mut mark = LowWaterMark::new();
        mark.record_answer(mark.query(start), Some(at(100)), true, start + 40 * MS);
        assert_eq!(mark.query(start + 41 * MS).from, at(100));
        // Released by a target that had no room for them: rows 10 to 35.
        let later = start + Duration::from_secs(6);
        mark.record_answer(mark.query(later), Some(at(22)), true, later + 40 * MS);
        assert_eq!(mark.query(later + 41 * MS).from, at(22));
        mark.record_answer(mark.query(later + 41 * MS), Some(at(35)), false, later + 50 * MS);
        assert_eq!(mark.query(later + 51 * MS).from, at(35));
    }

    #[test]
    fn a_few_rows_before_the_floor_do_not_move_it_back() {
        let (at, start) = (|id| LanePosition { due: 1, id }, Instant::now());
        let mut mark = LowWaterMark::new();
        mark.record_answer(mark.query(start), Some(at(100)), true, start + 40 * MS);
        let later = start + Duration::from_secs(6);
        mark.record_answer(mark.query(later), Some(at(10)), false, later + 40 * MS);
        assert_eq!(mark.query(later + 41 * MS).from, at(100));
    }
}
