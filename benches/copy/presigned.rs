use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation},
    presigning::PresigningConfig,
    types::{CompletedMultipartUpload, CompletedPart},
};
use hyper::Uri;

use super::bucket_location::BucketLocation;
use crate::common::stores::Stores;

/// The validity of the URLs, longer than any measurement.
const GOOD_FOR: Duration = Duration::from_hours(2);

/// Signs URLs before the measurement starts, and makes the few calls without object data.
pub(super) struct Presigner {
    pub(super) client: Client,
    pub(super) credentials: Credentials,
    pub(super) address: SocketAddr,
}

/// An upload in parts that was begun: the URL of each part, from part 1.
pub(super) struct StartedUpload {
    bucket: String,
    key: String,
    id: String,
    pub(super) parts: Vec<Uri>,
}

impl Presigner {
    pub(super) fn of(stores: &Stores) -> anyhow::Result<Self> {
        Self::new(&stores.endpoint, "us-east-1", &stores.access_key_id, &stores.secret_access_key)
    }

    pub(super) fn for_place(place: &BucketLocation) -> anyhow::Result<Self> {
        Self::new(&place.endpoint, place.region, &place.access_key_id, &place.secret_access_key)
    }

    fn new(endpoint: &str, region: &'static str, id: &str, secret: &str) -> anyhow::Result<Self> {
        let credentials = Credentials::new(id, secret, None, None, "floor");
        let config = Builder::new()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(endpoint)
            .force_path_style(true)
            .region(Region::new(region))
            .credentials_provider(credentials.clone())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let address = endpoint.strip_prefix("http://").context("an address")?.parse()?;
        Ok(Self { client: Client::from_conf(config), address, credentials })
    }

    pub(super) async fn is_there(&self, bucket: &str) -> bool {
        self.client.head_bucket().bucket(bucket).send().await.is_ok()
    }

    pub(super) async fn get(&self, replica: &str, key: &str) -> anyhow::Result<Uri> {
        let call = self.client.get_object().bucket(Stores::bucket_of(replica)).key(key);
        Ok(call.presigned(PresigningConfig::expires_in(GOOD_FOR)?).await?.uri().parse()?)
    }

    pub(super) async fn put(&self, replica: &str, key: &str) -> anyhow::Result<Uri> {
        self.put_to(&Stores::bucket_of(replica), key).await
    }

    pub(super) async fn put_to(&self, bucket: &str, key: &str) -> anyhow::Result<Uri> {
        let call = self.client.put_object().bucket(bucket).key(key);
        Ok(call.presigned(PresigningConfig::expires_in(GOOD_FOR)?).await?.uri().parse()?)
    }

    /// Begins an upload in this many parts.
    pub(super) async fn begin(&self, replica: &str, key: &str, parts: u64) -> anyhow::Result<StartedUpload> {
        self.begin_in(&Stores::bucket_of(replica), key, parts).await
    }

    pub(super) async fn begin_in(&self, bucket: &str, key: &str, parts: u64) -> anyhow::Result<StartedUpload> {
        let created = self.client.create_multipart_upload().bucket(bucket).key(key).send().await?;
        let id = created.upload_id.context("an upload's name")?;
        let mut urls = Vec::new();
        for number in 1..=i32::try_from(parts)? {
            let call = self.client.upload_part().bucket(bucket).key(key).upload_id(&id).part_number(number);
            urls.push(call.presigned(PresigningConfig::expires_in(GOOD_FOR)?).await?.uri().parse()?);
        }
        Ok(StartedUpload { bucket: bucket.to_owned(), key: key.to_owned(), id, parts: urls })
    }

    /// Completes the upload. The MD5s of the parts, in order, are their ETags.
    pub(super) async fn complete(&self, upload: &StartedUpload, md5s: &[[u8; 16]]) -> anyhow::Result<()> {
        let etag = |md5: &[u8; 16]| format!("\"{:032x}\"", u128::from_be_bytes(*md5));
        let parts =
            (1..).zip(md5s).map(|(number, md5)| CompletedPart::builder().part_number(number).e_tag(etag(md5)).build());
        let call = self.client.complete_multipart_upload().bucket(&upload.bucket).key(&upload.key);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        call.upload_id(&upload.id).multipart_upload(parts).send().await?;
        Ok(())
    }
}
