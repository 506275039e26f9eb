//! The main part of a demo: everything is copied while failures happen, then read back and compared.

use std::{cell::Cell, time::Duration};

use anyhow::bail;
use tokio::time::{Instant, sleep};

use super::{
    Progress, ProgressDisplay, REPLICAS, Request, Summary, Waits,
    application::Application,
    daemons::Daemons,
    environment::Environment,
    failures::Failures,
    objects::Object,
    reader::Reader,
    summary::{self, Comparison, FailingStore, Killed},
    table_view::{Counts, TableView},
};

/// Without progress for this long something is broken: a lease and a back-off are far shorter.
const PATIENCE: Duration = Duration::from_mins(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The participants of a demo.
pub(super) struct Scenario<'a> {
    pub(super) environment: &'a Environment,
    pub(super) request: &'a Request,
    pub(super) objects: &'a [Object],
    pub(super) display: &'a dyn ProgressDisplay,
    pub(super) daemons: Daemons,
    pub(super) application: Application,
    pub(super) rows: TableView,
    pub(super) reader: Reader,
}

impl Scenario<'_> {
    /// Copies everything while both failures happen, then compares it.
    pub(super) async fn copy_and_compare(&self) -> anyhow::Result<Summary> {
        self.display.say("PostgreSQL and the stores b2, wasabi and scw have started");
        self.environment.migrate().await?;
        let failures = Failures::prepare(self.environment, self.objects, self.request.seed);
        for _ in 0..2 {
            self.start_daemon().await?;
        }
        let (killed, failing_store) = self.copy_all(&failures).await?;
        self.display.say("all is on record everywhere; now all is read back and compared");
        let of = self.objects.len() * REPLICAS.len();
        let told = |done| self.display.show(&Progress::Comparing { done, of });
        let comparison = self.reader.compare_all(self.environment, self.objects, told).await;
        self.sum_up(comparison, killed, failing_store).await
    }

    pub(super) async fn start_daemon(&self) -> anyhow::Result<()> {
        let which = self.daemons.start(self.environment, &self.rows).await?;
        self.display.say(&format!("{which} has started"));
        Ok(())
    }

    /// Runs the application, both failures and the daemons at the same time.
    async fn copy_all(&self, failures: &Failures) -> anyhow::Result<(Killed, FailingStore)> {
        let over = Cell::new(false);
        let failures = async {
            let kill = failures.kill_one(self.environment, &self.daemons, &self.rows, self.display);
            let fail = async { anyhow::Ok(failures.fail_one_store(self.environment, self.display).await) };
            let both = tokio::try_join!(kill, fail);
            over.set(true);
            both
        };
        let ((), both, ()) =
            tokio::try_join!(self.application.bring(self.objects), failures, self.until_copied(&over))?;
        Ok(both)
    }

    /// Waits until everything is recorded everywhere and the failures are over.
    async fn until_copied(&self, over: &Cell<bool>) -> anyhow::Result<()> {
        let mut last = (0, Counts::default());
        let mut moved = Instant::now();
        loop {
            self.daemons.check(self.environment)?;
            let counts = self.rows.counts().await?;
            let registered = self.application.registered();
            self.display.show(&progress(self.objects.len(), registered, &counts));
            if over.get() && usize::try_from(counts.everywhere).ok() == Some(self.objects.len()) {
                return Ok(());
            }
            let now = (registered, Counts { leased: 0, failing: 0, ..counts });
            if now != last {
                (last, moved) = (now, Instant::now());
            } else if moved.elapsed() > PATIENCE {
                bail!("{}", self.standstill(&counts).await?);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn standstill(&self, counts: &Counts) -> anyhow::Result<String> {
        let reasons = self.rows.reasons().await?;
        let reasons = if reasons.is_empty() { "no failure is on record".to_owned() } else { reasons.join("\n  ") };
        Ok(format!(
            "nothing has moved for {} s: {} of {} objects are on record everywhere, daemons hold {}\n  {reasons}\n{}",
            PATIENCE.as_secs(),
            counts.everywhere,
            self.objects.len(),
            counts.leased,
            self.daemons.last_words(self.environment)
        ))
    }

    #[expect(clippy::cast_precision_loss, reason = "rates and times of a demo stay far below 2^52")]
    async fn sum_up(
        &self,
        comparison: Comparison,
        mut killed: Killed,
        failing_store: FailingStore,
    ) -> anyhow::Result<Summary> {
        killed.rescued_leases = self.rows.which_are_everywhere(&killed.keys).await?.len();
        let (wasabi, scw) = self.rows.waits(0).await?.into_iter().unzip();
        let waits = [("wasabi", Waits::of(wasabi)), ("scw", Waits::of(scw))];
        let bytes: u64 = self.objects.iter().map(Object::size_bytes).sum();
        let targets = &REPLICAS[1..];
        let copies = self.objects.len() * targets.len();
        let seconds = self.rows.took().await? as f64 / 1e6;
        Ok(Summary {
            seed: self.request.seed,
            objects: self.objects.len(),
            bytes,
            largest_bytes: self.objects.iter().map(Object::size_bytes).max().unwrap_or(0),
            copies,
            seconds,
            copies_per_second: copies as f64 / seconds,
            bytes_per_second: (bytes * targets.len() as u64) as f64 / seconds,
            comparison,
            daemons: summary::Daemons { started: self.daemons.started(), killed: 1 },
            killed,
            failing_store,
            failed_attempts: self.daemons.failures().await,
            waits: waits.into_iter().filter_map(|(replica, waits)| Some((replica.to_owned(), waits?))).collect(),
            repeated_uploads: targets.iter().map(|replica| self.repeated(replica)).sum(),
            unfinished_uploads: targets.iter().map(|replica| self.environment.bucket(replica).uploads().len()).sum(),
        })
    }

    /// Returns the uploads to this replica beyond one per key.
    fn repeated(&self, replica: &str) -> u64 {
        self.environment.bucket(replica).counts(|counts| counts.writes_by_key().values().map(|writes| writes - 1).sum())
    }
}

fn progress(objects: usize, registered: usize, counts: &Counts) -> Progress {
    let count = |n: i64| usize::try_from(n).unwrap_or(0);
    Progress::Copying {
        objects,
        registered,
        wasabi: count(counts.wasabi),
        scw: count(counts.scw),
        leased: count(counts.leased),
        failing: count(counts.failing),
    }
}
