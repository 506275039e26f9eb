//! What the figures depend on beside Copyhold: disk, load, cores.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// The size of PostgreSQL's writes.
const PAGE: [u8; 8192] = [7; 8192];
const FOR: Duration = Duration::from_secs(1);

/// Returns how often a second one page of a file in `folder` can be overwritten and forced to disk, as a commit forces
/// the write-ahead log. Blocks for a second.
pub fn fdatasyncs_per_second(folder: &Path) -> io::Result<f64> {
    let path = folder.join("fdatasync-rate");
    let file = measure(&path);
    fs::remove_file(&path)?;
    file
}

fn measure(path: &Path) -> io::Result<f64> {
    let mut file = File::create(path)?;
    // Like a segment of the log, the file has its full size beforehand.
    file.write_all(&PAGE.repeat(128))?;
    file.sync_all()?;
    let begun = Instant::now();
    let mut times = 0_u32;
    while begun.elapsed() < FOR {
        file.write_all_at(&PAGE, u64::from(times % 128) * 8192)?;
        file.sync_data()?;
        times += 1;
    }
    Ok(f64::from(times) / begun.elapsed().as_secs_f64())
}

/// Returns load and disk in one line; the disk is the one of temporary files.
pub async fn in_short() -> anyhow::Result<String> {
    let rate = tokio::task::spawn_blocking(|| fdatasyncs_per_second(&std::env::temp_dir())).await??;
    Ok(format!("{}; {rate:.0} fdatasyncs/s", load()))
}

/// `2 cores, load 1.20 0.80 0.70`: over the last 1, 5 and 15 minutes.
pub fn load() -> String {
    let cores = available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<_> = load.split(' ').take(3).collect();
    format!("{cores} cores, load {}", load.join(" "))
}

/// Returns the CPU time of the calling thread so far.
pub fn cpu_seconds_of_this_thread() -> anyhow::Result<f64> {
    let page = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: u64 = page.split(' ').next().context("a page of numbers")?.parse()?;
    Ok(Duration::from_nanos(nanos).as_secs_f64())
}
