//! Learns which metadata a store keeps of what was sent to it.
//!
//! It judges no single copy: it decides whether another copy is checked.

use std::{
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::{Mutex, MutexGuard};

use super::{Metadata, Store};

/// The number of refused checks after which the store is not checked any more.
const IN_VAIN: u8 = 8;
/// How long a copy waits for the check of another.
const WAIT_AT_MOST: Duration = Duration::from_secs(10);

/// How metadata is sent to a store: it may keep the metadata of one request type and not of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentBy {
    Put,
    MultipartUpload,
}

/// Kinds of metadata, as a set of bits: each header, and the features of its value that some stores alter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MetadataKinds(u64);

/// The kinds that came back unchanged.
#[derive(Debug, Default)]
pub(super) struct KeptMetadata {
    by_put: AtomicU64,
    by_upload: AtomicU64,
    in_vain: AtomicU8,
    looking: Mutex<()>,
}

/// The right to check a copy, exclusive at any moment.
#[derive(Debug)]
pub struct MetadataCheck<'a> {
    store: &'a Store,
    kinds: MetadataKinds,
    sent_by: SentBy,
    _only: Option<MutexGuard<'a, ()>>,
}

impl MetadataKinds {
    /// Returns the kinds in canonical metadata.
    fn of<'m>(canonical: impl Iterator<Item = (&'m str, &'m str)>) -> Self {
        let (mut bits, mut user, mut user_bytes) = (0, 0, 0);
        for (name, value) in canonical {
            let header = match name {
                "content-type" => 0,
                "content-encoding" => 1,
                "content-disposition" => 2,
                "content-language" => 3,
                "cache-control" => 4,
                "expires" => 5,
                _ => {
                    user += 1;
                    user_bytes += name.len() + value.len();
                    6
                }
            };
            bits |= traits(value) << (header * 8);
        }
        let of_all = [user > 8, user_bytes > 1_023, user_bytes > 2_047];
        bits |= bits_of(of_all) << 56;
        Self(bits)
    }
}

/// Eight bits: a store may drop, cut, trim, squeeze, re-encode or decode a value.
fn traits(value: &str) -> u64 {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b" -_./;:=+".contains(&b);
    let has = [
        true,
        value.bytes().any(|b| b.is_ascii_uppercase()),
        value.contains("  ") || value.starts_with(' ') || value.ends_with(' '),
        value.contains(','),
        value.bytes().any(|b| !is_plain(b) && b != b','),
        value.len() > 127,
        value.len() > 255,
        value.len() > 1_023,
    ];
    bits_of(has)
}

fn bits_of(has: impl IntoIterator<Item = bool>) -> u64 {
    has.into_iter().enumerate().fold(0, |bits, (bit, has)| bits | u64::from(has) << bit)
}

impl KeptMetadata {
    fn seen(&self, sent_by: SentBy) -> &AtomicU64 {
        match sent_by {
            SentBy::Put => &self.by_put,
            SentBy::MultipartUpload => &self.by_upload,
        }
    }

    fn is_known(&self, kinds: MetadataKinds, sent_by: SentBy) -> bool {
        kinds.0 & !self.seen(sent_by).load(Ordering::Relaxed) == 0 || self.in_vain.load(Ordering::Relaxed) >= IN_VAIN
    }
}

impl Store {
    /// Returns the right to check a new copy, if it is not known yet what the store does to such metadata. `None`: it
    /// is known. Copies that end at the same time are checked one after the other.
    pub async fn look_at_metadata(&self, metadata: &Metadata, sent_by: SentBy) -> Option<MetadataCheck<'_>> {
        let canonical = metadata.canonical();
        let kinds = MetadataKinds::of(canonical.iter().map(|(name, value)| (name.as_str(), *value)));
        // Names that stores alter are altered one by one.
        let always = metadata.has_names_that_stores_alter();
        let look = |only| MetadataCheck { store: self, kinds, sent_by, _only: only };
        if always {
            return Some(look(None));
        }
        if self.kept_metadata.is_known(kinds, sent_by) {
            return None;
        }
        let only = tokio::time::timeout(WAIT_AT_MOST, self.kept_metadata.looking.lock()).await.ok();
        (!self.kept_metadata.is_known(kinds, sent_by)).then(|| look(only))
    }
}

impl MetadataCheck<'_> {
    /// Records that the copy has all that was sent.
    pub fn kept(self) {
        self.store.kept_metadata.seen(self.sent_by).fetch_or(self.kinds.0, Ordering::Relaxed);
    }

    /// Records that the store does not permit the check.
    pub fn refused(self) {
        let add = |n: u8| Some(n.saturating_add(1));
        // Cannot fail: it always adds.
        let _ = self.store.kept_metadata.in_vain.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(name: &str, value: &str) -> u64 {
        MetadataKinds::of([(name, value)].into_iter()).0
    }

    #[test]
    fn what_a_store_may_alter_in_a_value_is_a_kind_of_its_own() {
        let plain = kinds("x-amz-meta-a", "text");
        assert_eq!(plain.count_ones(), 1);
        assert_eq!(kinds("x-amz-meta-b", "1.5"), plain);
        let long = [128, 256, 1_024].map(|bytes| "v".repeat(bytes));
        assert!(long.windows(2).all(|two| kinds("x-amz-meta-a", &two[0]) != kinds("x-amz-meta-a", &two[1])));
        for value in ["Text", "a  b", " a", "a,b", "a%20b", "\"a\"", "(a)"].into_iter().chain(long.iter().map(|v| &**v))
        {
            assert_eq!(kinds("x-amz-meta-a", value) & plain, plain, "{value}");
            assert_ne!(kinds("x-amz-meta-a", value), plain, "{value}");
        }
        assert_eq!(kinds("content-type", "text") & plain, 0);
        assert_eq!(MetadataKinds::of(std::iter::empty()), MetadataKinds::default());
    }

    #[test]
    fn what_came_back_from_one_request_says_nothing_of_the_other_nor_of_other_kinds() {
        let kept = KeptMetadata::default();
        let (text, list) = (MetadataKinds(kinds("expires", "text")), MetadataKinds(kinds("expires", "a,b")));
        assert!(kept.is_known(MetadataKinds::default(), SentBy::Put));
        assert!(!kept.is_known(text, SentBy::Put));
        kept.seen(SentBy::Put).fetch_or(text.0, Ordering::Relaxed);
        assert!(kept.is_known(text, SentBy::Put) && !kept.is_known(list, SentBy::Put));
        assert!(!kept.is_known(text, SentBy::MultipartUpload));
        kept.in_vain.store(IN_VAIN, Ordering::Relaxed);
        assert!(kept.is_known(list, SentBy::MultipartUpload));
    }
}
