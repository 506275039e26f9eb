//! Walks through the whole table, which may take minutes: it survives PostgreSQL's short absence, and shows on a
//! terminal how far it has come.

use std::{collections::BTreeSet, time::Duration};

use copyhold_core::domain::{ObjectKey, ReplicaName};
use copyhold_db::{
    Database, DatabaseError,
    notify::Notification,
    replica::{Reset, ResetKeys},
    retry_while_down::retry_while_down,
    walk::Holdings,
};

use super::super::{output, progress::Bar};

/// Locked rows are tried again after this time, and before the walk continues once they are so many.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const BUSY_AT_MOST: usize = 1_000;
/// How often it is asked whether a transaction has ended, and how often in all before the first walk.
const OPEN_PAUSE: Duration = Duration::from_millis(200);
const SHORT_LOOKS: u32 = 20;

/// How many copies a walk has cleared in all.
#[derive(Debug)]
pub(super) struct RevokedCounts {
    pub cleared: u64,
    /// Of these, objects that have no copy left.
    pub alone: u64,
    /// One of them, if this walk has met one.
    pub alone_example: Option<ObjectKey>,
}

/// Counts what the replica has.
pub(in crate::cli) async fn holdings(
    database: &Database,
    replica: &ReplicaName,
    others: &[ReplicaName],
) -> Result<Holdings, DatabaseError> {
    let bar = Bar::new(None, "objects");
    let (mut seen, mut after) = (Holdings::default(), None);
    loop {
        let page = async || {
            let mut more = seen.clone();
            let last = Box::pin(database.count_holdings(replica, others, after.as_ref(), &mut more)).await?;
            Ok((more, last))
        };
        let (more, last) = retry_while_down(page).await?;
        seen = more;
        bar.show(seen.objects.unsigned_abs(), "");
        match last {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    bar.clear();
    Ok(seen)
}

/// Clears all copies that a reset or a move is to clear, from where it was interrupted, and ends it.
pub(super) async fn take_back(
    database: &Database,
    mut reset: Reset,
    others: &[ReplicaName],
) -> Result<RevokedCounts, DatabaseError> {
    let bar = Bar::new(None, "copies cleared");
    let mut taken = RevokedCounts { cleared: 0, alone: 0, alone_example: None };
    // A transaction that is open now may commit behind our back what it had recorded before: an upload to the bucket
    // that was lost. Those that last are not waited for: when they have ended, one more walk sees it.
    let mut open = if reset.sure { BTreeSet::new() } else { Box::pin(open_for_long(database)).await? };
    if open.is_empty() && reset.reached.is_none() {
        retry_while_down(async || database.restart_walk(&reset).await).await?;
        reset.sure = true;
    }
    let place = reset.reached.clone();
    walk(database, &reset, others, place, &mut taken, &bar).await?;
    if !reset.sure {
        if !open.is_empty() {
            bar.clear();
            output::aside(
                "waiting for transactions that were open when it began: they may still register objects of before. It can be \
                 broken off, and goes on when the command is given again",
            );
        }
        while !open.is_empty() {
            tokio::time::sleep(OPEN_PAUSE).await;
            still_open(database, &mut open).await?;
        }
        retry_while_down(async || database.restart_walk(&reset).await).await?;
        walk(database, &reset, others, None, &mut taken, &bar).await?;
    }
    retry_while_down(async || database.end_reset(&reset).await).await?;
    bar.clear();
    Ok(taken)
}

/// The transactions that write objects, but for those that end at once.
async fn open_for_long(database: &Database) -> Result<BTreeSet<String>, DatabaseError> {
    // A statement that was on its way when the reset began has its lock by then.
    tokio::time::sleep(OPEN_PAUSE).await;
    let mut open = retry_while_down(async || database.writers().await).await?;
    for _ in 0..SHORT_LOOKS {
        if open.is_empty() {
            break;
        }
        tokio::time::sleep(OPEN_PAUSE / 4).await;
        still_open(database, &mut open).await?;
    }
    Ok(open)
}

async fn still_open(database: &Database, open: &mut BTreeSet<String>) -> Result<(), DatabaseError> {
    let now = retry_while_down(async || database.writers().await).await?;
    open.retain(|transaction| now.contains(transaction));
    Ok(())
}

/// From `place` to the end of the table.
async fn walk(
    database: &Database,
    reset: &Reset,
    others: &[ReplicaName],
    mut place: Option<ObjectKey>,
    taken: &mut RevokedCounts,
    bar: &Bar,
) -> Result<(), DatabaseError> {
    // The application's, or a daemon's, at this moment: passed over, and none waits for another.
    let mut busy: Vec<ObjectKey> = Vec::new();
    loop {
        let may_note = busy.is_empty();
        let of = ResetKeys::After(place.as_ref());
        let page = retry_while_down(async || database.reset_page(reset, others, of, may_note).await).await?;
        taken.note(&page, bar);
        tell(database, page.cleared).await;
        busy.extend(page.busy);
        while !busy.is_empty() && (page.last.is_none() || busy.len() > BUSY_AT_MOST) {
            tokio::time::sleep(BUSY_PAUSE).await;
            let of = ResetKeys::These(&busy);
            let again = retry_while_down(async || database.reset_page(reset, others, of, false).await).await?;
            taken.note(&again, bar);
            tell(database, again.cleared).await;
            busy = again.busy;
        }
        match page.last {
            Some(last) => place = Some(last),
            None => return Ok(()),
        }
    }
}

/// A hint, which may be lost.
async fn tell(database: &Database, cleared: i64) {
    if cleared > 0 {
        let _ = database.notify(Notification::Work).await;
    }
}

impl RevokedCounts {
    fn note(&mut self, page: &copyhold_db::replica::ResetPage, bar: &Bar) {
        if let Some((cleared, alone)) = page.total {
            (self.cleared, self.alone) = (cleared.unsigned_abs(), alone.unsigned_abs());
        }
        if self.alone_example.is_none() {
            self.alone_example.clone_from(&page.alone_example);
        }
        bar.show(self.cleared, "");
    }
}
