//! Small objects: read into memory once, one PUT per target, all at the same time.

use copyhold_core::domain::{Content, Failure, Verified};
use futures::future::join_all;

use super::{
    Came, Cancelled, Copy, OnExisting, Target,
    examine::Unfit,
    failure::of_target,
    lacks,
    lag::{FellBehind, Patience, Race},
    source::{Piece, Reader},
    spelling, verify, write,
};
use crate::store::{Metadata, SentBy};

impl Copy<'_> {
    /// Sends what `piece` holds to `targets`; each says how it went as soon as it knows.
    pub(super) async fn write_whole<'t>(
        &self,
        reader: &Reader<'_>,
        piece: Piece,
        targets: Vec<&'t Target>,
    ) -> Result<Came<'t>, Cancelled> {
        let content = piece.content;
        match self.or_stop(self.examine(reader.opened(), &content, Some(&piece.md5))).await? {
            Ok(()) => {}
            Err(Unfit::Failed(why) | Unfit::Changed(why)) => {
                self.fail_all(&targets, &why);
                return Ok(Came::Through);
            }
            Err(Unfit::Stale(why)) => return Ok(Came::ToNothing { why, left: targets }),
        }
        self.describe(reader.opened());
        self.has_read(reader.opened(), content);
        let metadata = reader.opened().metadata();
        let (race, patience) = (Race::new(), Patience::new(self.job.lag));
        let all = join_all(targets.iter().map(|target| async {
            let put = self.put(target, &piece, &content, metadata);
            let result = match race.run(self.job.lag, put).await {
                Ok((result, _)) => {
                    if result.is_ok() {
                        lacks::tell(self.steps, &target.store, &self.job.key, metadata).await;
                    }
                    result
                }
                Err(FellBehind) => Err(patience.is_over(&target.store)),
            };
            self.ended(target, result);
        }));
        self.or_stop_late(all).await?;
        Ok(Came::Through)
    }

    async fn put(
        &self,
        target: &Target,
        piece: &Piece,
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
        spelling::is_its_own(target, key).await?;
        verify::see_clock(target, key).await?;
        verify::keeps_metadata(store, key, metadata, SentBy::Put, (&[piece.md5], etag.as_ref())).await?;
        Ok(proof)
    }
}
