//! Runs a scan: its ranges at the same time, each from where an earlier run ended.

use std::time::Duration;

use copyhold_db::{
    Database,
    retry_while_down::retry_while_down,
    walk::{KeyRange, ListedKey, ScanArguments, ScanHolder, ScanId, ScanPart, UnfinishedScan},
};
use copyhold_s3::store::ListedObject;
use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    error::ListingError,
    halt::ScanError,
    lister::Lister,
    lister_pages::ListerPages,
    peer_listing::PeerListing,
    progress::Progress,
    ranges,
    write::{Entry, RangeProgress, Registrar},
};

/// A process that has not renewed its claim of a scan for so long is presumed dead.
const HOLD: Duration = Duration::from_secs(6);
const HOLD_EVERY: Duration = Duration::from_secs(2);

/// A bucket that is to be listed, and how.
#[derive(Debug)]
pub struct Scan {
    database: Database,
    lister: Lister,
    /// Other replicas, whose copies are adopted.
    peers: Vec<Lister>,
    arguments: ScanArguments,
    /// Parts that are listed at the same time.
    parallel: usize,
    progress: Progress,
}

/// How it is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// From where an earlier run ended, if there was one; otherwise from its first key.
    Anywhere,
    /// From its first key, even if an earlier run has begun it.
    FromStart,
    /// From its first key, and nothing is written.
    DryRun,
}

/// The result of a run.
#[derive(Debug)]
pub struct ScanResult {
    /// µs since when the scan is under way, if an earlier run has begun it.
    pub resumed: Option<i64>,
    /// `None`: all of it is listed.
    pub halt: Option<ScanError>,
}

impl Scan {
    /// `arguments` must be what `lister` and `peers` are made of.
    #[must_use]
    pub fn new(
        database: Database,
        lister: Lister,
        peers: Vec<Lister>,
        arguments: ScanArguments,
        parallel: usize,
    ) -> Self {
        Self { database, lister, peers, arguments, parallel, progress: Progress::default() }
    }

    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The listed replica first.
    pub fn listers(&self) -> impl Iterator<Item = &Lister> {
        std::iter::once(&self.lister).chain(&self.peers)
    }

    /// Lists and registers, until the end or until `stop`: then the pages that are being written are.
    pub async fn run(&self, begin: Begin, stop: &CancellationToken) -> ScanResult {
        let mut resumed = None;
        let ran = match begin {
            Begin::DryRun => self.dry_run(stop).await,
            Begin::Anywhere | Begin::FromStart => self.write_run(begin, &mut resumed, stop).await,
        };
        ScanResult { resumed, halt: ran.err() }
    }

    async fn dry_run(&self, stop: &CancellationToken) -> Result<(), ScanError> {
        let ranges = self.ranges(stop).await?;
        let parts = (1..).zip(ranges).map(|(number, range)| ScanPart {
            number,
            range,
            reached: None,
            done: false,
            counts: copyhold_db::walk::ScanCounts::default(),
            unusable_example: None,
        });
        let registrar = Registrar::DryRun { database: &self.database, holder: self.lister.name() };
        self.work(&registrar, parts.collect(), stop).await
    }

    async fn write_run(
        &self,
        begin: Begin,
        resumed: &mut Option<i64>,
        stop: &CancellationToken,
    ) -> Result<(), ScanError> {
        // Drawn by each process.
        let me = ScanHolder(rand::random());
        let scan = match self.take(begin, me, stop).await? {
            (scan, None) => scan,
            (scan, Some(started_at)) => {
                *resumed = Some(started_at);
                scan
            }
        };
        let parts =
            retry_while_down(async || self.database.scan_parts(scan).await).await.map_err(ScanError::Database)?;
        let registrar = Registrar::Write { database: &self.database, scan, holder: self.lister.name() };
        let ran = tokio::select! {
            ran = self.work(&registrar, parts, stop) => ran,
            halt = self.hold(scan, me) => Err(halt),
        };
        if ran.is_err() {
            // Without it, the next must wait until we are presumed dead.
            let _ = self.database.release_scan(scan, me).await;
            return ran;
        }
        let ended = retry_while_down(async || self.database.end_scan(scan).await).await.map_err(ScanError::Database)?;
        if ended { Ok(()) } else { Err(ScanError::Elsewhere) }
    }

    /// Returns the scan to continue, claimed for this process, and since when it is under way if it is not new.
    async fn take(
        &self,
        begin: Begin,
        me: ScanHolder,
        stop: &CancellationToken,
    ) -> Result<(ScanId, Option<i64>), ScanError> {
        let (database, replica) = (&self.database, self.lister.name());
        let mut forgets = begin == Begin::FromStart;
        loop {
            let found = retry_while_down(async || database.unfinished_scan(replica, &self.arguments).await).await;
            let Some(found) = found.map_err(ScanError::Database)? else {
                let ranges = self.ranges(stop).await?;
                // Where an answer was lost and it was asked again, it has begun, and is found as ours.
                let entered =
                    retry_while_down(async || database.begin_scan(replica, &self.arguments, &ranges, me, HOLD).await)
                        .await;
                match entered.map_err(ScanError::Database)? {
                    Some(scan) => return Ok((scan, None)),
                    // Another process has begun it first.
                    None => continue,
                }
            };
            let UnfinishedScan { id, started_at, .. } = found;
            self.take_over(found, me, stop).await?;
            if !std::mem::take(&mut forgets) {
                return Ok((id, Some(started_at)));
            }
            retry_while_down(async || database.forget_scan(id).await).await.map_err(ScanError::Database)?;
        }
    }

    /// Waits until it is clear whether the process that had the scan is still alive.
    async fn take_over(
        &self,
        found: UnfinishedScan,
        me: ScanHolder,
        stop: &CancellationToken,
    ) -> Result<(), ScanError> {
        let hold = async || retry_while_down(async || self.database.claim_scan(found.id, me, HOLD).await).await;
        if hold().await.map_err(ScanError::Database)? {
            return Ok(());
        }
        self.progress.waits_for("another process that was at this scan, to see whether it still lives".into());
        let wait = found.held_for.unwrap_or(HOLD) + Duration::from_millis(100);
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Err(ScanError::Stopped);
        }
        if hold().await.map_err(ScanError::Database)? { Ok(()) } else { Err(ScanError::AtWork) }
    }

    /// Renews the claim of the scan again and again; ends only when this process has lost it.
    async fn hold(&self, scan: ScanId, me: ScanHolder) -> ScanError {
        loop {
            tokio::time::sleep(HOLD_EVERY).await;
            // What is not known is seen by the next page: it goes on only from where the one before has ended.
            if let Ok(false) = self.database.claim_scan(scan, me, HOLD).await {
                return ScanError::Elsewhere;
            }
        }
    }

    async fn ranges(&self, stop: &CancellationToken) -> Result<Vec<KeyRange>, ScanError> {
        let mut ranges = Vec::new();
        for prefix in &self.arguments.prefixes {
            let of_prefix =
                stop.run_until_cancelled(ranges::of(&self.lister, prefix)).await.ok_or(ScanError::Stopped)?;
            ranges.extend(of_prefix.map_err(|error| self.error(error))?);
        }
        Ok(ranges)
    }

    /// Several parts at the same time. The first that cannot continue ends the others, after their page.
    async fn work(
        &self,
        registrar: &Registrar<'_>,
        parts: Vec<ScanPart>,
        stop: &CancellationToken,
    ) -> Result<(), ScanError> {
        self.progress.begin(&parts);
        let halt = stop.child_token();
        let open = parts.into_iter().enumerate().filter(|(_, part)| !part.done);
        let works =
            open.map(|(index, part)| self.part(registrar, RangeProgress::new(index, part, &self.progress), &halt));
        let mut ended = stream::iter(works).buffer_unordered(self.parallel);
        let mut first = Ok(());
        while let Some(result) = ended.next().await {
            if let Err(why) = result {
                halt.cancel();
                // The error of a part that was stopped because of it is not the cause.
                if first.is_ok() || matches!(first, Err(ScanError::Stopped)) {
                    first = Err(why);
                }
            }
        }
        first
    }

    async fn part(
        &self,
        registrar: &Registrar<'_>,
        mut place: RangeProgress<'_>,
        stop: &CancellationToken,
    ) -> Result<(), ScanError> {
        let (range, reached) = (place.part.range.clone(), place.part.reached.clone());
        let mut pages = ListerPages::new(&self.lister, &range, reached.as_deref());
        let mut peers: Vec<_> =
            self.peers.iter().map(|lister| PeerListing::new(lister, &range, reached.as_deref())).collect();
        while !place.part.done {
            let page = stop.run_until_cancelled(pages.next()).await.ok_or(ScanError::Stopped)?;
            let page = page.map_err(|error| self.error(error))?;
            let mut oldest = page.asked_at;
            let compared = self.compare(page.objects, &mut peers, &mut oldest);
            let entries = stop.run_until_cancelled(compared).await.ok_or(ScanError::Stopped)?;
            // Nothing to write, and more to come: only what listings hide.
            if entries.is_empty() && !page.done {
                continue;
            }
            place.write(registrar, entries, page.done, oldest.into_std(), stop).await?;
        }
        Ok(())
    }

    /// Which other replicas show the same of each. A listing that fails says nothing, and nothing more is taken from
    /// it.
    async fn compare(
        &self,
        objects: Vec<ListedObject>,
        peers: &mut Vec<PeerListing<'_>>,
        oldest: &mut Instant,
    ) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(objects.len());
        for object in objects {
            let mut same_at = Vec::new();
            let mut i = 0;
            while i < peers.len() {
                match peers[i].same(&object, self.lister.profile()).await {
                    Ok(shown) => {
                        if let Some(asked_at) = shown {
                            *oldest = asked_at.min(*oldest);
                            same_at.push(peers[i].name().clone());
                        }
                        i += 1;
                    }
                    Err(error) => peers.remove(i).give_up(&error),
                }
            }
            entries.push(match object.key {
                Ok(key) => Entry::Key(ListedKey { key, size_bytes: object.size_bytes, same_at }),
                Err(no_key) => Entry::Unusable(no_key.to_string()),
            });
        }
        entries
    }

    fn error(&self, error: ListingError) -> ScanError {
        ScanError::Listing(self.lister.name().clone(), error)
    }
}
