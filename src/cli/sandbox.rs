use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

use super::{Verdict, show};
use crate::sandbox::s3::{BucketOptions, S3Server, ServerOptions};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The buckets to have from the beginning
    #[arg(long, value_delimiter = ',', default_value = "b2,wasabi,scw")]
    buckets: Vec<String>,
    /// Keep only length and hashes of what is uploaded, not the bytes
    #[arg(long)]
    digest_only: bool,
}

/// Prints endpoint and keys, then serves until told to end.
pub(super) async fn run(args: Args) -> anyhow::Result<Verdict> {
    let server = S3Server::start_with(ServerOptions { listen: args.listen, ..ServerOptions::default() }).await?;
    for bucket in &args.buckets {
        let options = if args.digest_only { BucketOptions::digest_only() } else { BucketOptions::default() };
        server.create_bucket(bucket, options);
    }
    show::line(&format!(
        "endpoint={} access_key_id={} secret_access_key={}",
        server.endpoint(),
        server.access_key_id(),
        server.secret_access_key()
    ))?;
    let stop = CancellationToken::new();
    tokio::spawn(server.run(stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    Ok(Verdict::Good)
}
