//! Large objects: one ranged GET per part, whose bytes the uploads of all targets share.
//!
//! As many parts are under way as fit into memory. A target gets only the parts it lacks: parts of an earlier attempt
//! stay there. A target that lags behind gets no more parts, and resumes alone in another attempt.

mod complete;
mod finish;
mod ordered_md5;
mod part_sender;
mod stream;
mod upload;

use std::sync::Arc;

use copyhold_core::domain::{Content, ContentHash, Failure, FailureClass, Verified};
use futures::future::{BoxFuture, join_all};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Cancelled, Copy, CopyStep, ResumableUpload, SourceResult, Target,
    failure::ReadMismatch,
    hash::joined,
    lag_limit::{LagExceeded, LagGroup, LagLimit},
    memory::Buffer,
    not_carried,
    plan::{PartMode, Parts},
    source::{Chunk, SourceReader},
};
use crate::store::{Head, within_current};
use ordered_md5::OrderedMd5;
use part_sender::{PartError, PartEvent, PartSender, PartTarget};
use stream::WINDOW_BYTES;
use upload::{State, Upload, UploadRemains, UploadStart};

/// One object that is being copied in parts.
struct PartsCopy<'c, 't> {
    copy: &'c Copy<'c>,
    parts: Parts,
    carrier: Arc<PartSender>,
    events: mpsc::UnboundedReceiver<PartEvent>,
    uploads: Vec<Upload<'t>>,
    /// Targets that already hold an object, which is compared at the end.
    taken: Vec<(&'t Target, Head)>,
    /// The content of each part that was read, in this attempt or before.
    contents: Vec<Option<Content>>,
    /// The number of the next part to consider.
    next: u32,
    whole: Option<OrderedMd5>,
    carrying: JoinSet<()>,
    patience: LagLimit,
}

impl Copy<'_> {
    pub(super) async fn write_parts<'t>(
        &self,
        reader: &SourceReader<'_>,
        parts: Parts,
        unfinished: Vec<ResumableUpload>,
        first: Option<Chunk>,
        targets: &[&'t Target],
    ) -> Result<SourceResult<'t>, Cancelled> {
        let mut work = PartsCopy::new(self, reader, parts);
        let ended = match work.begin(targets, unfinished).await {
            Ok(()) => work.run(first, !targets.is_empty()).await,
            Err(cancelled) => Err(cancelled),
        };
        work.end().await;
        ended
    }
}

impl<'c, 't: 'c> PartsCopy<'c, 't> {
    fn new(copy: &'c Copy<'c>, reader: &SourceReader<'_>, parts: Parts) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let whole = reader.opened().hashes_whole(parts).then(|| OrderedMd5::new(parts.count()));
        let carrier = PartSender {
            opened: Arc::clone(reader.opened()),
            memory: copy.memory.clone(),
            journal: Arc::clone(&copy.job.journal),
            events: tell,
            whole: whole.as_ref().map(OrderedMd5::put),
        };
        Self {
            copy,
            parts,
            carrier: Arc::new(carrier),
            events,
            uploads: Vec::new(),
            taken: Vec::new(),
            contents: vec![None; parts.count() as usize],
            next: 1,
            whole,
            carrying: JoinSet::new(),
            patience: LagLimit::new(copy.job.lag),
        }
    }

    /// Begins the uploads at all targets at the same time.
    async fn begin(&mut self, targets: &[&'t Target], unfinished: Vec<ResumableUpload>) -> Result<(), Cancelled> {
        let (copy, opened, parts) = (self.copy, &*self.carrier.opened, self.parts);
        let older = copy.or_stop(copy.job.journal.older()).await?;
        let (race, patience) = (LagGroup::new(), self.patience);
        let begun = join_all(targets.iter().map(|target| {
            let theirs = unfinished.iter().find(|one| one.replica == *target.store.name()).cloned();
            let (race, older) = (&race, &older);
            async move {
                // The upload id of a dropped target never arrives; the journal's intent finds that upload.
                match race.run(copy.job.lag, Box::pin(copy.begin(target, opened, parts, theirs, older))).await {
                    Ok((begun, _)) => (*target, begun),
                    Err(LagExceeded) => (*target, Err(Some(patience.is_over(&target.store)))),
                }
            }
        }));
        for (target, begun) in begun.await {
            match begun {
                Ok(UploadStart::Upload(upload)) => self.enter(upload),
                Ok(UploadStart::Taken(there)) => self.taken.push((target, there)),
                Ok(UploadStart::There(proof)) => {
                    let metadata = self.carrier.opened.metadata();
                    not_carried::tell(copy.steps, &target.store, &copy.job.key, metadata).await;
                    copy.ended(target, Ok(proof));
                }
                Err(Some(why)) => copy.ended(target, Err(why)),
                Err(None) => {}
            }
        }
        if copy.stop.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Takes the contents of recorded parts, which need not be read again.
    fn enter(&mut self, upload: Upload<'t>) {
        // If the whole is hashed, every part is read.
        for part in upload.parts.values().filter(|_| self.whole.is_none()) {
            let range = self.parts.range(part.number);
            let content = Content { size_bytes: range.end - range.start, hash: ContentHash(part.crc) };
            self.contents[part.number as usize - 1].get_or_insert(content);
        }
        self.uploads.push(upload);
    }

    async fn run(&mut self, first: Option<Chunk>, has_targets: bool) -> Result<SourceResult<'t>, Cancelled> {
        match self.read(first, has_targets).await? {
            Ok(true) => {}
            Ok(false) => {
                self.finish(None).await?;
                return Ok(SourceResult::Done);
            }
            Err(why) => {
                self.copy.source_failed(self.carrier.opened.store(), &why);
                self.give_up(&half_way(why));
                self.finish(None).await?;
                return Ok(SourceResult::Done);
            }
        }
        let content = joined(self.contents.iter().flatten().copied());
        let md5 = match self.whole.take() {
            Some(whole) => Some(self.attend(whole.finish()).await?),
            None => None,
        };
        let (copy, opened) = (self.copy, Arc::clone(&self.carrier.opened));
        match self.attend(copy.examine(&opened, &content, md5.as_ref())).await? {
            Ok(()) => {}
            Err(ReadMismatch::Failed(why) | ReadMismatch::Changed(why)) => {
                self.fail_all(&why);
                return Ok(SourceResult::Done);
            }
            Err(ReadMismatch::Stale(why)) => return Ok(SourceResult::Stale { why, left: self.take_back() }),
        }
        copy.describe(&opened);
        copy.has_read(&opened, content);
        self.finish(Some((content, md5))).await?;
        Ok(SourceResult::Done)
    }

    /// Reads every part that a target lacks, and has it sent. `false`: no target waits for the rest.
    async fn read(&mut self, first: Option<Chunk>, has_targets: bool) -> Result<Result<bool, Failure>, Cancelled> {
        if let Some(piece) = first {
            let (carrier, lanes) = (Arc::clone(&self.carrier), self.lanes(1));
            self.carrying.spawn(within_current(async move { carrier.send(1, piece, lanes).await }));
            self.next = 2;
        }
        let mut taking: Option<(u32, BoxFuture<'static, Buffer>)> = None;
        loop {
            let waited_for = self.uploads.iter().any(|upload| upload.state == State::Sending);
            if has_targets && !waited_for && self.taken.is_empty() {
                return Ok(Ok(false));
            }
            if taking.is_none() {
                taking = self.next_to_read().map(|number| (number, self.take(number)));
            }
            if taking.is_none() && self.contents.iter().all(Option::is_some) {
                return Ok(Ok(true));
            }
            let taken = async {
                match &mut taking {
                    Some((number, buffer)) => (*number, buffer.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.copy.stop.cancelled() => return Err(Cancelled),
                Some(event) = self.events.recv() => {
                    if let Err(why) = self.note(event) {
                        return Ok(Err(why));
                    }
                }
                (number, buffer) = taken => {
                    taking = None;
                    self.carry(number, buffer);
                }
            }
        }
    }

    /// Returns the next part to read.
    fn next_to_read(&mut self) -> Option<u32> {
        let wanted = |number: &u32| {
            self.contents[*number as usize - 1].is_none() || self.uploads.iter().any(|upload| upload.wants(*number))
        };
        let next = (self.next..=self.parts.count()).find(wanted);
        self.next = next.map_or(self.parts.count() + 1, |number| number + 1);
        next
    }

    /// Takes the memory for a part. Each part is sent on its own, so the caller waits for other copies' memory, never
    /// for its own.
    fn take(&self, number: u32) -> BoxFuture<'static, Buffer> {
        let (memory, range) = (self.copy.memory.clone(), self.parts.range(number));
        let sending = || self.uploads.iter().filter(|upload| upload.state == State::Sending);
        let slow = sending().next().is_some() && sending().all(|upload| upload.target.slow);
        let bytes = match self.parts.mode() {
            PartMode::Buffered => range.end - range.start,
            PartMode::Streamed => WINDOW_BYTES.min(memory.total_bytes()),
        };
        Box::pin(async move { if slow { memory.take_for_slow(bytes).await } else { memory.take(bytes).await } })
    }

    fn carry(&mut self, number: u32, buffer: Buffer) {
        let (carrier, lanes) = (Arc::clone(&self.carrier), self.lanes(number));
        let range = self.parts.range(number);
        match self.parts.mode() {
            PartMode::Buffered => {
                self.carrying.spawn(within_current(carrier.read_and_send(number, range, buffer, lanes)))
            }
            PartMode::Streamed => self.carrying.spawn(within_current(carrier.stream(number, range, buffer, lanes))),
        };
    }

    /// Returns the targets that the part is sent to.
    fn lanes(&mut self, number: u32) -> Vec<PartTarget> {
        let lacking = self.uploads.iter_mut().enumerate().filter(|(_, upload)| upload.wants(number));
        lacking
            .map(|(index, upload)| {
                upload.under_way += 1;
                PartTarget {
                    index,
                    store: Arc::clone(&upload.target.store),
                    id: upload.id.clone(),
                    entry: upload.entry,
                    cut: upload.cut.clone(),
                }
            })
            .collect()
    }

    fn note(&mut self, event: PartEvent) -> Result<(), Failure> {
        match event {
            PartEvent::Read { number, content } => self.was_read(number, content),
            PartEvent::SourceFailed(why) => return Err(why),
            PartEvent::Sent { upload: index, number, result } => {
                let upload = &mut self.uploads[index];
                upload.under_way -= 1;
                match result {
                    Ok(part) => {
                        upload.gained += 1;
                        upload.parts.insert(number, part);
                    }
                    Err(PartError::FellBehind) => upload.leave(None),
                    Err(PartError::Cut) => {}
                    Err(PartError::Failed { why, forgotten: true }) => {
                        self.copy.job.journal.over(upload.entry);
                        self.answer(index, Err(why), UploadRemains::Nothing);
                    }
                    Err(PartError::Failed { why, .. }) if why.class.may_be_of_the_store() => upload.leave(Some(why)),
                    Err(PartError::Failed { why, .. }) => self.answer(index, Err(why), UploadRemains::Unusable),
                }
            }
        }
        Ok(())
    }

    /// Ends an upload that has another content of this part: it is useless.
    fn was_read(&mut self, number: u32, content: Content) {
        self.contents[number as usize - 1] = Some(content);
        for index in 0..self.uploads.len() {
            let known = self.uploads[index].parts.get(&number);
            if known.is_some_and(|part| part.crc != content.hash.0) {
                let store = &self.uploads[index].target.store;
                let what = format!("part {number} of an earlier attempt had another content than the source has now");
                let why =
                    Failure::new(FailureClass::Transient, format!("target {}: {what}; it begins anew", store.name()));
                self.answer(index, Err(why), UploadRemains::Unusable);
            }
        }
    }

    /// Sends a target's result, once.
    fn answer(&mut self, index: usize, result: Result<Verified, Failure>, leaves: UploadRemains) {
        let upload = &mut self.uploads[index];
        if upload.is_answered() {
            return;
        }
        upload.state = State::Answered(leaves);
        upload.cut.cancel();
        let upload = &self.uploads[index];
        self.tell_kept(upload);
        self.copy.ended(upload.target, result);
    }

    fn tell_kept(&self, upload: &Upload<'t>) {
        if upload.leaves() == UploadRemains::Parts && upload.gained > 0 {
            self.copy.tell(CopyStep::Kept { replica: upload.target.store.name().clone(), parts: upload.gained });
        }
    }

    /// Waits for `work` while parts are being sent.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Cancelled> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.copy.stop.cancelled() => return Err(Cancelled),
                done = &mut work => return Ok(done),
                // All parts were read: no source can fail any more.
                Some(event) = self.events.recv() => drop(self.note(event)),
            }
        }
    }
}

/// Converts a source's failure in the middle of an object: that this source lost it says nothing about the other
/// sources, which the next attempt asks.
fn half_way(why: Failure) -> Failure {
    let (class, scope) = (FailureClass::Transient, FailureClass::Transient.scope());
    if why.class == FailureClass::Gone { Failure { class, scope, ..why } } else { why }
}
