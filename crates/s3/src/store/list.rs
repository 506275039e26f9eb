//! One page of a listing, as the store returned it.

use std::{fmt, time::SystemTime};

use aws_sdk_s3::{
    operation::list_objects_v2::ListObjectsV2Output,
    types::{EncodingType, Object},
};
use copyhold_core::domain::{ObjectKey, excerpt};

use super::{
    ETag, Operation, Reason, Store, StoreError, clock::AnswerDate, key_encoding::KeyEncoding, stall_timeout::Progress,
    xml_document::WholeDocument,
};

/// Where a page of a listing begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListPosition {
    First,
    /// After this key, which need not exist.
    After(String),
    /// At the store's continuation token of the page before.
    Token(String),
}

/// What a listing is limited to.
#[derive(Clone, Copy, Debug)]
pub struct ListQuery<'a> {
    pub prefix: &'a str,
    /// Keys with the delimiter after the prefix are returned as one common prefix that ends with it.
    pub delimiter: Option<&'a str>,
}

/// A complete page of a listing, as the store returned it. The caller checks order and prefix of its keys. It may be
/// empty and not the last, behind many delete markers.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    pub objects: Vec<ListedObject>,
    /// Common prefixes, where a delimiter was given.
    pub prefixes: Vec<String>,
    /// More pages follow.
    pub truncated: bool,
    /// The token of the next page; not every store returns one.
    pub next: Option<String>,
    /// When the store answered, by its own clock.
    pub date: Option<SystemTime>,
}

/// An object as a listing shows it.
#[derive(Clone, Debug)]
pub struct ListedObject {
    pub key: Result<ObjectKey, InvalidListedKey>,
    /// `None`: the store does not return it, or not in a form that can be parsed.
    pub size_bytes: Option<u64>,
    pub etag: Option<ETag>,
    pub last_modified: Option<SystemTime>,
}

/// A key in a store that Copyhold cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidListedKey {
    bytes: Vec<u8>,
    why: String,
}

impl ListedObject {
    /// The raw bytes of the key, by which listings are sorted.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.key {
            Ok(key) => key.as_str().as_bytes(),
            Err(no_key) => &no_key.bytes,
        }
    }

    fn of(object: Object, spelling: KeyEncoding) -> Option<Self> {
        Some(Self {
            key: key(spelling.bytes(object.key?)),
            size_bytes: object.size.and_then(|size| u64::try_from(size).ok()),
            etag: object.e_tag.map(ETag::new),
            last_modified: object.last_modified.and_then(|at| SystemTime::try_from(at).ok()),
        })
    }
}

impl ListPage {
    /// `None`: one of its entries has no key.
    fn of(answer: ListObjectsV2Output) -> Option<Self> {
        let spelling = KeyEncoding::of(answer.encoding_type.as_ref());
        let prefixes = answer.common_prefixes.unwrap_or_default().into_iter();
        let prefixes: Vec<_> = prefixes.map(|common| Some(spelling.text(common.prefix?))).collect::<Option<_>>()?;
        let objects = answer.contents.unwrap_or_default().into_iter();
        let objects: Vec<_> = objects.map(|object| ListedObject::of(object, spelling)).collect::<Option<_>>()?;
        let next = answer.next_continuation_token.filter(|token| !token.is_empty());
        // A token means that there is more, whatever the flag says; but for one on an empty last page, which would lead
        // round and round. That the answer has either was seen before.
        let truncated = match answer.is_truncated {
            Some(true) => true,
            Some(false) => next.is_some() && !(objects.is_empty() && prefixes.is_empty()),
            None => next.is_some(),
        };
        Some(Self { objects, prefixes, truncated, next, date: None })
    }
}

/// An incomplete page is rejected as a whole, because it is unknown what is missing.
pub(super) fn nameless(operation: Operation) -> StoreError {
    StoreError::found(operation, Reason::NotUnderstood, "an entry of the listing has no name")
}

impl fmt::Display for InvalidListedKey {
    /// The key, and why it is invalid.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\": {}", shown(&self.bytes), self.why)
    }
}

/// Formats the bytes of a possible key, escaped and at most a line long.
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    excerpt(&String::from_utf8_lossy(bytes), SHOWN)
}

fn key(bytes: Vec<u8>) -> Result<ObjectKey, InvalidListedKey> {
    match String::from_utf8(bytes) {
        Ok(text) => ObjectKey::new(text.clone())
            .map_err(|why| InvalidListedKey { bytes: text.into_bytes(), why: why.to_string() }),
        Err(error) => {
            Err(InvalidListedKey { bytes: error.into_bytes(), why: "a key is UTF-8, and this one is not".into() })
        }
    }
}

impl Store {
    /// Lists one page of the bucket's objects: a thousand, if the store returns as many as requested.
    pub async fn list(&self, asked: ListQuery<'_>, from: &ListPosition) -> Result<ListPage, StoreError> {
        self.list_some(asked, from, None).await
    }

    /// Lists a page of at most `most` objects.
    pub(super) async fn list_some(
        &self,
        asked: ListQuery<'_>,
        from: &ListPosition,
        most: Option<i32>,
    ) -> Result<ListPage, StoreError> {
        let (after, token) = match from {
            ListPosition::First => (None, None),
            ListPosition::After(key) => (Some(key.clone()), None),
            ListPosition::Token(token) => (None, Some(token.clone())),
        };
        let call = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix((!asked.prefix.is_empty()).then(|| asked.prefix.to_owned()))
            .set_delimiter(asked.delimiter.map(str::to_owned))
            .set_start_after(after)
            .set_continuation_token(token)
            .set_max_keys(most)
            // Without the encoding a control character in a key makes the answer invalid XML.
            .encoding_type(EncodingType::Url);
        let date = AnswerDate::default();
        let call = call.customize().interceptor(WholeDocument::OBJECTS).interceptor(date.clone());
        let answer = self.call(Operation::ListObjects, &Progress::default(), call.send()).await?;
        let page = ListPage::of(answer).ok_or_else(|| nameless(Operation::ListObjects))?;
        Ok(ListPage { date: date.get(), ..page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_cannot_be_kept_is_shown_with_the_reason() {
        let shown = |bytes: &[u8]| key(bytes.to_vec()).unwrap_err().to_string();
        assert_eq!(shown(b"a\xff\x1b"), "\"a\u{fffd}\\u{1b}\": a key is UTF-8, and this one is not");
        assert_eq!(shown(b"a\0"), "\"a\\u{0}\": a key with a NUL byte cannot be kept in PostgreSQL");
        let long = shown(&[b'k'; 1025]);
        assert!(long.starts_with("\"kkk") && long.contains("k…\": a key has at most 1024 bytes"), "{long}");
        assert_eq!(key(b"a//b ".to_vec()).unwrap().as_str(), "a//b ");
    }
}
