//! The metadata of an object, stored as it was received.

use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};

const KEPT: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LANGUAGE,
    header::CACHE_CONTROL,
    header::EXPIRES,
];
const STORAGE_CLASS: HeaderName = HeaderName::from_static("x-amz-storage-class");
const REDIRECT: HeaderName = HeaderName::from_static("x-amz-website-redirect-location");
/// S3's type for an object without one.
const NO_TYPE: HeaderValue = HeaderValue::from_static("binary/octet-stream");

/// Headers of an object, byte for byte: user metadata may be raw UTF-8 or RFC 2047.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(HeaderMap);

impl Metadata {
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds one header by its name on the wire, such as `content-type` or `x-amz-meta-colour`.
    ///
    /// # Panics
    /// If HTTP cannot carry the name or the value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.0.insert(name, HeaderValue::from_bytes(value.as_ref()).expect("a header value"));
        self
    }

    /// The value as text; `None` if it is absent or not ASCII.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str().ok())
    }

    /// The value as it is.
    pub fn raw(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(HeaderValue::as_bytes)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut all: Vec<_> = self.0.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        all.sort_unstable();
        all.into_iter()
    }

    /// Returns the metadata of a PutObject, CopyObject or CreateMultipartUpload.
    pub(super) fn of_request(headers: &HeaderMap) -> Self {
        let mut kept = HeaderMap::new();
        for (name, value) in headers {
            let wanted = KEPT.contains(name)
                || *name == STORAGE_CLASS
                || *name == REDIRECT
                || name.as_str().starts_with("x-amz-meta-");
            if !wanted {
                continue;
            }
            if *name == header::CONTENT_ENCODING {
                if let Some(value) = without_aws_chunked(value) {
                    kept.append(name, value);
                }
            } else if !(*name == STORAGE_CLASS && value == "STANDARD") {
                // S3 never names the standard class in an answer
                kept.append(name, value.clone());
            }
        }
        Self(kept)
    }

    pub(super) fn without_redirect(mut self) -> Self {
        self.0.remove(REDIRECT);
        self
    }

    /// Drops user metadata whose names have more than letters, digits and dashes.
    pub(super) fn without_odd_names(self) -> Self {
        let is_plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        Self(
            self.0
                .into_iter()
                .filter_map(|(name, value)| Some((name.filter(|n| is_plain(n.as_str()))?, value)))
                .collect(),
        )
    }

    /// Replaces each `_` by `-` in the names of user metadata.
    pub(super) fn with_altered_names(self) -> Self {
        let altered = |name: HeaderName| match name.as_str().strip_prefix("x-amz-meta-") {
            // Cannot fail: it was a name, and a dash may stand in one.
            Some(own) => format!("x-amz-meta-{}", own.replace('_', "-")).parse().expect("a header name"),
            None => name,
        };
        let mut all = HeaderMap::new();
        for (name, value) in self.iter() {
            // Cannot fail: both were in a header.
            let (name, value) = (name.parse().expect("a name"), HeaderValue::from_bytes(value).expect("a value"));
            all.append(altered(name), value);
        }
        Self(all)
    }

    pub(super) fn for_answer(&self) -> HeaderMap {
        let mut headers = self.0.clone();
        headers.entry(header::CONTENT_TYPE).or_insert(NO_TYPE);
        headers
    }

    pub(super) fn storage_class(&self) -> &str {
        self.get(STORAGE_CLASS.as_str()).unwrap_or("STANDARD")
    }
}

/// `aws-chunked` says how the body travelled, not what the object is.
fn without_aws_chunked(value: &HeaderValue) -> Option<HeaderValue> {
    let Ok(text) = value.to_str() else { return Some(value.clone()) };
    if !text.contains("aws-chunked") {
        return Some(value.clone());
    }
    let rest: Vec<_> =
        text.split(',').map(str::trim).filter(|coding| !coding.is_empty() && *coding != "aws-chunked").collect();
    if rest.is_empty() { None } else { HeaderValue::from_str(&rest.join(", ")).ok() }
}
