//! What each provider documents, or was measured to do; `docs/stores.md` has the sources. A property without a
//! preset is unknown, and no copy relies on an unknown property.

use copyhold_core::domain::MAX_KEY_BYTES;

use super::{Conditions, Control, Etags, Hashes, Keys, Listing, Profile, Tristate};
use crate::settings::Provider;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(super) const fn of(provider: Provider) -> Profile {
    match provider {
        Provider::Aws => AWS,
        Provider::B2 => B2,
        Provider::Wasabi => WASABI,
        Provider::Scaleway => SCALEWAY,
        Provider::R2 => R2,
        Provider::Minio => MINIO,
        Provider::Garage => GARAGE,
        Provider::Ceph => CEPH,
        Provider::Generic => GENERIC,
    }
}

/// The limits that Amazon documents, which the others took over unless they say otherwise.
const GENERIC: Profile = Profile {
    provider: Provider::Generic,
    max_parts: 10_000,
    min_part_bytes: 5 * MIB,
    equal_parts: false,
    max_put_bytes: 5 * GIB,
    max_object_bytes: 10_000 * 5 * GIB,
    keys: Keys {
        max_bytes: MAX_KEY_BYTES,
        control: Control::Held,
        untidy: true,
        leading_slash: true,
        exact: Tristate::Unknown,
    },
    max_metadata_bytes: None,
    hashes: Hashes { checks_md5: false, takes_crc64: Tristate::Unknown, takes_crc64_on_parts: Tristate::Unknown },
    etags: Etags { of_put_is_md5: Tristate::Unknown, of_parts_is_md5s: Tristate::Unknown },
    conditions: Conditions { on_get: Tristate::Unknown, on_put: Tristate::Unknown },
    listing: Listing { is_complete: Tristate::Unknown, starts_after: Tristate::Unknown },
    keeps_versions: Tristate::Unknown,
    accepts_altered_metadata: false,
    cold_classes: &[],
};

const AWS: Profile = Profile {
    provider: Provider::Aws,
    keys: Keys { exact: Tristate::Yes, ..GENERIC.keys },
    max_metadata_bytes: Some(2 * 1024),
    hashes: Hashes { takes_crc64: Tristate::Yes, takes_crc64_on_parts: Tristate::Yes, ..GENERIC.hashes },
    conditions: Conditions { on_get: Tristate::Yes, on_put: Tristate::Yes },
    listing: Listing { is_complete: Tristate::Yes, starts_after: Tristate::Yes },
    cold_classes: &["GLACIER", "DEEP_ARCHIVE"],
    ..GENERIC
};

const B2: Profile = Profile {
    provider: Provider::B2,
    keys: Keys { control: Control::Refused, ..GENERIC.keys },
    // It refused all x-amz-checksum-* headers. It is said to accept them since July 2025, which was not measured here.
    hashes: Hashes { takes_crc64: Tristate::No, takes_crc64_on_parts: Tristate::No, ..GENERIC.hashes },
    keeps_versions: Tristate::Yes,
    ..GENERIC
};

const WASABI: Profile = Profile { provider: Provider::Wasabi, ..GENERIC };

const SCALEWAY: Profile = Profile {
    provider: Provider::Scaleway,
    max_parts: 1_000,
    max_object_bytes: 5_000_000_000_000,
    cold_classes: &["GLACIER"],
    ..GENERIC
};

const R2: Profile = Profile {
    provider: Provider::R2,
    equal_parts: true,
    max_put_bytes: 5 * GIB - 5 * MIB,
    max_object_bytes: 5 * 1024 * GIB - 5 * GIB,
    max_metadata_bytes: Some(8 * 1024),
    hashes: Hashes { takes_crc64: Tristate::Yes, takes_crc64_on_parts: Tristate::Yes, ..GENERIC.hashes },
    ..GENERIC
};

const MINIO: Profile = Profile {
    provider: Provider::Minio,
    keys: Keys { untidy: false, ..GENERIC.keys },
    // The store accepts `a` beside `a/b`, and its listing hides it.
    listing: Listing { is_complete: Tristate::No, ..GENERIC.listing },
    ..GENERIC
};

/// Measured with Garage 2.5.0.
const GARAGE: Profile = Profile {
    provider: Provider::Garage,
    keys: Keys { control: Control::HeldWhole, leading_slash: false, exact: Tristate::Yes, ..GENERIC.keys },
    hashes: Hashes { checks_md5: true, takes_crc64: Tristate::Yes, takes_crc64_on_parts: Tristate::Yes },
    etags: Etags { of_put_is_md5: Tristate::Yes, of_parts_is_md5s: Tristate::Yes },
    conditions: Conditions { on_get: Tristate::Yes, on_put: Tristate::No },
    listing: Listing { is_complete: Tristate::Yes, starts_after: Tristate::Yes },
    keeps_versions: Tristate::No,
    ..GENERIC
};

/// Measured with Ceph's gateway 16.2.15. The answer of CompleteMultipartUpload may have an empty ETag, HEAD has the
/// right one.
const CEPH: Profile = Profile {
    provider: Provider::Ceph,
    // The store accepts a CRC-64 and does not check it.
    hashes: Hashes { checks_md5: true, takes_crc64: Tristate::Yes, takes_crc64_on_parts: Tristate::Yes },
    etags: Etags { of_put_is_md5: Tristate::Yes, of_parts_is_md5s: Tristate::Yes },
    conditions: Conditions { on_get: Tristate::Yes, on_put: Tristate::Yes },
    listing: Listing { is_complete: Tristate::Yes, starts_after: Tristate::Yes },
    ..GENERIC
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_has_a_preset_of_its_own_name() {
        for provider in Provider::ALL {
            assert_eq!(of(provider).provider, provider);
        }
    }

    #[test]
    fn no_preset_allows_what_no_request_could_send() {
        for preset in Provider::ALL.map(of) {
            assert!(preset.min_part_bytes <= preset.max_put_bytes && preset.max_put_bytes <= 5 * GIB, "{preset:?}");
            let in_parts = preset.max_put_bytes * u64::from(preset.max_parts);
            assert!(preset.max_object_bytes <= in_parts, "{preset:?}");
            assert!(preset.keys.max_bytes <= MAX_KEY_BYTES, "{preset:?}");
        }
    }

    #[test]
    fn that_hashes_are_checked_is_said_only_of_what_was_measured() {
        for preset in Provider::ALL.map(of) {
            let is_measured = matches!(preset.provider, Provider::Garage | Provider::Ceph);
            assert_eq!(preset.hashes.checks_md5, is_measured, "{preset:?}");
        }
    }
}
