//! A journal that shows how far a copy has come, and can hold it there.

use copyhold_core::domain::ReplicaName;
use copyhold_s3::{
    copy::{Journal, MemoryJournal, OlderUpload, ResumableUpload, UploadEntry, UploadShape, UploadedPart},
    store::UploadId,
};
use futures::future::BoxFuture;
use tokio::sync::watch;

/// A journal at which it can be seen how far a copy has come, and be held where an upload was begun and only the first
/// part was read.
#[derive(Clone, Debug)]
pub struct Watched {
    pub notebook: MemoryJournal,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    /// Numbers of the recorded parts, in the order of recording.
    parts: Vec<u32>,
    begun: usize,
    held: bool,
}

impl Watched {
    pub fn new() -> Self {
        Self { notebook: MemoryJournal::default(), progress: watch::Sender::default() }
    }

    pub fn parts(&self) -> Vec<u32> {
        self.progress.borrow().parts.clone()
    }

    /// Uploads that were begun.
    pub fn begun(&self) -> usize {
        self.progress.borrow().begun
    }

    pub async fn until_parts(&self, n: usize) {
        self.until(|progress| progress.parts.len() >= n).await;
    }

    pub async fn until_begun(&self) {
        self.until(|progress| progress.begun > 0).await;
    }

    /// A copy that has begun an upload waits.
    pub fn hold(&self) {
        self.progress.send_modify(|progress| progress.held = true);
    }

    pub fn let_go(&self) {
        self.progress.send_modify(|progress| progress.held = false);
    }

    async fn until(&self, reached: impl FnMut(&Progress) -> bool) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.progress.subscribe().wait_for(reached).await;
    }
}

impl Journal for Watched {
    fn unfinished(&self) -> BoxFuture<'_, Vec<ResumableUpload>> {
        self.notebook.unfinished()
    }

    fn older(&self) -> BoxFuture<'_, Vec<OlderUpload>> {
        self.notebook.older()
    }

    fn intend<'a>(&'a self, replica: &'a ReplicaName, shape: &'a UploadShape) -> BoxFuture<'a, UploadEntry> {
        self.notebook.intend(replica, shape)
    }

    fn began<'a>(&'a self, entry: UploadEntry, upload: &'a UploadId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.notebook.began(entry, upload).await;
            self.progress.send_modify(|progress| progress.begun += 1);
            self.until(|progress| !progress.held).await;
        })
    }

    fn part(&self, entry: UploadEntry, part: UploadedPart) {
        self.progress.send_modify(|progress| progress.parts.push(part.number));
        self.notebook.part(entry, part);
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        self.notebook.settle()
    }

    fn spoil(&self, entry: UploadEntry) {
        self.notebook.spoil(entry);
    }

    fn over(&self, entry: UploadEntry) {
        self.notebook.over(entry);
    }
}
