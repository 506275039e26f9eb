//! Objects of any size that take no memory: their bytes follow from a seed, and
//! any range of them can be had at once.
//!
//! The bytes are pages of one shared pattern, each beginning at a place drawn
//! from seed and page number and stamped with both, so that no two pages of any
//! objects are equal and a page at the wrong place is noticed. Nothing is
//! computed per byte: tests move many GiB in unoptimised builds.

use std::ops::Range;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use md5::{Digest as _, Md5};

use crate::domain::ContentHash;

const PAGE: u64 = 256 * 1024;
/// Length of the stamp at the beginning of each page.
const STAMP: u64 = 16;
/// Places in the pattern at which a page may begin; a power of two.
const PLACES: u64 = 1024 * 1024;

/// An object given by its seed and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synthetic {
    pub seed: u64,
    pub size_bytes: u64,
}

impl Synthetic {
    #[must_use]
    pub fn new(seed: u64, size_bytes: u64) -> Self {
        Self { seed, size_bytes }
    }

    /// The bytes of `range`, cut off at the object's end, in pieces that share memory.
    pub fn pieces(self, range: Range<u64>) -> impl Iterator<Item = Bytes> + Send + Sync + 'static {
        let mut at = range.start;
        let end = range.end.min(self.size_bytes);
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let piece = piece_at(self.seed, at, end);
                at += piece.len() as u64;
                piece
            })
        })
    }

    /// MD5 of all bytes: the ETag. Reads them once, about 2 s per GiB.
    pub fn md5(self) -> [u8; 16] {
        let mut md5 = Md5::new();
        self.pieces(0..self.size_bytes).for_each(|piece| md5.update(&piece));
        md5.finalize().into()
    }

    /// CRC-64/NVME of all bytes.
    pub fn hash(self) -> ContentHash {
        let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        self.pieces(0..self.size_bytes).for_each(|piece| crc.update(&piece));
        ContentHash(crc.finalize())
    }
}

/// A range of the endless object of this seed, as one buffer.
pub fn bytes(seed: u64, range: Range<u64>) -> Bytes {
    let mut all = BytesMut::new();
    Synthetic::new(seed, u64::MAX).pieces(range).for_each(|piece| all.extend_from_slice(&piece));
    all.freeze()
}

/// The longest piece that begins at `at`, does not pass `end` and lies in one page.
fn piece_at(seed: u64, at: u64, end: u64) -> Bytes {
    let page = at / PAGE;
    let within = at % PAGE;
    let most = end - at;
    let slice = |whole: &Bytes, start: u64, len: u64| {
        // Cannot truncate: both lie within a page or the pattern.
        let start = usize::try_from(start).expect("below a MiB");
        whole.slice(start..start + usize::try_from(len).expect("below a MiB"))
    };
    if within < STAMP {
        let mut stamp = [0; 16];
        stamp[..8].copy_from_slice(&mix(seed).to_le_bytes());
        stamp[8..].copy_from_slice(&mix(page).to_le_bytes());
        slice(&Bytes::copy_from_slice(&stamp), within, most.min(STAMP - within))
    } else {
        let place = mix(mix(seed) ^ page) % PLACES;
        slice(pattern(), place + within, most.min(PAGE - within))
    }
}

fn pattern() -> &'static Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let words = (PLACES + PAGE) / 8;
        (0..words).flat_map(|n| mix(n).to_le_bytes()).collect::<Vec<_>>().into()
    })
}

/// One step of SplitMix64: each input bit sways each output bit, and no two inputs meet.
fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_is_a_piece_of_the_whole() {
        let whole = bytes(7, 0..PAGE * 3);
        for (from, to) in [(0, 1), (0, 16), (5, 20), (15, PAGE + 1), (PAGE - 1, PAGE + 17), (PAGE + 3, PAGE * 3)] {
            let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
            assert_eq!(bytes(7, from..to), whole[range], "{from}..{to}");
        }
    }

    #[test]
    fn the_object_ends_at_its_size() {
        let pieces: Vec<_> = Synthetic::new(1, 100).pieces(90..1000).collect();
        assert_eq!(pieces.concat(), bytes(1, 90..100));
        assert_eq!(Synthetic::new(1, 100).pieces(100..200).count(), 0);
    }

    #[test]
    fn no_two_pages_are_alike() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..20 {
            for page in 0..20 {
                assert!(seen.insert(bytes(seed, page * PAGE..page * PAGE + 64)));
                assert!(seen.insert(bytes(seed, page * PAGE + 64..page * PAGE + 128)));
            }
        }
    }

    #[test]
    fn the_hashes_are_those_of_the_bytes() {
        let object = Synthetic::new(3, PAGE + 999);
        let all = bytes(3, 0..PAGE + 999);
        assert_eq!(object.md5(), <[u8; 16]>::from(Md5::digest(&all)));
        assert_eq!(object.hash().0, crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &all));
    }
}
