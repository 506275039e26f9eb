//! The end of a copy in parts, at each of its targets.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use copyhold_core::{
    domain::{Content, Failure, Verified},
    timer::sleep_until_some,
};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::task::JoinSet;

use super::{
    super::{Cancelled, LAST_REQUEST_MAY_TAKE, Target, not_carried, verify},
    PartsCopy,
    complete::UploadCompletion,
    part_sender::PartEvent,
    upload::{State, Upload, UploadRemains, abort_upload},
};
use crate::store::Md5;

/// The result at one target.
enum TargetResult {
    Upload {
        index: usize,
        result: Result<Verified, Failure>,
        leaves: UploadRemains,
    },
    /// The target's result was sent.
    Taken {
        is_there: bool,
    },
}

impl<'c, 't: 'c> PartsCopy<'c, 't> {
    /// Completes and proves each upload as soon as it has all its parts, and compares objects that were there before.
    /// Without a content, only waits for the parts under way.
    pub(super) async fn finish(&mut self, read: Option<(Content, Option<Md5>)>) -> Result<(), Cancelled> {
        let (copy, content) = (self.copy, read.map(|(content, _)| content));
        let mut finishing = FuturesUnordered::new();
        for (target, there) in std::mem::take(&mut self.taken) {
            let Some((content, md5)) = read else { continue };
            let opened = Arc::clone(&self.carrier.opened);
            let compared: BoxFuture<'c, TargetResult> = Box::pin(async move {
                let metadata = opened.metadata();
                let result = verify::adopt(target, &copy.job.key, &there, &content, md5.as_ref(), metadata).await;
                let is_there = result.is_ok();
                if is_there {
                    not_carried::tell(copy.steps, &target.store, &copy.job.key, metadata).await;
                }
                copy.ended(target, result);
                TargetResult::Taken { is_there }
            });
            finishing.push(compared);
        }
        let mut patient_until = None;
        loop {
            self.complete(content, &finishing);
            if finishing.is_empty() && self.uploads.iter().all(Upload::is_answered) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = copy.stop.cancelled() => return self.last_requests(finishing).await,
                Some(finished) = finishing.next(), if !finishing.is_empty() => {
                    if self.finished(finished) {
                        patient_until.get_or_insert_with(|| Instant::now() + self.patience.left(Duration::ZERO));
                    }
                }
                Some(event) = self.events.recv() => drop(self.note(event)),
                () = sleep_until_some(patient_until) => {
                    patient_until = None;
                    self.let_go();
                }
            }
        }
    }

    /// Completes uploads that have all their parts, and ends those that get no more.
    fn complete(&mut self, content: Option<Content>, finishing: &FuturesUnordered<BoxFuture<'c, TargetResult>>) {
        let copy = self.copy;
        for index in 0..self.uploads.len() {
            let upload = &mut self.uploads[index];
            let is_all_there = upload.parts.len() == self.parts.count() as usize;
            match (&upload.state, content) {
                (State::Sending | State::Leaving(_), Some(content)) if is_all_there => {
                    upload.state = State::Completing;
                    let complete = UploadCompletion::new(
                        upload,
                        &copy.job.journal,
                        &self.carrier.opened,
                        content,
                        self.parts.mode(),
                        copy.steps,
                    );
                    finishing.push(Box::pin(async move {
                        let (result, leaves) = complete.run().await;
                        TargetResult::Upload { index, result, leaves }
                    }));
                }
                (State::Sending | State::Leaving(_), _) if upload.under_way == 0 => self.leave_behind(index),
                _ => {}
            }
        }
    }

    /// Returns whether a target has the object now.
    fn finished(&mut self, finished: TargetResult) -> bool {
        match finished {
            TargetResult::Upload { index, result, leaves } => {
                let is_there = result.is_ok();
                self.answer(index, result, leaves);
                is_there
            }
            TargetResult::Taken { is_there } => is_there,
        }
    }

    /// Gives a request that makes an object appear a moment to end.
    async fn last_requests(
        &mut self,
        mut finishing: FuturesUnordered<BoxFuture<'c, TargetResult>>,
    ) -> Result<(), Cancelled> {
        let all = async {
            while let Some(finished) = finishing.next().await {
                self.finished(finished);
            }
        };
        let in_time = tokio::time::timeout(LAST_REQUEST_MAY_TAKE, all).await.is_ok();
        if in_time && self.uploads.iter().all(Upload::is_answered) { Ok(()) } else { Err(Cancelled) }
    }

    /// Ends the wait for targets that lag behind.
    fn let_go(&mut self) {
        for index in 0..self.uploads.len() {
            if matches!(self.uploads[index].state, State::Sending | State::Leaving(_)) {
                self.leave_behind(index);
            }
        }
    }

    /// Ends the upload of a target that did not get every part.
    fn leave_behind(&mut self, index: usize) {
        let upload = &mut self.uploads[index];
        let why = match &mut upload.state {
            State::Leaving(why) => why.take(),
            _ => None,
        };
        let mut why = why.unwrap_or_else(|| self.patience.is_over(&upload.target.store));
        let (there, all) = (upload.parts.len(), self.parts.count());
        if there > 0 {
            // Cannot fail: a String takes all that is written to it.
            let _ = write!(why.message, "; {there} of its {all} parts are there, and it goes on from them");
        }
        self.answer(index, Err(why), UploadRemains::Parts);
    }

    /// Stops reading. What was read already is still sent.
    pub(super) fn give_up(&mut self, why: &Failure) {
        if !why.class.may_be_of_the_store() {
            return self.fail_all(why);
        }
        self.uploads.iter_mut().for_each(|upload| upload.leave(Some(why.clone())));
        for (target, _) in std::mem::take(&mut self.taken) {
            self.copy.ended(target, Err(why.clone()));
        }
    }

    /// Fails all targets; their uploads are useless.
    pub(super) fn fail_all(&mut self, why: &Failure) {
        for target in self.take_back() {
            self.copy.ended(target, Err(why.clone()));
        }
    }

    /// Returns the targets that have no result yet; their uploads are useless.
    pub(super) fn take_back(&mut self) -> Vec<&'t Target> {
        let mut left: Vec<_> = std::mem::take(&mut self.taken).into_iter().map(|(target, _)| target).collect();
        for upload in self.uploads.iter_mut().filter(|upload| !upload.is_answered()) {
            upload.state = State::Answered(UploadRemains::Unusable);
            upload.cut.cancel();
            left.push(upload.target);
        }
        left
    }

    /// Waits for the last request. What is left at the stores afterwards can be resumed, or is known to be useless.
    pub(super) async fn end(mut self) {
        self.carrying.shutdown().await;
        while let Ok(event) = self.events.try_recv() {
            // Parts that the stores have accepted meanwhile are in the journal.
            if let PartEvent::Sent { upload, number, result: Ok(part) } = event {
                self.uploads[upload].gained += 1;
                self.uploads[upload].parts.insert(number, part);
            }
        }
        for upload in self.uploads.iter().filter(|upload| !upload.is_answered()) {
            self.tell_kept(upload);
        }
        let (journal, key) = (&self.copy.job.journal, &self.copy.job.key);
        let mut aborts = JoinSet::new();
        for upload in self.uploads.iter().filter(|upload| upload.leaves() == UploadRemains::Unusable) {
            aborts.spawn(abort_upload(Arc::clone(journal), key.clone(), upload));
        }
        while aborts.join_next().await.is_some() {}
    }
}
