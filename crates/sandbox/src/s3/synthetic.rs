//! Objects of any size that take no memory: their bytes follow from a seed, and
//! any range of them can be had at once.
//!
//! The bytes are pages of one shared pattern, each beginning at a place drawn
//! from seed and page number and stamped with both, so that no two pages of any
//! objects are equal and a page at the wrong place is noticed. Nothing is
//! computed per byte, and a hash is put together from those of the places:
//! tests move many GiB in unoptimised builds.

use std::ops::Range;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use copyhold_core::domain::ContentHash;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use crc_fast::{checksum, checksum_combine};
use md5::{Digest as _, Md5};

const PAGE: u64 = 256 * 1024;
/// Length of the stamp at the beginning of each page.
const STAMP: u64 = 16;
/// The number of positions in the pattern at which a page may begin: few enough to know the hash of each.
const PLACES: usize = 256;
/// From one place to the next.
const STRIDE: u64 = 4096;

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

    /// CRC-64/NVME of all bytes, combined from known parts: milliseconds per GiB.
    pub fn hash(self) -> ContentHash {
        let whole_pages = self.size_bytes / PAGE;
        let mut hash = 0; // of nothing
        for page in 0..whole_pages {
            hash = CrcShift::by_stamp().of(hash) ^ checksum(Crc64Nvme, &stamp(self.seed, page));
            hash = CrcShift::by_rest().of(hash) ^ hash_at(place(self.seed, page));
        }
        for piece in self.pieces(whole_pages * PAGE..self.size_bytes) {
            hash = checksum_combine(Crc64Nvme, hash, checksum(Crc64Nvme, &piece), piece.len() as u64);
        }
        ContentHash(hash)
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
    if within < STAMP {
        slice(&Bytes::copy_from_slice(&stamp(seed, page)), within, most.min(STAMP - within))
    } else {
        slice(pattern(), place(seed, page) as u64 * STRIDE + within, most.min(PAGE - within))
    }
}

fn slice(whole: &Bytes, start: u64, len: u64) -> Bytes {
    // Cannot fail: both lie within a page or the pattern.
    let at = |n: u64| usize::try_from(n).expect("below some MiB");
    whole.slice(at(start)..at(start + len))
}

fn stamp(seed: u64, page: u64) -> [u8; 16] {
    let mut stamp = [0; 16];
    stamp[..8].copy_from_slice(&mix(seed).to_le_bytes());
    stamp[8..].copy_from_slice(&mix(page).to_le_bytes());
    stamp
}

/// Which place of the pattern this page begins at.
fn place(seed: u64, page: u64) -> usize {
    // Cannot truncate: one byte of eight.
    usize::from(mix(mix(seed) ^ page).to_le_bytes()[0]) % PLACES
}

/// Hash of a page that begins at this place, without its stamp.
fn hash_at(place: usize) -> u64 {
    static KNOWN: [OnceLock<u64>; PLACES] = [const { OnceLock::new() }; PLACES];
    let page = || slice(pattern(), place as u64 * STRIDE + STAMP, PAGE - STAMP);
    *KNOWN[place].get_or_init(|| checksum(Crc64Nvme, &page()))
}

/// The change of a CRC when this many bytes follow: a linear map, stored as the images of the
/// single bits. The library works it out anew for each combination, which takes 100 times as long.
struct CrcShift([u64; 64]);

impl CrcShift {
    fn by_stamp() -> &'static Self {
        static STAMPED: OnceLock<CrcShift> = OnceLock::new();
        STAMPED.get_or_init(|| Self::by(STAMP))
    }

    fn by_rest() -> &'static Self {
        static FILLED: OnceLock<CrcShift> = OnceLock::new();
        FILLED.get_or_init(|| Self::by(PAGE - STAMP))
    }

    fn by(bytes: u64) -> Self {
        Self(std::array::from_fn(|bit| checksum_combine(Crc64Nvme, 1 << bit, 0, bytes)))
    }

    fn of(&self, crc: u64) -> u64 {
        let set = (0..64).filter(|bit| crc >> bit & 1 == 1);
        set.fold(0, |sum, bit| sum ^ self.0[bit])
    }
}

fn pattern() -> &'static Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let words = (PLACES as u64 * STRIDE + PAGE) / 8;
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
            }
        }
    }

    #[test]
    fn the_hashes_are_those_of_the_bytes() {
        for size in [0, 1, STAMP, PAGE - 1, PAGE, 3 * PAGE + 999] {
            let all = bytes(3, 0..size);
            assert_eq!(Synthetic::new(3, size).hash().0, checksum(Crc64Nvme, &all), "{size}");
            assert_eq!(Synthetic::new(3, size).md5(), <[u8; 16]>::from(Md5::digest(&all)), "{size}");
        }
    }
}
