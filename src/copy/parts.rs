//! Big objects: one ranged GET per part, its bytes shared by the uploads of all targets.
//!
//! Parts go one after the other, so a copy holds one part at a time, and its fastest target waits for the slowest
//! with each of them: one that costs the others too much is let go.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::future::join_all;
use md5::{Digest, Md5 as Hasher};
use tokio::task::JoinSet;
use tracing::warn;

use super::{
    Came, Cancelled, Copy, OnExisting, Target, Unfit,
    failure::of_target,
    hash::Plain,
    lag::{FellBehind, Patience, Race},
    plan::Parts,
    source::{Piece, Reader},
    verify,
};
use crate::{
    domain::{Class, Content, Failure, ObjectKey, Verified},
    store::{ETag, Head, Md5, Reason, Store, UploadId},
};

/// How long a store is given to throw parts away, or to say that it began an upload
/// that nobody wants any more.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(5);

/// The uploads of one object. Each is completed, or aborted by [`abort`];
/// none is left to `Drop`.
struct Uploads<'a> {
    live: Vec<Upload<'a>>,
    /// Targets that hold an object from before, which is compared at the end.
    taken: Vec<(&'a Target, Head)>,
    aborts: JoinSet<()>,
    patience: Patience,
}

struct Upload<'a> {
    target: &'a Target,
    id: UploadId,
    etags: Vec<ETag>,
    /// How much later than the first target its parts were done, all together.
    behind: Duration,
}

/// How a target begins.
enum Begun<'a> {
    Upload(Upload<'a>),
    Taken(&'a Target, Head),
}

impl Copy<'_> {
    pub(super) async fn write_parts<'t>(
        &self,
        reader: &mut Reader<'_>,
        parts: Parts,
        first: Piece,
        targets: &[&'t Target],
    ) -> Result<Came<'t>, Cancelled> {
        let mut uploads = Uploads {
            live: Vec::new(),
            taken: Vec::new(),
            aborts: JoinSet::new(),
            patience: Patience::new(self.job.lag),
        };
        let ended = self.write(reader, parts, first, targets, &mut uploads).await;
        // What is still here was neither completed nor given up: we were stopped, or the source failed.
        for upload in uploads.live.drain(..) {
            abort(&mut uploads.aborts, &self.job.key, upload);
        }
        while uploads.aborts.join_next().await.is_some() {}
        ended
    }

    async fn write<'t>(
        &self,
        reader: &mut Reader<'_>,
        parts: Parts,
        first: Piece,
        targets: &[&'t Target],
        uploads: &mut Uploads<'t>,
    ) -> Result<Came<'t>, Cancelled> {
        self.begin(targets, reader.head(), uploads).await?;
        let mut whole = Plain::new();
        let mut whole_md5 = reader.etag_may_be_md5().then(Hasher::new);
        let mut md5s = Vec::new();
        let mut piece = Some(first);
        for (number, range) in (1..).zip(parts.ranges()) {
            // Without targets from the start it is the source's own copy that is to be proven.
            if !targets.is_empty() && uploads.live.is_empty() && uploads.taken.is_empty() {
                return Ok(Came::Through);
            }
            let part = match piece.take() {
                Some(first) => first,
                None => match self.or_stop(reader.piece(range)).await? {
                    Ok(part) => part,
                    Err(why) => {
                        self.source_failed(reader.store(), &why);
                        self.give_up(uploads, &half_way(why));
                        return Ok(Came::Through);
                    }
                },
            };
            whole.append(&part.crc);
            if let Some(hash) = &mut whole_md5 {
                hash.update(&part.bytes);
            }
            md5s.push(part.md5);
            self.send(uploads, number, &part).await?;
        }
        let content = whole.content();
        let whole_md5 = whole_md5.map(|hash| Md5(hash.finalize().into()));
        match self.or_stop(self.examine(reader, &content, whole_md5.as_ref())).await? {
            Ok(()) => {}
            Err(Unfit::Failed(why) | Unfit::Changed(why)) => {
                self.give_up(uploads, &why);
                return Ok(Came::Through);
            }
            Err(Unfit::Stale(why)) => return Ok(Came::ToNothing { why, left: self.take_back(uploads) }),
        }
        self.has_read(reader.store(), content);
        self.finish(uploads, &content, &md5s, whole_md5.as_ref()).await?;
        Ok(Came::Through)
    }

    /// Begins an upload at every target that is free.
    async fn begin<'t>(
        &self,
        targets: &[&'t Target],
        source: &Head,
        uploads: &mut Uploads<'t>,
    ) -> Result<(), Cancelled> {
        let (race, patience) = (Race::new(), uploads.patience);
        // Of one that is let go we never hear its upload's name: that is left to the bucket's lifecycle rule.
        let begun = join_all(targets.iter().map(|target| async {
            match race.run(self.job.lag, self.begin_one(target, source)).await {
                Ok((begun, _)) => (*target, begun),
                Err(FellBehind) => (*target, Err(Some(patience.is_over(&target.store)))),
            }
        }));
        for (target, begun) in begun.await {
            match begun {
                Ok(Begun::Upload(upload)) => uploads.live.push(upload),
                Ok(Begun::Taken(target, there)) => uploads.taken.push((target, there)),
                Err(Some(why)) => self.ended(target, Err(why)),
                Err(None) => {}
            }
        }
        if self.stop.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// `Err(None)`: we were stopped first.
    async fn begin_one<'t>(&self, target: &'t Target, source: &Head) -> Result<Begun<'t>, Option<Failure>> {
        let (store, key) = (&*target.store, &self.job.key);
        if let OnExisting::Adopt { older_than } = target.existing
            && let Some(there) =
                self.or_stop(verify::look(store, key, older_than)).await.map_err(|Cancelled| None)??
        {
            let same_size = there.size_bytes == source.size_bytes;
            return if same_size { Ok(Begun::Taken(target, there)) } else { Err(Some(verify::in_the_way(store))) };
        }
        // Not dropped when we are stopped: an upload of which we never hear the name would stay for ever.
        let mut creating = pin!(store.create_multipart(key, &source.metadata));
        let created = tokio::select! {
            biased;
            created = &mut creating => Some(created),
            () = self.stop.cancelled() => tokio::time::timeout(CLEAN_UP_WITHIN, creating).await.ok(),
        };
        let id = created.ok_or(None)?.map_err(|error| of_target(store, error))?;
        Ok(Begun::Upload(Upload { target, id, etags: Vec::new(), behind: Duration::ZERO }))
    }

    /// Sends one part to all uploads at once. Those that fail are out.
    async fn send(&self, uploads: &mut Uploads<'_>, number: u32, part: &Piece) -> Result<(), Cancelled> {
        let (key, patience, race) = (&self.job.key, uploads.patience, Race::new());
        let sent = join_all(uploads.live.iter().map(|upload| async {
            let store = &*upload.target.store;
            let sent = store.upload_part(key, &upload.id, number, &part.bytes, &part.md5);
            let why = match race.run(patience.left(upload.behind), sent).await {
                Ok((Ok(etag), behind)) => return Ok((etag, behind)),
                Ok((Err(error), _)) => of_target(store, error),
                Err(FellBehind) => patience.is_over(store),
            };
            self.ended(upload.target, Err(why));
            Err(())
        }));
        let sent = self.or_stop(sent).await?;
        // An ETag that is not the part's MD5 is kept without a word: the formula over
        // all of them will not come out, and the object is read back.
        for (mut upload, sent) in std::mem::take(&mut uploads.live).into_iter().zip(sent) {
            match sent {
                Ok((etag, behind)) => {
                    upload.etags.push(etag);
                    upload.behind += behind;
                    uploads.live.push(upload);
                }
                Err(()) => abort(&mut uploads.aborts, key, upload),
            }
        }
        Ok(())
    }

    /// Completes and proves every upload, and compares what was there before.
    async fn finish(
        &self,
        uploads: &mut Uploads<'_>,
        content: &Content,
        parts: &[Md5],
        whole: Option<&Md5>,
    ) -> Result<(), Cancelled> {
        let key = &self.job.key;
        let completed = join_all(uploads.live.iter().map(|upload| async {
            let result = complete(key, upload, content, parts).await;
            let done = result.is_ok();
            self.ended(upload.target, result);
            done
        }));
        let compared = join_all(uploads.taken.iter().map(|(target, there)| async {
            let result = verify::adopt(&target.store, key, there, content, whole).await;
            self.ended(target, result);
        }));
        let (completed, _) = self.or_stop_late(async { tokio::join!(completed, compared) }).await?;
        for (upload, done) in std::mem::take(&mut uploads.live).into_iter().zip(completed) {
            if !done {
                abort(&mut uploads.aborts, key, upload);
            }
        }
        Ok(())
    }

    fn give_up(&self, uploads: &mut Uploads<'_>, why: &Failure) {
        self.fail_all(&self.take_back(uploads), why);
    }

    /// Throws away what was uploaded. Returns the targets that still wait for their answer.
    fn take_back<'t>(&self, uploads: &mut Uploads<'t>) -> Vec<&'t Target> {
        let mut left = Vec::new();
        for upload in uploads.live.drain(..) {
            left.push(upload.target);
            abort(&mut uploads.aborts, &self.job.key, upload);
        }
        left.extend(uploads.taken.drain(..).map(|(target, _)| target));
        left
    }
}

/// What a source's failure in the middle of an object means for the targets: that it is
/// gone by now is no word about the other sources, which the next attempt asks.
fn half_way(why: Failure) -> Failure {
    if why.class == Class::Gone { Failure { class: Class::Transient, ..why } } else { why }
}

/// Completes one upload. An answer may be lost though the object is there, and the SDK's
/// own retry then finds no upload: so a failure is believed only after a look.
async fn complete(key: &ObjectKey, upload: &Upload<'_>, content: &Content, parts: &[Md5]) -> Result<Verified, Failure> {
    let store = &*upload.target.store;
    let error = match store.complete_multipart(key, &upload.id, &upload.etags).await {
        Ok(etag) => return verify::prove(store, key, content, parts, &etag).await,
        Err(error) => error,
    };
    let lost = error.reason() == Reason::NoSuchUpload;
    let there = store.head(key).await.ok().filter(|there| there.size_bytes == content.size_bytes);
    match there.and_then(|there| there.etag) {
        Some(etag) if etag.is_of_parts(parts) => Ok(Verified::Compared),
        // An ETag that follows no formula: the bytes tell. Only where the upload is
        // certainly over, since an older object may stand there.
        Some(_) if lost => verify::read_back(store, key, content).await.map_err(|_| of_target(store, error)),
        _ => Err(of_target(store, error)),
    }
}

/// Has the parts thrown away beside whatever else goes on; a failure is only logged,
/// since the first one tells why.
fn abort(aborts: &mut JoinSet<()>, key: &ObjectKey, upload: Upload<'_>) {
    let (store, key, id): (Arc<Store>, _, _) = (upload.target.store.clone(), key.clone(), upload.id);
    aborts.spawn(async move {
        let why = match tokio::time::timeout(CLEAN_UP_WITHIN, store.abort_multipart(&key, &id)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CLEAN_UP_WITHIN.as_secs()),
        };
        warn!(object.key = %key, replica.id = %store.name(), why, "An unfinished upload of {key} stays behind");
    });
}
