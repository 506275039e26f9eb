//! The metadata of an object: its canonical form, its hash, and what stores cannot carry.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use copyhold_core::domain::{MetadataHash, escaped};
use crc_fast::{CrcAlgorithm, checksum};

use super::headers::UNREADABLE;

/// Version of the canonical form. Rows keep hashes of it: a change of the form must raise this, and all hashes then
/// differ.
const CANONICAL_FORM: &str = "1";
/// What stores return for an object without a content type.
const DEFAULT_TYPES: [&str; 2] = ["binary/octet-stream", "application/octet-stream"];

/// The metadata of an object, as the source's headers spell it.
///
/// Not every store keeps values that are not ASCII: some return them as RFC 2047, some as raw bytes.
/// [`Metadata::unfit`] finds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_disposition: Option<String>,
    pub content_language: Option<String>,
    pub cache_control: Option<String>,
    /// As the source sent it, because stores keep any text, date or not.
    pub expires: Option<String>,
    /// Names without `x-amz-meta-`.
    pub user: BTreeMap<String, String>,
    /// The website redirect. Not part of the hash, because many stores drop it.
    pub website_redirect: Option<String>,
}

impl Metadata {
    /// Removes the framing from a content encoding.
    ///
    /// `aws-chunked` describes how an upload was sent, not the object. If a store keeps it, a copy would announce a
    /// framing that it does not use.
    pub(super) fn content_encoding(as_kept: Option<String>) -> Option<String> {
        let kept = as_kept?;
        let is_framing = |coding: &str| coding.eq_ignore_ascii_case("aws-chunked");
        let codings = || kept.split(',').map(str::trim).filter(|coding| !coding.is_empty());
        if !codings().any(is_framing) {
            return Some(kept);
        }
        let rest: Vec<&str> = codings().filter(|coding| !is_framing(coding)).collect();
        if rest.is_empty() { None } else { Some(rest.join(",")) }
    }

    pub(super) fn user(as_read: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
        as_read.unwrap_or_default().into_iter().collect()
    }

    /// Returns the size as stores count it: names without their prefix, and values.
    #[must_use]
    pub fn user_bytes(&self) -> usize {
        self.user.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Iterates over the canonical form: lower-case names in order, without defaults that every store returns.
    pub(super) fn canonical(&self) -> BTreeMap<String, &str> {
        let user = self.user.iter().map(|(name, value)| (format!("x-amz-meta-{}", name.to_ascii_lowercase()), value));
        let all = self.system().chain(user).map(|(name, value)| (name, value.as_str()));
        let is_default =
            |name: &str, value: &str| value.is_empty() || name == "content-type" && DEFAULT_TYPES.contains(&value);
        all.filter(|(name, value)| !is_default(name, value)).collect()
    }

    /// Returns a hash of the canonical form: equal if the metadata of an object and its copy are equal.
    #[must_use]
    pub fn hash(&self) -> MetadataHash {
        let mut text = format!("{CANONICAL_FORM}\n");
        for (name, value) in self.canonical() {
            // Lengths are included, so that no two forms make the same text.
            // Cannot fail: a String takes all that is written to it.
            let _ = writeln!(text, "{} {} {name}{value}", name.len(), value.len());
        }
        MetadataHash(checksum(CrcAlgorithm::Crc64Nvme, text.as_bytes()))
    }

    /// Returns the first header, by name, that differs or is missing on either side; `None`: they are equal.
    #[must_use]
    pub fn differs_in(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (self.canonical(), other.canonical());
        let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        names.into_iter().find(|name| ours.get(*name) != theirs.get(*name)).cloned()
    }

    /// Returns the first header, by name, that the other metadata lacks or has with another value; `None`: it has all.
    /// Further headers may be a store's or a proxy's own.
    #[must_use]
    pub fn lost_in(&self, other: &Self) -> Option<String> {
        let theirs = other.canonical();
        self.canonical().into_iter().find(|(name, value)| theirs.get(name) != Some(value)).map(|(name, _)| name)
    }

    /// Returns whether a name of the user metadata is one that some stores alter silently: Ceph makes `a-b` of `a_b`.
    #[must_use]
    pub fn has_names_that_stores_alter(&self) -> bool {
        self.user.keys().any(|name| !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
    }

    /// Returns the website redirect, if a header can carry it.
    pub(super) fn plain_redirect(&self) -> Option<&str> {
        self.website_redirect.as_deref().filter(|to| is_plain(to))
    }

    fn system(&self) -> impl Iterator<Item = (String, &String)> {
        let system = [
            ("content-type", &self.content_type),
            ("content-encoding", &self.content_encoding),
            ("content-disposition", &self.content_disposition),
            ("content-language", &self.content_language),
            ("cache-control", &self.cache_control),
            ("expires", &self.expires),
        ];
        system.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.as_ref()?)))
    }

    /// Returns the first header that cannot be carried over faithfully, and why; `None`: all can.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        let user = self.user.iter().map(|(name, value)| (format!("x-amz-meta-{name}"), value));
        let (name, value) = self.system().chain(user).find(|(name, value)| !is_plain(name) || !is_plain(value))?;
        let shown = escaped(&name, usize::MAX);
        Some(if value.contains(UNREADABLE) {
            format!("{shown} is no text, or is given several times with different values")
        } else {
            format!("{shown} is not plain ASCII, which not every store keeps as it is")
        })
    }
}

/// What every HTTP library sends and every store keeps.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_not_every_store_keeps_as_it_is_is_found() {
        let mut metadata = Metadata { content_type: Some("text/plain; charset=utf-8".into()), ..Metadata::default() };
        metadata.user.insert("name".into(), "=?UTF-8?Q?caf=C3=A9?= \"quoted\" ~".into());
        assert_eq!(metadata.unfit(), None);
        metadata.user.insert("city".into(), "Z\u{fc}rich".into());
        let told = |metadata: &Metadata| metadata.unfit().unwrap();
        assert_eq!(told(&metadata), "x-amz-meta-city is not plain ASCII, which not every store keeps as it is");
        metadata.content_disposition = Some("attachment; filename=\"\u{1f600}\"".into());
        assert!(told(&metadata).starts_with("content-disposition is not plain ASCII"));
        metadata.content_type = Some("text/css \u{fffd} text/html".into());
        assert!(told(&metadata).starts_with("content-type is no text, or is given several times"));
    }

    fn of(pairs: &[(&str, &str)]) -> Metadata {
        let mut metadata = Metadata::default();
        for (name, value) in pairs {
            let value = (*value).to_owned();
            match *name {
                "content-type" => metadata.content_type = Some(value),
                "content-encoding" => metadata.content_encoding = Some(value),
                "content-disposition" => metadata.content_disposition = Some(value),
                "content-language" => metadata.content_language = Some(value),
                "cache-control" => metadata.cache_control = Some(value),
                "expires" => metadata.expires = Some(value),
                user => drop(metadata.user.insert(user.to_owned(), value)),
            }
        }
        metadata
    }

    #[test]
    fn metadata_is_the_same_whatever_stores_make_of_nothing_and_of_capitals() {
        let plain = of(&[]);
        for same in [
            [("content-type", "binary/octet-stream")],
            [("content-type", "application/octet-stream")],
            [("content-type", "")],
            [("cache-control", "")],
            [("note", "")],
        ] {
            assert_eq!(of(&same).hash(), plain.hash(), "{same:?}");
            assert_eq!(of(&same).differs_in(&plain), None, "{same:?}");
        }
        assert_eq!(of(&[("Name", "a")]).hash(), of(&[("name", "a")]).hash());
        // Rows keep it: it must never come out otherwise.
        assert_eq!(plain.hash(), MetadataHash(checksum(CrcAlgorithm::Crc64Nvme, b"1\n")));
    }

    #[test]
    fn each_header_that_is_carried_makes_another_hash() {
        let names = [
            "content-type",
            "content-encoding",
            "content-disposition",
            "content-language",
            "cache-control",
            "expires",
            "a",
        ];
        let mut seen = vec![of(&[]).hash()];
        for name in names {
            for value in ["x", "y"] {
                let hash = of(&[(name, value)]).hash();
                assert!(!seen.contains(&hash), "{name} {value}");
                seen.push(hash);
            }
        }
        assert_ne!(of(&[("a", "bc"), ("d", "e")]).hash(), of(&[("a", "b"), ("cd", "e")]).hash());
        let told = of(&[("a_b", "1")]).differs_in(&of(&[("a-b", "1")]));
        assert_eq!(told.as_deref(), Some("x-amz-meta-a-b"));
    }

    #[test]
    fn names_that_stores_alter_are_known_by_what_is_unusual_in_them() {
        for (name, altered) in
            [("a-b", false), ("mtime", false), ("x2", false), ("a_b", true), ("a.b", true), ("Ab", true)]
        {
            assert_eq!(of(&[(name, "1")]).has_names_that_stores_alter(), altered, "{name}");
        }
    }

    #[test]
    fn the_framing_of_an_upload_is_not_carried_over() {
        let encoding = |kept: &str| Metadata::content_encoding(Some(kept.into()));
        assert_eq!(encoding("gzip").as_deref(), Some("gzip"));
        assert_eq!(encoding("aws-chunked"), None);
        assert_eq!(encoding("aws-chunked,gzip").as_deref(), Some("gzip"));
        assert_eq!(encoding("gzip, aws-chunked").as_deref(), Some("gzip"));
        assert_eq!(encoding("AWS-Chunked, GZip").as_deref(), Some("GZip"));
        assert_eq!(encoding("x-aws-chunked").as_deref(), Some("x-aws-chunked"));
        assert_eq!(encoding("AWS-CHUNKED"), None);
    }
}
