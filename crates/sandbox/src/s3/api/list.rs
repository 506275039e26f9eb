//! Listings of objects: one way of walking a bucket, worn as version 1 and 2.

use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::dto::{
    CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object as Entry, ObjectStorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::super::bucket::Bucket;
use super::super::bucket_options::Quirk;
use super::super::object::Object;
use super::etag::strong;
use super::{ServerState, page_size, signed};

pub(super) async fn v2(
    shared: &ServerState,
    req: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = req.input;
    let bucket = shared.bucket(&input.bucket)?;
    let most = page_size(input.max_keys)?;
    let prefix = bucket.options.heeded(input.prefix);
    let after = match &input.continuation_token {
        Some(token) if !bucket.options.has(Quirk::IgnoresTokens) => After::of_token(token)?,
        _ if bucket.options.has(Quirk::IgnoresStartAfter) => After::Key(String::new()),
        _ => After::Key(input.start_after.clone().unwrap_or_default()),
    };
    let of_itself = bucket.options.has(Quirk::ListsFolders).then_some("/");
    let mut page = page_of(&bucket, &prefix, input.delimiter.as_deref().or(of_itself), &after, most);
    if bucket.options.has(Quirk::ListsByFolder) {
        page.entries.sort_by_cached_key(|(key, _)| key.split('/').map(str::to_owned).collect::<Vec<_>>());
    }
    let encoding = input.encoding_type.filter(|_| !bucket.options.has(Quirk::ListsPlain));
    let spell = Spelling::of(encoding.as_ref());
    Ok(S3Response::new(ListObjectsV2Output {
        key_count: Some(count(page.entries.len() + page.prefixes.len())),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_ref().map(After::to_token),
        contents: Some(page.entries.into_iter().map(|(key, object)| entry(&spell, &key, &object)).collect()),
        common_prefixes: Some(common_prefixes(&spell, page.prefixes)),
        name: Some(input.bucket),
        prefix: Some(spell.out(&prefix)),
        delimiter: input.delimiter.map(|d| spell.out(&d)),
        start_after: input.start_after.map(|key| spell.out(&key)),
        max_keys: Some(count(most)),
        encoding_type: encoding,
        continuation_token: input.continuation_token,
        ..ListObjectsV2Output::default()
    }))
}

pub(super) async fn v1(
    shared: &ServerState,
    req: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = req.input;
    let bucket = shared.bucket(&input.bucket)?;
    let most = page_size(input.max_keys)?;
    let prefix = bucket.options.heeded(input.prefix);
    let marker = input.marker.unwrap_or_default();
    // A marker that ends in the delimiter is a prefix that was already listed.
    let after = match &input.delimiter {
        Some(delimiter) if !delimiter.is_empty() && marker.ends_with(delimiter) => After::Prefix(marker.clone()),
        _ => After::Key(marker.clone()),
    };
    let page = page_of(&bucket, &prefix, input.delimiter.as_deref(), &after, most);
    let spell = Spelling::of(input.encoding_type.as_ref());
    Ok(S3Response::new(ListObjectsOutput {
        is_truncated: Some(page.next.is_some()),
        next_marker: page.next.map(|(After::Key(last) | After::Prefix(last))| spell.out(&last)),
        contents: Some(page.entries.into_iter().map(|(key, object)| entry(&spell, &key, &object)).collect()),
        common_prefixes: Some(common_prefixes(&spell, page.prefixes)),
        name: Some(input.bucket),
        prefix: Some(spell.out(&prefix)),
        marker: Some(spell.out(&marker)),
        delimiter: input.delimiter.map(|d| spell.out(&d)),
        max_keys: Some(count(most)),
        encoding_type: input.encoding_type,
        ..ListObjectsOutput::default()
    }))
}

fn entry(spell: &Spelling, key: &str, object: &Object) -> Entry {
    Entry {
        key: Some(spell.out(key)),
        size: Some(signed(object.content.size_bytes)),
        e_tag: Some(strong(&object.etag)),
        last_modified: Some(object.modified.into()),
        storage_class: Some(ObjectStorageClass::from(object.metadata.storage_class().to_owned())),
        ..Entry::default()
    }
}

pub(super) fn common_prefixes(spell: &Spelling, prefixes: Vec<String>) -> Vec<CommonPrefix> {
    prefixes.into_iter().map(|p| CommonPrefix { prefix: Some(spell.out(&p)) }).collect()
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum After {
    Key(String),
    /// After all keys with this common prefix.
    Prefix(String),
}

impl After {
    fn to_token(&self) -> String {
        let (kind, text) = match self {
            Self::Key(key) => ('k', key),
            Self::Prefix(prefix) => ('p', prefix),
        };
        URL_SAFE_NO_PAD.encode(format!("{kind}{text}"))
    }

    fn of_token(token: &str) -> S3Result<Self> {
        let text = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match text.as_deref().and_then(|text| text.split_at_checked(1)) {
            Some(("k", key)) => Ok(Self::Key(key.to_owned())),
            Some(("p", prefix)) => Ok(Self::Prefix(prefix.to_owned())),
            _ => Err(s3_error!(InvalidArgument, "The continuation token provided is incorrect")),
        }
    }
}

struct Page {
    entries: Vec<(String, Arc<Object>)>,
    prefixes: Vec<String>,
    /// Where the next page begins, if there is one.
    next: Option<After>,
}

/// Returns a page of the bucket's objects, or of its generated listing.
fn page_of(bucket: &Bucket, prefix: &str, delimiter: Option<&str>, after: &After, most: usize) -> Page {
    if let Some(generated) = bucket.options.generated {
        let seek = |from| generated.range(&from).map(|(key, object)| (key, Some(object)));
        return page(seek, prefix, delimiter, after, most);
    }
    let state = bucket.lock();
    if bucket.options.has(Quirk::HiddenTakesRoom) {
        let seek = |from| {
            let range = state.versions.range((from, Bound::Unbounded));
            range.map(|(key, versions)| (key.clone(), versions.last().and_then(|newest| newest.object.clone())))
        };
        return page(seek, prefix, delimiter, after, most);
    }
    let seek = |from| {
        let range = state.objects.range((from, Bound::Unbounded));
        range.map(|(key, object)| (key.clone(), Some(Arc::clone(object))))
    };
    page(seek, prefix, delimiter, after, most)
}

/// `seek`: entries from there on, in the order of their keys; without an object those that are hidden and take up room.
fn page<I: Iterator<Item = (String, Option<Arc<Object>>)>>(
    seek: impl Fn(Bound<String>) -> I,
    prefix: &str,
    delimiter: Option<&str>,
    after: &After,
    most: usize,
) -> Page {
    let delimiter = delimiter.filter(|d| !d.is_empty());
    let mut page = Page { entries: Vec::new(), prefixes: Vec::new(), next: None };
    let (mut last, mut hidden): (Option<After>, usize) = (None, 0);
    if most == 0 {
        return page;
    }
    let (After::Key(begin) | After::Prefix(begin)) = after;
    let mut from =
        if begin.as_str() < prefix { Bound::Included(prefix.to_owned()) } else { Bound::Excluded(begin.clone()) };
    let mut passed = match after {
        After::Prefix(prefix) => Some(prefix.clone()),
        After::Key(_) => None,
    };
    'seek: loop {
        for (key, object) in seek(from.clone()) {
            if !key.starts_with(prefix) {
                break 'seek;
            }
            if passed.as_ref().is_some_and(|passed| key.starts_with(passed.as_str())) {
                continue;
            }
            let common =
                delimiter.and_then(|d| key[prefix.len()..].find(d).map(|at| &key[..prefix.len() + at + d.len()]));
            if page.entries.len() + page.prefixes.len() + hidden == most {
                page.next = last;
                break 'seek;
            }
            if object.is_none() {
                hidden += 1;
                last = Some(After::Key(key));
                continue;
            }
            if let Some(common) = common {
                page.prefixes.push(common.to_owned());
                last = Some(After::Prefix(common.to_owned()));
                passed = Some(common.to_owned());
                // Jump over what the prefix stands for; the check above spares the rare key that begins even later.
                from = Bound::Excluded(format!("{common}{}", char::MAX));
                continue 'seek;
            }
            last = Some(After::Key(key.clone()));
            page.entries.extend(object.map(|object| (key, object)));
        }
        break;
    }
    page
}

/// How keys are written into XML, which cannot hold every character.
pub(super) enum Spelling {
    Plain,
    Url,
}

impl Spelling {
    pub fn of(encoding: Option<&EncodingType>) -> Self {
        if encoding.is_some_and(|e| e.as_str() == EncodingType::URL) { Self::Url } else { Self::Plain }
    }

    /// AWS's form: a space becomes `+`, a slash stays.
    pub fn out(&self, text: &str) -> String {
        if matches!(self, Self::Plain) {
            return text.to_owned();
        }
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => out.push(byte.into()),
                b' ' => out.push('+'),
                _ => {
                    out.push('%');
                    out.push_str(&super::etag::hex(&[byte]).to_uppercase());
                }
            }
        }
        out
    }
}
