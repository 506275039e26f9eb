use std::{collections::BTreeMap, time::Duration};

use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::lanes::{Lanes, Replica, Standing, View};
use crate::{
    config::{Config, Existing},
    copy::OnExisting,
    domain::{self, ReplicaName},
    queue::{Admission, Pause, Pin, Queue, QueueError, ReplicaRow},
    wake::{Wake, Waker},
};

/// How often the shared state is looked at, ± 20 %, without a notice: another daemon, or an operator, may have
/// changed it. Operators are promised 5 s.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// While a replica is not open there is more to hope for.
const HOPE_EVERY: Duration = Duration::from_secs(3);

/// How long a store may take to say whether its bucket is empty, until it is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Decides for each replica whether this daemon may read it and write to it, before it does.
///
/// The first to use a replica pins its bucket; the first to write to it sees that the bucket is empty, or that the
/// operator has said what to do with what it holds. Both are decided once, for all daemons.
#[derive(Debug)]
pub struct Doorkeeper {
    pub config: Config,
    pub queue: Queue,
    pub lanes: Lanes,
    pub waker: Waker,
    /// Heard when the table `replicas` was changed.
    pub wake: Wake,
}

impl Doorkeeper {
    /// Keeps the view of the lanes up to date until `drain`.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut last = View::default();
        loop {
            self.wake.arm();
            match self.look().await {
                Ok(view) => {
                    self.say(&last, &view);
                    if view != last {
                        self.lanes.set(view.clone());
                        self.waker.wake();
                    }
                    last = view;
                }
                Err(error) => warn!(error = %error, "Could not look which replicas may be used, trying again"),
            }
            let all_open =
                !last.standings.is_empty() && last.standings.values().all(|s| matches!(s, Standing::Open(_)));
            let pause = if all_open { LOOK_EVERY } else { HOPE_EVERY };
            tokio::select! {
                () = drain.cancelled() => return,
                _ = self.wake.wait(pause) => {}
            }
        }
    }

    async fn look(&self) -> Result<View, QueueError> {
        let mut rows = self.rows().await?;
        for replica in self.lanes.replicas() {
            if rows.get(&replica.name).is_some_and(|row| row.pin.is_none()) {
                self.queue.pin(&replica.name, &self.pin_of(&replica.name)).await?;
                rows = self.rows().await?;
            }
        }
        let primary = rows.values().find(|r| r.primary).map(|r| r.name.clone());
        self.set_known(primary.as_ref(), &rows);
        // All at once: a store that does not answer keeps no other waiting.
        let standings = self.lanes.replicas().iter().map(|replica| {
            let row = rows.get(&replica.name);
            async move {
                let standing = match row {
                    None => not_migrated(),
                    Some(row) => self.standing(replica, row).await?,
                };
                Ok::<_, QueueError>((replica.name.clone(), standing))
            }
        });
        let standings = try_join_all(standings).await?.into_iter().collect();
        Ok(View { primary, standings })
    }

    async fn rows(&self) -> Result<BTreeMap<ReplicaName, ReplicaRow>, QueueError> {
        Ok(self.queue.replica_rows().await?.into_iter().map(|row| (row.name.clone(), row)).collect())
    }

    fn pin_of(&self, name: &ReplicaName) -> Pin {
        // Cannot fail: the lanes are made from this configuration.
        let replica = self.config.replica(name).expect("a lane's replica is in the configuration");
        Pin::of(replica)
    }

    /// Takes over at once what needs no answer of a store: a pause must not wait for some other replica's silence.
    fn set_known(&self, primary: Option<&ReplicaName>, rows: &BTreeMap<ReplicaName, ReplicaRow>) {
        let before = self.lanes.view();
        let mut view = View { primary: primary.cloned(), ..before.clone() };
        for replica in self.lanes.replicas() {
            let known = rows.get(&replica.name).map_or_else(|| Some(not_migrated()), |row| self.known(replica, row));
            if let Some(standing) = known {
                view.standings.insert(replica.name.clone(), standing);
            }
        }
        if view != before {
            self.lanes.set(view);
            self.waker.wake();
        }
    }

    /// What the shared state alone says.
    fn known(&self, replica: &Replica, row: &ReplicaRow) -> Option<Standing> {
        let ours = self.pin_of(&replica.name);
        if let Some(why) = row.pin.as_ref().and_then(|pin| pin.forbids(&ours)) {
            return Some(Standing::Barred { why });
        }
        if let Some(pause) = &row.pause {
            return Some(Standing::ReadOnly { why: paused(pause) });
        }
        let (admission, since) = row.admission?;
        Some(Standing::Open(match admission {
            Admission::Empty | Admission::Overwrite => OnExisting::PutOver,
            Admission::Adopt => OnExisting::Adopt { older_than: since },
        }))
    }

    async fn standing(&self, replica: &Replica, row: &ReplicaRow) -> Result<Standing, QueueError> {
        if let Some(known) = self.known(replica, row) {
            return Ok(known);
        }
        // The primary is only read, until something is missing there.
        if row.primary && !self.queue.could_be_filled(&replica.name).await? {
            return Ok(Standing::ReadOnly { why: "nothing is missing at the primary".into() });
        }
        match self.decide(replica).await {
            Ok(admission) => {
                self.queue.admit(&replica.name, admission).await?;
                info!(replica.id = %replica.name, "Replica {} is open for writing ({admission:?})", replica.name);
                // The next look reads what was decided; another daemon may have been first.
                Box::pin(self.standing_again(replica)).await
            }
            Err(why) => Ok(Standing::ReadOnly { why }),
        }
    }

    async fn standing_again(&self, replica: &Replica) -> Result<Standing, QueueError> {
        match self.rows().await?.get(&replica.name) {
            Some(row) if row.admission.is_some() => self.standing(replica, row).await,
            _ => Ok(Standing::ReadOnly { why: "its entry in the table replicas has just vanished".into() }),
        }
    }

    async fn decide(&self, replica: &Replica) -> Result<Admission, String> {
        let existing = self.config.replica(&replica.name).and_then(|r| r.existing);
        let listed = tokio::time::timeout(ANSWER_WITHIN, replica.store.first_key()).await;
        let Ok(listed) = listed else {
            return Err(format!("its bucket could not be listed: no answer within {ANSWER_WITHIN:?}"));
        };
        match listed {
            Err(error) => Err(format!("its bucket could not be listed: {error}")),
            Ok(None) => Ok(Admission::Empty),
            Ok(Some(key)) => match existing {
                Some(Existing::Adopt) => Ok(Admission::Adopt),
                Some(Existing::Overwrite) => Ok(Admission::Overwrite),
                None => Err(format!(
                    "its bucket already holds data (\"{key}\", for one): say existing = \"adopt\" or \"overwrite\" in \
                     [replicas.{}]",
                    replica.name
                )),
            },
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
                Standing::Barred { why } => warn!(replica.id = %name, "Not using {name}: {why}"),
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

fn not_migrated() -> Standing {
    Standing::Barred { why: "it has no columns yet: run `copyhold migrate`".into() }
}

/// Why nothing is copied to a replica that an operator has paused.
fn paused(pause: &Pause) -> String {
    let mut why = match pause.until {
        None => "it is paused until it is resumed".to_owned(),
        Some(until) => format!("it is paused until {}", domain::utc(until)),
    };
    if let Some(because) = &pause.because {
        why.push_str(": ");
        // Cannot fail: a String takes all that is written to it.
        let _ = domain::escape(because, &mut why);
    }
    why
}
