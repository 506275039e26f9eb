//! Compares the metadata of a copy with what is on record of the object's.

use copyhold_core::domain::{Failure, FailureClass, MetadataHash, SourceReading};
use copyhold_db::{retry_while_down::retry_while_down, walk::RecordedObject};
use copyhold_s3::{
    copy,
    store::{Head, shown},
};

use super::{
    audited_replica::AuditedReplica,
    counts::MatchGrade,
    inspect::{Depth, Inspection, Observation, Origin, found},
    run::Audit,
};

/// What a copy's metadata is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata<'a> {
    /// What is on record of it; `None`: nothing.
    pub recorded: Option<MetadataHash>,
    /// Where the names of headers that differ are found out.
    pub primary: Option<&'a AuditedReplica>,
}

/// Last-Modified travels in whole seconds.
const SECOND_US: i64 = 1_000_000;

impl Inspection<'_> {
    /// Requests the copy's metadata alone. If the size differs, the copy is read.
    pub(super) async fn compare_metadata(&self) -> Observation {
        match self.audited.head(self.key).await {
            Ok(head) if head.size_bytes == self.content.size_bytes => match self.metadata.recorded {
                Some(_) => self.with_metadata(head.metadata.hash(), MatchGrade::Metadata).await,
                None => Observation::NotCompared,
            },
            Ok(_) => self.read().await,
            Err(why) if why.class == FailureClass::Gone => self.read().await,
            Err(why) => Observation::Unknown(why),
        }
    }

    /// The copy is right so far, and came with this metadata. Other metadata than on record counts if the store returns
    /// it twice.
    pub(super) async fn with_metadata(&self, came: MetadataHash, grade: MatchGrade) -> Observation {
        let accepted = self.audited.store().profile().accepts_altered_metadata && !self.primary;
        let Some(recorded) = self.metadata.recorded.filter(|recorded| *recorded != came && !accepted) else {
            return Observation::Right(grade);
        };
        let head = match self.audited.head(self.key).await {
            Ok(head) if head.metadata.hash() == recorded => return Observation::Right(grade),
            Ok(head) if head.metadata.hash() == came => head,
            Ok(_) => {
                let what = "two answers gave different metadata";
                let message = format!("replica {}: {what}", self.audited.name());
                return Observation::Unknown(Failure::new(FailureClass::Changed, message));
            }
            Err(why) => return Observation::Unknown(why),
        };
        let (origin, words) = if self.primary {
            let origin = origin(self.source, &copy::said(self.audited.store(), &head));
            (origin, origin.words_at_the_primary())
        } else {
            (Origin::Unclear, "")
        };
        let header = self.differing_header(recorded, &head).await;
        let message = format!(
            "replica {}: its copy has other metadata than is on record, in two answers{}{words}",
            self.audited.name(),
            header.map(|header| format!(": {} differs", shown(header.as_bytes()))).unwrap_or_default(),
        );
        Observation::OtherMetadata { why: found(Failure::new(FailureClass::Corrupt, message)), origin }
    }

    /// The first header in which the copy differs from the primary's object, if that has the metadata on record.
    async fn differing_header(&self, recorded: MetadataHash, copy: &Head) -> Option<String> {
        let primary = self.metadata.primary.filter(|_| !self.primary)?;
        let there = primary.head(self.key).await.ok().filter(|there| there.metadata.hash() == recorded)?;
        there.metadata.differs_in(&copy.metadata)
    }
}

impl Audit {
    /// Returns the metadata to compare copies with. Where none is on record, the primary's is recorded first, if the
    /// size there is the object's.
    pub(super) async fn reference(&self, object: &RecordedObject) -> Option<MetadataHash> {
        if object.metadata.is_some() || self.depth != Depth::Metadata {
            return object.metadata;
        }
        let content = object.content?;
        object.recorded.iter().find(|(replica, _)| *replica == self.primary)?;
        let audited = self.primary_subject()?;
        let head = audited.head(&object.key).await.ok().filter(|head| head.size_bytes == content.size_bytes)?;
        let said = copy::said(audited.store(), &head);
        // What was written there since may be another content.
        if object
            .source
            .as_ref()
            .is_some_and(|kept| kept.replica == said.replica && kept.tag != said.tag && kept.tag.is_some())
        {
            return None;
        }
        let hash = head.metadata.hash();
        if !self.dry_run {
            let noted = async || self.database.note_metadata(&object.key, object.generation, hash).await;
            // Without it, it is compared all the same, and the next run finds nothing on record.
            let _ = retry_while_down(noted).await;
        }
        Some(hash)
    }

    pub(super) fn primary_subject(&self) -> Option<&AuditedReplica> {
        self.replicas().iter().find(|audited| *audited.name() == self.primary)
    }
}

/// How the primary came to have other metadata, by the store's own answers from two moments.
fn origin(kept: Option<&SourceReading>, now: &SourceReading) -> Origin {
    let second = |at: Option<i64>| at.map(|at| at.div_euclid(SECOND_US));
    let Some(kept) = kept.filter(|kept| kept.replica == now.replica) else { return Origin::Unclear };
    match second(kept.modified_us).zip(second(now.modified_us)) {
        Some((kept, now)) if now > kept => Origin::Written,
        Some((kept, now)) if now < kept => Origin::Restored,
        // Written over within the same second it has another ETag, unless its bytes are the same.
        _ if kept.tag.zip(now.tag).is_some_and(|(kept, now)| kept != now) => Origin::Written,
        _ => Origin::Unclear,
    }
}

impl Origin {
    const fn words_at_the_primary(self) -> &'static str {
        match self {
            Self::Written => "; it was written over there",
            Self::Restored => "; it is older than what was copied: an earlier state has come back",
            Self::Rotted | Self::Unclear => "; nothing there says when it was given",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copyhold_core::domain::ReplicaName;

    fn said(replica: &str, second: Option<i64>, tag: Option<i64>) -> SourceReading {
        let replica = ReplicaName::new(replica).unwrap();
        SourceReading { replica, modified_us: second.map(|s| s * SECOND_US), tag }
    }

    #[test]
    fn metadata_at_the_primary_is_the_applications_if_the_store_shows_a_later_write() {
        let kept = said("b2", Some(5), Some(1));
        let judged = |second, tag| origin(Some(&kept), &said("b2", second, tag));
        // The same bytes written again have the same ETag.
        assert_eq!(judged(Some(6), Some(1)), Origin::Written);
        assert_eq!(judged(Some(4), Some(2)), Origin::Restored);
        assert_eq!(judged(Some(5), Some(2)), Origin::Written);
        assert_eq!(judged(Some(5), Some(1)), Origin::Unclear);
        assert_eq!(judged(None, None), Origin::Unclear);
        assert_eq!(origin(Some(&kept), &said("wasabi", Some(6), Some(2))), Origin::Unclear);
        assert_eq!(origin(None, &kept), Origin::Unclear);
    }
}
