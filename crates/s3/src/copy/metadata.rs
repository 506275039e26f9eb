//! Decides which metadata copies get if a source has other metadata than is on record.
//!
//! It reads no bytes, and does not rely on a single answer.

use std::time::Duration;

use copyhold_core::domain::{
    Failure, FailureClass, FailureScope, MetadataHash, ObjectKey, RecordedSource, SourceReading, SourceVerdict,
    judge_metadata,
};

use super::{
    Copy, Job, Source, SourceError,
    failure::{at_source, metadata_changed, of_source, other_metadata},
    verify,
};
use crate::store::{Head, Metadata, Reason, Store};

/// The pause between two answers that must agree before a change is believed. A header that a proxy derives from the
/// clock differs by then.
const SECOND_ANSWER_AFTER: Duration = Duration::from_millis(1_100);

/// The metadata that copies get.
#[derive(Debug)]
pub(super) enum MetadataToWrite {
    /// The metadata that came with the bytes.
    OfSource,
    /// The metadata on record.
    Recorded(Box<Metadata>),
    /// None yet: the application has written other metadata at the primary, which begins a new generation.
    Changed(Failure),
}

/// What two answers of a store show about an object whose metadata differs from the record.
#[derive(Debug)]
pub(super) enum MetadataAnswer {
    /// The second answer has the metadata on record.
    Recorded(Box<Metadata>),
    /// Both have the same other metadata.
    Other(SourceVerdict),
    /// They differ.
    Unstable,
}

/// Asks a second time for metadata that differs from what is on record, and judges it if both answers agree.
pub(super) async fn ask_again(
    store: &Store,
    key: &ObjectKey,
    known: MetadataHash,
    kept: &RecordedSource,
    first: (MetadataHash, &SourceReading),
) -> Result<MetadataAnswer, Failure> {
    let (metadata, said) = first;
    tokio::time::sleep(SECOND_ANSWER_AFTER).await;
    let again = store.head(key).await.map_err(|error| of_source(store, error))?;
    if again.metadata.hash() == known {
        return Ok(MetadataAnswer::Recorded(Box::new(again.metadata)));
    }
    let mut now = verify::said(store, &again);
    if again.metadata.hash() != metadata || now.modified_us != said.modified_us {
        return Ok(MetadataAnswer::Unstable);
    }
    now.tag = now.tag.filter(|tag| Some(*tag) == said.tag);
    Ok(MetadataAnswer::Other(judge_metadata(kept, &now)))
}

/// Returns the primary's reading if the application has written other metadata with the object's bytes there, as two
/// answers and the store's own clock show. `None`: it has not.
pub async fn metadata_change(
    store: &Store,
    key: &ObjectKey,
    known: MetadataHash,
    kept: &RecordedSource,
) -> Result<Option<SourceReading>, Failure> {
    let head = store.head(key).await.map_err(|error| of_source(store, error))?;
    let (metadata, said) = (head.metadata.hash(), verify::said(store, &head));
    if metadata == known || judge_metadata(kept, &said) != SourceVerdict::Changed {
        return Ok(None);
    }
    match ask_again(store, key, known, kept, (metadata, &said)).await? {
        MetadataAnswer::Other(SourceVerdict::Changed) => Ok(Some(said)),
        MetadataAnswer::Other(_) | MetadataAnswer::Recorded(_) | MetadataAnswer::Unstable => Ok(None),
    }
}

impl Copy<'_> {
    /// Returns the metadata for copies that are made from `source`. `last_resort`: no other source has the metadata on
    /// record.
    pub(super) async fn metadata_to_write(
        &self,
        source: &Source,
        head: &Head,
        last_resort: bool,
    ) -> Result<MetadataToWrite, SourceError> {
        let Job { content: Some(content), metadata: Some(known), .. } = *self.job else {
            return Ok(MetadataToWrite::OfSource);
        };
        // Other content is judged by its bytes.
        if head.metadata.hash() == known || head.size_bytes != content.size_bytes {
            return Ok(MetadataToWrite::OfSource);
        }
        if source.primary {
            self.of_primary(source, head, known, last_resort).await
        } else {
            self.of_secondary(source, known, last_resort).await
        }
    }

    async fn of_primary(
        &self,
        source: &Source,
        head: &Head,
        known: MetadataHash,
        last_resort: bool,
    ) -> Result<MetadataToWrite, SourceError> {
        let (store, kept) = (&*source.store, &self.job.kept);
        let said = verify::said(store, head);
        let verdict = match ask_again(store, &self.job.key, known, kept, (head.metadata.hash(), &said)).await? {
            MetadataAnswer::Recorded(metadata) => return Ok(MetadataToWrite::Recorded(metadata)),
            MetadataAnswer::Unstable if store.profile().accepts_altered_metadata => SourceVerdict::Undecided,
            MetadataAnswer::Unstable => {
                let what = "two answers have different metadata, and neither has what is on record of the object; if the store, \
                            or a proxy before it, makes up headers, set altered_metadata = \"accept\" for it";
                return Err(SourceError::Failed(of_the_object(store, FailureClass::Transient, what)));
            }
            MetadataAnswer::Other(verdict) => verdict,
        };
        match verdict {
            SourceVerdict::Changed => Ok(MetadataToWrite::Changed(metadata_changed(store))),
            SourceVerdict::Stale => Err(SourceError::Stale(other_metadata(store, verdict))),
            SourceVerdict::Corrupt | SourceVerdict::Undecided => {
                // No reading is on record of a replica that became the primary since, and what it has is the object.
                let was_read_here = kept.reading.as_ref().is_some_and(|reading| reading.replica == *store.name());
                if was_read_here && !store.profile().accepts_altered_metadata {
                    Err(SourceError::Failed(other_metadata(store, verdict)))
                } else if last_resort {
                    Ok(MetadataToWrite::OfSource)
                } else {
                    Err(SourceError::LastResort)
                }
            }
        }
    }

    /// Asks the primary, because a copy elsewhere may have lost some of the metadata, and only a hash is on record.
    ///
    /// If the primary has lost the object, a source whose altered metadata the operator accepts is good enough, unless
    /// another source has the metadata on record.
    async fn of_secondary(
        &self,
        source: &Source,
        known: MetadataHash,
        last_resort: bool,
    ) -> Result<MetadataToWrite, SourceError> {
        let store = &*source.store;
        let there = match &self.job.primary {
            None => "the primary cannot be asked at the moment".to_owned(),
            Some(primary) => match primary.head(&self.job.key).await {
                Ok(head) if head.metadata.hash() == known => {
                    return Ok(MetadataToWrite::Recorded(Box::new(head.metadata)));
                }
                Ok(_) => format!("the primary {} has other metadata, too", primary.name()),
                Err(error) if error.reason() == Reason::NoSuchKey => {
                    if store.profile().accepts_altered_metadata {
                        return if last_resort { Ok(MetadataToWrite::OfSource) } else { Err(SourceError::LastResort) };
                    }
                    format!(
                        "the primary {} has lost the object; set altered_metadata = \"accept\" for replica {} if its copy is good \
                         enough to restore it",
                        primary.name(),
                        store.name()
                    )
                }
                Err(error) => error.into_failure(format_args!("primary {}", primary.name())).message,
            },
        };
        let what = format!(
            "its copy has other metadata than is on record of the object, so no copy is made from it before the primary \
             tells the right metadata; {there}"
        );
        Err(SourceError::Failed(of_the_object(store, FailureClass::Transient, &what)))
    }
}

/// Makes a failure that does not count against the store.
fn of_the_object(store: &Store, class: FailureClass, what: &str) -> Failure {
    let failure = Failure::new(class, format!("source {}: {what}", store.name()));
    at_source(store, Failure { scope: FailureScope::Object, ..failure })
}
