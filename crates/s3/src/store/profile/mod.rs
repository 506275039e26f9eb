//! What one store does differently from others, as data.
//!
//! A preset holds what its provider documents or what was measured, never assumptions; the operator's own settings
//! override it. A copy that cannot succeed is refused here, with a reason, before a byte of it is read.

mod presets;

use bytesize::ByteSize;
use copyhold_core::domain::ObjectKey;
use serde::Serialize;

use super::{ETag, Metadata};
use crate::settings::{self, Provider};

/// What is known of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    pub provider: Provider,
    /// The most parts of one multipart upload.
    pub max_parts: u32,
    /// The smallest size of a part that is not the last.
    pub min_part_bytes: u64,
    /// All parts but the last must be of one size. Copyhold's always are: kept for a future change of the plan.
    pub equal_parts: bool,
    /// The largest size of one PUT, and of one part.
    pub max_put_bytes: u64,
    /// The largest size of an object, however it is sent.
    pub max_object_bytes: u64,
    pub keys: Keys,
    /// The largest size of user metadata, names and values together; `None`: the limit is unknown, the store decides.
    pub max_metadata_bytes: Option<usize>,
    pub hashes: Hashes,
    pub etags: Etags,
    pub conditions: Conditions,
    pub listing: Listing,
    /// Every overwrite keeps the previous object as an older version.
    pub keeps_versions: Tristate,
    /// The operator accepts copies with other metadata than their objects.
    pub accepts_altered_metadata: bool,
    /// Storage classes that must be restored before they can be read.
    pub cold_classes: &'static [&'static str],
}

/// Whether a store does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tristate {
    Yes,
    No,
    /// It was not measured, or depends on the bucket.
    Unknown,
}

impl From<bool> for Tristate {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// Keys that a store can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    pub max_bytes: usize,
    /// Keys with bytes below 32, or 127.
    pub control: Control,
    /// Keys with a `/` in front, two in a row, or `.` or `..` between them: a file system would normalize them.
    pub untidy: bool,
    /// Keys with a `/` in front, stored apart from the key without it, which may be another object's.
    pub leading_slash: bool,
    /// Different keys are different objects: the store folds neither capitals nor anything else.
    pub exact: Tristate,
}

/// How a store treats control characters in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Held,
    /// Not in an upload in parts: the answer holds the key unescaped, which is not valid XML, so the upload id cannot
    /// be read.
    HeldWhole,
    Refused,
}

/// What a store does with the hash of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// The store was measured to refuse a wrong Content-MD5 and to keep nothing of it, on PUT and on parts.
    pub checks_md5: bool,
    /// The store accepts `x-amz-checksum-crc64nvme` on PUT.
    pub takes_crc64: Tristate,
    /// The store accepts it on parts.
    pub takes_crc64_on_parts: Tristate,
}

/// How a store forms its ETags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Etags {
    /// The ETag of one PUT is the MD5 of its bytes.
    pub of_put_is_md5: Tristate,
    /// The ETag of an upload in parts is the MD5 of their MD5s, and their number.
    pub of_parts_is_md5s: Tristate,
}

/// Whether the store evaluates preconditions. Correctness never depends on them; they save round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    pub on_get: Tristate,
    pub on_put: Tristate,
}

/// What Copyhold may rely on in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The listing shows every object that can be read.
    pub is_complete: Tristate,
    /// The store evaluates `start-after`.
    pub starts_after: Tristate,
}

impl Profile {
    /// Returns the preset of the replica's provider, overridden by the operator's own facts.
    #[must_use]
    pub fn of(replica: &settings::StoreSettings) -> Self {
        let preset = presets::of(replica.provider);
        let facts = &replica.facts;
        let etags = facts.md5_etags.map(Tristate::from);
        Self {
            max_parts: facts.max_parts.unwrap_or(preset.max_parts),
            max_put_bytes: facts.max_put_bytes.unwrap_or(preset.max_put_bytes),
            max_object_bytes: facts.max_object_bytes.unwrap_or(preset.max_object_bytes),
            keys: Keys { max_bytes: facts.max_key_bytes.unwrap_or(preset.keys.max_bytes), ..preset.keys },
            etags: etags.map_or(preset.etags, |known| Etags { of_put_is_md5: known, of_parts_is_md5s: known }),
            hashes: Hashes { checks_md5: facts.checks_md5.unwrap_or(preset.hashes.checks_md5), ..preset.hashes },
            accepts_altered_metadata: facts.accepts_altered_metadata.unwrap_or(preset.accepts_altered_metadata),
            ..preset
        }
    }

    /// Returns why this store cannot hold `key`; `None`: it can.
    #[must_use]
    pub fn refuses_key(&self, key: &ObjectKey) -> Option<String> {
        let (text, whose) = (key.as_str(), self.provider.name());
        let control = |b: u8| b < b' ' || b == 127;
        if text.len() > self.keys.max_bytes {
            Some(format!("the key has {} bytes, {whose} takes {} at most", text.len(), self.keys.max_bytes))
        } else if self.keys.control == Control::Refused && text.bytes().any(control) {
            Some(format!("the key has a control character, which {whose} does not take"))
        } else if !self.keys.untidy && is_untidy(text) {
            Some(format!("the key begins with '/', or has '//', '.' or '..' as a segment, which {whose} does not take"))
        } else if !self.keys.leading_slash && text.starts_with('/') {
            Some(format!("the key begins with '/', and {whose} takes it for the one without"))
        } else {
            None
        }
    }

    /// Returns why this store cannot hold `key` in an upload in parts; `None`: it can.
    #[must_use]
    pub fn refuses_key_in_parts(&self, key: &ObjectKey) -> Option<String> {
        // Of the control characters, only tab and line feed survive a round trip through XML.
        let unfit = |b: u8| b < b' ' && !matches!(b, b'\t' | b'\n');
        (self.keys.control == Control::HeldWhole && key.as_str().bytes().any(unfit)).then(|| {
            let whose = self.provider.name();
            format!(
                "the key has a control character, with which the id of an upload in parts at {whose} cannot be read"
            )
        })
    }

    /// Returns why this store cannot hold an object of this size; `None`: it can.
    #[must_use]
    pub fn refuses_size(&self, size_bytes: u64) -> Option<String> {
        let most = self.max_object_bytes.min(self.max_put_bytes.saturating_mul(u64::from(self.max_parts)));
        (size_bytes > most)
            .then(|| format!("the object has {size_bytes} bytes, {} takes {most} at most", self.provider.name()))
    }

    /// Returns why this store cannot hold such metadata; `None`: it can.
    #[must_use]
    pub fn refuses_metadata(&self, metadata: &Metadata) -> Option<String> {
        let most = self.max_metadata_bytes?;
        let bytes = metadata.user_bytes();
        (bytes > most).then(|| {
            let (has, takes) = (ByteSize::b(bytes as u64), ByteSize::b(most as u64));
            format!("the object has {has} of user metadata, {} takes {takes} at most", self.provider.name())
        })
    }

    /// Returns whether a successful request with our Content-MD5 proves that the bytes arrived, although the answer's
    /// ETag is another: the store checks the hash, and does not promise that its ETags are MD5s.
    #[must_use]
    pub fn proves_by_hash(&self, in_parts: bool) -> bool {
        let etag = if in_parts { self.etags.of_parts_is_md5s } else { self.etags.of_put_is_md5 };
        self.hashes.checks_md5 && etag != Tristate::Yes
    }

    /// Returns whether the store is known to form this ETag from the content alone, by S3's formula: if two such stores
    /// return the same ETag, they have the same bytes.
    #[must_use]
    pub fn etag_speaks_of_content(&self, etag: &ETag) -> bool {
        (etag.looks_like_md5() && self.etags.of_put_is_md5 == Tristate::Yes)
            || (etag.looks_like_parts() && self.etags.of_parts_is_md5s == Tristate::Yes)
    }

    /// Returns whether objects of this storage class must be restored before they can be read.
    #[must_use]
    pub fn is_cold(&self, storage_class: &str) -> bool {
        self.cold_classes.contains(&storage_class)
    }
}

fn is_untidy(key: &str) -> bool {
    // The segment after the last slash may be empty: the marker of a folder.
    let segments = key.strip_suffix('/').unwrap_or(key);
    segments.split('/').any(|segment| matches!(segment, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> ObjectKey {
        ObjectKey::new(key).unwrap()
    }

    #[test]
    fn a_key_that_a_provider_cannot_hold_is_refused_in_words() {
        let b2 = presets::of(Provider::B2);
        for held in ["a b", "a//b", "/a", "\u{fc}\u{1f600}", &"k".repeat(1024)] {
            assert_eq!(b2.refuses_key(&key(held)), None, "{held}");
        }
        for refused in ["a\nb", "a\u{7f}", "\u{1}"] {
            let why = b2.refuses_key(&key(refused)).unwrap();
            assert_eq!(why, "the key has a control character, which Backblaze B2 does not take");
        }
        let minio = presets::of(Provider::Minio);
        for refused in ["/a", "a//b", "a/./b", "../b", "a/..", "//"] {
            assert!(minio.refuses_key(&key(refused)).is_some(), "{refused}");
        }
        for held in ["a/b", "a.b/..c", "folder/", "a\nb"] {
            assert_eq!(minio.refuses_key(&key(held)), None, "{held}");
        }
        let garage = presets::of(Provider::Garage);
        for refused in ["/", "/a", "//a"] {
            let why = garage.refuses_key(&key(refused)).unwrap();
            assert_eq!(why, "the key begins with '/', and Garage takes it for the one without");
        }
        assert_eq!((garage.refuses_key(&key("a//b")), garage.refuses_key(&key("a\u{1}"))), (None, None));
        assert!(garage.refuses_key_in_parts(&key("a\u{1}")).is_some());
        assert_eq!(garage.refuses_key_in_parts(&key("a\tb\n\u{7f}")), None);
        assert_eq!(minio.refuses_key_in_parts(&key("a\u{1}")), None);
    }

    #[test]
    fn an_object_is_held_only_if_the_requests_that_it_takes_are_enough_for_it() {
        let mut profile = presets::of(Provider::Scaleway);
        assert_eq!(profile.refuses_size(5_000_000_000_000), None);
        let why = profile.refuses_size(5_000_000_000_001).unwrap();
        assert_eq!(why, "the object has 5000000000001 bytes, Scaleway takes 5000000000000 at most");
        profile.max_put_bytes = 10 << 20;
        assert_eq!(profile.refuses_size(10_000 << 20), None);
        assert!(profile.refuses_size((10_000 << 20) + 1).is_some());
    }

    #[test]
    fn user_metadata_is_counted_as_names_and_values() {
        let aws = presets::of(Provider::Aws);
        let mut metadata = Metadata::default();
        metadata.user.insert("k".repeat(48), "v".repeat(2_000));
        assert_eq!(aws.refuses_metadata(&metadata), None);
        metadata.user.insert("x".into(), String::new());
        let why = aws.refuses_metadata(&metadata).unwrap();
        assert_eq!(why, "the object has 2.0 KiB of user metadata, Amazon S3 takes 2.0 KiB at most");
        assert_eq!(presets::of(Provider::Generic).refuses_metadata(&metadata), None);
    }

    #[test]
    fn a_hash_proves_nothing_where_nobody_measured_that_it_is_checked() {
        for provider in Provider::ALL {
            assert!(!presets::of(provider).proves_by_hash(false), "{provider:?}");
        }
        let mut measured = presets::of(Provider::Aws);
        measured.hashes.checks_md5 = true;
        assert!(measured.proves_by_hash(false) && measured.proves_by_hash(true));
        // If an ETag is always the MD5, another one is a reason to read the bytes back.
        measured.etags.of_put_is_md5 = Tristate::Yes;
        assert!(!measured.proves_by_hash(false));
    }

    proptest::proptest! {
        #[test]
        fn every_key_that_s3_knows_is_held_where_nothing_else_is_known(text in "\\PC{1,255}|[\\x01-\\x7f/.]{1,80}") {
            proptest::prop_assert_eq!(presets::of(Provider::Generic).refuses_key(&key(&text)), None);
        }
    }
}
