//! The daemons, each a process in a slot, and the replacement of killed ones.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::Mutex,
};

use super::{DAEMONS, environment::Environment};

/// The daemons, each a process in its own slot. A killed daemon is replaced by the next one in its slot.
pub(super) struct Fleet {
    slots: [Mutex<Process>; DAEMONS],
    launched: AtomicUsize,
    program: PathBuf,
}

/// Whether further failures may hit a daemon, or the one that replaces it.
pub(super) enum Replacement {
    /// Any failure.
    Fair,
    /// None: one failure uses this daemon already.
    Spared,
}

pub(super) struct Process {
    child: Child,
    log: PathBuf,
    pub(super) spared: bool,
}

impl Fleet {
    pub(super) fn launch(program: &Path, environment: &Environment) -> anyhow::Result<Self> {
        let launched = AtomicUsize::new(0);
        let mut slots = Vec::new();
        for slot in 0..DAEMONS {
            slots.push(Mutex::new(Process::launch(program, environment, slot, &launched)?));
        }
        let slots = slots.try_into().map_err(|_| anyhow::anyhow!("as many as there are slots"))?;
        Ok(Self { slots, launched, program: program.to_owned() })
    }

    pub(super) fn launched(&self) -> usize {
        self.launched.load(Ordering::Relaxed)
    }

    pub(super) fn slot(&self, slot: usize) -> &Mutex<Process> {
        &self.slots[slot]
    }

    /// Kills the daemon in this slot with SIGKILL and starts another in its place; `false` if it is spared.
    pub(super) async fn replace(
        &self,
        slot: usize,
        environment: &Environment,
        by: Replacement,
    ) -> anyhow::Result<bool> {
        let mut process = self.slots[slot].lock().await;
        if process.spared {
            return Ok(false);
        }
        process.kill().await?;
        *process = Process::launch(&self.program, environment, slot, &self.launched)?;
        process.spared = matches!(by, Replacement::Spared);
        Ok(true)
    }

    /// Returns an error if a daemon exited without being killed.
    pub(super) async fn check(&self) -> anyhow::Result<()> {
        for slot in &self.slots {
            slot.lock().await.check()?;
        }
        Ok(())
    }

    pub(super) async fn end(self) -> anyhow::Result<()> {
        for slot in self.slots {
            slot.into_inner().kill().await?;
        }
        Ok(())
    }
}

impl Process {
    fn launch(program: &Path, environment: &Environment, slot: usize, launched: &AtomicUsize) -> anyhow::Result<Self> {
        let log = environment.folder().join(format!("daemon-{}.log", launched.fetch_add(1, Ordering::Relaxed)));
        let child = Command::new(program)
            .arg("--config")
            .arg(environment.config(slot))
            .arg("run")
            .env_remove("COPYHOLD_CONFIG")
            .env("COPYHOLD_LOG__LEVEL", "info,copyhold=debug")
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, log, spared: false })
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        self.check()?;
        Ok(self.child.kill().await?)
    }

    pub(super) fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.check()?;
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("a process's number")?;
        Ok(kill_process(id, signal)?)
    }

    fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("a daemon ended by itself ({status}); it said\n{}", self.said()),
        }
    }

    /// Returns the whole log of the daemon.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the sum of a metric's series, 0 if there is none; `None`: the daemon has not logged its HTTP address
    /// yet.
    pub(super) async fn metric(&self, name: &str) -> anyhow::Result<Option<u64>> {
        let said = self.said();
        let Some((_, address)) = said.split_once("on http://") else { return Ok(None) };
        let address = address.split_whitespace().next().context("an address")?;
        let page = page(address).await?;
        let values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<u64>().ok())?
        });
        Ok(Some(values.sum()))
    }
}

async fn page(address: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}
