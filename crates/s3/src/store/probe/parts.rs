//! Uploads in parts.

use bytes::Bytes;

use super::{
    Probe, StoreError, Tristate,
    calls::{Hash, md5_of},
    facts::{Fact, Found},
    is_refusal,
};
use crate::store::ETag;

/// The least that S3 allows of a part that is not the last.
const PART_BYTES: usize = 5 << 20;

impl Probe<'_> {
    pub(super) async fn uploads(&mut self) {
        let parts = [Bytes::from(vec![b'p'; PART_BYTES]), Bytes::from_static(b"the last part")];
        let sent = self.upload("upload", &parts).await;
        let size_bytes: usize = parts.iter().map(Bytes::len).sum();
        let there =
            self.store.head(&self.key("upload")).await.ok().filter(|there| there.size_bytes == size_bytes as u64);
        let (found, etag) = match (sent, there) {
            // Ceph's answer may have an empty one; a HEAD has the right one.
            (Ok(etag), Some(there)) => {
                (Found::yes(""), Some(etag).filter(|etag| !etag.as_str().is_empty()).or(there.etag))
            }
            (Ok(_), None) => (Found::no("answered as done, and not there"), None),
            // As copies do: a HEAD replaces an answer that is lost or unreadable.
            (Err(error), Some(there)) if !is_refusal(&error) => {
                (Found::yes(format!("though its answer is none of S3's: {}", error.brief())), there.etag)
            }
            (Err(error), _) if is_refusal(&error) => (Found::no(error.to_string()), None),
            (Err(error), _) => (Found::unclear(&error), None),
        };
        self.found(Fact::needed("uploads", "an object is made of parts of 5 MiB", found));
        if let Some(etag) = etag {
            let md5s: Vec<_> = parts.iter().map(|part| md5_of(part)).collect();
            let (says, profile) = ("its ETag is the MD5 of its parts' MD5s", self.profile().etags.of_parts_is_md5s);
            let found = Found::plain(etag.is_of_parts(&md5s));
            self.found(Fact::new("etag_is_md5_of_md5s", says, profile, found));
        }
        let small = [Bytes::from_static(b"too small to be the first"), Bytes::from_static(b"the last part")];
        let found = match self.upload("small-parts", &small).await {
            Ok(_) => Found::yes(""),
            Err(error) if is_refusal(&error) => Found::no(error.brief()),
            Err(error) => Found::unclear(&error),
        };
        self.found(Fact::new("small_parts", "parts below 5 MiB are taken", Tristate::Unknown, found));
        self.advise_on_md5();
    }

    async fn upload(&mut self, name: &str, parts: &[Bytes]) -> Result<ETag, StoreError> {
        let key = self.key(name);
        let upload = self.create(&key).await?;
        let mut etags = Vec::new();
        for (number, part) in (1..).zip(parts) {
            etags.push(self.part(&key, &upload, number, part, Hash::Md5).await?);
        }
        self.complete(&key, &upload, &etags).await
    }

    /// Advises the setting that saves reading every copy back: hashes are checked, and ETags prove nothing.
    fn advise_on_md5(&mut self) {
        let measured =
            |facts: &[Fact], name: &str| facts.iter().find(|fact| fact.name == name).map(|fact| fact.measured);
        let is = |name: &str, what| measured(&self.facts, name) == Some(what);
        let checked = is("checks_md5", Tristate::Yes) && is("checks_md5_on_parts", Tristate::Yes);
        let opaque = is("etag_is_md5", Tristate::No) || is("etag_is_md5_of_md5s", Tristate::No);
        if !(checked && opaque) || self.profile().hashes.checks_md5 {
            return;
        }
        if let Some(fact) = self.facts.iter_mut().find(|fact| fact.name == "checks_md5") {
            fact.advice = Some("checks_md5 = true".into());
        }
    }
}
