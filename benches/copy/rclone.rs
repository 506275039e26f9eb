//! rclone as a contestant: one process per target, at the same time.

use std::{fs::File, path::Path, process::Stdio, time::Instant};

use anyhow::bail;
use tokio::process::Command;

use super::{baseline::Cost, bucket_location::BucketLocation};
use crate::common::process;

/// Returns its version, if it is installed.
pub(super) async fn version() -> Option<String> {
    let said = Command::new("rclone").arg("version").output().await.ok()?;
    String::from_utf8(said.stdout).ok()?.lines().next().map(str::to_owned)
}

/// Copies the whole source to each target. The CPU time is that of all rclone processes.
pub(super) async fn copy(
    source: &BucketLocation,
    targets: &[BucketLocation],
    settings: &[&str],
    folder: &Path,
) -> anyhow::Result<Cost> {
    let this = std::process::id();
    let (begun, before) = (Instant::now(), process::cpu_seconds_of_ended_children(this)?);
    let mut processes = Vec::new();
    for target in targets {
        let log = folder.join(format!("rclone-{}.log", target.name));
        let mut command = Command::new("rclone");
        command.args(["copy", "--transfers", "32", "--config", ""]).args(settings);
        for place in [source, target] {
            command.arg(format!("{}:{}", place.name, place.bucket));
            let name = place.name.to_uppercase();
            for (setting, value) in [
                ("TYPE", "s3"),
                ("PROVIDER", "Other"),
                ("ENDPOINT", &place.endpoint),
                ("REGION", place.region),
                ("ACCESS_KEY_ID", &place.access_key_id),
                ("SECRET_ACCESS_KEY", &place.secret_access_key),
                ("FORCE_PATH_STYLE", "true"),
            ] {
                command.env(format!("RCLONE_CONFIG_{name}_{setting}"), value);
            }
        }
        // Otherwise its SDK reads certificates, which plain HTTP does not need.
        command.env_remove("AWS_CA_BUNDLE").stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        processes.push((command.kill_on_drop(true).spawn()?, log));
    }
    for (mut process, log) in processes {
        let status = process.wait().await?;
        if !status.success() {
            bail!("rclone failed ({status}): {}", std::fs::read_to_string(log)?);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Cost { seconds, cpu_seconds: process::cpu_seconds_of_ended_children(this)? - before })
}
