//! Checks whether the bytes read from a source are the object, and decides what follows if they are not.

use copyhold_core::domain::{
    Content, CurrentSource, EtagMatch, Failure, ObjectKey, RecordedSource, SourceReading, SourceVerdict, judge_source,
};

use super::{
    Copy, CopyStep, ObjectReading,
    failure::{ReadMismatch, at_primary, changed, stale},
    source::OpenedSource,
    verify,
};
use crate::store::{Md5, Store, Tristate};

/// What the primary holds instead of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherContent {
    pub content: Content,
    /// Last-Modified and ETag that the primary returned with it.
    pub said: SourceReading,
    pub verdict: SourceVerdict,
    /// The verdict as a failure, for people.
    pub why: Failure,
}

/// Reads the primary's object to its end and judges it as a copy does. `None`: it is the known content.
pub async fn judge_primary(
    store: &Store,
    key: &ObjectKey,
    known: &Content,
    kept: &RecordedSource,
) -> Result<Option<OtherContent>, Failure> {
    let first = verify::read(store, key, |_| {}).await?;
    if first.content == *known {
        return Ok(None);
    }
    let found = if first.etag == EtagMatch::Confirms { first } else { verify::read_alike(store, key, &first).await? };
    if found.etag != EtagMatch::Confirms {
        verify::is_as_stored(store, key, &found).await?;
    }
    Ok(Some(judged(store, known, kept, found)))
}

fn judged(store: &Store, known: &Content, kept: &RecordedSource, found: ObjectReading) -> OtherContent {
    let ObjectReading { content, etag, said, .. } = found;
    let known_for_md5 = store.etags_are_md5() == Tristate::Yes;
    let verdict = judge_source(kept, &CurrentSource { reading: said.clone(), etag, known_for_md5 });
    let why = match verdict {
        SourceVerdict::Changed => changed(store, known, &content),
        verdict => at_primary(store, known, &content, verdict),
    };
    OtherContent { content, said, verdict, why }
}

impl Copy<'_> {
    /// Checks that what was read is what this generation's first read found, or is a sound first read. `md5` is the MD5
    /// of the whole, if the source's ETag may be one.
    pub(super) async fn examine(
        &self,
        opened: &OpenedSource,
        read: &Content,
        md5: Option<&Md5>,
    ) -> Result<(), ReadMismatch> {
        let result = match self.job.content {
            // The bytes prove it. An object that was written again with the same bytes and metadata is the same object.
            Some(known) if known == *read => {
                opened.learn(md5);
                match opened.metadata_change() {
                    None => Ok(()),
                    Some(why) => {
                        let from = opened.store().name().clone();
                        self.tell(CopyStep::Changed { from, content: known, said: opened.said() });
                        Err(ReadMismatch::Changed(why.clone()))
                    }
                }
            }
            Some(known) => self.judge(opened, &known, read, md5).await,
            None => opened.confirm(read, md5).await,
        };
        if let Err(ReadMismatch::Failed(why)) = &result {
            self.source_failed(opened.store(), why);
        }
        result
    }

    /// Decides what it means that a source has other bytes than are known.
    async fn judge(
        &self,
        opened: &OpenedSource,
        known: &Content,
        read: &Content,
        md5: Option<&Md5>,
    ) -> Result<(), ReadMismatch> {
        let found = opened.make_sure(read, md5).await.map_err(ReadMismatch::Failed)?;
        if found.etag != EtagMatch::Confirms {
            verify::is_as_stored(opened.store(), opened.key(), &found).await.map_err(ReadMismatch::Failed)?;
        }
        let store = opened.store();
        if !opened.is_primary() {
            return Err(ReadMismatch::Stale(stale(store, known, &read.to_string())));
        }
        let OtherContent { content, said, verdict, why } = judged(store, known, &self.job.kept, found);
        if verdict != SourceVerdict::Changed {
            return Err(ReadMismatch::Stale(why));
        }
        self.tell(CopyStep::Changed { from: store.name().clone(), content, said });
        Err(ReadMismatch::Changed(why))
    }
}
