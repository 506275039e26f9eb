//! Runs a scan: its ranges at the same time, each from where an earlier run ended.

use std::time::Duration;

use copyhold_db::queue::{
    KeyRange, ListedKey, Queue, ScanArguments, ScanHolder, ScanId, ScanPart, UnfinishedScan, while_away,
};
use copyhold_s3::store::ListedObject;
use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    beside::Beside,
    halt::Halt,
    lister::Lister,
    parts,
    progress::Progress,
    trouble::Trouble,
    walk::Walk,
    write::{Entry, Place, Registrar},
};

/// A process that has not said for so long that it is at a scan is taken for dead.
const HOLD: Duration = Duration::from_secs(6);
const HOLD_EVERY: Duration = Duration::from_secs(2);

/// A bucket that is to be listed, and how.
#[derive(Debug)]
pub struct Scan {
    queue: Queue,
    lister: Lister,
    /// Other replicas, whose copies are adopted.
    beside: Vec<Lister>,
    arguments: ScanArguments,
    /// Parts that are listed at the same time.
    parallel: usize,
    progress: Progress,
}

/// How it is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Where it was when it was ended, if it was; or else from its first key.
    Anywhere,
    /// From its first key, whatever an earlier run came to.
    FromStart,
    /// From its first key, and nothing is written.
    DryRun,
}

/// What a run of it was.
#[derive(Debug)]
pub struct Ended {
    /// µs since when the scan is under way, if an earlier run has begun it.
    pub resumed: Option<i64>,
    /// `None`: all of it is listed.
    pub halt: Option<Halt>,
}

impl Scan {
    /// `arguments` must be what `lister` and `beside` are made of.
    #[must_use]
    pub fn new(queue: Queue, lister: Lister, beside: Vec<Lister>, arguments: ScanArguments, parallel: usize) -> Self {
        Self { queue, lister, beside, arguments, parallel, progress: Progress::default() }
    }

    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The listed replica first.
    pub fn listers(&self) -> impl Iterator<Item = &Lister> {
        std::iter::once(&self.lister).chain(&self.beside)
    }

    /// Lists and registers, until the end or until `stop`: then the pages that are being written are.
    pub async fn run(&self, begin: Begin, stop: &CancellationToken) -> Ended {
        let mut resumed = None;
        let ran = match begin {
            Begin::DryRun => self.dry_run(stop).await,
            Begin::Anywhere | Begin::FromStart => self.write_run(begin, &mut resumed, stop).await,
        };
        Ended { resumed, halt: ran.err() }
    }

    async fn dry_run(&self, stop: &CancellationToken) -> Result<(), Halt> {
        let ranges = self.ranges(stop).await?;
        let parts = (1..).zip(ranges).map(|(number, range)| ScanPart {
            number,
            range,
            reached: None,
            done: false,
            counts: copyhold_db::queue::ScanCounts::default(),
            unusable_example: None,
        });
        let registrar = Registrar::Looks { queue: &self.queue, holder: self.lister.name() };
        self.work(&registrar, parts.collect(), stop).await
    }

    async fn write_run(&self, begin: Begin, resumed: &mut Option<i64>, stop: &CancellationToken) -> Result<(), Halt> {
        // Drawn anew by each process.
        let me = ScanHolder(rand::random());
        let scan = match self.take(begin, me, stop).await? {
            (scan, None) => scan,
            (scan, Some(started_at)) => {
                *resumed = Some(started_at);
                scan
            }
        };
        let parts = while_away(async || self.queue.scan_parts(scan).await).await.map_err(Halt::Queue)?;
        let registrar = Registrar::Writes { queue: &self.queue, scan, holder: self.lister.name() };
        let ran = tokio::select! {
            ran = self.work(&registrar, parts, stop) => ran,
            halt = self.hold(scan, me) => Err(halt),
        };
        if ran.is_err() {
            // Without it, the next must wait until we are taken for dead.
            let _ = self.queue.leave_scan(scan, me).await;
            return ran;
        }
        let ended = while_away(async || self.queue.end_scan(scan).await).await.map_err(Halt::Queue)?;
        if ended { Ok(()) } else { Err(Halt::Elsewhere) }
    }

    /// The scan to go on with, since when it is under way if it is not new, and for this process alone.
    async fn take(
        &self,
        begin: Begin,
        me: ScanHolder,
        stop: &CancellationToken,
    ) -> Result<(ScanId, Option<i64>), Halt> {
        let (queue, replica) = (&self.queue, self.lister.name());
        let mut forgets = begin == Begin::FromStart;
        loop {
            let found = while_away(async || queue.unfinished_scan(replica, &self.arguments).await).await;
            let Some(found) = found.map_err(Halt::Queue)? else {
                let ranges = self.ranges(stop).await?;
                // Where an answer was lost and it was asked again, it has begun, and is found as ours.
                let entered =
                    while_away(async || queue.begin_scan(replica, &self.arguments, &ranges, me, HOLD).await).await;
                match entered.map_err(Halt::Queue)? {
                    Some(scan) => return Ok((scan, None)),
                    // Another process was faster.
                    None => continue,
                }
            };
            let UnfinishedScan { id, started_at, .. } = found;
            self.take_over(found, me, stop).await?;
            if !std::mem::take(&mut forgets) {
                return Ok((id, Some(started_at)));
            }
            while_away(async || queue.forget_scan(id).await).await.map_err(Halt::Queue)?;
        }
    }

    /// Waits for as long as it takes to see whether the process that was at it still lives.
    async fn take_over(&self, found: UnfinishedScan, me: ScanHolder, stop: &CancellationToken) -> Result<(), Halt> {
        let hold = async || while_away(async || self.queue.hold_scan(found.id, me, HOLD).await).await;
        if hold().await.map_err(Halt::Queue)? {
            return Ok(());
        }
        self.progress.waits_for("another process that was at this scan, to see whether it still lives".into());
        let wait = found.held_for.unwrap_or(HOLD) + Duration::from_millis(100);
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Err(Halt::Stopped);
        }
        if hold().await.map_err(Halt::Queue)? { Ok(()) } else { Err(Halt::AtWork) }
    }

    /// Says again and again that this process is at it; ends only when it is not.
    async fn hold(&self, scan: ScanId, me: ScanHolder) -> Halt {
        loop {
            tokio::time::sleep(HOLD_EVERY).await;
            // What is not known is seen by the next page: it goes on only from where the one before has ended.
            if let Ok(false) = self.queue.hold_scan(scan, me, HOLD).await {
                return Halt::Elsewhere;
            }
        }
    }

    async fn ranges(&self, stop: &CancellationToken) -> Result<Vec<KeyRange>, Halt> {
        let mut ranges = Vec::new();
        for prefix in &self.arguments.prefixes {
            let of_prefix = stop.run_until_cancelled(parts::of(&self.lister, prefix)).await.ok_or(Halt::Stopped)?;
            ranges.extend(of_prefix.map_err(|trouble| self.trouble(trouble))?);
        }
        Ok(ranges)
    }

    /// Several parts at the same time. The first that cannot go on ends the others, after their page.
    async fn work(
        &self,
        registrar: &Registrar<'_>,
        parts: Vec<ScanPart>,
        stop: &CancellationToken,
    ) -> Result<(), Halt> {
        self.progress.begin(&parts);
        let halt = stop.child_token();
        let open = parts.into_iter().enumerate().filter(|(_, part)| !part.done);
        let works = open.map(|(index, part)| self.part(registrar, Place::new(index, part, &self.progress), &halt));
        let mut ended = stream::iter(works).buffer_unordered(self.parallel);
        let mut first = Ok(());
        while let Some(result) = ended.next().await {
            if let Err(why) = result {
                halt.cancel();
                // That others were told to stop because of it is not why.
                if first.is_ok() || matches!(first, Err(Halt::Stopped)) {
                    first = Err(why);
                }
            }
        }
        first
    }

    async fn part(
        &self,
        registrar: &Registrar<'_>,
        mut place: Place<'_>,
        stop: &CancellationToken,
    ) -> Result<(), Halt> {
        let (range, reached) = (place.part.range.clone(), place.part.reached.clone());
        let mut walk = Walk::new(&self.lister, &range, reached.as_deref());
        let mut beside: Vec<_> =
            self.beside.iter().map(|lister| Beside::new(lister, &range, reached.as_deref())).collect();
        while !place.part.done {
            let portion = stop.run_until_cancelled(walk.next()).await.ok_or(Halt::Stopped)?;
            let portion = portion.map_err(|trouble| self.trouble(trouble))?;
            let mut oldest = portion.asked_at;
            let compared = self.compare(portion.objects, &mut beside, &mut oldest);
            let entries = stop.run_until_cancelled(compared).await.ok_or(Halt::Stopped)?;
            // Nothing to write, and more to come: only what listings hide.
            if entries.is_empty() && !portion.done {
                continue;
            }
            place.write(registrar, entries, portion.done, oldest.into_std(), stop).await?;
        }
        Ok(())
    }

    /// Which other replicas show the same of each. A listing that fails says nothing, and nothing more is taken from it.
    async fn compare(
        &self,
        objects: Vec<ListedObject>,
        beside: &mut Vec<Beside<'_>>,
        oldest: &mut Instant,
    ) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(objects.len());
        for object in objects {
            let mut same_at = Vec::new();
            let mut i = 0;
            while i < beside.len() {
                match beside[i].same(&object, self.lister.profile()).await {
                    Ok(shown) => {
                        if let Some(asked_at) = shown {
                            *oldest = asked_at.min(*oldest);
                            same_at.push(beside[i].name().clone());
                        }
                        i += 1;
                    }
                    Err(trouble) => beside.remove(i).give_up(&trouble),
                }
            }
            entries.push(match object.key {
                Ok(key) => Entry::Key(ListedKey { key, size_bytes: object.size_bytes, same_at }),
                Err(no_key) => Entry::Unusable(no_key.to_string()),
            });
        }
        entries
    }

    fn trouble(&self, trouble: Trouble) -> Halt {
        Halt::Trouble(self.lister.name().clone(), trouble)
    }
}
