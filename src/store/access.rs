use aws_sdk_s3::types::EncodingType;

use super::{Metadata, Operation, Store, StoreError, progress::Progress, spelling::Spelling};
use crate::domain::ObjectKey;

/// The key of an upload that is never completed, so no object of this name ever appears.
const WRITE_CHECK_KEY: &str = ".copyhold-write-check";

impl Store {
    /// The first key of the bucket; `None`: the bucket is empty, or holds only what a
    /// listing hides (older versions, delete markers).
    pub async fn first_key(&self) -> Result<Option<String>, StoreError> {
        let call = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .max_keys(1)
            // Without it a control character in a key makes the answer invalid XML.
            .encoding_type(EncodingType::Url);
        let answer = self.call(Operation::ListObjects, &Progress::default(), call.send()).await?;
        let spelling = Spelling::of(answer.encoding_type.as_ref());
        let first = answer.contents.unwrap_or_default().into_iter().find_map(|object| object.key);
        Ok(first.map(|key| spelling.text(key)))
    }

    /// Shows that we may write: an upload is begun and aborted, which leaves nothing behind.
    pub async fn check_write(&self) -> Result<(), StoreError> {
        let key = ObjectKey::new(WRITE_CHECK_KEY).expect("a key"); // Cannot fail: it is short and plain.
        let upload = self.create_multipart(&key, &Metadata::default()).await?;
        self.abort_multipart(&key, &upload).await
    }
}
