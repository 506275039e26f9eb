//! Measures whether a store checks the hashes of a request, and whether it keeps a body that does not match.

use bytes::Bytes;
use copyhold_core::domain::ObjectKey;

use super::{
    Probe, StoreError, Tristate,
    calls::{Hash, PutOptions, md5_of},
    facts::{Fact, Found},
    is_refusal,
};
use crate::store::UploadId;

const BYTES: &[u8] = b"what a probe writes";
pub(super) const CHECKS_MD5: &str = "a wrong Content-MD5 is refused, and nothing kept";

impl Probe<'_> {
    pub(super) async fn hashes_of_a_put(&mut self) {
        let key = self.key("etag");
        let found = match self.put(&key, BYTES, PutOptions::default()).await {
            Ok(sent) => Found::plain(sent.etag.is_md5(&md5_of(BYTES))),
            Err(error) => Found::unclear(&error),
        };
        self.found(Fact::new("etag_is_md5", "the ETag of a PUT is its MD5", self.profile().etags.of_put_is_md5, found));

        let checked = self.refuses("md5", Hash::WrongMd5).await;
        let profile = self.checks_md5();
        let needed = profile.is_yes();
        let advice = (needed && checked.measured == Tristate::No).then(|| "checks_md5 = false".to_owned());
        self.found(Fact { needed, ..Fact::new("checks_md5", CHECKS_MD5, profile, checked).advise(advice) });

        let key = self.key("crc64");
        let sent = self.put(&key, BYTES, PutOptions { hash: Hash::Crc64, ..PutOptions::default() }).await;
        let taken = was_taken(sent.map(drop));
        let says = "x-amz-checksum-crc64nvme is taken";
        let goes_on = taken.measured.is_yes();
        self.found(Fact::new("takes_crc64", says, self.profile().hashes.takes_crc64, taken));
        if goes_on {
            let checked = self.refuses("crc64-wrong", Hash::WrongCrc64).await;
            self.found(Fact::new(
                "checks_crc64",
                "a wrong one is refused, and nothing kept",
                Tristate::Unknown,
                checked,
            ));
        }
    }

    pub(super) async fn hashes_of_parts(&mut self) {
        let key = self.key("part-md5");
        let bytes = Bytes::from_static(BYTES);
        let checked = match self.create(&key).await {
            Ok(upload) => self.refuses_part(&key, &upload, &bytes, Hash::WrongMd5).await,
            Err(error) => Found::unclear(&error),
        };
        let profile = self.checks_md5();
        let needed = profile.is_yes();
        let advice = (needed && checked.measured == Tristate::No).then(|| "checks_md5 = false".to_owned());
        let says = "of a part, a wrong Content-MD5 is refused";
        self.found(Fact { needed, ..Fact::new("checks_md5_on_parts", says, profile, checked).advise(advice) });

        let key = self.key("part-crc64");
        let (taken, checked) = match self.create_with_crc64(&key).await {
            Ok(upload) => {
                let taken = was_taken(self.part(&key, &upload, 1, &bytes, Hash::Crc64).await.map(drop));
                let checked = self.refuses_part(&key, &upload, &bytes, Hash::WrongCrc64).await;
                (taken, Some(checked))
            }
            Err(error) => (was_taken(Err(error)), None),
        };
        let checked = checked.filter(|_| taken.measured.is_yes());
        let says = "of a part, x-amz-checksum-crc64nvme is taken";
        self.found(Fact::new("takes_crc64_on_parts", says, self.profile().hashes.takes_crc64_on_parts, taken));
        if let Some(checked) = checked {
            self.found(Fact::new(
                "checks_crc64_on_parts",
                "of a part, a wrong one is refused",
                Tristate::Unknown,
                checked,
            ));
        }
    }

    /// Returns what the profile states; a property that was not measured is unknown.
    fn checks_md5(&self) -> Tristate {
        if self.profile().hashes.checks_md5 { Tristate::Yes } else { Tristate::Unknown }
    }

    async fn refuses(&mut self, name: &str, hash: Hash) -> Found {
        let key = self.key(name);
        let error = match self.put(&key, BYTES, PutOptions { hash, ..PutOptions::default() }).await {
            Ok(_) => return Found::no("it is taken"),
            Err(error) if is_refusal(&error) => error,
            Err(error) => return Found::unclear(&error),
        };
        match self.is_there(&key).await {
            Ok(false) => Found::yes(error.brief()),
            Ok(true) => Found::no(format!("{}, and the object is there all the same", error.brief())),
            Err(error) => Found::unclear(&error),
        }
    }

    /// Does not check what was kept: a part whose ETag was never returned cannot become part of an object.
    async fn refuses_part(&self, key: &ObjectKey, upload: &UploadId, bytes: &Bytes, hash: Hash) -> Found {
        match self.part(key, upload, 1, bytes, hash).await {
            Ok(_) => Found::no("it is taken"),
            Err(error) if is_refusal(&error) => Found::yes(error.brief()),
            Err(error) => Found::unclear(&error),
        }
    }
}

fn was_taken(answer: Result<(), StoreError>) -> Found {
    match answer {
        Ok(()) => Found::yes(""),
        Err(error) if is_refusal(&error) || error.reason() == crate::store::Reason::Unsupported => {
            Found::no(error.brief())
        }
        Err(error) => Found::unclear(&error),
    }
}
