use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// When a run ends: this many objects are done, or this much time has passed.
pub struct StopCondition {
    pub objects: u64,
    pub at_most: Duration,
}

/// A run under way.
pub struct Run {
    begun: Instant,
    end: Instant,
    objects: u64,
    done: AtomicU64,
    /// µs after its beginning at which the last of them was done; a contestant that finds nothing more is not waited
    /// for.
    last: AtomicU64,
}

/// The result of a run.
#[derive(Debug, Clone, Copy)]
pub struct ComparisonResult {
    pub objects: u64,
    pub took: Duration,
}

impl StopCondition {
    pub fn begin(&self) -> Arc<Run> {
        let begun = Instant::now();
        let (done, last) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Run { begun, end: begun + self.at_most, objects: self.objects, done, last })
    }
}

impl Run {
    pub fn goes_on(&self) -> bool {
        self.done.load(Ordering::Relaxed) < self.objects && Instant::now() < self.end
    }

    pub fn did(&self, objects: u64) {
        self.done.fetch_add(objects, Ordering::Relaxed);
        self.last.fetch_max(u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn score(&self) -> ComparisonResult {
        let took = Duration::from_micros(self.last.load(Ordering::Relaxed));
        ComparisonResult { objects: self.done.load(Ordering::Relaxed), took }
    }
}

impl ComparisonResult {
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "millions at most")]
        let objects = self.objects as f64;
        objects / self.took.as_secs_f64()
    }
}

impl fmt::Display for ComparisonResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}/s ({} in {:.1} s)", self.rate(), self.objects, self.took.as_secs_f64())
    }
}

/// Several runs of one contestant.
#[derive(Default)]
pub struct Rates(Vec<f64>);

impl Rates {
    pub fn add(&mut self, score: ComparisonResult) {
        self.0.push(score.rate());
        self.0.sort_by(f64::total_cmp);
    }

    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}/s ({:.0} to {:.0})", self.median(), self.0[0], self.0[self.0.len() - 1])
    }
}
