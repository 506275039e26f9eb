use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::{Digest, Md5 as Hasher};

use crate::{
    domain::{Content, ContentHash},
    store::Md5,
};

/// Hashes bytes once, as they come: CRC-64/NVME, which is kept with the object, and
/// MD5, which stores know.
#[derive(Debug)]
pub(super) struct Both {
    crc: Plain,
    md5: Hasher,
}

/// CRC-64/NVME alone, for bytes that only need to be recognised.
#[derive(Debug)]
pub(super) struct Plain {
    crc: Crc,
    size_bytes: u64,
}

impl Both {
    pub(super) fn new() -> Self {
        Self { crc: Plain::new(), md5: Hasher::new() }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.md5.update(bytes);
    }

    pub(super) fn finish(self) -> (Plain, Md5) {
        (self.crc, Md5(self.md5.finalize().into()))
    }
}

impl Plain {
    pub(super) fn new() -> Self {
        Self { crc: Crc::new(CrcAlgorithm::Crc64Nvme), size_bytes: 0 }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.size_bytes += bytes.len() as u64;
    }

    /// Adds what came right after: the hash of the two together, without their bytes.
    pub(super) fn append(&mut self, next: &Self) {
        self.crc.combine(&next.crc);
        self.size_bytes += next.size_bytes;
    }

    pub(super) fn content(&self) -> Content {
        Content { size_bytes: self.size_bytes, hash: ContentHash(self.crc.finalize()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_crc_64_nvme() {
        let mut hash = Plain::new();
        hash.update(b"123456789");
        // The check value of the catalogue of parametrised CRC algorithms.
        assert_eq!(hash.content(), Content { size_bytes: 9, hash: ContentHash(0xae8b_1486_0a79_9888) });
    }

    proptest::proptest! {
        #[test]
        fn hashes_of_parts_make_the_hash_of_the_whole(parts: Vec<Vec<u8>>) {
            let mut whole = Plain::new();
            let mut together = Plain::new();
            for part in &parts {
                whole.update(part);
                let mut one = Both::new();
                one.update(part);
                together.append(&one.finish().0);
            }
            proptest::prop_assert_eq!(together.content(), whole.content());
        }
    }
}
