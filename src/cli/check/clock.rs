//! How far other clocks are from this machine's.
//!
//! It changes nothing: what is written and compared elsewhere is the database's time or a store's own.

use std::time::{Duration, SystemTime};

use copyhold_db::Database;

use super::finding::{Finding, Outcome};

/// A smaller difference misleads no operator, and no store refuses a request for it.
const TOLERATED: Duration = Duration::from_mins(1);
const CONSEQUENCE: &str = "synchronize both, or stores refuse requests for their dates and times in logs mislead";

/// When a question was asked and answered, by this machine's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    asked: SystemTime,
    answered: SystemTime,
}

impl Exchange {
    /// Awaits an answer.
    pub(super) async fn of<T>(answer: impl Future<Output = T>) -> (T, Self) {
        let asked = now();
        let answer = answer.await;
        (answer, Self { asked, answered: now() })
    }

    /// How far `theirs`, read in between and cut to whole seconds, is surely off, in words; `None`: not by much.
    fn offset(self, theirs: SystemTime) -> Option<String> {
        let ahead = theirs.duration_since(self.answered).unwrap_or_default();
        let behind = self.asked.duration_since(theirs + Duration::from_secs(1)).unwrap_or_default();
        let (offset, word) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
        let shown = || humantime::format_duration(Duration::from_secs(offset.as_secs())).to_string();
        (offset > TOLERATED).then(|| format!("its clock is {} {word} this machine's: {CONSEQUENCE}", shown()))
    }

    /// A warning if their clock is far from this machine's.
    pub(super) fn warning(self, of: &str, theirs: SystemTime) -> Option<Finding> {
        Some(Finding::new(of, "clock", Outcome::Warning, self.offset(theirs)?))
    }
}

/// A warning if the database's clock is far from this machine's. Another check reports that it does not answer.
pub(super) async fn of_database(database: &Database) -> Option<Finding> {
    let (theirs, exchange) = Exchange::of(database.server_time()).await;
    exchange.warning("postgresql", theirs.ok()?)
}

#[expect(clippy::disallowed_methods, reason = "this machine's clock is what is judged")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let exchange = Exchange { asked: at(1000), answered: at(1300) };
        for fine in [1000, 1150, 1300, 940, 1360] {
            assert_eq!(exchange.offset(at(fine)), None, "{fine}");
        }
        assert!(exchange.offset(at(938)).unwrap().starts_with("its clock is 1m 1s behind this machine's"));
        assert!(exchange.offset(at(4961)).unwrap().starts_with("its clock is 1h 1m 1s ahead of this machine's"));
    }
}
