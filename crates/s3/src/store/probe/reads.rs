//! Reading, overwriting, and conditions on both.

use super::{
    Probe, Tristate,
    calls::PutOptions,
    facts::{Fact, Found},
};
use crate::store::{ETag, Reason};

const BYTES: &[u8] = b"0123456789";
const FIRST: &[u8] = b"first";
const SECOND: &[u8] = b"second, and longer";
const OTHER_ETAG: &str = "\"00000000000000000000000000000000\"";

impl Probe<'_> {
    pub(super) async fn reading(&mut self) {
        let key = self.key("read");
        let written = self.put(&key, BYTES, PutOptions::default()).await;
        let found = match written {
            Ok(_) => match self.read(&key).await {
                Ok(there) => Found::plain(there == BYTES),
                Err(error) => Found::unclear(&error),
            },
            Err(error) => Found::unclear(&error),
        };
        self.found(Fact::needed("reads_back", "what was written is read again", found));

        let found = match self.store.get(&key, Some(3..7), None).await {
            Ok(mut get) => match get.body.next().await {
                Ok(frame) => Found::plain(frame.as_deref() == Some(&BYTES[3..7])),
                Err(error) => Found::unclear(&error),
            },
            Err(error) if error.reason() == Reason::NotUnderstood => Found::no(error.to_string()),
            Err(error) => Found::unclear(&error),
        };
        self.found(Fact::needed("ranges", "a range of it is read", found));

        let found = match self.store.get(&key, None, Some(&ETag::new(OTHER_ETAG))).await {
            Ok(_) => Found::no("ignored"),
            Err(error) if error.reason() == Reason::Replaced => Found::yes(error.brief()),
            Err(error) => Found::unclear(&error),
        };
        self.found(Fact::new("if_match", "If-Match is heeded on GET", self.profile().conditions.on_get, found));

        let found = match self.read(&self.key("never-written")).await {
            Ok(_) => Found::no("something is there"),
            Err(error) if error.reason() == Reason::NoSuchKey => Found::yes(error.brief()),
            Err(error) => Found::unclear(&error),
        };
        self.found(Fact::needed("missing", "what is not there is said to be missing", found));
    }

    pub(super) async fn overwriting(&mut self) {
        let key = self.key("overwritten");
        let twice = async {
            self.put(&key, FIRST, PutOptions::default()).await?;
            self.put(&key, SECOND, PutOptions::default()).await?;
            self.read(&key).await
        };
        let found = match twice.await {
            Ok(there) => Found::plain(there == SECOND),
            Err(error) => Found::unclear(&error),
        };
        self.found(Fact::needed("overwrites", "what is written again is the later one", found));
        if self.versioned == Tristate::Unknown {
            let found = match self.list_versions(key.as_str()).await {
                Ok(versions) => Found::plain(versions.len() > 1),
                Err(error) => Found::unclear(&error),
            };
            self.versioned = found.measured;
            self.versions(found);
        }
        let sending = PutOptions { only_if_absent: true, ..PutOptions::default() };
        let found = match self.put(&key, FIRST, sending).await {
            Ok(_) => Found::no("ignored"),
            Err(error) if error.reason() == Reason::Replaced => Found::yes(error.brief()),
            Err(error) => Found::unclear(&error),
        };
        let profile = self.profile().conditions.on_put;
        self.found(Fact::new("if_none_match", "If-None-Match: * is heeded on PUT", profile, found));
    }
}
