//! Decides what is written about one object, from what was observed of its copies. Pure.

use copyhold_core::domain::{Failure, FailureClass, ReplicaName};
use copyhold_db::{
    object::{ChangedObject, FalseRecord, Revocation},
    walk::RecordedObject,
};

use super::{
    counts::Defect,
    inspect::{Observation, Origin},
};

/// What is to be written.
#[derive(Debug)]
pub(super) enum Verdict {
    /// No observation contradicts the record.
    Nothing,
    /// These records are false.
    TakeBack(Revocation),
    /// The object itself is another one by now, although it was not registered again.
    Again(ChangedObject),
}

/// What is wrong with a copy, if anything.
pub(super) fn what(seen: &Observation, is_primary: bool) -> Option<(Defect, &Failure)> {
    match seen {
        Observation::Right(_) | Observation::NotCompared | Observation::Unknown(_) => None,
        Observation::Missing(why) => Some((Defect::Missing, why)),
        // The content at the primary is the application's.
        Observation::Wrong { why, origin: Origin::Written }
        | Observation::OtherMetadata { why, origin: Origin::Written }
            if is_primary =>
        {
            Some((Defect::Changed, why))
        }
        Observation::OtherMetadata { why, .. } => Some((Defect::Metadata, why)),
        Observation::Wrong { why, .. } => Some((Defect::Damaged, why)),
    }
}

/// `seen`: of some or all replicas that have a copy on record.
///
/// A copy that was not read counts as one from which the others can be made again: an attempt that copies from it
/// compares it with the hash on record.
pub(super) fn judge(
    object: &RecordedObject,
    primary: &ReplicaName,
    seen: &[(ReplicaName, i64, Observation)],
) -> Verdict {
    let is_primary = |replica: &ReplicaName| primary == replica;
    let (mut refuted, mut has_bytes) = (Vec::new(), false);
    for (replica, recorded_at, seen) in seen {
        match what(seen, is_primary(replica)) {
            None => {}
            Some((Defect::Changed, why)) => {
                let copies = object.recorded.iter().map(|(copy, _)| copy).filter(|copy| *copy != replica);
                return Verdict::Again(ChangedObject {
                    key: object.key.clone(),
                    generation: object.generation,
                    primary: primary.clone(),
                    copies: copies.cloned().collect(),
                    why: Failure { class: FailureClass::Changed, ..why.clone() },
                });
            }
            Some((what @ (Defect::Missing | Defect::Damaged | Defect::Metadata), why)) => {
                has_bytes |= what == Defect::Metadata;
                // A copy would overwrite what may be a new content of the application's.
                let park = is_primary(replica)
                    && matches!(seen, Observation::Wrong { .. } | Observation::OtherMetadata { .. });
                let mut why = why.clone();
                if let (true, Observation::Wrong { origin, .. } | Observation::OtherMetadata { origin, .. }) =
                    (park, seen)
                {
                    let unclear = *origin == Origin::Unclear;
                    why.message += if unclear { ". It may be damaged or a new content" } else { "" };
                    why.message += ". What stands at the primary is not written over: delete it there and `copyhold retry` has \
                                    it made again from the other copies, `copyhold enqueue` registers what is there";
                }
                refuted.push(FalseRecord { replica: replica.clone(), recorded_at: *recorded_at, park, why });
            }
        }
    }
    if refuted.is_empty() {
        return Verdict::Nothing;
    }
    let none_left = object.recorded.iter().all(|(replica, _)| refuted.iter().any(|r| r.replica == *replica));
    if none_left {
        for refuted in &mut refuted {
            refuted.park = true;
            let what = if has_bytes {
                "no copy has the metadata on record: give the primary's object the right one, then `copyhold enqueue`"
            } else {
                "no good copy is left: put the object back at the primary, then `copyhold retry`"
            };
            refuted.why.message = format!("{what}. {}", refuted.why.message);
        }
    }
    Verdict::TakeBack(Revocation {
        key: object.key.clone(),
        generation: object.generation,
        refuted,
        park_the_rest: none_left && !has_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use copyhold_core::domain::{Content, ContentHash, Generation, ObjectKey};

    use crate::audit::MatchGrade;

    fn name(name: &str) -> ReplicaName {
        ReplicaName::new(name).unwrap()
    }

    fn why() -> Failure {
        Failure::new(FailureClass::Corrupt, "seen")
    }

    fn right() -> Observation {
        Observation::Right(MatchGrade::Read)
    }

    fn wrong(origin: Origin) -> Observation {
        Observation::Wrong { why: why(), origin }
    }

    /// With b2 as the primary, and what was observed at b2, wasabi and scw, all on record; `None`: not read.
    fn judged(seen: [Option<Observation>; 3]) -> Verdict {
        let replicas = ["b2", "wasabi", "scw"].map(name);
        let object = RecordedObject {
            key: ObjectKey::new("photo").unwrap(),
            generation: Generation(7),
            content: Some(Content { size_bytes: 1, hash: ContentHash(1) }),
            recorded: replicas.iter().map(|r| (r.clone(), 5)).collect(),
            source: None,
            metadata: None,
        };
        let seen: Vec<_> = replicas.into_iter().zip(seen).filter_map(|(r, seen)| Some((r, 5, seen?))).collect();
        judge(&object, &name("b2"), &seen)
    }

    /// Which records are revoked, `!` where the copy is parked, and whether nothing is left.
    fn taken_back(seen: [Option<Observation>; 3]) -> (String, bool) {
        match judged(seen) {
            Verdict::TakeBack(what) => {
                let mark = |r: &FalseRecord| format!("{}{}", r.replica, if r.park { "!" } else { "" });
                (what.refuted.iter().map(mark).collect::<Vec<_>>().join(" "), what.park_the_rest)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_right_or_unknown_is_left_as_it_is() {
        assert!(matches!(judged([Some(right()), Some(Observation::Unknown(why())), None]), Verdict::Nothing));
    }

    #[test]
    fn what_is_missing_or_damaged_is_made_again_from_what_is_left() {
        let seen = [Some(right()), Some(Observation::Missing(why())), Some(wrong(Origin::Unclear))];
        assert_eq!(taken_back(seen), ("wasabi scw".into(), false));
        assert_eq!(taken_back([Some(Observation::Missing(why())), Some(right()), None]), ("b2".into(), false));
    }

    #[test]
    fn another_content_at_the_primary_is_not_written_over() {
        let Verdict::Again(again) = judged([Some(wrong(Origin::Written)), Some(wrong(Origin::Rotted)), None]) else {
            panic!()
        };
        assert_eq!((again.copies, again.why.class), (vec![name("wasabi"), name("scw")], FailureClass::Changed));
        // Nor is one that may be damage, certainly is, or has come back from a backup.
        for origin in [Origin::Unclear, Origin::Rotted, Origin::Restored] {
            assert_eq!(taken_back([Some(wrong(origin)), Some(right()), None]), ("b2!".into(), false), "{origin:?}");
        }
    }

    #[test]
    fn other_content_at_a_replica_is_damage() {
        assert_eq!(taken_back([Some(right()), Some(wrong(Origin::Written)), None]), ("wasabi".into(), false));
    }

    #[test]
    fn other_metadata_is_made_right_from_what_is_left_and_left_alone_at_the_primary() {
        let other = |origin| Some(Observation::OtherMetadata { why: why(), origin });
        assert_eq!(
            taken_back([Some(right()), other(Origin::Unclear), Some(Observation::NotCompared)]),
            ("wasabi".into(), false)
        );
        for origin in [Origin::Unclear, Origin::Restored] {
            assert_eq!(taken_back([other(origin), Some(right()), None]), ("b2!".into(), false), "{origin:?}");
        }
        assert!(matches!(judged([other(Origin::Written), other(Origin::Unclear), None]), Verdict::Again(_)));
        // The bytes are there: nothing is lost.
        let seen = [other(Origin::Unclear), other(Origin::Unclear), other(Origin::Unclear)];
        assert_eq!(taken_back(seen), ("b2! wasabi! scw!".into(), false));
    }

    #[test]
    fn where_no_good_copy_is_left_nothing_is_copied_until_a_retry() {
        let seen = [Some(wrong(Origin::Rotted)), Some(Observation::Missing(why())), Some(wrong(Origin::Written))];
        assert_eq!(taken_back(seen), ("b2! wasabi! scw!".into(), true));
        // One that could not be read may be good.
        let seen = [Some(wrong(Origin::Rotted)), Some(Observation::Missing(why())), Some(Observation::Unknown(why()))];
        assert_eq!(taken_back(seen), ("b2! wasabi".into(), false));
    }
}
