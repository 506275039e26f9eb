//! The daemons of a demo: processes that are started, killed and asked to end.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Child,
    time::{Instant, sleep, timeout},
};

use super::{
    environment::{Environment, terminate},
    table_view::TableView,
};

/// How long a daemon may take to register.
const START_MAY_TAKE: Duration = Duration::from_mins(2);
/// A free port may be taken by another process before the daemon binds it.
const PORTS_TO_TRY: usize = 5;
/// The grace period of their configuration, and some time to deregister.
const END_MAY_TAKE: Duration = Duration::from_secs(8);

/// The daemons of one demo. Each is a process that runs this same program.
#[derive(Debug, Default)]
pub(super) struct Daemons {
    running: Mutex<Vec<Daemon>>,
    started: AtomicUsize,
}

/// One daemon's process.
#[derive(Debug)]
pub(super) struct Daemon {
    /// Names its log file.
    pub(super) name: String,
    /// Its id in the table `daemons`.
    pub(super) number: i32,
    pub(super) process_id: u32,
    port: u16,
    process: Child,
}

impl Daemons {
    /// Starts a daemon and waits until it is registered; returns a text that identifies it.
    pub(super) async fn start(&self, environment: &Environment, rows: &TableView) -> anyhow::Result<String> {
        let name = format!("daemon-{}", self.started.fetch_add(1, Ordering::Relaxed) + 1);
        for left in (0..PORTS_TO_TRY).rev() {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let process = environment.launch_daemon(&name, port)?;
            let process_id = process.id().context("a daemon ended while it started")?;
            // Listed at once, so that it is ended even if this function fails or is cancelled.
            self.lock().push(Daemon { name: name.clone(), number: 0, process_id, port, process });
            if let Some(number) = self.until_it_works(process_id, rows).await? {
                return Ok(format!("daemon {number} (process {process_id})"));
            }
            environment.forget(&name);
            self.lock().retain(|daemon| daemon.process_id != process_id);
            let said = environment.log_tail(&name);
            if left == 0 || !said.contains("cannot listen") {
                bail!("a daemon ended while it started; it said\n{said}");
            }
        }
        unreachable!("the last try returns")
    }

    /// Waits until the daemon is registered; returns its number, or `None` if it has ended.
    async fn until_it_works(&self, process_id: u32, rows: &TableView) -> anyhow::Result<Option<i32>> {
        let deadline = Instant::now() + START_MAY_TAKE;
        while Instant::now() < deadline {
            if let Some(number) = rows.daemon(process_id).await? {
                self.with(process_id, |daemon| daemon.number = number)?;
                return Ok(Some(number));
            }
            if self.with(process_id, |daemon| daemon.process.try_wait())??.is_some() {
                return Ok(None);
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("a daemon did not come up within {} s", START_MAY_TAKE.as_secs())
    }

    pub(super) fn started(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    pub(super) fn numbers(&self) -> Vec<i32> {
        self.lock().iter().map(|daemon| daemon.number).collect()
    }

    /// Returns an error if a daemon exited by itself.
    pub(super) fn check(&self, environment: &Environment) -> anyhow::Result<()> {
        for daemon in self.lock().iter_mut() {
            if let Some(status) = daemon.process.try_wait()? {
                let (number, said) = (daemon.number, environment.log_tail(&daemon.name));
                bail!("daemon {number} has ended by itself ({status}); it said\n{said}");
            }
        }
        Ok(())
    }

    /// Returns the last log lines of the running daemons, for an error.
    pub(super) fn last_words(&self, environment: &Environment) -> String {
        let said =
            |daemon: &Daemon| format!("daemon {} said last\n{}", daemon.number, environment.log_tail(&daemon.name));
        self.lock().iter().map(said).collect::<Vec<_>>().join("\n")
    }

    /// Kills a daemon with SIGKILL, so that it cannot even release its leases. Returns when it is dead.
    pub(super) async fn kill(&self, number: i32, environment: &Environment) -> anyhow::Result<Daemon> {
        let mut daemon = {
            let mut running = self.lock();
            let place = running.iter().position(|daemon| daemon.number == number);
            running.remove(place.context("there is no such daemon")?)
        };
        daemon.process.kill().await.context("cannot kill a daemon")?;
        environment.forget(&daemon.name);
        Ok(daemon)
    }

    /// Returns failed attempts by replica and class, as the running daemons count them.
    pub(super) async fn failures(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let ports: Vec<u16> = self.lock().iter().map(|daemon| daemon.port).collect();
        let mut sum = BTreeMap::<String, BTreeMap<String, u64>>::new();
        for port in ports {
            // The summary does not depend on these figures: a daemon that does not answer is no error.
            let page = timeout(Duration::from_secs(3), metrics(port)).await;
            let page = page.ok().and_then(Result::ok).unwrap_or_default();
            for (replica, class, count) in page.lines().filter_map(failures_of_line) {
                *sum.entry(replica).or_default().entry(class).or_default() += count;
            }
        }
        sum
    }

    /// Sends SIGTERM to all daemons and waits; kills the ones that do not end in time.
    pub(super) async fn stop(&self, environment: &Environment) {
        let mut running = std::mem::take(&mut *self.lock());
        for daemon in &running {
            terminate(&daemon.process);
        }
        let deadline = Instant::now() + END_MAY_TAKE;
        for daemon in &mut running {
            if tokio::time::timeout_at(deadline, daemon.process.wait()).await.is_err() {
                // If that fails too, the process guard kills it.
                let _ = daemon.process.kill().await;
            }
            environment.forget(&daemon.name);
        }
    }

    fn with<T>(&self, process_id: u32, change: impl FnOnce(&mut Daemon) -> T) -> anyhow::Result<T> {
        let mut running = self.lock();
        let daemon = running.iter_mut().find(|daemon| daemon.process_id == process_id);
        Ok(change(daemon.context("a daemon was ended while it started")?))
    }

    /// A poisoned lock is usable: no step under it leaves the list inconsistent.
    fn lock(&self) -> MutexGuard<'_, Vec<Daemon>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn metrics(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}

/// `copyhold_failures_total{replica="wasabi",class="transient"} 7`
fn failures_of_line(line: &str) -> Option<(String, String, u64)> {
    let (labels, count) = line.strip_prefix("copyhold_failures_total{")?.split_once("} ")?;
    let label = |name: &str| {
        let quoted = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix('='))?;
        Some(quoted.trim_matches('"').to_owned())
    };
    Some((label("replica")?, label("class")?, count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_read_from_the_page_of_metrics() {
        let read = failures_of_line(r#"copyhold_failures_total{replica="wasabi",class="throttled"} 12"#);
        assert_eq!(read, Some(("wasabi".to_owned(), "throttled".to_owned(), 12)));
        let other_way_round = failures_of_line(r#"copyhold_failures_total{class="gone",replica="scw"} 1"#);
        assert_eq!(other_way_round, Some(("scw".to_owned(), "gone".to_owned(), 1)));
        for other in ["# TYPE copyhold_failures_total counter", "copyhold_claims_total 3", ""] {
            assert_eq!(failures_of_line(other), None);
        }
    }
}
