//! The objects of a demo: keys, sizes and metadata, all from one seed.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::keys;
use crate::s3::Synthetic;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Applications usually upload larger objects in parts, and Copyhold copies them in parts.
const LARGE_FROM: u64 = 17 * MIB;
/// Most objects are smaller than this.
const SMALL_UP_TO: u64 = 64 * KIB;
const MEDIUM_UP_TO: u64 = 4 * MIB;
/// The number of objects of medium size, whatever the total number; they have most of the bytes.
const MEDIUM_AT_MOST: usize = 40;
/// The bytes of all large objects together, unless the largest alone has more.
const LARGE_BYTES: u64 = 96 * MIB;

/// One object of the application. Its bytes follow from the seed and take no memory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    pub(super) key: String,
    pub(super) content: Synthetic,
    pub(super) metadata: Metadata,
}

/// The metadata that the application sends with an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) content_type: Option<&'static str>,
    pub(super) cache_control: Option<&'static str>,
    pub(super) content_disposition: Option<&'static str>,
    pub(super) user: BTreeMap<String, String>,
}

impl Object {
    pub(super) fn size_bytes(&self) -> u64 {
        self.content.size_bytes
    }

    /// Returns the bytes in one buffer, for objects and parts that fit into memory.
    pub(super) fn bytes(&self, range: std::ops::Range<u64>) -> Bytes {
        self.content.pieces(range).collect::<Vec<_>>().concat().into()
    }
}

/// Makes the objects; the same arguments make the same ones. They are in random order, so that large and odd ones come
/// in between.
pub(super) fn objects(count: usize, largest_bytes: u64, seed: u64) -> Vec<Object> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut keys = keys::keys(count, &mut rng);
    keys.shuffle(&mut rng);
    let mut sizes = sizes(count, largest_bytes, &mut rng);
    sizes.shuffle(&mut rng);
    let object = |(key, size_bytes)| Object {
        key,
        content: Synthetic::new(rng.random(), size_bytes),
        metadata: metadata(&mut rng),
    };
    keys.into_iter().zip(sizes).map(object).collect()
}

/// Draws log-uniform sizes: as many between 10 and 100 bytes as between 1 and 10 KiB. One is empty.
fn sizes(count: usize, largest_bytes: u64, rng: &mut StdRng) -> Vec<u64> {
    let mut sizes = Vec::with_capacity(count);
    if count > 1 {
        sizes.extend([0, largest_bytes]);
    }
    let few = count / 20;
    let mut large_left = LARGE_BYTES.saturating_sub(largest_bytes);
    for _ in 0..few {
        let size_bytes = log_uniform(LARGE_FROM, largest_bytes.max(LARGE_FROM), rng);
        if size_bytes <= large_left && size_bytes <= largest_bytes {
            large_left -= size_bytes;
            sizes.push(size_bytes);
        }
    }
    for _ in 0..few.min(MEDIUM_AT_MOST) {
        sizes.push(log_uniform(SMALL_UP_TO, MEDIUM_UP_TO, rng).min(largest_bytes));
    }
    while sizes.len() < count {
        sizes.push(log_uniform(1, SMALL_UP_TO, rng).min(largest_bytes));
    }
    sizes
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "any size between the two will do"
)]
fn log_uniform(from: u64, to: u64, rng: &mut StdRng) -> u64 {
    let (low, high) = ((from as f64).ln(), (to as f64).ln());
    (low + rng.random::<f64>() * (high - low)).exp() as u64
}

fn metadata(rng: &mut StdRng) -> Metadata {
    let content_type = match rng.random_range(0..6) {
        0 => Some("image/jpeg"),
        1 => Some("text/plain; charset=utf-8"),
        2 => Some("application/x-copyhold-demo"),
        _ => None,
    };
    let mut user = BTreeMap::new();
    if rng.random_bool(0.3) {
        user.insert("camera".to_owned(), format!("No. {}", rng.random_range(1..100)));
    }
    if rng.random_bool(0.1) {
        user.insert("note".to_owned(), "quotes \" and ' and = and, commas; =?UTF-8?Q?caf=C3=A9?=".to_owned());
    }
    Metadata {
        content_type,
        cache_control: rng.random_bool(0.2).then_some("public, max-age=31536000, immutable"),
        content_disposition: rng.random_bool(0.1).then_some("attachment; filename=\"a photo.jpg\""),
        user,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(objects: &[Object]) -> u64 {
        objects.iter().map(Object::size_bytes).sum()
    }

    #[test]
    fn one_seed_makes_one_collection_and_another_seed_another() {
        let first = objects(300, 32 * MIB, 7);
        assert_eq!(first, objects(300, 32 * MIB, 7));
        let other = objects(300, 32 * MIB, 8);
        assert_ne!(first, other);
        let bytes = |objects: &[Object]| objects[0].bytes(0..objects[0].size_bytes());
        assert_eq!(bytes(&first), bytes(&objects(300, 32 * MIB, 7)));
    }

    #[test]
    fn sizes_go_from_nothing_to_several_parts_and_three_buckets_of_them_stay_below_a_gibibyte() {
        for seed in 0..50 {
            let objects = objects(500, 32 * MIB, seed);
            assert!(objects.iter().any(|o| o.size_bytes() == 0));
            assert!(objects.iter().any(|o| o.size_bytes() == 32 * MIB));
            assert!(objects.iter().filter(|o| o.size_bytes() < SMALL_UP_TO).count() > 400);
            assert!(3 * total(&objects) < 1024 * MIB, "{}", total(&objects));
        }
    }

    #[test]
    fn no_object_is_longer_than_asked_and_one_is_exactly_that_long() {
        for largest in [0, 1, 1000, MIB, LARGE_FROM + 1, 1024 * MIB] {
            let objects = objects(100, largest, 1);
            assert_eq!(objects.iter().map(Object::size_bytes).max(), Some(largest));
        }
    }
}
