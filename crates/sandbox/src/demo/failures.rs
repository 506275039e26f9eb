//! The failures of every demo: a daemon is killed, and a store fails for some seconds.
//!
//! Both start by the number of uploads and not by time, so that they happen in every demo, however short and fast.

use std::time::Duration;

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    ProgressDisplay,
    daemons::Daemons,
    environment::Environment,
    objects::Object,
    summary::{FailingStore, Killed},
    table_view::TableView,
};
use crate::s3::{Fault, InjectedFault, Op, PauseGate, When};

/// A copy of an object up to this size is a single upload, whatever the daemons' threshold is.
const CERTAINLY_WHOLE: u64 = 4 << 20;
/// The store of the replica that fails, and of the one that hesitates.
const FAILING: &str = "wasabi";
const HESITATING: &str = "scw";
/// How long a store delays its answers at most, so that the daemons hold leases.
const PILE_UP: Duration = Duration::from_millis(500);

/// Both failures, prepared before the first object is copied.
#[derive(Debug)]
pub(super) struct Failures {
    seed: u64,
    gate: PauseGate,
    hesitation: InjectedFault,
    first_failure: InjectedFault,
}

impl Failures {
    /// Injects the faults: one store delays its answers after a third of the uploads, another fails after three fifths.
    pub(super) fn prepare(environment: &Environment, objects: &[Object], seed: u64) -> Self {
        let uploads = objects.iter().filter(|object| object.size_bytes() <= CERTAINLY_WHOLE).count() as u64;
        let gate = PauseGate::new();
        let after = |part: u64| When::op(Op::PutObject).skip(part);
        Self {
            seed,
            hesitation: environment.bucket(HESITATING).order(Fault::Hold(gate.clone()), after(uploads / 3)),
            first_failure: environment.bucket(FAILING).order(Fault::slow_down(), after(uploads * 3 / 5)),
            gate,
        }
    }

    /// Kills one daemon with SIGKILL while it certainly holds leases.
    ///
    /// Copies of small objects take a millisecond: at any instant a daemon may hold no lease. So one store delays its
    /// answers: the daemon that uploads to it holds its leases until the answer arrives, and is killed before.
    pub(super) async fn kill_one(
        &self,
        environment: &Environment,
        daemons: &Daemons,
        rows: &TableView,
        display: &dyn ProgressDisplay,
    ) -> anyhow::Result<Killed> {
        self.hesitation.struck(1).await;
        let deadline = Instant::now() + PILE_UP;
        let victim = loop {
            let (leases, number) = most_leases(daemons, rows).await?;
            // A lease is committed before its upload begins, so there is one by now.
            if leases >= 8 || (leases > 0 && Instant::now() > deadline) {
                break number;
            }
            sleep(Duration::from_millis(20)).await;
        };
        let dead = daemons.kill(victim, environment).await?;
        // PostgreSQL may have executed the daemon's last statements after its death: only now are its leases known.
        let held = self.what_it_left(dead.number, rows).await?;
        self.gate.open();
        self.hesitation.clear();
        display.say(&format!(
            "killed daemon {} (process {}) with SIGKILL; it held {} leases",
            dead.number,
            dead.process_id,
            held.len()
        ));
        Ok(Killed { held_leases: held.len(), rescued_leases: 0, keys: held })
    }

    /// Returns the rows that a dead daemon holds, once its last statements have ended.
    async fn what_it_left(&self, number: i32, rows: &TableView) -> anyhow::Result<Vec<String>> {
        let mut held = rows.held_by(number).await?;
        loop {
            sleep(Duration::from_millis(100)).await;
            let now = rows.held_by(number).await?;
            if now == held {
                return Ok(held);
            }
            held = now;
        }
    }

    /// Has one store fail for some seconds: half of its answers are 503, the others are resets.
    pub(super) async fn fail_one_store(
        &self,
        environment: &Environment,
        display: &dyn ProgressDisplay,
    ) -> FailingStore {
        self.first_failure.struck(1).await;
        let begun = Instant::now();
        let mut rng = StdRng::seed_from_u64(self.seed);
        let store = environment.bucket(FAILING);
        let busy = store.order(Fault::slow_down(), When::always().chance(0.5, rng.random()));
        let broken = store.order(Fault::Reset, When::always());
        // This fault precedes those two, and would leave them no calls.
        self.first_failure.clear();
        let seconds = rng.random_range(3.0..5.0);
        display.say(&format!("{FAILING} fails: its answers are 503 SlowDown and connection resets"));
        sleep(Duration::from_secs_f64(seconds)).await;
        busy.clear();
        broken.clear();
        let (answered_503, reset) = (self.first_failure.strikes() + busy.strikes(), broken.strikes());
        display.say(&format!(
            "{FAILING} is well again after {seconds:.1} s: {answered_503} requests answered 503, {reset} reset"
        ));
        FailingStore { replica: FAILING.to_owned(), seconds: begun.elapsed().as_secs_f64(), answered_503, reset }
    }
}

async fn most_leases(daemons: &Daemons, rows: &TableView) -> anyhow::Result<(usize, i32)> {
    let mut most = None;
    for number in daemons.numbers() {
        let leases = rows.held_by(number).await?.len();
        most = most.max(Some((leases, number)));
    }
    most.context("no daemon lives")
}
