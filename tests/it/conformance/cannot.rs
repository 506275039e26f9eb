//! The known limits of stores, and the message by which each shows.

use copyhold::config::Provider;

use super::place::Kind;

pub struct Cannot {
    /// The case's name.
    pub case: &'static str,
    /// Part of what the case comes to.
    pub told: &'static str,
}

pub fn at(store: Kind) -> &'static [Cannot] {
    match store {
        Kind::InMemory => IN_MEMORY,
        Kind::Moto => MOTO,
        Kind::Of(Provider::Garage) => GARAGE,
        Kind::Of(Provider::Ceph) => CEPH,
        Kind::Of(_) => &[],
    }
}

const fn cannot(case: &'static str, told: &'static str) -> Cannot {
    Cannot { case, told }
}

const IN_MEMORY: &[Cannot] = &[
    // The library that our server is made of reads it as a date.
    cannot("metadata: an expires that is no date", "the store does not take it: PutObject: 400 InvalidArgument"),
    // As the bucket was made, and as S3 defines it.
    cannot("probe: keeps_versions", "no: the bucket says so"),
    cannot("probe: small_parts", "no: 400 EntityTooSmall"),
];

/// Measured with moto 5.2.5.
const MOTO: &[Cannot] = &[
    // Its web framework takes the line's end for the end of the path.
    cannot("key: a line's end and a tab", "the store does not take it: PutObject: 404"),
    cannot("key: of control characters, in parts", "the store does not take it: PutObject: 404"),
    // It checks no hash at all, so nothing but the ETag that it answers proves a copy.
    cannot("probe: checks_md5", "no: it is taken"),
    cannot("probe: checks_md5_on_parts", "no: it is taken"),
    cannot("probe: checks_crc64", "no: it is taken"),
    cannot("probe: checks_crc64_on_parts", "no: it is taken"),
    // As the bucket was made, and as S3 defines it.
    cannot("probe: keeps_versions", "no: "),
    cannot("probe: small_parts", "no: 400 EntityTooSmall"),
];

/// Measured with Garage 2.5.0 on SQLite.
const GARAGE: &[Cannot] = &[
    // It takes `/a` and `//a` for `a`, and `/` for the bucket itself.
    cannot("key: a leading slash", "refused: target target: the key begins with '/'"),
    cannot("key: two leading slashes", "refused: target target: the key begins with '/'"),
    cannot("key: a slash alone", "the store does not take it: PutObject: 400 InvalidRequest"),
    cannot("key: of control characters, in parts", "refused: target target: the key has a control character"),
    cannot("probe: key_leading_slash", "no: taken as another key"),
    cannot("probe: if_none_match", "no: ignored"),
    // It has none, and as S3 defines it.
    cannot("probe: keeps_versions", "no: the bucket says so"),
];

/// Measured with Ceph's gateway 16.2.15.
const CEPH: &[Cannot] = &[
    // It takes a CRC-64 and does not look at it.
    cannot("probe: checks_crc64", "no: it is taken"),
    cannot("probe: checks_crc64_on_parts", "no: it is taken"),
    // As the bucket was made, and as S3 defines it.
    cannot("probe: keeps_versions", "no: the bucket says so"),
    cannot("probe: small_parts", "no: 400 EntityTooSmall"),
];
