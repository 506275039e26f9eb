//! Reads some rows of a table before an import, to check that its times are plausible.

use sqlx::Row as _;

use super::{ImportPlan, TimeKind, TimeUnit, plan::MappedColumn, statements::more};
use crate::{error::DatabaseError, handle::Database};

const NAME: &str = "import::sample";
/// Rows of each end of the table's order.
const ENDS: u32 = 500;
/// Pages of 8 kB from random positions.
const PAGES: i64 = 50;
/// Plausible times lie between the years 2000 and 2100, in seconds.
const YEARS: std::ops::Range<i64> = 946_684_800..4_102_444_800;

/// Some rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeSample {
    pub rows: u64,
    /// In the order of the plan's columns.
    pub columns: Vec<ColumnTimes>,
}

/// The times of one column, by the unit that they are plausible in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ColumnTimes {
    /// All that are not NULL.
    pub times: u64,
    pub seconds: u64,
    pub millis: u64,
    pub micros: u64,
    pub nanos: u64,
    /// An example.
    pub example: Option<i64>,
}

impl ColumnTimes {
    /// The unit that more than half of the times fit, if it is another one than `unit`.
    #[must_use]
    pub fn other_than(&self, unit: TimeUnit) -> Option<&'static str> {
        let seen =
            [(TimeUnit::Seconds, self.seconds), (TimeUnit::Millis, self.millis), (TimeUnit::Micros, self.micros)];
        let seen = seen.into_iter().filter(|(of, _)| *of != unit).map(|(of, times)| (of.in_words(), times));
        seen.chain([("nanoseconds", self.nanos)]).find(|(_, times)| times * 2 > self.times).map(|(of, _)| of)
    }
}

impl Database {
    /// Reads some rows from both ends of the table's order and from random positions.
    pub async fn import_sample(&self, plan: &ImportPlan) -> Result<TimeSample, DatabaseError> {
        let of_pages = 100.0 * share(PAGES * 8192, plan.table.bytes);
        let columns: Vec<_> = plan.columns.iter().enumerate().map(|(i, c)| format!("{} AS c{i}", raw(c))).collect();
        let columns = columns.join(", ");
        let seen = more((0..plan.columns.len()).map(|i| {
            let looks_like = |factor: i64| {
                let (first, end) = (YEARS.start * factor, YEARS.end * factor);
                format!("count(*) FILTER (WHERE c{i} >= {first} AND c{i} < {end})")
            };
            let units = [1, 1_000, 1_000_000, 1_000_000_000].map(looks_like);
            format!("ARRAY[count(c{i}), {}, max(c{i})]", units.join(", "))
        }));
        let (from, within) = (plan.from(), plan.within(None, None));
        let (order, backwards) = (plan.order_by(), plan.order_by_backwards());
        let sql = format!(
            "-- {NAME}
SELECT count(*){seen} FROM (
    (SELECT {columns} FROM {from} WHERE {within} {order} LIMIT {ENDS})
    UNION ALL (SELECT {columns} FROM {from} WHERE {within} {backwards} LIMIT {ENDS})
    UNION ALL (SELECT {columns} FROM {from} TABLESAMPLE SYSTEM ({of_pages}) LIMIT 10000)
) AS sampled"
        );
        let row = self.in_order(NAME, sql, |query| query).await?;
        let row = row.ok_or_else(|| DatabaseError::Inconsistent { statement: NAME, what: "no answer".into() })?;
        let number = |n: i64| u64::try_from(n).unwrap_or_default();
        let parse = || {
            let mut columns = Vec::new();
            for i in 0..plan.columns.len() {
                let seen: Vec<Option<i64>> = row.try_get(i + 1)?;
                let of = |at: usize| seen.get(at).copied().flatten().map(number).unwrap_or_default();
                columns.push(ColumnTimes {
                    times: of(0),
                    seconds: of(1),
                    millis: of(2),
                    micros: of(3),
                    nanos: of(4),
                    example: seen.get(5).copied().flatten(),
                });
            }
            Ok(TimeSample { rows: number(row.try_get(0)?), columns })
        };
        parse().map_err(DatabaseError::database(NAME))
    }
}

/// The column's value; a timestamp fits every unit, so also the table's.
fn raw(column: &MappedColumn) -> String {
    match column.kind {
        TimeKind::Number => format!("t.{}", column.column),
        TimeKind::Timestamp => format!("CASE WHEN t.{} IS NOT NULL THEN 0::bigint END", column.column),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn share(part: i64, whole: i64) -> f64 {
    if part >= whole { 1.0 } else { part as f64 / whole as f64 }
}
