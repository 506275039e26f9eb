//! Decides whether a store's clock can distinguish adopted objects from copies. Pure.

use std::time::SystemTime;

use copyhold_db::replica::{INSPECTION_VALID_FOR, WRITE_DELAY};
use copyhold_s3::store::{BucketContents, shown};

/// Whether a store's clock distinguishes what its bucket holds from what is written to it from now on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AdoptionClock {
    /// It was inspected then, and the store's clock has advanced by [`WRITE_DELAY`] since.
    Ready(SystemTime),
    /// Not yet. This is its present time.
    NotYet(SystemTime),
    /// It does not, and why.
    Unusable(String),
}

pub(super) fn adopts(looked: &BucketContents, before: Option<SystemTime>) -> AdoptionClock {
    let Some(date) = looked.date else {
        let why = "its store says no Date, by which what it holds is told from copies: it does not allow existing = \"adopt\"";
        return AdoptionClock::Unusable(why.into());
    };
    if let Some(key) = &looked.of_later {
        return AdoptionClock::Unusable(format!(
            "its store says of \"{}\" that it was modified later than now: its clock does not allow existing = \"adopt\"",
            shown(key.as_bytes())
        ));
    }
    match before.map(|before| (before, date.duration_since(before))) {
        Some((before, Ok(since))) if (WRITE_DELAY..=INSPECTION_VALID_FOR).contains(&since) => {
            AdoptionClock::Ready(before)
        }
        _ => AdoptionClock::NotYet(date),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn adopted_objects_are_distinguished_from_copies_by_the_stores_own_clock_alone() {
        let looked = |date: Option<u64>| BucketContents { key: Some("k".into()), date: date.map(at), of_later: None };
        let seen = |date, before: Option<u64>| adopts(&looked(Some(date)), before.map(at));
        assert_eq!(seen(1_000, None), AdoptionClock::NotYet(at(1_000)));
        assert_eq!(seen(1_004, Some(1_000)), AdoptionClock::NotYet(at(1_004)));
        assert_eq!(seen(1_005, Some(1_000)), AdoptionClock::Ready(at(1_000)));
        assert_eq!(seen(1_030, Some(1_000)), AdoptionClock::Ready(at(1_000)));
        // Whatever came since is not ours; nor is it known what came where the clock was set back.
        assert_eq!(seen(1_031, Some(1_000)), AdoptionClock::NotYet(at(1_031)));
        assert_eq!(seen(999, Some(1_000)), AdoptionClock::NotYet(at(999)));
        assert!(matches!(adopts(&looked(None), None), AdoptionClock::Unusable(_)));
        let ahead = BucketContents { of_later: Some("k".into()), ..looked(Some(1_000)) };
        assert!(matches!(adopts(&ahead, Some(at(990))), AdoptionClock::Unusable(_)));
    }
}
