//! Asks a store for size and checksum of an object, without its bytes.

use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use copyhold_core::domain::{ContentHash, MetadataHash, ObjectKey};

use super::{
    Operation, Store, StoreError, Tristate,
    blank_keys::to_sdk,
    read::{head_of_head, length},
    stall_timeout::Progress,
};

/// The store's own claim: damage that it has not noticed is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadResult {
    pub size_bytes: u64,
    /// CRC-64/NVME of the whole object; `None`: the store keeps none, or does not return it.
    pub hash: Option<ContentHash>,
    /// The hash of its metadata.
    pub metadata: MetadataHash,
}

impl Store {
    /// Requests size and checksum; the checksum only from a store that is known to keep one, because others may not
    /// accept the request.
    pub async fn stated(&self, key: &ObjectKey) -> Result<HeadResult, StoreError> {
        let knows = self.profile.hashes.takes_crc64 == Tristate::Yes;
        let call = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(to_sdk(key))
            .set_checksum_mode(knows.then_some(ChecksumMode::Enabled));
        let answer = match self.call(Operation::HeadObject, &Progress::default(), call.send()).await {
            Ok(answer) => answer,
            Err(error) => return Err(Box::pin(self.look_again(key, error)).await),
        };
        // For an object in parts it may be the checksum of one part.
        let whole = answer.checksum_type.as_ref().is_none_or(|kind| *kind == ChecksumType::FullObject);
        Ok(HeadResult {
            size_bytes: length(answer.content_length, Operation::HeadObject)?,
            metadata: head_of_head(&answer)?.metadata.hash(),
            hash: answer.checksum_crc64_nvme.as_deref().filter(|_| whole).and_then(parse),
        })
    }
}

/// Base64 of eight bytes, the highest first.
fn parse(text: &str) -> Option<ContentHash> {
    let bytes: [u8; 8] = STANDARD.decode(text).ok()?.try_into().ok()?;
    Some(ContentHash(u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_read_as_it_is_sent_and_nothing_else_is_taken_for_one() {
        let hash = ContentHash(0xae8b_1486_0a79_9888);
        assert_eq!(parse(&STANDARD.encode(hash.0.to_be_bytes())), Some(hash));
        for other in ["", "rosUhgp5mIg=-3", "rosUhg==", "not base64"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
