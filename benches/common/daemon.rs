use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::{metrics::Metrics, process};
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

const START_MAY_TAKE: Duration = Duration::from_mins(1);

/// `copyhold run` as a process of its own. Killed when dropped.
pub struct Daemon {
    process: Child,
    id: u32,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon with the configuration in `folder`, and waits until it copies to both targets.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_for(folder, &["wasabi".to_owned(), "scw".to_owned()]).await
    }

    /// Starts a daemon with other targets.
    pub async fn start_for(folder: &Path, targets: &[String]) -> anyhow::Result<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let log = folder.join(format!("daemon-{}.log", STARTED.fetch_add(1, Ordering::Relaxed)));
        let process = Command::new(process::program())
            .arg("--config")
            .arg(folder.join("copyhold.toml"))
            .arg("run")
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let id = process.id().context("a daemon ended while it started")?;
        let mut daemon = Self { process, id, log };
        let deadline = Instant::now() + START_MAY_TAKE;
        while !targets.iter().all(|target| daemon.said().contains(&format!("Copying to {target}"))) {
            if daemon.process.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("a daemon did not start; it said\n{}", daemon.said());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(daemon)
    }

    /// Returns the whole log.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns an error if the daemon is not running any more.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("a daemon ended by itself ({status}); it said\n{}", self.said()),
        }
    }

    /// Returns the address of its HTTP pages.
    pub fn address(&self) -> anyhow::Result<String> {
        let said = self.said();
        let address = said.split_once("on http://").context("it does not say where its pages are")?.1;
        Ok(address.split_whitespace().next().context("an address")?.to_owned())
    }

    /// Returns its metrics.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        Metrics::of(&self.address()?).await
    }

    /// Returns resident memory now, and its maximum so far, in MiB.
    pub fn resident_mib(&self) -> anyhow::Result<(f64, f64)> {
        process::resident_mib(self.id)
    }

    /// Returns its CPU time so far, user and system.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        process::cpu_seconds(self.id)
    }

    /// Kills the daemon at once, as the loss of its machine would, and waits until it is gone.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.check()?;
        Ok(self.process.kill().await?)
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn end(mut self) -> anyhow::Result<()> {
        let id = Pid::from_raw(i32::try_from(self.id)?).context("a process's number")?;
        self.check()?;
        kill_process(id, Signal::TERM)?;
        let status = self.process.wait().await?;
        if !status.success() {
            bail!("a daemon that was asked to end did not end well ({status}); it said\n{}", self.said());
        }
        Ok(())
    }
}
