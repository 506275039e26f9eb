//! Decides for each replica whether this daemon may read it and write to it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use copyhold_core::domain::{self, BreakerScope, ReplicaName};
use copyhold_db::pin::Pin;
use copyhold_db::queue::{
    Admission, CLEAR, Complaint, Draining, Former, LOOK_HOLDS, Pause, Queue, QueueError, ReplicaRow,
};
use copyhold_s3::{
    copy::OnExisting,
    store::{BucketContents, shown},
};
use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    health::{ANSWER_WITHIN, Health, Open},
    lanes::{Lanes, Replica, Standing, View},
    probing::{Probing, Sick},
};
use crate::{
    config::{Config, Existing},
    wake::{Wake, Waker},
};

/// How often the shared state is looked at, ± 20 %, without a notice: another daemon, or an operator, may have
/// changed it. Operators are promised 5 s.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// While a replica is not open there is more to hope for.
const HOPE_EVERY: Duration = Duration::from_secs(3);

/// Decides for each replica whether this daemon may read it and write to it, before it does.
///
/// The first to use a replica pins its bucket; the first to write to it sees that the bucket is empty, or that the
/// operator has said what to do with what it holds. Both are decided once, for all daemons.
/// It also learns from the others which stores are not well, and has these probed.
#[derive(Debug)]
pub struct Doorkeeper {
    pub config: Config,
    pub queue: Queue,
    pub lanes: Lanes,
    pub health: Health,
    pub waker: Waker,
    /// Heard when the table `replicas` was changed.
    pub wake: Wake,
}

impl Doorkeeper {
    /// Keeps the view of the lanes up to date until `drain`.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut last = View::default();
        let mut probing = Probing::new(self.queue.clone(), self.health.clone());
        let complaint = Complaint::new();
        loop {
            self.wake.arm();
            let all_open = |view: &View| {
                !view.standings.is_empty() && view.standings.values().all(|s| matches!(s, Standing::Open(_)))
            };
            let mut pause = if all_open(&last) { LOOK_EVERY } else { HOPE_EVERY };
            match self.look().await {
                Ok((view, sick)) => {
                    complaint.is_over();
                    self.say(&last, &view);
                    // Not with `last`: a failure may have taken a replica out of use since.
                    if view != self.lanes.view() {
                        self.lanes.set(view.clone());
                        self.waker.wake();
                    }
                    last = view;
                    let until_a_probe = sick.iter().map(|s| s.breaker.probe_in).filter(|wait| !wait.is_zero()).min();
                    pause = until_a_probe.map_or(pause, |wait| wait.min(pause));
                    probing.begin(sick);
                }
                Err(error) => complaint.fails(|times| {
                    warn!(error = %error, times, "Could not look which replicas may be used, trying again");
                }),
            }
            tokio::select! {
                () = drain.cancelled() => return,
                () = probing.ended() => {}
                _ = self.wake.wait(pause) => {}
            }
        }
    }

    /// What may be done with each replica, and which of them are not well.
    async fn look(&self) -> Result<(View, Vec<Sick>), QueueError> {
        let mut asked = Instant::now();
        let mut rows = self.rows().await?;
        for replica in self.lanes.replicas() {
            if rows.get(&replica.name).is_some_and(|row| row.pin.is_none()) {
                self.queue.pin(&replica.name, &self.pin_of(&replica.name)).await?;
                asked = Instant::now();
                rows = self.rows().await?;
            }
        }
        let primary = rows.values().find(|r| r.primary).map(|r| r.name.clone());
        let sick = self.set_known(primary.as_ref(), &rows, asked);
        // All at once: a store that does not answer keeps no other waiting.
        let standings = self.lanes.replicas().iter().map(|replica| {
            let row = rows.get(&replica.name);
            async move {
                let standing = match row {
                    None => not_migrated(),
                    Some(row) => self.standing(replica, row, asked).await?,
                };
                Ok::<_, QueueError>((replica.name.clone(), standing))
            }
        });
        let standings = try_join_all(standings).await?.into_iter().collect();
        Ok((View { primary, standings, former: former(&rows) }, sick))
    }

    async fn rows(&self) -> Result<BTreeMap<ReplicaName, ReplicaRow>, QueueError> {
        Ok(self.queue.replica_rows().await?.into_iter().map(|row| (row.name.clone(), row)).collect())
    }

    fn pin_of(&self, name: &ReplicaName) -> Pin {
        // Cannot fail: the lanes are made from this configuration.
        let replica = self.config.replica(name).expect("a lane's replica is in the configuration");
        Pin::from(replica)
    }

    /// Takes over at once what needs no answer of a store: a pause must not wait for some other replica's silence.
    /// Returns which replicas are not well.
    fn set_known(
        &self,
        primary: Option<&ReplicaName>,
        rows: &BTreeMap<ReplicaName, ReplicaRow>,
        asked: Instant,
    ) -> Vec<Sick> {
        let before = self.lanes.view();
        let mut view = View { primary: primary.cloned(), former: former(rows), ..before.clone() };
        let mut sick = Vec::new();
        for replica in self.lanes.replicas() {
            let row = rows.get(&replica.name);
            sick.extend(row.and_then(|row| self.sick(replica, row)));
            let known = row.map_or_else(|| Some(not_migrated()), |row| self.known(replica, row, asked));
            // At the first look, and after a breaker has closed: a target that is open already must find its sources
            // readable as well.
            let looked_at = || Standing::ReadOnly { why: "its bucket is being looked at".into() };
            match (known, view.standings.get(&replica.name)) {
                (Some(known), _) => view.standings.insert(replica.name.clone(), known),
                (None, None | Some(Standing::Away { .. })) => view.standings.insert(replica.name.clone(), looked_at()),
                (None, Some(_)) => None,
            };
        }
        if view != before {
            self.lanes.set(view);
            self.waker.wake();
        }
        sick
    }

    /// What the shared state alone says.
    fn known(&self, replica: &Replica, row: &ReplicaRow, asked: Instant) -> Option<Standing> {
        if row.admission.is_some() {
            self.health.lists(&replica.name);
        }
        let breaker = self.health.learn(&replica.name, row.breaker.as_ref(), asked);
        if let Some(why) = self.forbidden(replica, row) {
            return Some(Standing::Barred { why });
        }
        let told_to_wait = row.draining.as_ref().map(draining).or_else(|| row.pause.as_ref().map(paused));
        match (breaker, told_to_wait) {
            (Some(Open { blocks: BreakerScope::All, why, .. }), _) => Some(Standing::Away { why }),
            (_, Some(why)) | (Some(Open { blocks: BreakerScope::Writing, why, .. }), None) => {
                Some(Standing::ReadOnly { why })
            }
            (None, None) => self.on_existing(replica, row).map(Standing::Open),
        }
    }

    /// What becomes of an object that is in the bucket already; `None`: nobody has decided yet whether anything is
    /// written there.
    ///
    /// The primary in force is the application's, whatever was decided while it was not: what stands there may be a
    /// content that was uploaded this moment and is about to be registered. So it is looked at first, however new it is,
    /// and left alone if it is not equal. Between our look and our write the application may still upload to the key,
    /// and not every store has a write that is refused then: whoever fills a primary again is told not to replace
    /// contents meanwhile (docs/replicas.md). An object that is registered once and never changed has no such moment:
    /// whoever uploads it puts the same bytes.
    fn on_existing(&self, replica: &Replica, row: &ReplicaRow) -> Option<OnExisting> {
        let (admission, since) = row.admission?;
        let asked_for = self.config.replica(&replica.name).and_then(|r| r.existing);
        Some(match (asked_for, admission) {
            // The operator's word of today is as good as that of the day of the first write.
            (Some(Existing::Overwrite), _) | (None, Admission::Overwrite) => OnExisting::PutOver,
            _ if row.primary => OnExisting::Adopt { older_than: None },
            (_, Admission::Empty) => OnExisting::PutOver,
            (_, Admission::Adopt | Admission::Overwrite) => OnExisting::Adopt { older_than: Some(since) },
        })
    }

    /// Why the replica is not this daemon's to use.
    fn forbidden(&self, replica: &Replica, row: &ReplicaRow) -> Option<String> {
        let ours = self.pin_of(&replica.name);
        row.pin.as_ref().and_then(|pin| pin.forbids(&ours, &replica.name))
    }

    /// What this daemon may probe. Nothing is written to a replica that is paused or about to leave, not even to try it.
    fn sick(&self, replica: &Replica, row: &ReplicaRow) -> Option<Sick> {
        let breaker = row.breaker.clone()?;
        let may_write = row.pause.is_none() && row.draining.is_none();
        let may = self.forbidden(replica, row).is_none() && (breaker.blocks == BreakerScope::All || may_write);
        may.then(|| Sick { replica: replica.name.clone(), breaker, existing: self.on_existing(replica, row) })
    }

    async fn standing(&self, replica: &Replica, row: &ReplicaRow, asked: Instant) -> Result<Standing, QueueError> {
        if let Some(known) = self.known(replica, row, asked) {
            return Ok(known);
        }
        self.health.meet(&replica.name).await;
        // The primary is only read, until something is missing there.
        if row.primary && !self.queue.could_be_filled(&replica.name).await? {
            return Ok(Standing::ReadOnly { why: "nothing is missing at the primary".into() });
        }
        match self.decide(replica, row).await? {
            Ok((admission, looked_at)) => {
                self.queue.admit(&replica.name, admission, looked_at).await?;
                info!(replica.id = %replica.name, "Replica {} is open for writing: {}", replica.name, admission.words());
                // The next look reads what was decided; another daemon may have been first.
                Box::pin(self.standing_again(replica, asked)).await
            }
            Err(why) => Ok(Standing::ReadOnly { why }),
        }
    }

    async fn standing_again(&self, replica: &Replica, asked: Instant) -> Result<Standing, QueueError> {
        match self.rows().await?.get(&replica.name) {
            Some(row) if row.admission.is_some() => self.standing(replica, row, asked).await,
            _ => Ok(Standing::ReadOnly { why: "its entry in the table replicas has just vanished".into() }),
        }
    }

    /// How it is written to, and when its bucket was looked at by its store's clock; or why it is not yet.
    async fn decide(
        &self,
        replica: &Replica,
        row: &ReplicaRow,
    ) -> Result<Result<(Admission, Option<SystemTime>), String>, QueueError> {
        let existing = self.config.replica(&replica.name).and_then(|r| r.existing);
        let existing = existing.or(row.adopts.then_some(Existing::Adopt));
        let looked = tokio::time::timeout(ANSWER_WITHIN, replica.store.bucket_contents()).await;
        let Ok(looked) = looked else {
            return Ok(Err(format!("its bucket could not be listed: no answer within {ANSWER_WITHIN:?}")));
        };
        let looked = match looked {
            Err(error) => return Ok(Err(format!("its bucket could not be listed: {error}"))),
            Ok(looked) => looked,
        };
        let Some(key) = &looked.key else { return Ok(Ok((Admission::Empty, None))) };
        match existing {
            Some(Existing::Adopt) => match adopts(&looked, row.looked_at) {
                Clock::Clear(at) => Ok(Ok((Admission::Adopt, Some(at)))),
                Clock::Waits(date) => {
                    self.queue.note_look(&replica.name, date).await?;
                    Ok(Err(format!(
                        "its bucket holds data that is to be adopted: nothing is written there until its clock has gone on by {CLEAR:?}, \
                         so that what is there is told from copies"
                    )))
                }
                Clock::Unfit(why) => Ok(Err(why)),
            },
            Some(Existing::Overwrite) => Ok(Ok((Admission::Overwrite, None))),
            None => Ok(Err(format!(
                "its bucket already holds data (\"{}\", for one): say existing = \"adopt\" or \"overwrite\" in \
                 [replicas.{}]",
                shown(key.as_bytes()),
                replica.name
            ))),
        }
    }

    /// Says what has changed, once.
    fn say(&self, last: &View, view: &View) {
        for (name, standing) in &view.standings {
            if last.standings.get(name) == Some(standing) {
                continue;
            }
            match standing {
                Standing::Open(_) => info!(replica.id = %name, "Copying to {name}"),
                Standing::ReadOnly { why } if view.primary.as_ref() == Some(name) => {
                    info!(replica.id = %name, "Reading from {name}: {why}");
                }
                Standing::ReadOnly { why } => warn!(replica.id = %name, "Not copying to {name}: {why}"),
                Standing::Barred { why } | Standing::Away { why } => {
                    warn!(replica.id = %name, "Not using {name}: {why}");
                }
            }
        }
        if view.primary != last.primary
            && let Some(primary) = &view.primary
            && *primary != self.config.primary
        {
            warn!(
                "The primary in force is {primary}, the configuration says {}: the database's word counts",
                self.config.primary
            );
        }
    }
}

/// Whether a store's clock tells what its bucket holds from what is written to it from now on.
#[derive(Debug, PartialEq, Eq)]
enum Clock {
    /// It was looked at then, and the store's clock has gone on by [`CLEAR`] since.
    Clear(SystemTime),
    /// Not yet. This is what it says.
    Waits(SystemTime),
    /// It does not, and why.
    Unfit(String),
}

fn adopts(looked: &BucketContents, before: Option<SystemTime>) -> Clock {
    let Some(date) = looked.date else {
        let why = "its store says no Date, by which what it holds is told from copies: it does not allow existing = \"adopt\"";
        return Clock::Unfit(why.into());
    };
    if let Some(key) = &looked.of_later {
        return Clock::Unfit(format!(
            "its store says of \"{}\" that it was modified later than now: its clock does not allow existing = \"adopt\"",
            shown(key.as_bytes())
        ));
    }
    match before.map(|before| (before, date.duration_since(before))) {
        Some((before, Ok(since))) if (CLEAR..=LOOK_HOLDS).contains(&since) => Clock::Clear(before),
        _ => Clock::Waits(date),
    }
}

/// Those that were the primary once.
fn former(rows: &BTreeMap<ReplicaName, ReplicaRow>) -> BTreeMap<ReplicaName, Former> {
    rows.iter().filter_map(|(name, row)| Some((name.clone(), row.former?))).collect()
}

fn not_migrated() -> Standing {
    Standing::Barred { why: "it has no columns yet: run `copyhold migrate`".into() }
}

/// Why nothing is copied to a replica that an operator has paused.
fn paused(pause: &Pause) -> String {
    let why = match pause.until {
        None => "it is paused until it is resumed".to_owned(),
        Some(until) => format!("it is paused until {}", domain::utc(until)),
    };
    with_reason(why, pause.because.as_deref())
}

/// Why nothing is copied to a replica that is about to leave.
fn draining(draining: &Draining) -> String {
    with_reason(format!("it is draining since {}", domain::utc(draining.since)), draining.because.as_deref())
}

fn with_reason(mut why: String, because: Option<&str>) -> String {
    if let Some(because) = because {
        why.push_str(": ");
        // Cannot fail: a String takes all that is written to it.
        let _ = domain::escape(because, &mut why);
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn what_is_to_be_adopted_is_told_from_copies_by_the_stores_own_clock_alone() {
        let looked = |date: Option<u64>| BucketContents { key: Some("k".into()), date: date.map(at), of_later: None };
        let seen = |date, before: Option<u64>| adopts(&looked(Some(date)), before.map(at));
        assert_eq!(seen(1_000, None), Clock::Waits(at(1_000)));
        assert_eq!(seen(1_004, Some(1_000)), Clock::Waits(at(1_004)));
        assert_eq!(seen(1_005, Some(1_000)), Clock::Clear(at(1_000)));
        assert_eq!(seen(1_030, Some(1_000)), Clock::Clear(at(1_000)));
        // Whatever came since is not ours; nor is it known what came where the clock was set back.
        assert_eq!(seen(1_031, Some(1_000)), Clock::Waits(at(1_031)));
        assert_eq!(seen(999, Some(1_000)), Clock::Waits(at(999)));
        assert!(matches!(adopts(&looked(None), None), Clock::Unfit(_)));
        let ahead = BucketContents { of_later: Some("k".into()), ..looked(Some(1_000)) };
        assert!(matches!(adopts(&ahead, Some(at(990))), Clock::Unfit(_)));
    }
}
