use super::{Asked, Metadata, Operation, Place, Reason, Store, StoreError};
use crate::domain::ObjectKey;

/// The key of an upload that is never completed, so no object of this name ever appears.
const WRITE_CHECK_KEY: &str = ".copyhold-write-check";

/// Pages at most until an object is seen. Where many delete markers lie, a page may be empty and not the last.
const PAGES: usize = 100;

impl Store {
    /// Shows that we may list, and that what answers is a store.
    pub async fn check_list(&self) -> Result<(), StoreError> {
        let asked = Asked { prefix: "", delimiter: None };
        self.list_some(asked, &Place::First, Some(1)).await.map(drop)
    }

    /// The first key of the bucket; `None`: the bucket is empty, or holds only what a listing hides (older versions, delete
    /// markers).
    pub async fn first_key(&self) -> Result<Option<String>, StoreError> {
        let asked = Asked { prefix: "", delimiter: None };
        let (mut from, mut most) = (Place::First, Some(1));
        for _ in 0..PAGES {
            let page = self.list_some(asked, &from, most).await?;
            if let Some(first) = page.objects.first() {
                return Ok(Some(String::from_utf8_lossy(first.bytes()).into_owned()));
            }
            match page.next.map(Place::Token) {
                _ if !page.truncated => return Ok(None),
                Some(next) if next != from => (from, most) = (next, None),
                _ => return Err(unseen("an empty page is not the last, and says not where the next one is")),
            }
        }
        Err(unseen("what listings hide (delete markers, say) fills its first 100 pages"))
    }

    /// Shows that we may write: an upload is begun and aborted, which leaves nothing behind.
    pub async fn check_write(&self) -> Result<(), StoreError> {
        let key = ObjectKey::new(WRITE_CHECK_KEY).expect("a key"); // Cannot fail: it is short and plain.
        let upload = self.create_multipart(&key, &Metadata::default()).await?;
        self.abort_multipart(&key, &upload).await
    }
}

fn unseen(why: &str) -> StoreError {
    StoreError::found(
        Operation::ListObjects,
        Reason::NotUnderstood,
        format!("whether the bucket is empty is not known: {why}"),
    )
}
