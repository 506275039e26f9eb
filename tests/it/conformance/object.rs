//! Objects as the suite writes them and a bucket as a plain S3 client sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::get_object::GetObjectOutput,
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use copyhold_core::domain::{Content, ContentHash};
use copyhold_sandbox::s3::{Synthetic, synthetic};

use super::PART_BYTES;

/// Headers by their names on the wire.
pub type Headers = BTreeMap<String, String>;

/// What is written at the source.
#[derive(Clone, Debug)]
pub struct Object {
    pub key: String,
    pub bytes: Synthetic,
    pub headers: Headers,
    /// It is written in parts, so that its ETag is no MD5.
    pub in_parts: bool,
}

impl Object {
    pub fn new(key: impl Into<String>, bytes: Synthetic) -> Self {
        Self { key: key.into(), bytes, headers: Headers::new(), in_parts: false }
    }

    pub fn content(&self) -> Content {
        Content { size_bytes: self.bytes.size_bytes, hash: self.bytes.hash() }
    }
}

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub content: Content,
    pub headers: Headers,
}

/// One bucket, through a client that is none of ours.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub client: Client,
    pub name: String,
    taken: Arc<Mutex<BTreeSet<String>>>,
}

impl Bucket {
    pub fn new(client: Client, name: String) -> Self {
        Self { client, name, taken: Arc::default() }
    }

    pub async fn write(&self, object: &Object) -> Result<(), String> {
        if object.in_parts {
            self.write_in_parts(object).await?;
        } else {
            self.write_whole(object).await?;
        }
        self.taken.lock().unwrap().insert(object.key.clone());
        Ok(())
    }

    /// The keys that it has taken, once. What it has not taken is not removed either: Garage has `DELETE /bucket//`
    /// remove the bucket.
    pub fn taken(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }

    async fn write_whole(&self, object: &Object) -> Result<(), String> {
        let bytes = synthetic::bytes(object.bytes.seed, 0..object.bytes.size_bytes);
        let headers = object.headers.clone();
        let put = self.client.put_object().bucket(&self.name).key(&object.key).body(bytes.into());
        let put = put.customize().mutate_request(move |request| insert(request.headers_mut(), &headers));
        put.send().await.map(drop).map_err(|error| told("PutObject", &error))
    }

    async fn write_in_parts(&self, object: &Object) -> Result<(), String> {
        let (client, bucket, key) = (&self.client, &self.name, &object.key);
        let headers = object.headers.clone();
        let create = client.create_multipart_upload().bucket(bucket).key(key).customize();
        let create = create.mutate_request(move |request| insert(request.headers_mut(), &headers));
        let created = create.send().await.map_err(|error| told("CreateMultipartUpload", &error))?;
        let id = created.upload_id.ok_or("CreateMultipartUpload: no id")?;
        let mut parts = Vec::new();
        let starts = (0..object.bytes.size_bytes).step_by(usize::try_from(PART_BYTES).unwrap());
        for (number, start) in (1..).zip(starts) {
            let end = (start + PART_BYTES).min(object.bytes.size_bytes);
            let body = ByteStream::from(synthetic::bytes(object.bytes.seed, start..end));
            let part = client.upload_part().bucket(bucket).key(key).upload_id(&id).part_number(number).body(body);
            let etag = part.send().await.map_err(|error| told("UploadPart", &error))?.e_tag;
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(etag).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(id);
        let complete = complete.multipart_upload(parts).send().await;
        complete.map(drop).map_err(|error| told("CompleteMultipartUpload", &error))
    }

    /// `None`: there is no such object.
    pub async fn read(&self, key: &str) -> Result<Option<Seen>, String> {
        let mut answer = match self.client.get_object().bucket(&self.name).key(key).send().await {
            Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
            Err(error) => return Err(told("GetObject", &error)),
            Ok(answer) => answer,
        };
        let mut hash = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        let mut size_bytes = 0;
        while let Some(bytes) = answer.body.next().await {
            let bytes = bytes.map_err(|error| format!("GetObject: {error}"))?;
            hash.update(&bytes);
            size_bytes += bytes.len() as u64;
        }
        let content = Content { size_bytes, hash: ContentHash(hash.finalize()) };
        Ok(Some(Seen { content, headers: headers_of(&answer) }))
    }

    /// What is not there is removed already.
    pub async fn remove(&self, key: &str) {
        let _ = self.client.delete_object().bucket(&self.name).key(key).send().await;
    }

    /// Makes the bucket, if it lacks. It must be empty: what stands in it belongs to another program.
    pub async fn prepare(&self) {
        let made = self.client.create_bucket().bucket(&self.name).send().await;
        let listed = self.client.list_objects_v2().bucket(&self.name).max_keys(1).send().await;
        let listed = listed.unwrap_or_else(|error| {
            let made = made.map_or_else(|error| told("CreateBucket", &error), |_| String::new());
            panic!("bucket {} cannot be used: {} {made}", self.name, told("ListObjectsV2", &error))
        });
        let there = listed.contents();
        assert!(there.is_empty(), "bucket {} is not empty: name one that is, or empty it", self.name);
    }

    /// Names of the unfinished uploads of a key.
    pub async fn uploads(&self, key: &str) -> Result<Vec<String>, String> {
        let listed = self.client.list_multipart_uploads().bucket(&self.name).prefix(key).send().await;
        let listed = listed.map_err(|error| told("ListMultipartUploads", &error))?;
        let of_key = listed.uploads().iter().filter(|upload| upload.key() == Some(key));
        Ok(of_key.filter_map(|upload| upload.upload_id().map(str::to_owned)).collect())
    }

    pub async fn abort(&self, key: &str, upload: &str) -> Result<(), String> {
        let abort = self.client.abort_multipart_upload().bucket(&self.name).key(key).upload_id(upload);
        abort.send().await.map(drop).map_err(|error| told("AbortMultipartUpload", &error))
    }
}

fn insert(to: &mut aws_smithy_runtime_api::http::Headers, headers: &Headers) {
    for (name, value) in headers {
        to.insert(name.clone(), value.clone());
    }
}

fn headers_of(answer: &GetObjectOutput) -> Headers {
    let system = [
        ("content-type", answer.content_type()),
        ("content-encoding", answer.content_encoding()),
        ("content-disposition", answer.content_disposition()),
        ("content-language", answer.content_language()),
        ("cache-control", answer.cache_control()),
        ("expires", answer.expires_string()),
    ];
    let system = system.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let user = answer.metadata().into_iter().flatten();
    system.chain(user.map(|(name, value)| (format!("x-amz-meta-{name}"), value.clone()))).collect()
}

/// Status and code, as far as there are any: `PutObject: 404 NoSuchKey`.
fn told<E: ProvideErrorMetadata + std::error::Error + 'static>(
    operation: &str,
    error: &SdkError<E, aws_smithy_runtime_api::http::Response>,
) -> String {
    match error.raw_response() {
        Some(answer) => format!("{operation}: {} {}", answer.status(), error.code().unwrap_or("without a code")),
        None => format!("{operation}: {}", aws_sdk_s3::error::DisplayErrorContext(error)),
    }
}
