//! What the server promises, asked over real HTTP by the AWS SDK, or by bare
//! sockets where the SDK is too polite.

mod access;
mod conditions;
mod counting;
mod faults;
mod integrity;
mod keys;
mod listing;
mod many_gib;
mod multipart;
mod objects;
mod quirks;
mod versions;
mod wire_faults;

use std::io;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::primitives::ByteStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

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

    /// A client that adds checksums by itself, as the SDK does unless it is told not to.
    fn hashing_client(&self) -> Client {
        let calculation = RequestChecksumCalculation::WhenSupported;
        Client::from_conf(config(&self.server).request_checksum_calculation(calculation).build())
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.client.put_object().bucket("b2").key(key).body(ByteStream::from(bytes.to_vec())).send().await.unwrap();
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let got = self.client.get_object().bucket("b2").key(key).send().await.unwrap();
        got.body.collect().await.unwrap().to_vec()
    }

    /// An unsigned request for the whole object.
    async fn presigned_get(&self, key: &str) -> PresignedRequest {
        self.client.get_object().bucket("b2").key(key).presigned(for_a_minute()).await.unwrap()
    }

    /// An unsigned request to upload `key` with any body.
    async fn presigned_put(&self, key: &str) -> PresignedRequest {
        self.client.put_object().bucket("b2").key(key).presigned(for_a_minute()).await.unwrap()
    }

    /// Sends the request over a socket of its own, with more headers and a body, and reads until the end of the
    /// connection.
    async fn send(&self, request: &PresignedRequest, headers: &str, body: &[u8]) -> Heard {
        let mut stream = self.begin(request, headers).await;
        let _ = stream.write_all(body).await; // the server may have heard enough
        Heard::all_of(&mut stream).await
    }

    /// Sends these bytes over a socket of its own and reads until the end of the connection.
    async fn say(&self, text: &str) -> Heard {
        let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        Heard::all_of(&mut stream).await
    }

    /// Opens a connection and sends the head of the request.
    async fn begin(&self, request: &PresignedRequest, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
        let uri = request.uri().strip_prefix("http://").unwrap();
        let (host, target) = uri.split_once('/').unwrap();
        let signed: Vec<_> = request.headers().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let signed = signed.concat();
        let method = request.method();
        let head = format!("{method} /{target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{signed}{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }
}

/// All that came over a connection, and whether it ended in order.
#[derive(Debug)]
struct Heard {
    status: u16,
    head: String,
    body: Vec<u8>,
    end: Result<(), io::ErrorKind>,
}

impl Heard {
    async fn all_of(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).await.map(|_| ()).map_err(|e| e.kind());
        let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..split]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Self { status, head, body: bytes.split_off(split), end }
    }

    fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
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

fn for_a_minute() -> PresigningConfig {
    PresigningConfig::expires_in(Duration::from_mins(1)).unwrap()
}

/// Status and code of a refusal.
fn refusal<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(
    result: Result<T, SdkError<E>>,
) -> (u16, String) {
    let error = result.expect_err("a refusal");
    let answer = error.raw_response().unwrap_or_else(|| panic!("an answer, not {error:?}"));
    let status = answer.status().as_u16();
    (status, error.code().unwrap_or("").to_owned())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
