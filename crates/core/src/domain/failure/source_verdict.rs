//! Owns the verdict on a source that has other bytes than its object: changed, stale, corrupt, or undecided.
//! It asks no clock: only the store's own words, from two moments, are compared.

use std::time::Duration;

use super::SourceReading;

/// Without a kept reading, a change must be so much younger than the record to be believed: the store's clock and the
/// database's need not agree better than that.
const CLOCKS_DIFFER_AT_MOST: Duration = Duration::from_mins(15);
/// Last-Modified travels in whole seconds.
const SECOND_US: i64 = 1_000_000;

/// What an ETag says of the bytes that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtagMatch {
    /// It is their MD5: these bytes were written there.
    Confirms,
    /// It has the look of an MD5, and is not theirs.
    Contradicts,
    /// It is no MD5.
    SaysNothing,
}

/// What is on record of the object's content at this source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What the source said when the content was fixed. A reading of another replica counts as none.
    pub reading: Option<SourceReading>,
    /// µs since the epoch by the database's clock at which the copy was recorded, or its generation registered.
    pub recorded_us: Option<i64>,
}

/// What the source says by now, with other bytes, in two readings that agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundThere {
    /// Its tag is `None` also where two answers had two ETags.
    pub reading: SourceReading,
    pub etag: EtagMatch,
    /// The store's ETags that look like MD5s are known to be MD5s.
    pub known_for_md5: bool,
}

/// How other bytes came to stand at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceVerdict {
    /// The application wrote another content: it begins a new generation.
    Changed,
    /// An older state of the object has come back.
    Stale,
    /// The bytes are not those that were written.
    Corrupt,
    /// Nobody can tell, so nothing is written because of it.
    Undecided,
}

/// How two Last-Modified relate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Modified {
    Older,
    /// Or one of them is missing.
    SameSecond {
        known: bool,
    },
    Newer,
}

/// Judges a source in whose bytes two readings agree, and which are not the object's.
#[must_use]
pub fn judge_source(kept: &Kept, found: &FoundThere) -> SourceVerdict {
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
        (Modified::Older, _) => Stale,
        (Modified::SameSecond { known: true } | Modified::Newer, Some(true)) => Corrupt,
        (Modified::Newer, Some(false)) => Changed,
        (Modified::SameSecond { .. }, Some(false)) if found.etag == EtagMatch::Confirms => Changed,
        (Modified::SameSecond { .. } | Modified::Newer, _) => Undecided,
    }
}

/// Judges other metadata at a source whose bytes are the object's. Two answers agree in it.
///
/// A write with the same bytes may have the same ETag, so the time counts alone where it is another one. Within one
/// second another ETag or version shows a write.
#[must_use]
pub fn judge_metadata(kept: &Kept, now: &SourceReading) -> SourceVerdict {
    use SourceVerdict::{Changed, Stale, Undecided};
    let seen = kept.reading.as_ref().filter(|seen| seen.replica == now.replica && seen.modified_us.is_some());
    let Some(seen) = seen else {
        return if is_after(kept, now) { Changed } else { Undecided };
    };
    let other_tag = seen.tag.zip(now.tag).is_some_and(|(seen, now)| seen != now);
    match modified(seen.modified_us, now.modified_us) {
        Modified::Older => Stale,
        Modified::Newer => Changed,
        Modified::SameSecond { known: true } if other_tag => Changed,
        Modified::SameSecond { .. } => Undecided,
    }
}

/// Whether it was surely written after the copy was recorded, where nothing is kept of the reading.
fn is_after(kept: &Kept, now: &SourceReading) -> bool {
    let margin = i64::try_from(CLOCKS_DIFFER_AT_MOST.as_micros()).unwrap_or(i64::MAX);
    now.modified_us.zip(kept.recorded_us).is_some_and(|(at, since)| at > since.saturating_add(margin))
}

fn modified(seen: Option<i64>, now: Option<i64>) -> Modified {
    let Some((seen, now)) = seen.zip(now) else { return Modified::SameSecond { known: false } };
    match seen.div_euclid(SECOND_US).cmp(&now.div_euclid(SECOND_US)) {
        std::cmp::Ordering::Less => Modified::Newer,
        std::cmp::Ordering::Equal => Modified::SameSecond { known: true },
        std::cmp::Ordering::Greater => Modified::Older,
    }
}

impl SourceVerdict {
    /// For people: what was found, and why it is called that.
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
        let kept = Kept { reading: Some(reading("b2", Some(SEEN), Some(1))), recorded_us: None };
        judge_source(&kept, &FoundThere { reading: reading("b2", modified_us, tag), etag, known_for_md5 })
    }

    #[test]
    fn bytes_that_are_not_their_own_md5_are_corrupt_whatever_else_is_said_of_them() {
        for modified in [None, Some(SEEN - SECOND_US), Some(SEEN), Some(SEEN + SECOND_US)] {
            for tag in [None, Some(1), Some(2)] {
                assert_eq!(judged(modified, tag, Contradicts, true), Corrupt, "{modified:?} {tag:?}");
            }
        }
        let nothing = Kept { reading: None, recorded_us: Some(0) };
        let found = FoundThere { reading: reading("b2", Some(SEEN), None), etag: Contradicts, known_for_md5: true };
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
        let kept = Kept { reading: Some(reading("b2", None, Some(1))), recorded_us: None };
        let found = FoundThere { reading: reading("b2", Some(SEEN), Some(2)), etag: SaysNothing, known_for_md5: false };
        assert_eq!(judge_source(&kept, &found), Undecided);
    }

    #[test]
    fn where_nothing_was_kept_only_an_md5_and_a_quarter_of_an_hour_are_believed() {
        let since = SEEN;
        let quarter = 900 * SECOND_US;
        let others = [None, Some(reading("wasabi", Some(SEEN), Some(1)))];
        for kept in others {
            let kept = Kept { reading: kept, recorded_us: Some(since) };
            let judged = |at: Option<i64>, etag| {
                let found = FoundThere { reading: reading("b2", at, Some(2)), etag, known_for_md5: false };
                judge_source(&kept, &found)
            };
            assert_eq!(judged(Some(since + quarter + 1), Confirms), Changed);
            assert_eq!(judged(Some(since + quarter), Confirms), Undecided);
            assert_eq!(judged(Some(since + 2 * quarter), SaysNothing), Undecided);
            assert_eq!(judged(Some(since + 2 * quarter), Contradicts), Undecided);
            assert_eq!(judged(None, Confirms), Undecided);
        }
        let found = FoundThere { reading: reading("b2", Some(i64::MAX), Some(2)), etag: Confirms, known_for_md5: true };
        assert_eq!(judge_source(&Kept::default(), &found), Undecided);
    }

    #[test]
    fn other_metadata_was_written_if_the_stores_clock_or_within_a_second_its_etag_says_so() {
        let kept = Kept { reading: Some(reading("b2", Some(SEEN), Some(1))), recorded_us: Some(0) };
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
            let kept = Kept { reading: reading_kept, recorded_us: Some(SEEN) };
            let judged = |modified| judge_metadata(&kept, &reading("b2", Some(modified), Some(2)));
            assert_eq!(judged(SEEN + 900 * SECOND_US), Undecided, "{kept:?}");
            assert_eq!(judged(SEEN + 900 * SECOND_US + 1), Changed, "{kept:?}");
        }
    }
}
