//! Measures whether a store keeps the metadata of an object.

use super::{
    Probe, Tristate,
    calls::PutOptions,
    facts::{Fact, Found},
    is_refusal,
};
use crate::store::Metadata;

const BYTES: &[u8] = b"with metadata";
/// Amazon's limit for user metadata, names and values together.
const MUCH_BYTES: usize = 2 * 1024;

impl Probe<'_> {
    pub(super) async fn metadata(&mut self) {
        let mut sent = Metadata {
            content_type: Some("text/x-probe; charset=utf-8".into()),
            content_encoding: Some("x-probe".into()),
            content_disposition: Some("attachment; filename=\"probe.txt\"".into()),
            content_language: Some("de-AT".into()),
            cache_control: Some("max-age=12345".into()),
            expires: Some("Tue, 01 Jan 2030 00:00:00 GMT".into()),
            ..Metadata::default()
        };
        sent.user.insert("probe".into(), "a \"b\" =?c?= ;".into());
        sent.user.insert("probe-2".into(), "second".into());
        let kept = self.round_trip("metadata", &sent).await;
        let (system, user) = match kept {
            Ok(Some(kept)) => {
                let lost = lost(&sent, &kept);
                let system = if lost.is_empty() {
                    Found::yes("")
                } else {
                    Found::no(format!("{} lost or changed", lost.join(", ")))
                };
                (system, Found::plain(kept.user == sent.user))
            }
            Ok(None) => (Found::no("refused"), Found::no("refused")),
            Err(found) => (found.clone(), found),
        };
        self.found(Fact::needed("system_metadata", "Content-Type and its like are kept", system));
        self.found(Fact::needed("user_metadata", "x-amz-meta-… is kept", user));

        let mut much = Metadata::default();
        much.user.insert("probe".into(), "m".repeat(MUCH_BYTES - "probe".len()));
        let found = match self.round_trip("much-metadata", &much).await {
            Ok(kept) => Found::plain(kept.is_some_and(|kept| kept.user == much.user)),
            Err(found) => found,
        };
        let profile = if self.profile().max_metadata_bytes.is_some_and(|most| most >= MUCH_BYTES) {
            Tristate::Yes
        } else {
            Tristate::Unknown
        };
        self.found(Fact::new("metadata_2k", "2 KiB of user metadata are kept", profile, found));
    }

    /// Writes an object with this metadata and returns what a HEAD shows of it; `None`: the store refused it.
    async fn round_trip(&mut self, name: &str, metadata: &Metadata) -> Result<Option<Metadata>, Found> {
        let key = self.key(name);
        match self.put(&key, BYTES, PutOptions { metadata: Some(metadata), ..PutOptions::default() }).await {
            Ok(_) => {}
            Err(error) if is_refusal(&error) => return Ok(None),
            Err(error) => return Err(Found::unclear(&error)),
        }
        self.store.head(&key).await.map(|head| Some(head.metadata)).map_err(|error| Found::unclear(&error))
    }
}

fn lost(sent: &Metadata, kept: &Metadata) -> Vec<&'static str> {
    let pairs = [
        ("Content-Type", &sent.content_type, &kept.content_type),
        ("Content-Encoding", &sent.content_encoding, &kept.content_encoding),
        ("Content-Disposition", &sent.content_disposition, &kept.content_disposition),
        ("Content-Language", &sent.content_language, &kept.content_language),
        ("Cache-Control", &sent.cache_control, &kept.cache_control),
        ("Expires", &sent.expires, &kept.expires),
    ];
    pairs.into_iter().filter(|(_, sent, kept)| sent != kept).map(|(name, ..)| name).collect()
}
