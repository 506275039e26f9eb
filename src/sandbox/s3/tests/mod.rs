//! What the server promises, asked over real HTTP by the AWS SDK, or by bare
//! sockets where the SDK is too polite.

mod objects;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;

use super::{BucketHandle, BucketOptions, S3Server};

/// A server with one empty bucket `b2`, and a client that sends no hash of its own and tries once.
struct Setup {
    server: S3Server,
    b2: BucketHandle,
    client: Client,
}

impl Setup {
    async fn new() -> Self {
        Self::with(BucketOptions::default()).await
    }

    async fn with(options: BucketOptions) -> Self {
        let server = S3Server::start().await.unwrap();
        let b2 = server.create_bucket("b2", options);
        let client = Client::from_conf(config(&server).build());
        Self { server, b2, client }
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.client.put_object().bucket("b2").key(key).body(ByteStream::from(bytes.to_vec())).send().await.unwrap();
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let got = self.client.get_object().bucket("b2").key(key).send().await.unwrap();
        got.body.collect().await.unwrap().to_vec()
    }
}

fn config(server: &S3Server) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(server.endpoint())
        .region(Region::new("eu-central-003"))
        .credentials_provider(Credentials::new(server.access_key_id(), server.secret_access_key(), None, None, "test"))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
}

/// Status and code of a refusal.
fn refusal<T: std::fmt::Debug, E: ProvideErrorMetadata>(result: Result<T, SdkError<E>>) -> (u16, String) {
    let error = result.err().expect("a refusal");
    let status = error.raw_response().expect("an answer").status().as_u16();
    (status, error.code().unwrap_or("").to_owned())
}
