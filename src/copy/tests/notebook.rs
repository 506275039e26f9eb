use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use futures::future::BoxFuture;

use super::*;

/// A journal of one object that lives as long as the test.
#[derive(Debug, Clone, Default)]
pub(super) struct Notebook {
    pages: Arc<Mutex<Vec<Page>>>,
    /// It is not writing at the moment: who waits for it waits.
    closed: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
pub(super) struct Page {
    pub replica: ReplicaName,
    pub shape: Shape,
    pub upload: Option<UploadId>,
    pub parts: Vec<Part>,
    pub spoiled: bool,
    pub over: bool,
}

impl Notebook {
    /// What is neither over nor spoiled, of one replica.
    pub(super) fn open(&self, replica: &str) -> Vec<Page> {
        let pages = self.pages().clone();
        pages.into_iter().filter(|page| page.replica.as_str() == replica && !page.over && !page.spoiled).collect()
    }

    /// The parts that are written down for it, by number.
    pub(super) fn parts(&self, replica: &str) -> Vec<u32> {
        self.open(replica).iter().flat_map(|page| &page.parts).map(|part| part.number).collect()
    }

    /// Everything that was begun is over.
    pub(super) fn is_settled(&self) -> bool {
        self.pages().iter().all(|page| page.over)
    }

    /// Changes what is written down.
    pub(super) fn forge(&self, change: impl Fn(&mut Page)) {
        self.pages().iter_mut().for_each(change);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    async fn is_open(&self) {
        if self.closed.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    fn pages(&self) -> MutexGuard<'_, Vec<Page>> {
        self.pages.lock().unwrap()
    }

    fn page(&self, entry: Entry, change: impl FnOnce(&mut Page)) {
        change(&mut self.pages()[usize::try_from(entry.0).unwrap()]);
    }
}

impl Journal for Notebook {
    fn unfinished(&self) -> BoxFuture<'_, Vec<Unfinished>> {
        Box::pin(async {
            self.is_open().await;
            let all = self.pages();
            let open = (0..).zip(all.iter()).filter(|(_, page)| !page.over && !page.spoiled);
            let unfinished = open.filter_map(|(n, page)| {
                let mut parts = page.parts.clone();
                parts.sort_by_key(|part| part.number);
                let (replica, shape) = (page.replica.clone(), page.shape.clone());
                Some(Unfinished { entry: Entry(n), replica, shape, upload: page.upload.clone()?, parts })
            });
            unfinished.collect()
        })
    }

    fn intend<'a>(&'a self, replica: &'a ReplicaName, shape: &'a Shape) -> BoxFuture<'a, Entry> {
        Box::pin(async {
            self.is_open().await;
            let mut pages = self.pages();
            let (replica, shape) = (replica.clone(), shape.clone());
            pages.push(Page { replica, shape, upload: None, parts: Vec::new(), spoiled: false, over: false });
            Entry(i64::try_from(pages.len()).unwrap() - 1)
        })
    }

    fn began<'a>(&'a self, entry: Entry, upload: &'a UploadId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.is_open().await;
            self.page(entry, |page| page.upload = Some(upload.clone()));
        })
    }

    fn part(&self, entry: Entry, part: Part) {
        self.page(entry, |page| page.parts.push(part));
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.is_open())
    }

    fn spoil(&self, entry: Entry) {
        self.page(entry, |page| page.spoiled = true);
    }

    fn over(&self, entry: Entry) {
        self.page(entry, |page| page.over = true);
    }
}
