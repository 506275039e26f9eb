//! A journal of one object in memory, for tests and for copies that are not resumed.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use copyhold_core::domain::ReplicaName;
use futures::future::BoxFuture;

use super::{Journal, OlderUpload, ResumableUpload, UploadEntry, UploadShape, UploadedPart};
use crate::store::UploadId;

/// A journal of one object that lives in memory, with accessors for tests.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal {
    pages: Arc<Mutex<Vec<RecordedUpload>>>,
    /// It does not write at the moment: its futures stay pending.
    closed: Arc<AtomicBool>,
}

/// One upload, as far as it was recorded.
#[derive(Debug, Clone)]
pub struct RecordedUpload {
    pub replica: ReplicaName,
    pub shape: UploadShape,
    /// `None`: the store's answer with the id never arrived, if the upload began at all.
    pub upload: Option<UploadId>,
    /// In the order in which they were recorded.
    pub parts: Vec<UploadedPart>,
    pub spoiled: bool,
    pub over: bool,
}

impl MemoryJournal {
    /// Returns the upload of one replica that is neither over nor spoiled.
    #[must_use]
    pub fn open(&self, replica: &str) -> Vec<RecordedUpload> {
        let pages = self.pages().clone();
        pages.into_iter().filter(|page| page.replica.as_str() == replica && !page.over && !page.spoiled).collect()
    }

    /// Returns the recorded parts, by number.
    #[must_use]
    pub fn parts(&self, replica: &str) -> Vec<u32> {
        self.open(replica).iter().flat_map(|page| &page.parts).map(|part| part.number).collect()
    }

    /// Returns whether every upload that was begun is over.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pages().iter().all(|page| page.over)
    }

    /// Returns every record in its order.
    #[must_use]
    pub fn all(&self) -> Vec<RecordedUpload> {
        self.pages().clone()
    }

    /// Changes the records.
    pub fn forge(&self, change: impl Fn(&mut RecordedUpload)) {
        self.pages().iter_mut().for_each(change);
    }

    /// Stops writing: from now on its futures stay pending.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    async fn is_open(&self) {
        if self.closed.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    fn pages(&self) -> MutexGuard<'_, Vec<RecordedUpload>> {
        self.pages.lock().expect("no holder panics")
    }

    fn page(&self, entry: UploadEntry, change: impl FnOnce(&mut RecordedUpload)) {
        // Cannot fail: this journal issued the number.
        change(&mut self.pages()[usize::try_from(entry.0).expect("an entry of this journal")]);
    }
}

impl Journal for MemoryJournal {
    fn unfinished(&self) -> BoxFuture<'_, Vec<ResumableUpload>> {
        Box::pin(async {
            self.is_open().await;
            let all = self.pages();
            let open = (0..).zip(all.iter()).filter(|(_, page)| !page.over && !page.spoiled);
            let unfinished = open.filter_map(|(n, page)| {
                let mut parts = page.parts.clone();
                parts.sort_by_key(|part| part.number);
                let (replica, shape) = (page.replica.clone(), page.shape.clone());
                Some(ResumableUpload { entry: UploadEntry(n), replica, shape, upload: page.upload.clone()?, parts })
            });
            unfinished.collect()
        })
    }

    /// The journal holds one generation.
    fn older(&self) -> BoxFuture<'_, Vec<OlderUpload>> {
        Box::pin(async { Vec::new() })
    }

    fn intend<'a>(&'a self, replica: &'a ReplicaName, shape: &'a UploadShape) -> BoxFuture<'a, UploadEntry> {
        Box::pin(async {
            self.is_open().await;
            let mut pages = self.pages();
            let (replica, shape) = (replica.clone(), shape.clone());
            pages.push(RecordedUpload { replica, shape, upload: None, parts: Vec::new(), spoiled: false, over: false });
            // Cannot fail: no test records that many.
            UploadEntry(i64::try_from(pages.len()).expect("a number of pages") - 1)
        })
    }

    fn began<'a>(&'a self, entry: UploadEntry, upload: &'a UploadId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.is_open().await;
            self.page(entry, |page| page.upload = Some(upload.clone()));
        })
    }

    fn part(&self, entry: UploadEntry, part: UploadedPart) {
        self.page(entry, |page| page.parts.push(part));
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.is_open())
    }

    fn spoil(&self, entry: UploadEntry) {
        self.page(entry, |page| page.spoiled = true);
    }

    fn over(&self, entry: UploadEntry) {
        self.page(entry, |page| page.over = true);
    }
}
