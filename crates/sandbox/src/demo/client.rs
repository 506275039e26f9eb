//! Clients of the stores and of the database, made as an application would make them.

use std::str::FromStr as _;

use anyhow::Context as _;
use aws_sdk_s3::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation},
};
use aws_smithy_http_client::pool::{self, ConnectionPool};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::s3::S3Server;

/// The most requests of one purpose under way at the same time.
pub(super) const AT_ONCE: usize = 8;

/// Makes a client of the SDK as an application would. It shares nothing with the daemons' clients.
pub(super) fn connect(server: &S3Server) -> anyhow::Result<Client> {
    // Without TLS, so that it needs no CA certificates, which a minimal system may lack.
    let pool = ConnectionPool::builder().max_connections_per_host(2 * AT_ONCE).tcp_nodelay(true).build_http();
    let http = pool::Client::new(&pool.context("cannot make an HTTP client")?).context("cannot make an HTTP client")?;
    let keys = Credentials::new(server.access_key_id(), server.secret_access_key(), None, None, "copyhold demo");
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .region(Region::new("sandbox"))
        .credentials_provider(keys)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
    Ok(Client::from_conf(config.build()))
}

/// Returns options for a URL of the sandbox, whatever libpq's variables set for TLS.
pub(super) fn options(url: &str) -> sqlx::Result<PgConnectOptions> {
    Ok(PgConnectOptions::from_str(url)?.ssl_mode(PgSslMode::Disable).application_name("copyhold demo"))
}
