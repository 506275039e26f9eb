//! The verdict on a source whose bytes differ from its object's: changed, stale, corrupt, or undecided.
//! It reads no clock: it compares what the store returned at two times.

use std::time::Duration;

use crate::domain::SourceReading;

/// Without a recorded reading, a change must be newer than the record by this much: the clocks of store and database
/// may differ by less.
const CLOCKS_DIFFER_AT_MOST: Duration = Duration::from_mins(15);
/// Last-Modified travels in whole seconds.
const SECOND_US: i64 = 1_000_000;

/// Whether an ETag matches the bytes that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtagMatch {
    /// The ETag is their MD5: these bytes were written there.
    Confirms,
    /// The ETag has the form of an MD5, and is not theirs.
    Contradicts,
    /// The ETag is not an MD5.
    SaysNothing,
}

/// What is on record about the object's content at this source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedSource {
    /// What the source returned when the content was first read. A reading of another replica counts as none.
    pub reading: Option<SourceReading>,
    /// µs since the epoch by the database's clock at which the copy was recorded, or its generation registered.
    pub recorded_us: Option<i64>,
}

/// What the source returns now, with other bytes, in two readings that agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentSource {
    /// Its tag is also `None` if the two readings had different ETags.
    pub reading: SourceReading,
    pub etag: EtagMatch,
    /// The store is known to use MD5s as ETags of that form.
    pub known_for_md5: bool,
}

/// How a source came to have other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceVerdict {
    /// The application wrote new content, which begins a new generation.
    Changed,
    /// An older state of the object has reappeared.
    Stale,
    /// The bytes are not those that were written.
    Corrupt,
    /// The evidence is insufficient, so nothing is written because of it.
    Undecided,
}

/// The order of two Last-Modified times.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ModifiedOrder {
    Older,
    /// `known: false`: one of them is missing.
    SameSecond {
        known: bool,
    },
    Newer,
}

/// Judges a source whose bytes differ from the object's; two readings agree on them.
#[must_use]
pub fn judge_source(kept: &RecordedSource, found: &CurrentSource) -> SourceVerdict {
    use SourceVerdict::{Changed, Corrupt, Stale, Undecided};
    if found.etag == EtagMatch::Contradicts && found.known_for_md5 {
        return Corrupt;
    }
    let now = &found.reading;
    let Some(seen) = kept.reading.as_ref().filter(|seen| seen.replica == now.replica) else {
        return if found.etag == EtagMatch::Confirms && is_after(kept, now) { Changed } else { Undecided };
    };
    let same_tag = seen.tag.zip(now.tag).map(|(seen, now)| seen == now);
    match (modified(seen.modified_us, now.modified_us), same_tag) {
        (ModifiedOrder::Older, _) => Stale,
        (ModifiedOrder::SameSecond { known: true } | ModifiedOrder::Newer, Some(true)) => Corrupt,
        (ModifiedOrder::Newer, Some(false)) => Changed,
        (ModifiedOrder::SameSecond { .. }, Some(false)) if found.etag == EtagMatch::Confirms => Changed,
        (ModifiedOrder::SameSecond { .. } | ModifiedOrder::Newer, _) => Undecided,
    }
}

/// Judges a source whose bytes are the object's and whose metadata differs; two readings agree on it.
///
/// A write of the same bytes may keep the ETag, so another Last-Modified decides alone. Within the same second, another
/// ETag or version shows a write.
#[must_use]
pub fn judge_metadata(kept: &RecordedSource, now: &SourceReading) -> SourceVerdict {
    use SourceVerdict::{Changed, Stale, Undecided};
    let seen = kept.reading.as_ref().filter(|seen| seen.replica == now.replica && seen.modified_us.is_some());
    let Some(seen) = seen else {
        return if is_after(kept, now) { Changed } else { Undecided };
    };
    let other_tag = seen.tag.zip(now.tag).is_some_and(|(seen, now)| seen != now);
    match modified(seen.modified_us, now.modified_us) {
        ModifiedOrder::Older => Stale,
        ModifiedOrder::Newer => Changed,
        ModifiedOrder::SameSecond { known: true } if other_tag => Changed,
        ModifiedOrder::SameSecond { .. } => Undecided,
    }
}

/// Returns whether the object was certainly written after the copy was recorded, if no reading is on record.
fn is_after(kept: &RecordedSource, now: &SourceReading) -> bool {
    let margin = i64::try_from(CLOCKS_DIFFER_AT_MOST.as_micros()).unwrap_or(i64::MAX);
    now.modified_us.zip(kept.recorded_us).is_some_and(|(at, since)| at > since.saturating_add(margin))
}

fn modified(seen: Option<i64>, now: Option<i64>) -> ModifiedOrder {
    let Some((seen, now)) = seen.zip(now) else { return ModifiedOrder::SameSecond { known: false } };
    match seen.div_euclid(SECOND_US).cmp(&now.div_euclid(SECOND_US)) {
        std::cmp::Ordering::Less => ModifiedOrder::Newer,
        std::cmp::Ordering::Equal => ModifiedOrder::SameSecond { known: true },
        std::cmp::Ordering::Greater => ModifiedOrder::Older,
    }
}

impl SourceVerdict {
    /// Returns, for people, what was found and how that is known.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Changed => "it was written over there",
            Self::Stale => "it is older than what was copied: an earlier state has come back",
            Self::Corrupt => "it is damaged: nothing there says that it was written anew",
            Self::Undecided => "nothing there tells damage, an earlier state and a new content apart",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EtagMatch::*, SourceVerdict::*, *};
    use crate::domain::ReplicaName;

    /// The second in which the object was last modified when it was first read.
    const SEEN: i64 = 1_700_000_000 * SECOND_US;

    fn reading(replica: &str, modified_us: Option<i64>, tag: Option<i64>) -> SourceReading {
        SourceReading { replica: ReplicaName::new(replica).unwrap(), modified_us, tag }
    }

    /// Kept: modified at `SEEN`, with the tag 1.
    fn judged(modified_us: Option<i64>, tag: Option<i64>, etag: EtagMatch, known_for_md5: bool) -> SourceVerdict {
        let kept = RecordedSource { reading: Some(reading("b2", Some(SEEN), Some(1))), recorded_us: None };
        judge_source(&kept, &CurrentSource { reading: reading("b2", modified_us, tag), etag, known_for_md5 })
    }

    #[test]
    fn bytes_that_are_not_their_own_md5_are_corrupt_whatever_else_is_said_of_them() {
        for modified in [None, Some(SEEN - SECOND_US), Some(SEEN), Some(SEEN + SECOND_US)] {
            for tag in [None, Some(1), Some(2)] {
                assert_eq!(judged(modified, tag, Contradicts, true), Corrupt, "{modified:?} {tag:?}");
            }
        }
        let nothing = RecordedSource { reading: None, recorded_us: Some(0) };
        let found = CurrentSource { reading: reading("b2", Some(SEEN), None), etag: Contradicts, known_for_md5: true };
        assert_eq!(judge_source(&nothing, &found), Corrupt);
    }

    #[test]
    fn what_says_that_nothing_was_written_and_has_other_bytes_has_rotted() {
        for etag in [Confirms, SaysNothing, Contradicts] {
            assert_eq!(judged(Some(SEEN), Some(1), etag, false), Corrupt, "{etag:?}");
            // A newer time alone writes no bytes either.
            assert_eq!(judged(Some(SEEN + SECOND_US), Some(1), etag, false), Corrupt, "{etag:?}");
        }
    }

    #[test]
    fn what_was_last_modified_earlier_is_stale_whatever_its_etag() {
        for tag in [None, Some(1), Some(2)] {
            for etag in [Confirms, SaysNothing, Contradicts] {
                assert_eq!(judged(Some(SEEN - SECOND_US), tag, etag, false), Stale, "{tag:?} {etag:?}");
            }
        }
    }

    #[test]
    fn what_was_modified_later_and_has_another_etag_is_changed() {
        for etag in [Confirms, SaysNothing, Contradicts] {
            assert_eq!(judged(Some(SEEN + SECOND_US), Some(2), etag, false), Changed, "{etag:?}");
            assert_eq!(judged(Some(SEEN + SECOND_US), None, etag, false), Undecided, "{etag:?}");
        }
    }

    #[test]
    fn within_one_second_only_an_etag_that_is_the_md5_speaks_of_a_change() {
        for modified in [Some(SEEN), Some(SEEN + SECOND_US - 1), None] {
            assert_eq!(judged(modified, Some(2), Confirms, true), Changed, "{modified:?}");
            assert_eq!(judged(modified, Some(2), SaysNothing, true), Undecided, "{modified:?}");
            assert_eq!(judged(modified, Some(2), Contradicts, false), Undecided, "{modified:?}");
            assert_eq!(judged(modified, None, Confirms, true), Undecided, "{modified:?}");
        }
        // Without any time the same ETag is no proof of rot.
        assert_eq!(judged(None, Some(1), SaysNothing, false), Undecided);
        let kept = RecordedSource { reading: Some(reading("b2", None, Some(1))), recorded_us: None };
        let found =
            CurrentSource { reading: reading("b2", Some(SEEN), Some(2)), etag: SaysNothing, known_for_md5: false };
        assert_eq!(judge_source(&kept, &found), Undecided);
    }

    #[test]
    fn where_nothing_was_kept_only_an_md5_and_a_quarter_of_an_hour_are_believed() {
        let since = SEEN;
        let quarter = 900 * SECOND_US;
        let others = [None, Some(reading("wasabi", Some(SEEN), Some(1)))];
        for kept in others {
            let kept = RecordedSource { reading: kept, recorded_us: Some(since) };
            let judged = |at: Option<i64>, etag| {
                let found = CurrentSource { reading: reading("b2", at, Some(2)), etag, known_for_md5: false };
                judge_source(&kept, &found)
            };
            assert_eq!(judged(Some(since + quarter + 1), Confirms), Changed);
            assert_eq!(judged(Some(since + quarter), Confirms), Undecided);
            assert_eq!(judged(Some(since + 2 * quarter), SaysNothing), Undecided);
            assert_eq!(judged(Some(since + 2 * quarter), Contradicts), Undecided);
            assert_eq!(judged(None, Confirms), Undecided);
        }
        let found =
            CurrentSource { reading: reading("b2", Some(i64::MAX), Some(2)), etag: Confirms, known_for_md5: true };
        assert_eq!(judge_source(&RecordedSource::default(), &found), Undecided);
    }

    #[test]
    fn other_metadata_was_written_if_the_stores_clock_or_within_a_second_its_etag_says_so() {
        let kept = RecordedSource { reading: Some(reading("b2", Some(SEEN), Some(1))), recorded_us: Some(0) };
        let judged = |modified, tag| judge_metadata(&kept, &reading("b2", modified, tag));
        // The same bytes written anew have the same ETag.
        assert_eq!(judged(Some(SEEN + SECOND_US), Some(1)), Changed);
        assert_eq!(judged(Some(SEEN + SECOND_US - 1), Some(2)), Changed);
        assert_eq!(judged(Some(SEEN - SECOND_US), Some(2)), Stale);
        for tag in [None, Some(1)] {
            assert_eq!(judged(Some(SEEN), tag), Undecided, "{tag:?}");
        }
        assert_eq!(judged(None, Some(2)), Undecided);
        // Nothing is kept of this replica, or only that we wrote there.
        for reading_kept in [None, Some(reading("wasabi", Some(0), Some(1))), Some(reading("b2", None, None))] {
            let kept = RecordedSource { reading: reading_kept, recorded_us: Some(SEEN) };
            let judged = |modified| judge_metadata(&kept, &reading("b2", Some(modified), Some(2)));
            assert_eq!(judged(SEEN + 900 * SECOND_US), Undecided, "{kept:?}");
            assert_eq!(judged(SEEN + 900 * SECOND_US + 1), Changed, "{kept:?}");
        }
    }
}
