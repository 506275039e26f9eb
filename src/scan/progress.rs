//! How far a scan has come, for display.

use std::sync::{Mutex, MutexGuard, PoisonError};

use copyhold_db::walk::{ScanCounts, ScanPart};

/// How far a scan is.
#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    parts: Vec<Part>,
    /// The counts of earlier runs.
    before: ScanCounts,
    parts_before: usize,
    unusable_example: Option<String>,
    /// What keeps it waiting at the moment.
    waits_for: Option<String>,
}

#[derive(Debug)]
struct Part {
    done: bool,
    counts: ScanCounts,
}

/// What is displayed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressSnapshot {
    /// With the counts of earlier runs.
    pub counts: ScanCounts,
    /// Without it.
    pub now: ScanCounts,
    pub parts: usize,
    pub parts_done: usize,
    /// By this run.
    pub parts_done_now: usize,
    pub unusable_example: Option<String>,
    pub waits_for: Option<String>,
}

impl Progress {
    /// Returns what is displayed at this moment.
    #[must_use]
    pub fn shown(&self) -> ProgressSnapshot {
        let state = self.lock();
        let mut counts = ScanCounts::default();
        for part in &state.parts {
            counts += part.counts;
        }
        let parts_done = state.parts.iter().filter(|part| part.done).count();
        let before = state.before;
        ProgressSnapshot {
            counts,
            now: ScanCounts {
                listed: counts.listed.saturating_sub(before.listed),
                registered: counts.registered.saturating_sub(before.registered),
                bytes: counts.bytes.saturating_sub(before.bytes),
                due: counts.due.saturating_sub(before.due),
                adopted: counts.adopted.saturating_sub(before.adopted),
                unusable: counts.unusable.saturating_sub(before.unusable),
            },
            parts: state.parts.len(),
            parts_done,
            parts_done_now: parts_done.saturating_sub(state.parts_before),
            unusable_example: state.unusable_example.clone(),
            waits_for: state.waits_for.clone(),
        }
    }

    pub(super) fn begin(&self, parts: &[ScanPart]) {
        let mut state = self.lock();
        state.parts = parts.iter().map(|part| Part { done: part.done, counts: part.counts }).collect();
        state.parts_before = parts.iter().filter(|part| part.done).count();
        for part in parts {
            state.before += part.counts;
        }
        state.unusable_example = parts.iter().find_map(|part| part.unusable_example.clone());
    }

    /// `index`: its place among the parts that [`Self::begin`] was given.
    pub(super) fn moved(&self, index: usize, counts: ScanCounts, done: bool, unusable_example: Option<&str>) {
        let mut state = self.lock();
        state.waits_for = None;
        if let Some(part) = state.parts.get_mut(index) {
            (part.counts, part.done) = (counts, done);
        }
        if state.unusable_example.is_none() {
            state.unusable_example = unusable_example.map(str::to_owned);
        }
    }

    pub(super) fn waits_for(&self, what: String) {
        self.lock().waits_for = Some(what);
    }

    /// A poisoned lock only means that a task panicked between two of these short steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
