//! Garage as a store: a process with its own folder and one bucket.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{bucket_location::BucketLocation, presigned::Presigner};
use crate::common::process;

const START_MAY_TAKE: Duration = Duration::from_secs(20);
const BUCKET: &str = "photos";

/// A Garage server. Killed when dropped.
pub(super) struct Garage {
    pub(super) place: BucketLocation,
    process: Child,
    folder: TempDir,
}

/// Returns its version, if it is installed.
pub(super) async fn version() -> Option<String> {
    let said = Command::new(program()).arg("--version").output().await.ok()?;
    String::from_utf8(said.stdout).ok()?.lines().next().map(str::to_owned)
}

/// Returns the program, also from the folder of `cargo install` if that is not on the path.
fn program() -> PathBuf {
    let installed = std::env::home_dir().map(|home| home.join(".cargo/bin/garage")).filter(|path| path.exists());
    installed.unwrap_or_else(|| "garage".into())
}

impl Garage {
    pub(super) async fn start(name: &'static str) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let (api, rpc) = (free_port()?, free_port()?);
        let path = folder.path().join("garage.toml");
        let here = folder.path().display();
        fs::write(
            &path,
            format!(
                "metadata_dir = \"{here}/meta\"\ndata_dir = \"{here}/data\"\ndb_engine = \"sqlite\"\n\
                 replication_factor = 1\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{}\"\n\
                 [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{api}\"\n",
                hexadecimal(32)
            ),
        )?;
        let place = BucketLocation {
            name,
            endpoint: format!("http://127.0.0.1:{api}"),
            region: "garage",
            bucket: BUCKET.to_owned(),
            access_key_id: format!("GK{}", hexadecimal(12)),
            secret_access_key: hexadecimal(32),
        };
        let log = fs::File::create(folder.path().join("log"))?;
        let process = Command::new(program())
            .arg("-c")
            .arg(&path)
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_BUCKET", BUCKET)
            .env("GARAGE_DEFAULT_ACCESS_KEY", &place.access_key_id)
            .env("GARAGE_DEFAULT_SECRET_KEY", &place.secret_access_key)
            // A log line per request would distort the measurement.
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let garage = Self { place, process, folder };
        let deadline = Instant::now() + START_MAY_TAKE;
        while !Presigner::for_place(&garage.place)?.is_there(BUCKET).await {
            if Instant::now() > deadline {
                bail!("Garage did not start: {}", fs::read_to_string(garage.folder.path().join("log"))?);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(garage)
    }

    pub(super) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        process::cpu_seconds(self.process.id().context("Garage ended")?)
    }

    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        Ok(self.process.kill().await?)
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Returns random hexadecimal digits for at most 32 bytes.
fn hexadecimal(bytes: usize) -> String {
    let mut text = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    text.truncate(2 * bytes);
    text
}
