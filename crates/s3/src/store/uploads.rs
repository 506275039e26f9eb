//! Lists the unfinished multipart uploads of the keys that begin with a prefix.

use std::time::SystemTime;

use aws_sdk_s3::types::EncodingType;

use super::{
    Operation, Reason, Store, StoreError, UploadId, clock::AnswerDate, key_encoding::KeyEncoding, list::nameless,
    stall_timeout::Progress, xml_document::WholeDocument,
};

/// The most pages, of 1,000 uploads each: stores sort by key, so the uploads of one key are on the first.
const PAGES: usize = 10;

/// An unfinished upload in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedUpload {
    /// Any client's upload, so the key may be one that Copyhold cannot hold.
    pub key: String,
    pub id: UploadId,
    /// µs since the epoch by the store's clock, usually whole seconds; `None`: the store does not return it.
    pub initiated: Option<i64>,
}

/// Returns whether keys are encoded although the answer does not say so, as Ceph's gateway does for uploads. Decoded,
/// all of them begin with the prefix; undecoded, none does.
fn is_written_as_url(keys: &[&str], prefix: &str) -> bool {
    let decoded = |key: &str| KeyEncoding::Url.text(key.to_owned());
    !keys.is_empty()
        && keys.iter().all(|key| !key.starts_with(prefix))
        && keys.iter().all(|key| decoded(key).starts_with(prefix))
}

impl Store {
    /// Returns the unfinished uploads, of any client, of keys that begin with `prefix`; the first ones if there are
    /// many thousands. Some stores also list others, whatever prefix is requested.
    pub async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, StoreError> {
        Ok(self.list_uploads_and_date(prefix).await?.0)
    }

    /// Lists them, with the time when the store began to answer by its own clock, if it says so.
    pub async fn list_uploads_and_date(
        &self,
        prefix: &str,
    ) -> Result<(Vec<ListedUpload>, Option<SystemTime>), StoreError> {
        let (mut all, mut first) = (Vec::new(), None);
        let (mut key_marker, mut id_marker) = (None, None);
        for _ in 0..PAGES {
            let call = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(prefix)
                .set_key_marker(key_marker.clone())
                .set_upload_id_marker(id_marker.clone())
                .encoding_type(EncodingType::Url);
            let date = AnswerDate::default();
            let call = call.customize().interceptor(WholeDocument::UPLOADS).interceptor(date.clone());
            let answer = self.call(Operation::ListMultipartUploads, &Progress::default(), call.send()).await?;
            first = first.or_else(|| date.get());
            let stated = KeyEncoding::of(answer.encoding_type.as_ref());
            let uploads = answer.uploads.unwrap_or_default();
            let keys: Vec<_> = uploads.iter().filter_map(|upload| upload.key.as_deref()).collect();
            let spelling = if answer.encoding_type.is_none() && is_written_as_url(&keys, prefix) {
                KeyEncoding::Url
            } else {
                stated
            };
            for upload in uploads {
                let initiated = upload.initiated.and_then(|at| i64::try_from(at.as_nanos() / 1000).ok());
                let named = upload.key.zip(upload.upload_id);
                let (key, id) = named.ok_or_else(|| nameless(Operation::ListMultipartUploads))?;
                all.push(ListedUpload { key: spelling.text(key), id: UploadId::new(id), initiated });
            }
            if answer.is_truncated != Some(true) {
                break;
            }
            let next = (answer.next_key_marker.map(|key| stated.text(key)), answer.next_upload_id_marker);
            // The loop would not end; and an upload that was not listed is not known to be gone.
            if next.0.is_none() || next == (key_marker, id_marker) {
                let what = "the store says that there is more to list and not where";
                return Err(StoreError::found(Operation::ListMultipartUploads, Reason::NotUnderstood, what));
            }
            (key_marker, id_marker) = next;
        }
        Ok((all, first))
    }
}
