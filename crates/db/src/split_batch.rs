//! Keeps one row that PostgreSQL refuses from holding up the others of its statement: it tries halves, down to that
//! row.
//! Tests: `tests/it/refused_rows.rs`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use copyhold_core::domain::ObjectKey;
use futures::future::BoxFuture;
use tracing::error;

use crate::error::DatabaseError;

/// Statements that may fail before the rest is given up for this time: no single row is then the cause. One row of 128
/// takes eight.
const FAILURES: usize = 24;
/// The same row is logged no more often than this.
const LOG_EVERY: Duration = Duration::from_mins(10);
/// Rows that are remembered for that.
const REMEMBERED: usize = 1000;

/// How often a statement may still fail.
#[derive(Debug)]
pub(crate) struct FailureBudget(usize);

impl Default for FailureBudget {
    fn default() -> Self {
        Self(FAILURES)
    }
}

impl FailureBudget {
    pub(crate) fn is_over(&self) -> bool {
        self.0 == 0
    }
}

/// The result of rows that were written together where possible.
#[derive(Debug)]
pub(crate) struct SplitResult<T> {
    pub answers: Vec<T>,
    /// Why the remaining rows were not tried.
    pub error: Option<DatabaseError>,
}

/// Runs `statement` for all of `rows`, then for halves of those that PostgreSQL refuses. A row that it refuses alone is
/// passed to `refused`.
pub(crate) async fn run_split<'a, R: Clone, T>(
    rows: Vec<R>,
    patience: &mut FailureBudget,
    // Boxed: the compiler does not see that the future of an `AsyncFn` may cross threads.
    statement: impl Fn(Vec<R>) -> BoxFuture<'a, Result<Vec<T>, DatabaseError>>,
    mut refused: impl FnMut(R, &DatabaseError),
) -> SplitResult<T> {
    let mut answers = Vec::new();
    let mut left = vec![rows];
    while let Some(mut rows) = left.pop() {
        if rows.is_empty() {
            continue;
        }
        match statement(rows.clone()).await {
            Ok(more) => answers.extend(more),
            Err(error) if error.may_concern_one_row() && !patience.is_over() => {
                patience.0 -= 1;
                if rows.len() == 1 {
                    refused(rows.swap_remove(0), &error);
                } else {
                    let second = rows.split_off(rows.len() / 2);
                    left.extend([second, rows]);
                }
            }
            Err(error) => return SplitResult { answers, error: Some(error) },
        }
    }
    SplitResult { answers, error: None }
}

/// Rows whose refusal was logged lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct RefusedRows(Arc<Mutex<HashMap<ObjectKey, Instant>>>);

impl RefusedRows {
    /// Logs that a row is skipped. `what`: the operation that PostgreSQL refused.
    pub(crate) fn pass_over(&self, key: &ObjectKey, what: &str, why: &DatabaseError) {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if named.get(key).is_some_and(|last| last.elapsed() < LOG_EVERY) {
            return;
        }
        if named.len() >= REMEMBERED {
            named.retain(|_, last| last.elapsed() < LOG_EVERY);
        }
        if named.len() < REMEMBERED {
            named.insert(key.clone(), Instant::now());
        }
        drop(named);
        error!(
            object.key = %key,
            error = %why,
            "PostgreSQL refuses that {key} {what}; skipping it. Does a trigger or a constraint of another program refuse it?"
        );
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// Refused as a trigger refuses a row.
    fn refusal() -> DatabaseError {
        DatabaseError::Inconsistent { statement: "test", what: "refused".into() }
    }

    async fn run(rows: u32, bad: &[u32]) -> (SplitResult<u32>, Vec<u32>) {
        let mut refused = Vec::new();
        let statement = |rows: Vec<u32>| {
            let is_bad = rows.iter().any(|row| bad.contains(row));
            async move { if is_bad { Err(refusal()) } else { Ok(rows) } }.boxed()
        };
        let run_split =
            run_split((0..rows).collect(), &mut FailureBudget::default(), statement, |row, _| refused.push(row)).await;
        (run_split, refused)
    }

    #[tokio::test]
    async fn all_rows_but_the_refused_ones_are_written() {
        for bad in [vec![], vec![0], vec![127], vec![3, 77]] {
            let (run_split, refused) = run(128, &bad).await;
            let expected: Vec<u32> = (0..128).filter(|row| !bad.contains(row)).collect();
            assert!(run_split.error.is_none());
            assert_eq!((run_split.answers, refused), (expected, bad));
        }
    }

    #[tokio::test]
    async fn what_fails_for_all_rows_is_given_up_soon() {
        let all: Vec<u32> = (0..128).collect();
        let (run_split, refused) = run(128, &all).await;
        assert!(run_split.error.is_some() && refused.len() < FAILURES);
    }
}
