//! CRC-64/NVME and MD5 of streamed bytes, and of parts that are put together.

use copyhold_core::domain::{Content, ContentHash};
use crc_fast::{CrcAlgorithm, Digest as Crc, checksum_combine};
use md5::{Digest, Md5 as Hasher};

use crate::store::Md5;

/// Computes both hashes in one pass: CRC-64/NVME, which is recorded with the object, and MD5, which stores use.
#[derive(Debug)]
pub(super) struct Crc64AndMd5 {
    crc: Crc64,
    md5: Hasher,
}

/// Computes CRC-64/NVME alone, for bytes that are only compared.
#[derive(Debug)]
pub(super) struct Crc64 {
    crc: Crc,
    size_bytes: u64,
}

impl Crc64AndMd5 {
    pub(super) fn new() -> Self {
        Self { crc: Crc64::new(), md5: Hasher::new() }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.md5.update(bytes);
    }

    pub(super) fn finish(self) -> (Content, Md5) {
        (self.crc.content(), Md5(self.md5.finalize().into()))
    }
}

impl Crc64 {
    pub(super) fn new() -> Self {
        Self { crc: Crc::new(CrcAlgorithm::Crc64Nvme), size_bytes: 0 }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.size_bytes += bytes.len() as u64;
    }

    pub(super) fn content(&self) -> Content {
        Content { size_bytes: self.size_bytes, hash: ContentHash(self.crc.finalize()) }
    }
}

/// Returns size and hash of these contents put together in this order, without their bytes.
pub(super) fn joined(parts: impl Iterator<Item = Content>) -> Content {
    parts.fold(Crc64::new().content(), |whole, next| Content {
        size_bytes: whole.size_bytes + next.size_bytes,
        hash: ContentHash(checksum_combine(CrcAlgorithm::Crc64Nvme, whole.hash.0, next.hash.0, next.size_bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_crc_64_nvme() {
        let mut hash = Crc64::new();
        hash.update(b"123456789");
        // The check value in the catalogue of parametrised CRC algorithms.
        assert_eq!(hash.content(), Content { size_bytes: 9, hash: ContentHash(0xae8b_1486_0a79_9888) });
    }

    proptest::proptest! {
        #[test]
        fn hashes_of_parts_make_the_hash_of_the_whole(parts: Vec<Vec<u8>>) {
            let mut whole = Crc64::new();
            let mut hashed = Vec::new();
            for part in &parts {
                whole.update(part);
                let mut one = Crc64AndMd5::new();
                one.update(part);
                hashed.push(one.finish().0);
            }
            proptest::prop_assert_eq!(joined(hashed.into_iter()), whole.content());
        }
    }
}
