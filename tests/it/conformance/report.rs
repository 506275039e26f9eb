//! Runs all cases and compares the outcomes with the store's known limits.

use std::fmt;

use copyhold_s3::store::Tristate;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{
    cannot::{self, Cannot},
    cases,
    place::Place,
    stage::{Outcome, Stage},
};

/// What every case has come to at one place.
pub struct Report {
    lines: Vec<Line>,
}

struct Line {
    name: String,
    outcome: Outcome,
    known: Option<&'static Cannot>,
}

/// Plays every case.
pub fn of(place: &Place) -> BoxFuture<'_, Report> {
    Box::pin(played(place))
}

async fn played(place: &Place) -> Report {
    let stage = Stage::at(place).await;
    let known = cannot::at(place.store);
    let line = |name: String, outcome| {
        let known = known.iter().find(|one| one.case == name);
        Line { name, outcome, known }
    };
    let mut lines = Vec::new();
    for case in cases::all() {
        let outcome = stage.play(&case).await;
        lines.push(line(case.name, outcome));
    }
    for (name, outcome) in measured(&stage).await {
        lines.push(line(name, outcome));
    }
    for one in known {
        assert!(lines.iter().any(|line| line.name == one.case), "there is no case {:?}", one.case);
    }
    Report { lines }
}

/// What the probe finds out about the target, and whether its profile says so.
async fn measured(stage: &Stage) -> Vec<(String, Outcome)> {
    let report = stage.target.probe(7, false, &CancellationToken::new()).await;
    let mut all = Vec::new();
    let whole = match (&report.unmeasured, report.left.len()) {
        (None, 0) => Ok(None),
        (unmeasured, left) => Err(format!("{left} objects were left behind; {unmeasured:?}")),
    };
    all.push(("probe: measures all and leaves nothing".to_owned(), whole));
    for fact in report.facts {
        let outcome = match fact.measured {
            Tristate::Yes => Ok(None),
            Tristate::No => Err(format!("no: {}", fact.detail)),
            Tristate::Unknown => Err(format!("cannot be measured: {}", fact.detail)),
        };
        let outcome =
            if fact.differs() { Err(format!("the profile says {:?}: {outcome:?}", fact.profile)) } else { outcome };
        all.push((format!("probe: {}", fact.name), outcome));
    }
    all
}

impl Line {
    /// The outcome is the listed one; by default, success.
    fn is_as_known(&self) -> bool {
        match (&self.outcome, self.known) {
            (Ok(_), None) => true,
            (Err(why), Some(known)) => why.contains(known.told),
            (Ok(_), Some(_)) | (Err(_), None) => false,
        }
    }
}

impl Report {
    pub fn expect_known(&self) {
        let unexpected = self.lines.iter().filter(|line| !line.is_as_known());
        let unexpected: Vec<_> = unexpected.map(ToString::to_string).collect();
        assert!(unexpected.is_empty(), "\n{}\n", unexpected.join("\n"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = match (&self.outcome, self.known) {
            (Ok(_), None) => "ok",
            (Ok(_), Some(_)) => "CAN DO IT",
            (Err(_), Some(_)) if self.is_as_known() => "cannot",
            (Err(_), Some(_)) => "FAILS OTHERWISE",
            (Err(_), None) => "FALLS SHORT",
        };
        write!(f, "{head:<16} {}", self.name)?;
        match (&self.outcome, self.known) {
            (Ok(_), Some(known)) => write!(f, ": it was not to be able to (\"{}\"); take it off the list", known.told),
            (Ok(Some(proof)), None) => write!(f, " ({proof:?})"),
            (Ok(None), None) => Ok(()),
            (Err(why), _) => write!(f, ": {why}"),
        }
    }
}
