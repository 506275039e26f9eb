//! Identifies the operation of a request from its head, for counting and fault injection, before anything is verified.

use hyper::http::request::Parts;
use hyper::{Method, header};

/// The operations that are distinguished; the rest is [`Op::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    GetBucketVersioning,
    GetObjectLockConfiguration,
    ListMultipartUploads,
    DeleteObjects,
    PutObject,
    GetObject,
    HeadObject,
    DeleteObject,
    CopyObject,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    Other,
}

/// The head of one request.
#[derive(Debug, Clone)]
pub(super) struct ParsedRequest {
    pub op: Op,
    pub bucket: Option<String>,
    pub key: Option<String>,
}

impl ParsedRequest {
    pub fn of(head: &Parts) -> Self {
        let host = head.headers.get(header::HOST).and_then(|h| h.to_str().ok());
        let path = head.uri.path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = match host.and_then(bucket_in_host) {
            Some(bucket) => (bucket, path),
            None => path.split_once('/').unwrap_or((path, "")),
        };
        let named = |text: &str| (!text.is_empty()).then(|| decode(text)).flatten();
        let (bucket, key) = (named(bucket), named(key));
        let query = Query(head.uri.query().unwrap_or(""));
        let op = match (&bucket, &key) {
            (None, _) => on_server(&head.method),
            (Some(_), None) => on_bucket(&head.method, query),
            (Some(_), Some(_)) => on_object(&head.method, query, head.headers.contains_key("x-amz-copy-source")),
        };
        Self { op, bucket, key }
    }
}

/// `bucket.localhost:9000` names a bucket, any other host none.
pub(super) fn bucket_in_host(host: &str) -> Option<&str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix(".localhost")
}

fn on_server(method: &Method) -> Op {
    if *method == Method::GET { Op::ListBuckets } else { Op::Other }
}

fn on_bucket(method: &Method, query: Query<'_>) -> Op {
    match *method {
        Method::HEAD => Op::HeadBucket,
        Method::GET if query.has("uploads") => Op::ListMultipartUploads,
        Method::GET if query.has("location") => Op::GetBucketLocation,
        Method::GET if query.has("versioning") => Op::GetBucketVersioning,
        Method::GET if query.has("object-lock") => Op::GetObjectLockConfiguration,
        Method::GET if query.has("versions") => Op::ListObjectVersions,
        Method::GET if query.has("list-type") => Op::ListObjectsV2,
        Method::GET if !query.names_a_subresource() => Op::ListObjects,
        Method::PUT if !query.names_a_subresource() => Op::CreateBucket,
        Method::DELETE if !query.names_a_subresource() => Op::DeleteBucket,
        Method::POST if query.has("delete") => Op::DeleteObjects,
        _ => Op::Other,
    }
}

fn on_object(method: &Method, query: Query<'_>, copies: bool) -> Op {
    match *method {
        Method::HEAD => Op::HeadObject,
        Method::GET if query.has("uploadId") => Op::ListParts,
        Method::PUT if query.has("uploadId") && copies => Op::UploadPartCopy,
        Method::PUT if query.has("uploadId") => Op::UploadPart,
        Method::POST if query.has("uploads") => Op::CreateMultipartUpload,
        Method::POST if query.has("uploadId") => Op::CompleteMultipartUpload,
        Method::DELETE if query.has("uploadId") => Op::AbortMultipartUpload,
        _ if query.names_a_subresource() => Op::Other,
        Method::GET => Op::GetObject,
        Method::PUT if copies => Op::CopyObject,
        Method::PUT => Op::PutObject,
        Method::DELETE => Op::DeleteObject,
        _ => Op::Other,
    }
}

#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl Query<'_> {
    fn has(self, name: &str) -> bool {
        self.pairs().any(|(n, _)| n == name)
    }

    /// `?acl`, `?tagging` and the like: a name without a value.
    fn names_a_subresource(self) -> bool {
        self.pairs().any(|(name, value)| !name.is_empty() && value.is_none_or(str::is_empty) && !is_listing(name))
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.split('&').map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (pair, None),
        })
    }
}

/// Parameters of a listing may be empty and still mean a listing.
fn is_listing(name: &str) -> bool {
    matches!(
        name,
        "prefix" | "delimiter" | "marker" | "start-after" | "max-keys" | "encoding-type" | "continuation-token"
    )
}

/// Percent-decodes only: in a path `+` is a plus. A text that is not UTF-8 is not a name.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let escaped = (first == b'%').then(|| tail.get(..2)).flatten();
        let escaped = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        if escaped.is_some() {
            rest = &tail[2..];
        }
        bytes.push(escaped.unwrap_or(first));
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn call(method: &str, target: &str) -> ParsedRequest {
        ParsedRequest::of(&Request::builder().method(method).uri(target).body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_call_is_named_as_s3_names_it() {
        for (method, target, op) in [
            ("GET", "/", Op::ListBuckets),
            ("PUT", "/b2", Op::CreateBucket),
            ("PUT", "/b2/", Op::CreateBucket),
            ("PUT", "/b2?acl", Op::Other),
            ("GET", "/b2?prefix=&list-type=2", Op::ListObjectsV2),
            ("GET", "/b2?prefix=", Op::ListObjects),
            ("GET", "/b2?uploads=&prefix=", Op::ListMultipartUploads),
            ("GET", "/b2?tagging", Op::Other),
            ("POST", "/b2?delete", Op::DeleteObjects),
            ("PUT", "/b2/k?x-id=PutObject", Op::PutObject),
            ("PUT", "/b2/k?partNumber=1&uploadId=x", Op::UploadPart),
            ("POST", "/b2/k?uploads", Op::CreateMultipartUpload),
            ("POST", "/b2/k?uploadId=x", Op::CompleteMultipartUpload),
            ("DELETE", "/b2/k?uploadId=x", Op::AbortMultipartUpload),
            ("GET", "/b2/k?uploadId=x", Op::ListParts),
            ("GET", "/b2/k?acl", Op::Other),
            ("GET", "/b2/k", Op::GetObject),
        ] {
            assert_eq!(call(method, target).op, op, "{method} {target}");
        }
    }

    #[test]
    fn a_key_is_decoded_once_and_kept() {
        for (target, key) in [
            ("/b2//lead", "/lead"),
            ("/b2/a//b", "a//b"),
            ("/b2/a+b%2Bc%20d%2520", "a+b+c d%20"),
            ("/b2/%C3%BC%0A", "ü\n"),
            ("/b2/%zz%", "%zz%"),
        ] {
            assert_eq!(call("GET", target).key.as_deref(), Some(key), "{target}");
        }
    }

    #[test]
    fn a_bucket_may_stand_in_the_host() {
        let request = Request::builder().uri("/a/b").header("host", "scw.localhost:9000").body(()).unwrap();
        let call = ParsedRequest::of(&request.into_parts().0);
        assert_eq!((call.bucket.as_deref(), call.key.as_deref()), (Some("scw"), Some("a/b")));
        assert_eq!(bucket_in_host("127.0.0.1:9000"), None);
        assert_eq!(bucket_in_host("localhost"), None);
    }
}
