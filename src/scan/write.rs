//! Registers the keys of a page, together with the position of its range.

use std::time::{Duration, Instant};

use copyhold_core::domain::{ObjectKey, ReplicaName};
use copyhold_db::{
    Database, DatabaseError,
    retry_while_down::{RETRY_PAUSE, retry_while_down, should_retry},
    walk::{ListedKey, ListedKeys, PageResult, ScanCounts, ScanId, ScanPage, ScanPart},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{halt::ScanError, progress::Progress};

/// A key that another transaction is about to register is tried again after these pauses.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_PAUSE_AT_MOST: Duration = Duration::from_secs(2);
/// After so long it is reported what the scan waits for.
const REPORTED_AFTER: Duration = Duration::from_secs(5);
/// So many keys in a row that PostgreSQL refuses are no fault of theirs.
const REFUSED_AT_MOST: u32 = 10;

/// What is done with listed keys.
#[derive(Debug)]
pub(super) enum Registrar<'a> {
    Write { database: &'a Database, scan: ScanId, holder: &'a ReplicaName },
    DryRun { database: &'a Database, holder: &'a ReplicaName },
}

impl Registrar<'_> {
    pub(super) fn holder(&self) -> &ReplicaName {
        match self {
            Self::Write { holder, .. } | Self::DryRun { holder, .. } => holder,
        }
    }
}

/// One key of a page.
#[derive(Debug)]
pub(super) enum Entry {
    Key(ListedKey),
    /// The key, and why.
    Unusable(String),
}

/// The result of writing some entries.
enum WriteResult {
    Written(ScanCounts),
    /// Another transaction has locked one of the keys.
    Locked,
    /// PostgreSQL refuses one of them.
    Refused(DatabaseError),
}

/// A part of the scan while it is listed, and what is written of it.
#[derive(Debug)]
pub(super) struct RangeProgress<'a> {
    pub index: usize,
    pub part: ScanPart,
    /// Unusable keys behind the last usable one: they count when one comes behind them, or nothing.
    carried: (u64, Option<String>),
    progress: &'a Progress,
}

impl<'a> RangeProgress<'a> {
    pub(super) fn new(index: usize, part: ScanPart, progress: &'a Progress) -> Self {
        Self { index, part, carried: (0, None), progress }
    }

    /// Writes what was listed, in one statement or in several.
    ///
    /// A statement that registers a key which an open transaction has registered would wait for that transaction. So the
    /// entries before that key are written first. The scan then waits for the key alone, and holds no row meanwhile.
    pub(super) async fn write(
        &mut self,
        registrar: &Registrar<'_>,
        mut entries: Vec<Entry>,
        done: bool,
        age: Instant,
        stop: &CancellationToken,
    ) -> Result<(), ScanError> {
        let (mut most, mut pause, begun) = (entries.len(), BUSY_PAUSE, Instant::now());
        let mut refused = 0;
        loop {
            let some = most.min(entries.len());
            let (listed, last) = self.listed(registrar.holder(), &entries[..some], done && some == entries.len(), age);
            let ends = done && some == entries.len();
            if listed.keys.is_empty() && !ends {
                // Only unusable ones: they are carried along.
                self.carried = (listed.unusable, listed.unusable_example);
                entries.drain(..some);
            } else {
                match self.attempt(registrar, &listed, last.as_ref(), ends).await? {
                    WriteResult::Written(counts) => {
                        (pause, most, refused) = (BUSY_PAUSE, entries.len(), 0);
                        self.advance(&listed, last, ends, counts, &entries[..some]);
                        entries.drain(..some);
                    }
                    WriteResult::Locked | WriteResult::Refused(_) if some > 1 => {
                        most = some / 2;
                        continue;
                    }
                    WriteResult::Refused(error) => {
                        refused += 1;
                        match entries.first() {
                            // It is left out, and counted as what cannot be registered.
                            Some(Entry::Key(one)) if refused < REFUSED_AT_MOST => {
                                let why = format!("\"{}\" (PostgreSQL refuses it: {error})", one.key);
                                warn!(object.key = %one.key, error = %error, "{} is not registered, PostgreSQL refuses it", one.key);
                                entries[0] = Entry::Unusable(why);
                                most = entries.len();
                            }
                            _ => return Err(ScanError::Database(error)),
                        }
                        continue;
                    }
                    WriteResult::Locked => {
                        if begun.elapsed() > REPORTED_AFTER
                            && let Some(Entry::Key(waited)) = entries.first()
                        {
                            let key = &waited.key;
                            self.progress.waits_for(format!("an open transaction that registers \"{key}\""));
                        }
                        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                            return Err(ScanError::Stopped);
                        }
                        pause = (pause * 2).min(BUSY_PAUSE_AT_MOST);
                        continue;
                    }
                }
            }
            if entries.is_empty() {
                return Ok(());
            }
        }
    }

    /// What these come to, and the last usable key of them. Unusable ones behind it are left out, unless it is the end.
    fn listed(
        &self,
        holder: &ReplicaName,
        entries: &[Entry],
        ends: bool,
        age: Instant,
    ) -> (ListedKeys, Option<ObjectKey>) {
        let mut listed = ListedKeys {
            keys: Vec::with_capacity(entries.len()),
            unusable: self.carried.0,
            unusable_example: self.carried.1.clone(),
            holder: holder.clone(),
            age: age.elapsed(),
        };
        let last = entries.iter().rposition(|entry| matches!(entry, Entry::Key(_)));
        let counted = if ends || last.is_none() { entries.len() } else { last.map_or(0, |last| last + 1) };
        for entry in &entries[..counted] {
            match entry {
                Entry::Key(key) => listed.keys.push(key.clone()),
                Entry::Unusable(no_key) => {
                    listed.unusable += 1;
                    listed.unusable_example.get_or_insert_with(|| no_key.clone());
                }
            }
        }
        let last = listed.keys.last().map(|listed| listed.key.clone());
        (listed, last)
    }

    fn advance(
        &mut self,
        listed: &ListedKeys,
        last: Option<ObjectKey>,
        ends: bool,
        counts: ScanCounts,
        written: &[Entry],
    ) {
        self.part.reached = last.map(|key| key.as_str().to_owned()).or(self.part.reached.take());
        (self.part.done, self.part.counts) = (ends, counts);
        self.progress.moved(self.index, counts, ends, listed.unusable_example.as_deref());
        self.carried = (0, None);
        if !ends {
            let behind = written.iter().rev().map_while(|entry| match entry {
                Entry::Unusable(no_key) => Some(no_key),
                Entry::Key(_) => None,
            });
            for no_key in behind {
                self.carried = (self.carried.0 + 1, Some(no_key.clone()));
            }
        }
    }

    async fn attempt(
        &self,
        registrar: &Registrar<'_>,
        listed: &ListedKeys,
        last: Option<&ObjectKey>,
        ends: bool,
    ) -> Result<WriteResult, ScanError> {
        let (database, scan) = match registrar {
            Registrar::Write { database, scan, .. } => (database, scan),
            Registrar::DryRun { database, .. } => {
                let mut counts = self.part.counts;
                counts += retry_while_down(async || database.preview_page(listed).await)
                    .await
                    .map_err(ScanError::Database)?;
                return Ok(WriteResult::Written(counts));
            }
        };
        let (from, reached) = (self.part.reached.as_deref(), last.map(ObjectKey::as_str));
        let page = ScanPage { scan: *scan, part: self.part.number, from, reached, done: ends };
        let (begun, mut perhaps) = (Instant::now(), false);
        loop {
            match database.register_page(&page, listed).await {
                Ok(PageResult::Registered(counts)) => return Ok(WriteResult::Written(counts)),
                // It may have been carried out and its answer lost.
                Ok(PageResult::Elsewhere) if perhaps => {
                    let parts = retry_while_down(async || database.scan_parts(*scan).await)
                        .await
                        .map_err(ScanError::Database)?;
                    let now = parts.into_iter().find(|part| part.number == page.part).ok_or(ScanError::Elsewhere)?;
                    let as_written = now.done == ends && now.reached.as_deref() == reached.or(from);
                    return if as_written { Ok(WriteResult::Written(now.counts)) } else { Err(ScanError::Elsewhere) };
                }
                Ok(PageResult::Elsewhere) => return Err(ScanError::Elsewhere),
                Err(error) if error.is_conflict() => return Ok(WriteResult::Locked),
                Err(error) if error.is_row_error() => return Ok(WriteResult::Refused(error)),
                Err(error) if should_retry(&error, begun) => {
                    perhaps |= DatabaseError::outcome_unknown(&error);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(ScanError::Database(error)),
            }
        }
    }
}
