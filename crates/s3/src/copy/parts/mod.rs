//! Big objects: one ranged GET per part, its bytes shared by the uploads of all targets.
//!
//! As many parts are under way as there is memory for them. A target gets only what it lacks: what an earlier attempt
//! has sent stays there. One that falls behind gets no more parts, and goes on alone another time.

mod carry;
mod complete;
mod finish;
mod in_order;
mod stream;
mod upload;

use std::sync::Arc;

use copyhold_core::domain::{Content, ContentHash, Failure, FailureClass, Verified};
use futures::future::{BoxFuture, join_all};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Came, Cancelled, Copy, Step, Target, Unfinished,
    examine::Unfit,
    hash::joined,
    lacks,
    lag::{FellBehind, Patience, Race},
    memory::Buffer,
    plan::{Parts, Way},
    source::{Piece, Reader},
};
use crate::store::{Head, within_current};
use carry::{Carrier, Event, Lane, NotSent};
use in_order::InOrder;
use stream::WINDOW_BYTES;
use upload::{Begun, Leaves, State, Upload};

/// One object on its way in parts.
struct Work<'c, 't> {
    copy: &'c Copy<'c>,
    parts: Parts,
    carrier: Arc<Carrier>,
    events: mpsc::UnboundedReceiver<Event>,
    uploads: Vec<Upload<'t>>,
    /// Targets that hold an object from before, which is compared at the end.
    taken: Vec<(&'t Target, Head)>,
    /// Of each part that was read, in this attempt or before.
    contents: Vec<Option<Content>>,
    /// The next part to be looked at.
    next: u32,
    whole: Option<InOrder>,
    carrying: JoinSet<()>,
    patience: Patience,
}

impl Copy<'_> {
    pub(super) async fn write_parts<'t>(
        &self,
        reader: &Reader<'_>,
        parts: Parts,
        unfinished: Vec<Unfinished>,
        first: Option<Piece>,
        targets: &[&'t Target],
    ) -> Result<Came<'t>, Cancelled> {
        let mut work = Work::new(self, reader, parts);
        let ended = match work.begin(targets, unfinished).await {
            Ok(()) => work.run(first, !targets.is_empty()).await,
            Err(cancelled) => Err(cancelled),
        };
        work.end().await;
        ended
    }
}

impl<'c, 't: 'c> Work<'c, 't> {
    fn new(copy: &'c Copy<'c>, reader: &Reader<'_>, parts: Parts) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let whole = reader.opened().hashes_whole(parts).then(|| InOrder::new(parts.count()));
        let carrier = Carrier {
            opened: Arc::clone(reader.opened()),
            memory: copy.memory.clone(),
            journal: Arc::clone(&copy.job.journal),
            events: tell,
            whole: whole.as_ref().map(InOrder::put),
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
            patience: Patience::new(copy.job.lag),
        }
    }

    /// Begins at every target, all at the same time.
    async fn begin(&mut self, targets: &[&'t Target], unfinished: Vec<Unfinished>) -> Result<(), Cancelled> {
        let (copy, opened, parts) = (self.copy, &*self.carrier.opened, self.parts);
        let older = copy.or_stop(copy.job.journal.older()).await?;
        let (race, patience) = (Race::new(), self.patience);
        let begun = join_all(targets.iter().map(|target| {
            let theirs = unfinished.iter().find(|one| one.replica == *target.store.name()).cloned();
            let (race, older) = (&race, &older);
            async move {
                // Of one that is let go we never hear its upload's name: that is found by the journal's intent.
                match race.run(copy.job.lag, Box::pin(copy.begin(target, opened, parts, theirs, older))).await {
                    Ok((begun, _)) => (*target, begun),
                    Err(FellBehind) => (*target, Err(Some(patience.is_over(&target.store)))),
                }
            }
        }));
        for (target, begun) in begun.await {
            match begun {
                Ok(Begun::Upload(upload)) => self.enter(upload),
                Ok(Begun::Taken(there)) => self.taken.push((target, there)),
                Ok(Begun::There(proof)) => {
                    let metadata = self.carrier.opened.metadata();
                    lacks::tell(copy.steps, &target.store, &copy.job.key, metadata).await;
                    copy.ended(target, Ok(proof));
                }
                Err(Some(why)) => copy.ended(target, Err(why)),
                Err(None) => {}
            }
        }
        if copy.stop.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// What is known of the parts that are there need not be read again.
    fn enter(&mut self, upload: Upload<'t>) {
        // Where the whole is hashed all of them are.
        for part in upload.parts.values().filter(|_| self.whole.is_none()) {
            let range = self.parts.range(part.number);
            let content = Content { size_bytes: range.end - range.start, hash: ContentHash(part.crc) };
            self.contents[part.number as usize - 1].get_or_insert(content);
        }
        self.uploads.push(upload);
    }

    async fn run(&mut self, first: Option<Piece>, has_targets: bool) -> Result<Came<'t>, Cancelled> {
        match self.read(first, has_targets).await? {
            Ok(true) => {}
            Ok(false) => {
                self.finish(None).await?;
                return Ok(Came::Through);
            }
            Err(why) => {
                self.copy.source_failed(self.carrier.opened.store(), &why);
                self.give_up(&half_way(why));
                self.finish(None).await?;
                return Ok(Came::Through);
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
            Err(Unfit::Failed(why) | Unfit::Changed(why)) => {
                self.fail_all(&why);
                return Ok(Came::Through);
            }
            Err(Unfit::Stale(why)) => return Ok(Came::ToNothing { why, left: self.take_back() }),
        }
        copy.describe(&opened);
        copy.has_read(&opened, content);
        self.finish(Some((content, md5))).await?;
        Ok(Came::Through)
    }

    /// Reads every part that somebody lacks, and has it sent. `false`: nobody waits for the rest.
    async fn read(&mut self, first: Option<Piece>, has_targets: bool) -> Result<Result<bool, Failure>, Cancelled> {
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

    /// The next part that is to be read.
    fn next_to_read(&mut self) -> Option<u32> {
        let wanted = |number: &u32| {
            self.contents[*number as usize - 1].is_none() || self.uploads.iter().any(|upload| upload.wants(*number))
        };
        let next = (self.next..=self.parts.count()).find(wanted);
        self.next = next.map_or(self.parts.count() + 1, |number| number + 1);
        next
    }

    /// The memory for it. One that asks has to wait for others' memory alone, never for its own: each part goes its way
    /// by itself.
    fn take(&self, number: u32) -> BoxFuture<'static, Buffer> {
        let (memory, range) = (self.copy.memory.clone(), self.parts.range(number));
        let sending = || self.uploads.iter().filter(|upload| upload.state == State::Sending);
        let slow = sending().next().is_some() && sending().all(|upload| upload.target.slow);
        let bytes = match self.parts.way() {
            Way::Held => range.end - range.start,
            Way::Streamed => WINDOW_BYTES.min(memory.total_bytes()),
        };
        Box::pin(async move { if slow { memory.take_for_slow(bytes).await } else { memory.take(bytes).await } })
    }

    fn carry(&mut self, number: u32, buffer: Buffer) {
        let (carrier, lanes) = (Arc::clone(&self.carrier), self.lanes(number));
        let range = self.parts.range(number);
        match self.parts.way() {
            Way::Held => self.carrying.spawn(within_current(carrier.read_and_send(number, range, buffer, lanes))),
            Way::Streamed => self.carrying.spawn(within_current(carrier.stream(number, range, buffer, lanes))),
        };
    }

    /// Where the part is to go.
    fn lanes(&mut self, number: u32) -> Vec<Lane> {
        let lacking = self.uploads.iter_mut().enumerate().filter(|(_, upload)| upload.wants(number));
        lacking
            .map(|(index, upload)| {
                upload.under_way += 1;
                Lane {
                    index,
                    store: Arc::clone(&upload.target.store),
                    id: upload.id.clone(),
                    entry: upload.entry,
                    cut: upload.cut.clone(),
                }
            })
            .collect()
    }

    fn note(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Read { number, content } => self.was_read(number, content),
            Event::SourceFailed(why) => return Err(why),
            Event::Sent { upload: index, number, result } => {
                let upload = &mut self.uploads[index];
                upload.under_way -= 1;
                match result {
                    Ok(part) => {
                        upload.gained += 1;
                        upload.parts.insert(number, part);
                    }
                    Err(NotSent::FellBehind) => upload.leave(None),
                    Err(NotSent::Cut) => {}
                    Err(NotSent::Failed { why, forgotten: true }) => {
                        self.copy.job.journal.over(upload.entry);
                        self.answer(index, Err(why), Leaves::Nothing);
                    }
                    Err(NotSent::Failed { why, .. }) if why.class.may_be_of_the_store() => upload.leave(Some(why)),
                    Err(NotSent::Failed { why, .. }) => self.answer(index, Err(why), Leaves::Waste),
                }
            }
        }
        Ok(())
    }

    /// An upload that was begun with another content of this part is of no use.
    fn was_read(&mut self, number: u32, content: Content) {
        self.contents[number as usize - 1] = Some(content);
        for index in 0..self.uploads.len() {
            let known = self.uploads[index].parts.get(&number);
            if known.is_some_and(|part| part.crc != content.hash.0) {
                let store = &self.uploads[index].target.store;
                let what = format!("part {number} of an earlier attempt had another content than the source has now");
                let why =
                    Failure::new(FailureClass::Transient, format!("target {}: {what}; it begins anew", store.name()));
                self.answer(index, Err(why), Leaves::Waste);
            }
        }
    }

    /// Tells a target's end, once.
    fn answer(&mut self, index: usize, result: Result<Verified, Failure>, leaves: Leaves) {
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
        if upload.leaves() == Leaves::Parts && upload.gained > 0 {
            self.copy.tell(Step::Kept { replica: upload.target.store.name().clone(), parts: upload.gained });
        }
    }

    /// Waits for `work` while parts go on their way.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Cancelled> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.copy.stop.cancelled() => return Err(Cancelled),
                done = &mut work => return Ok(done),
                // All parts were read: no source fails any more.
                Some(event) = self.events.recv() => drop(self.note(event)),
            }
        }
    }
}

/// What a source's failure in the middle of an object means for the targets: that it is
/// gone by now is no word about the other sources, which the next attempt asks.
fn half_way(why: Failure) -> Failure {
    let (class, scope) = (FailureClass::Transient, FailureClass::Transient.scope());
    if why.class == FailureClass::Gone { Failure { class, scope, ..why } } else { why }
}
