//! Small objects: read into memory once, then one PUT per target, all at the same time.

use copyhold_core::domain::{Content, Failure, Verified};
use futures::future::join_all;

use super::{
    Cancelled, Copy, OnExisting, SourceResult, Target,
    failure::ReadMismatch,
    failure::of_target,
    key_collision,
    lag_limit::{LagExceeded, LagGroup, LagLimit},
    not_carried,
    source::{Chunk, SourceReader},
    verify, write,
};
use crate::store::{Metadata, SentBy};

impl Copy<'_> {
    /// Sends `piece` to `targets`; reports each result as soon as it is known.
    pub(super) async fn write_whole<'t>(
        &self,
        reader: &SourceReader<'_>,
        piece: Chunk,
        targets: Vec<&'t Target>,
    ) -> Result<SourceResult<'t>, Cancelled> {
        let content = piece.content;
        match self.or_stop(self.examine(reader.opened(), &content, Some(&piece.md5))).await? {
            Ok(()) => {}
            Err(ReadMismatch::Failed(why) | ReadMismatch::Changed(why)) => {
                self.fail_all(&targets, &why);
                return Ok(SourceResult::Done);
            }
            Err(ReadMismatch::Stale(why)) => return Ok(SourceResult::Stale { why, left: targets }),
        }
        self.describe(reader.opened());
        self.has_read(reader.opened(), content);
        let metadata = reader.opened().metadata();
        let (race, patience) = (LagGroup::new(), LagLimit::new(self.job.lag));
        let all = join_all(targets.iter().map(|target| async {
            let put = self.put(target, &piece, &content, metadata);
            let result = match race.run(self.job.lag, put).await {
                Ok((result, _)) => {
                    if result.is_ok() {
                        not_carried::tell(self.steps, &target.store, &self.job.key, metadata).await;
                    }
                    result
                }
                Err(LagExceeded) => Err(patience.is_over(&target.store)),
            };
            self.ended(target, result);
        }));
        self.or_stop_late(all).await?;
        Ok(SourceResult::Done)
    }

    async fn put(
        &self,
        target: &Target,
        piece: &Chunk,
        content: &Content,
        metadata: &Metadata,
    ) -> Result<Verified, Failure> {
        let (store, key) = (&*target.store, &self.job.key);
        if let OnExisting::Adopt { older_than } = target.existing
            && let Some(there) = verify::look(store, key, older_than).await?
        {
            return verify::adopt(target, key, &there, content, Some(&piece.md5), metadata).await;
        }
        if let Some(proof) = verify::left_by_us(target, key, content, metadata).await? {
            return Ok(proof);
        }
        let put = store.put(key, &piece.bytes, &piece.md5, metadata);
        let etag = write(self.steps, store.name(), *content, metadata.hash(), false, put)
            .await
            .map_err(|e| of_target(store, e))?;
        let proof = verify::prove(store, key, content, &[piece.md5], etag.as_ref(), true).await?;
        key_collision::is_its_own(target, key).await?;
        verify::see_clock(target, key).await?;
        verify::keeps_metadata(store, key, metadata, SentBy::Put, (&[piece.md5], etag.as_ref())).await?;
        Ok(proof)
    }
}
