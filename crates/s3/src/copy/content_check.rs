//! Whether what a source gave is the object, and what it means if it is not.

use copyhold_core::domain::{
    Content, CurrentSource, EtagMatch, Failure, ObjectKey, RecordedSource, SourceReading, SourceVerdict, judge_source,
};

use super::{
    Copy, Reading, Step,
    failure::{at_primary, changed, stale},
    source::Opened,
    verify,
};
use crate::store::{Known, Md5, Store};

/// What stands at the primary instead of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherContent {
    pub content: Content,
    /// What the primary said of it.
    pub said: SourceReading,
    pub verdict: SourceVerdict,
    /// The same for people.
    pub why: Failure,
}

/// Reads the primary's object to its end and judges it as a copy from there does. `None`: it is the known content.
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

fn judged(store: &Store, known: &Content, kept: &RecordedSource, found: Reading) -> OtherContent {
    let Reading { content, etag, said, .. } = found;
    let known_for_md5 = store.etags_are_md5() == Known::Yes;
    let verdict = judge_source(kept, &CurrentSource { reading: said.clone(), etag, known_for_md5 });
    let why = match verdict {
        SourceVerdict::Changed => changed(store, known, &content),
        verdict => at_primary(store, known, &content, verdict),
    };
    OtherContent { content, said, verdict, why }
}

/// Why what was read is not copied.
pub(super) enum Unfit {
    /// It came damaged, or nobody can say.
    Failed(Failure),
    /// The source's copy is damaged or stale.
    Stale(Failure),
    /// The object is another one by now.
    Changed(Failure),
}

impl Copy<'_> {
    /// Whether what was read is what this generation's first read found, or is the first, and sound. `md5` is that of
    /// the whole, if the source's ETag may be one.
    pub(super) async fn examine(&self, opened: &Opened, read: &Content, md5: Option<&Md5>) -> Result<(), Unfit> {
        let result = match self.job.content {
            // Its bytes prove it, whatever is said of them. Written anew with the same bytes and metadata, it is the same
            // object.
            Some(known) if known == *read => {
                opened.learn(md5);
                match opened.metadata_change() {
                    None => Ok(()),
                    Some(why) => {
                        let from = opened.store().name().clone();
                        self.tell(Step::Changed { from, content: known, said: opened.said() });
                        Err(Unfit::Changed(why.clone()))
                    }
                }
            }
            Some(known) => self.judge(opened, &known, read, md5).await,
            None => opened.confirm(read, md5).await,
        };
        if let Err(Unfit::Failed(why)) = &result {
            self.source_failed(opened.store(), why);
        }
        result
    }

    /// What it means that a source has other bytes than are known.
    async fn judge(&self, opened: &Opened, known: &Content, read: &Content, md5: Option<&Md5>) -> Result<(), Unfit> {
        let found = opened.make_sure(read, md5).await.map_err(Unfit::Failed)?;
        if found.etag != EtagMatch::Confirms {
            verify::is_as_stored(opened.store(), opened.key(), &found).await.map_err(Unfit::Failed)?;
        }
        let store = opened.store();
        if !opened.is_primary() {
            return Err(Unfit::Stale(stale(store, known, &read.to_string())));
        }
        let OtherContent { content, said, verdict, why } = judged(store, known, &self.job.kept, found);
        if verdict != SourceVerdict::Changed {
            return Err(Unfit::Stale(why));
        }
        self.tell(Step::Changed { from: store.name().clone(), content, said });
        Err(Unfit::Changed(why))
    }
}
