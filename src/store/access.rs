use aws_sdk_s3::types::EncodingType;

use super::{Metadata, Operation, Store, StoreError, progress::Progress};
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
        let encoded = answer.encoding_type == Some(EncodingType::Url);
        let first = answer.contents.unwrap_or_default().into_iter().find_map(|object| object.key);
        Ok(first.map(|key| if encoded { decode(&key) } else { key }))
    }

    /// Shows that we may write: an upload is begun and aborted, which leaves nothing behind.
    pub async fn check_write(&self) -> Result<(), StoreError> {
        let key = ObjectKey::new(WRITE_CHECK_KEY).expect("a key"); // Cannot fail: it is short and plain.
        let upload = self.create_multipart(&key, &Metadata::default()).await?;
        self.abort_multipart(&key, &upload).await
    }
}

/// Undoes `encoding-type=url`, in which AWS writes a space as `+`.
pub(super) fn decode(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, others @ ..] = rest {
        let (byte, after) = match (first, others) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', others),
            },
            (b'+', _) => (b' ', others),
            (byte, _) => (*byte, others),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_key_is_decoded_once() {
        assert_eq!(decode("a+b%2Bc%252Fd/e%0A%C3%BC%"), "a b+c%2Fd/e\n\u{fc}%");
    }
}
