//! Checks what a bucket permits (list, write), and what it holds.

use std::time::SystemTime;

use copyhold_core::domain::ObjectKey;

use super::{
    CLOCK_TOLERANCE, ListPage, ListPosition, ListQuery, ListedObject, Metadata, Operation, Reason, Store, StoreError,
    is_of_a_probe,
};

/// The key of an upload that is never completed: no object of this name ever appears.
const WRITE_CHECK_KEY: &str = ".copyhold-write-check";

/// A key that never exists. A proxy that normalizes paths merges its slashes, removes its dot or decodes its escape.
const PATH_CHECK_KEY: &str = ".copyhold-path-check//a/./b%2Fc d";

/// The most pages until an object is found. Behind many delete markers a page may be empty and not the last.
const PAGES: usize = 100;

/// What a bucket holds before first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketContents {
    /// The first key; `None`: the bucket is empty.
    pub key: Option<String>,
    /// When the store answered, by its own clock.
    pub date: Option<SystemTime>,
    /// An object that was modified later than that: its Last-Modified and the Date are not of the same clock.
    pub of_later: Option<String>,
}

impl Store {
    /// Checks that the bucket can be listed, and that the endpoint is an S3 store.
    pub async fn check_list(&self) -> Result<(), StoreError> {
        let asked = ListQuery { prefix: "", delimiter: None };
        self.list_some(asked, &ListPosition::First, Some(1)).await.map(drop)
    }

    /// Returns the first key of the bucket; `None`: the bucket is empty, or holds only what a listing hides (older
    /// versions, delete markers) or what a probe left.
    pub async fn first_key(&self) -> Result<Option<String>, StoreError> {
        Ok(self.first_page(Some(1)).await?.objects.first().map(key_of))
    }

    /// Returns the first key, and when the store answered by its own clock.
    pub async fn first_key_and_date(&self) -> Result<(Option<String>, Option<SystemTime>), StoreError> {
        let page = self.first_page(Some(1)).await?;
        Ok((page.objects.first().map(key_of), page.date))
    }

    /// Returns what the bucket holds before anything is written to it.
    pub async fn bucket_contents(&self) -> Result<BucketContents, StoreError> {
        let page = self.first_page(None).await?;
        let later = page.date.map(|date| date + CLOCK_TOLERANCE);
        let ahead = |object: &&ListedObject| object.last_modified.zip(later).is_some_and(|(at, later)| at > later);
        Ok(BucketContents {
            key: page.objects.first().map(key_of),
            date: page.date,
            of_later: page.objects.iter().find(ahead).map(key_of),
        })
    }

    /// Returns the first page that has an object; the last, empty page if there is none. Objects that a probe had to
    /// leave do not count.
    async fn first_page(&self, mut most: Option<i32>) -> Result<ListPage, StoreError> {
        let asked = ListQuery { prefix: "", delimiter: None };
        let mut from = ListPosition::First;
        for _ in 0..PAGES {
            let mut page = self.list_some(asked, &from, most).await?;
            let last = page.objects.last().and_then(|last| String::from_utf8(last.bytes().to_vec()).ok());
            page.objects.retain(|object| !is_of_a_probe(object.bytes()));
            if !page.objects.is_empty() || !page.truncated {
                return Ok(page);
            }
            match page.next.map(ListPosition::Token).or(last.map(ListPosition::After)) {
                Some(next) if next != from => (from, most) = (next, None),
                _ => return Err(unseen("an empty page is not the last, and says not where the next one is")),
            }
        }
        Err(unseen("what listings hide (delete markers, say) fills its first 100 pages"))
    }

    /// Checks that the paths of unusual keys arrive unchanged. Writes nothing. Error: they are changed on the way.
    pub async fn check_paths(&self) -> Result<(), StoreError> {
        let key = ObjectKey::new(PATH_CHECK_KEY).expect("a key"); // Cannot fail: it is short.
        match self.get(&key, Some(0..1), None).await {
            Err(error) if error.is_of_the_path() => Err(error),
            // There is no such object, or the store cannot hold such a key, and says so.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Checks that the bucket can be written to: begins an upload and aborts it, which leaves nothing behind.
    pub async fn check_write(&self) -> Result<(), StoreError> {
        let key = ObjectKey::new(WRITE_CHECK_KEY).expect("a key"); // Cannot fail: it is short and plain.
        let upload = self.create_multipart(&key, &Metadata::default()).await?;
        self.abort_multipart(&key, &upload).await
    }
}

fn key_of(object: &ListedObject) -> String {
    String::from_utf8_lossy(object.bytes()).into_owned()
}

fn unseen(why: &str) -> StoreError {
    StoreError::found(
        Operation::ListObjects,
        Reason::NotUnderstood,
        format!("whether the bucket is empty is not known: {why}"),
    )
}
