//! The demo's application: it uploads objects to the primary and inserts a row for each. It needs to know no more.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use aws_sdk_s3::{
    Client,
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::{
    REPLICAS,
    client::{AT_ONCE, options},
    environment::{APPLICATION, Environment, bucket},
    objects::Object,
};

/// Differs from the daemon's part size, so that ETags of parts cannot match by chance.
const PART_BYTES: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Application {
    s3: Client,
    bucket: String,
    database: PgPool,
    registered: AtomicUsize,
}

impl Application {
    pub(super) fn new(environment: &Environment) -> anyhow::Result<Self> {
        let connections = u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
        let database = PgPoolOptions::new()
            .max_connections(connections)
            .connect_lazy_with(options(&environment.database(APPLICATION))?);
        Ok(Self { s3: environment.client()?, bucket: bucket(REPLICAS[0]), database, registered: AtomicUsize::new(0) })
    }

    /// The number of objects uploaded and registered so far.
    pub(super) fn registered(&self) -> usize {
        self.registered.load(Ordering::Relaxed)
    }

    /// Uploads and registers all objects, several at a time.
    pub(super) async fn bring(&self, objects: &[Object]) -> anyhow::Result<()> {
        stream::iter(objects).map(|object| self.bring_one(object)).buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn bring_one(&self, object: &Object) -> anyhow::Result<()> {
        self.upload(object).await?;
        self.register(&object.key).await?;
        self.registered.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Registers the object in its own transaction.
    async fn register(&self, key: &str) -> anyhow::Result<()> {
        let insert =
            "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ($1, copyhold.now_utc_micro_seconds())";
        sqlx::query(insert).bind(key).execute(&self.database).await.context("cannot register an object")?;
        Ok(())
    }

    /// Uploads new content for a key that may be registered already.
    pub(super) async fn bring_again(&self, object: &Object) -> anyhow::Result<()> {
        self.upload(object).await?;
        let register = "SELECT copyhold.register($1)";
        sqlx::query(register).bind(&object.key).execute(&self.database).await.context("cannot register an object")?;
        self.registered.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.database.close().await;
    }

    async fn upload(&self, object: &Object) -> anyhow::Result<()> {
        let uploaded = if object.size_bytes() > 2 * PART_BYTES as u64 {
            self.upload_in_parts(object).await
        } else {
            self.upload_whole(object).await
        };
        uploaded.with_context(|| format!("cannot upload {:?} to {}", object.key, self.bucket))
    }

    async fn upload_whole(&self, object: &Object) -> anyhow::Result<()> {
        let (about, body) = (&object.metadata, object.bytes(0..object.size_bytes()));
        let request = self.s3.put_object().bucket(&self.bucket).key(&object.key).body(ByteStream::from(body));
        let request = request
            .set_content_type(about.content_type.map(str::to_owned))
            .set_cache_control(about.cache_control.map(str::to_owned))
            .set_content_disposition(about.content_disposition.map(str::to_owned))
            .set_metadata(Some(about.user.clone().into_iter().collect()));
        request.send().await?;
        Ok(())
    }

    async fn upload_in_parts(&self, object: &Object) -> anyhow::Result<()> {
        let about = &object.metadata;
        let begin = self.s3.create_multipart_upload().bucket(&self.bucket).key(&object.key);
        let begin = begin
            .set_content_type(about.content_type.map(str::to_owned))
            .set_cache_control(about.cache_control.map(str::to_owned))
            .set_content_disposition(about.content_disposition.map(str::to_owned))
            .set_metadata(Some(about.user.clone().into_iter().collect()));
        let upload_id = begin.send().await?.upload_id.context("the store names no upload")?;
        let mut parts = Vec::new();
        for (number, start) in (1..).zip((0..object.size_bytes()).step_by(PART_BYTES)) {
            let body = object.bytes(start..start + PART_BYTES as u64);
            let part = self.s3.upload_part().bucket(&self.bucket).key(&object.key).upload_id(&upload_id);
            let sent = part.part_number(number).body(ByteStream::from(body)).send().await?;
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let end = self.s3.complete_multipart_upload().bucket(&self.bucket).key(&object.key).upload_id(upload_id);
        end.multipart_upload(parts).send().await?;
        Ok(())
    }
}
