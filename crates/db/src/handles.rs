//! Handles on the database, one for each component of the daemon: a component that holds one can call nothing else.
//!
//! Each is a thin type over a shared [`Database`]. It owns no statement; commands of operators use the [`Database`]
//! itself.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use copyhold_core::domain::{BreakerScope, FailureClass, Fence, Folds, Generation, Lease, ObjectKey, ReplicaName};

use crate::{
    connections::ReadOnlyServer,
    daemon::{Daemon, DaemonId, IdleKind, PublishedConfig},
    error::DatabaseError,
    handle::Database,
    lease::{
        ClaimError, Claimed, ClockCorrection, DueUnsettled, FencedResult, FencedWrite, LanePosition, Peeked,
        ReclaimedLease, Report, StoredPart, UnfinishedUpload, UnregisteredChange, UnsettledCopy, UnsettledWrite,
        UploadCheck, UploadIntent,
    },
    log::{InboxMove, LogDuty, LogHead, LogPart, Retention},
    object::{KeyTwin, Revocation},
    pin::Pin,
    replica::{Admission, Breaker, ChangeAdmission, ProbeKeyChoice, ProbeResult, ReplicaRow},
    schema::BehindSequence,
    stats::{Difference, Figures},
    walk::RecordedObject,
};

impl Database {
    /// The life of leased rows, and the records that an attempt corrects, for the worker.
    #[must_use]
    pub fn leases(&self) -> Leases {
        Leases(self.clone())
    }

    /// The journal of multipart uploads, for the worker.
    #[must_use]
    pub fn uploads(&self) -> Uploads {
        Uploads(self.clone())
    }

    /// The breakers of the replicas, and the objects for their probes, for the worker.
    #[must_use]
    pub fn breakers(&self) -> Breakers {
        Breakers(self.clone())
    }

    /// The rows of the replicas: which bucket each is pinned to, and on which terms it is written to.
    #[must_use]
    pub fn bindings(&self) -> Bindings {
        Bindings(self.clone())
    }

    /// The registration of one daemon.
    #[must_use]
    pub fn presence(&self) -> Presence {
        Presence(self.clone())
    }

    /// The event log, for its readers.
    #[must_use]
    pub fn event_log(&self) -> EventLog {
        EventLog(self.clone())
    }

    /// The duties that one daemon at a time performs, for the sweeper.
    #[must_use]
    pub fn duties(&self) -> Duties {
        Duties(self.clone())
    }
}

/// The life of leased rows, and the records that an attempt corrects, for the worker.
#[derive(Debug, Clone)]
pub struct Leases(Database);

impl Leases {
    /// How long until the next waiting copy of these lanes is due; `None`: none waits.
    pub async fn next_due(&self, lanes: &[ReplicaName]) -> Result<Option<Duration>, DatabaseError> {
        self.0.next_due(lanes).await
    }

    /// Leases up to `limit` due rows that lack their copy at `lane`, oldest due first, from a position in the lane on,
    /// for the daemon's lease time.
    pub async fn claim(
        &self,
        daemon: &Daemon,
        lane: &ReplicaName,
        limit: usize,
        from: LanePosition,
    ) -> Result<Claimed, ClaimError> {
        self.0.claim(daemon, lane, limit, from).await
    }

    /// Leases up to `limit` objects that were registered within the last ten minutes, the latest first.
    pub async fn claim_fresh(&self, daemon: &Daemon, lane: &ReplicaName, limit: usize) -> Result<Claimed, ClaimError> {
        self.0.claim_fresh(daemon, lane, limit).await
    }

    /// Leases those of `keys` that are not leased, due or not.
    pub async fn claim_these(&self, daemon: &Daemon, keys: &[ObjectKey]) -> Result<Vec<Lease>, ClaimError> {
        self.0.claim_these(daemon, keys).await
    }

    /// Finds up to `limit` due objects that lack their copy at `lane` and that one of `holders` has on record.
    pub async fn peek(
        &self,
        lane: &ReplicaName,
        from: LanePosition,
        holders: &[ReplicaName],
        limit: usize,
    ) -> Result<Peeked, DatabaseError> {
        self.0.peek(lane, from, holders, limit).await
    }

    /// Up to `most` due objects that `lane` lacks, to be tried there.
    pub async fn probe_keys(
        &self,
        lane: &ReplicaName,
        pick: ProbeKeyChoice,
        most: usize,
        held_by: Option<&ReplicaName>,
        tried: &HashSet<ObjectKey>,
    ) -> Result<Vec<ObjectKey>, DatabaseError> {
        self.0.probe_keys(lane, pick, most, held_by, tried).await
    }

    /// Records that this daemon is alive, and deletes daemons without a heartbeat for ten lease times.
    pub async fn heartbeat(&self, daemon: &Daemon) -> Result<(), DatabaseError> {
        self.0.heartbeat(daemon).await
    }

    /// Extends the leases to `timeout` from now, all in one statement.
    pub async fn renew(
        &self,
        held: &[(ObjectKey, Fence, Generation)],
        timeout: Duration,
    ) -> Result<Vec<FencedResult>, DatabaseError> {
        self.0.renew(held, timeout).await
    }

    /// Writes the outcomes of leased rows, fenced by lease and generation.
    pub async fn complete(&self, reports: &[Report]) -> Result<Vec<FencedResult>, DatabaseError> {
        self.0.complete(reports).await
    }

    /// As [`Database::complete`], with another time limit.
    pub async fn complete_within(
        &self,
        limit: Duration,
        reports: &[Report],
    ) -> Result<Vec<FencedResult>, DatabaseError> {
        self.0.complete_within(limit, reports).await
    }

    /// Releases rows unchanged: no attempt is counted, and they are due at the same time as before.
    pub async fn release(&self, held: &[(ObjectKey, Fence)]) -> Result<Vec<FencedResult>, DatabaseError> {
        self.0.release(held).await
    }

    /// Frees the rows of a claim whose answer was lost, and returns how many there were.
    pub async fn unclaim(&self, fence: Fence) -> Result<usize, DatabaseError> {
        self.0.unclaim(fence).await
    }

    /// Begins a new generation with the content that was read, as registering the key would: no other copy is on record
    /// any more, and all wanted copies are due.
    pub async fn begin_generation(
        &self,
        lease: &Lease,
        with: &UnregisteredChange,
    ) -> Result<FencedWrite, DatabaseError> {
        self.0.begin_generation(lease, with).await
    }

    /// Counts an unregistered change at a replica, and decides whether it may begin a generation.
    pub async fn admit_change(&self, replica: &ReplicaName) -> Result<ChangeAdmission, DatabaseError> {
        self.0.admit_change(replica).await
    }

    /// Logs that our lease of a row was lost.
    pub async fn log_lost_lease(&self, key: &ObjectKey, fence: Fence) -> Result<(), DatabaseError> {
        self.0.log_lost_lease(key, fence).await
    }

    /// How long ago this generation's copy first failed; `None`: no failure is on record.
    pub async fn failing_for(
        &self,
        key: &ObjectKey,
        replica: &ReplicaName,
        generation: Generation,
    ) -> Result<Option<Duration>, DatabaseError> {
        self.0.failing_for(key, replica, generation).await
    }

    /// Notes writes of unknown outcome.
    pub async fn note_unsettled(&self, writes: &[UnsettledWrite]) -> Result<(), DatabaseError> {
        self.0.note_unsettled(writes).await
    }

    /// Claims up to `limit` recorded copies at these replicas that have to be read.
    pub async fn claim_unsettled(
        &self,
        readable: &[ReplicaName],
        limit: usize,
        again: Duration,
    ) -> Result<DueUnsettled, DatabaseError> {
        self.0.claim_unsettled(readable, limit, again).await
    }

    /// Deletes entries of an object whose last reading was right.
    pub async fn settle(&self, key: &ObjectKey, read: &[&UnsettledCopy]) -> Result<(), DatabaseError> {
        self.0.settle(key, read).await
    }

    /// Deletes the counts of objects that no longer exist, or that lack no copy, are not leased and have no unsettled
    /// write: one page at a time.
    pub async fn tidy_swept(&self, after: Option<&ObjectKey>) -> Result<Option<ObjectKey>, DatabaseError> {
        self.0.tidy_swept(after).await
    }

    /// Returns those of `keys` that are registered, in the order of keys.
    pub async fn recorded_of(&self, keys: &[ObjectKey]) -> Result<Vec<RecordedObject>, DatabaseError> {
        self.0.recorded_of(keys).await
    }

    /// Revokes the recorded times, unless one of them or the generation has changed ([`FencedWrite::Superseded`]) or
    /// the row is leased or locked ([`FencedWrite::RowLocked`]).
    pub async fn revoke(&self, what: &Revocation) -> Result<FencedWrite, DatabaseError> {
        self.0.revoke(what).await
    }

    /// Returns the registered objects that are wanted or recorded at this replica under another spelling of `key`.
    pub async fn key_twins(
        &self,
        key: &ObjectKey,
        replica: &ReplicaName,
        folds: Folds,
    ) -> Result<Vec<KeyTwin>, DatabaseError> {
        self.0.key_twins(key, replica, folds).await
    }

    /// Returns the object of this key, if it is registered and wanted or recorded at this replica.
    pub async fn key_twin(
        &self,
        key: &ObjectKey,
        replica: &ReplicaName,
        other: &ObjectKey,
    ) -> Result<Option<KeyTwin>, DatabaseError> {
        self.0.key_twin(key, replica, other).await
    }

    /// One round trip: checks whether PostgreSQL answers, and whether it is writable.
    pub async fn probe(&self) -> Result<Option<ReadOnlyServer>, DatabaseError> {
        self.0.probe().await
    }
}

/// The journal of multipart uploads, for the worker.
#[derive(Debug, Clone)]
pub struct Uploads(Database);

impl Uploads {
    /// Returns the unfinished uploads of this generation: of each replica the latest one.
    pub async fn unfinished_uploads(
        &self,
        key: &ObjectKey,
        generation: Generation,
    ) -> Result<Vec<UnfinishedUpload>, DatabaseError> {
        self.0.unfinished_uploads(key, generation).await
    }

    /// Returns the uploads of earlier generations of this key that are not known to be over, condemned ones included:
    /// the row's id, the replica, and the store's id.
    pub async fn older_uploads(
        &self,
        key: &ObjectKey,
        generation: Generation,
    ) -> Result<Vec<(i64, ReplicaName, String)>, DatabaseError> {
        self.0.older_uploads(key, generation).await
    }

    /// Journals an upload before it is started; returns the row's id.
    pub async fn intend_upload(&self, intent: &UploadIntent<'_>) -> Result<i64, DatabaseError> {
        self.0.intend_upload(intent).await
    }

    /// Journals the store's id of a started upload.
    pub async fn upload_began(&self, id: i64, upload_id: &str) -> Result<bool, DatabaseError> {
        self.0.upload_began(id, upload_id).await
    }

    /// Journals parts, each at most once; parts of finished uploads are skipped.
    pub async fn record_parts(&self, parts: &[StoredPart]) -> Result<Vec<i64>, DatabaseError> {
        self.0.record_parts(parts).await
    }

    /// Condemns uploads: their parts are of no use, and no attempt resumes them.
    pub async fn condemn_uploads(&self, ids: &[i64]) -> Result<Vec<i64>, DatabaseError> {
        self.0.condemn_uploads(ids).await
    }

    /// Deletes finished uploads and their parts.
    pub async fn end_uploads(&self, ids: &[i64]) -> Result<Vec<i64>, DatabaseError> {
        self.0.end_uploads(ids).await
    }
}

/// The breakers of the replicas, and the objects for their probes, for the worker.
#[derive(Debug, Clone)]
pub struct Breakers(Database);

impl Breakers {
    /// Opens a replica's breaker, unless it is open already and blocks as much.
    pub async fn open_breaker(
        &self,
        replica: &ReplicaName,
        blocks: BreakerScope,
        class: FailureClass,
        message: &str,
    ) -> Result<bool, DatabaseError> {
        self.0.open_breaker(replica, blocks, class, message).await
    }

    /// Claims the due probe of a replica for this daemon.
    pub async fn claim_probe(
        &self,
        replica: &ReplicaName,
        opened_at: i64,
        within: Duration,
    ) -> Result<bool, DatabaseError> {
        self.0.claim_probe(replica, opened_at, within).await
    }

    /// Records the result of a probe: the breaker closes, or the next probe is later.
    pub async fn end_probe(
        &self,
        replica: &ReplicaName,
        breaker: &Breaker,
        ended: ProbeResult,
    ) -> Result<bool, DatabaseError> {
        self.0.end_probe(replica, breaker, ended).await
    }

    /// Up to `most` due objects that `lane` lacks, to be tried there.
    pub async fn probe_keys(
        &self,
        lane: &ReplicaName,
        pick: ProbeKeyChoice,
        most: usize,
        held_by: Option<&ReplicaName>,
        tried: &HashSet<ObjectKey>,
    ) -> Result<Vec<ObjectKey>, DatabaseError> {
        self.0.probe_keys(lane, pick, most, held_by, tried).await
    }

    /// Up to four keys that are recorded at the replica, for a simple request to its store.
    pub async fn recorded_keys(&self, replica: &ReplicaName) -> Result<Vec<ObjectKey>, DatabaseError> {
        self.0.recorded_keys(replica).await
    }
}

/// The rows of the replicas: which bucket each is pinned to, and on which terms it is written to.
#[derive(Debug, Clone)]
pub struct Bindings(Database);

impl Bindings {
    /// The breakers of the same replicas: the gate that opens a replica for writing also has its store probed.
    #[must_use]
    pub fn breakers(&self) -> Breakers {
        self.0.breakers()
    }

    /// Every replica that the schema has ever had, by name.
    pub async fn replica_rows(&self) -> Result<Vec<ReplicaRow>, DatabaseError> {
        self.0.replica_rows().await
    }

    /// Pins the replica to the bucket, unless it is pinned already.
    pub async fn pin(&self, replica: &ReplicaName, pin: &Pin) -> Result<(), DatabaseError> {
        self.0.pin(replica, pin).await
    }

    /// Records when a bucket was seen to hold objects, by its store's clock; unless that was recorded within the last
    /// [`INSPECTION_VALID_FOR`](crate::replica::INSPECTION_VALID_FOR).
    pub async fn note_look(&self, replica: &ReplicaName, date: SystemTime) -> Result<(), DatabaseError> {
        self.0.note_look(replica, date).await
    }

    /// Opens the replica for writing, unless it is open already.
    pub async fn admit(
        &self,
        replica: &ReplicaName,
        admission: Admission,
        looked_at: Option<SystemTime>,
    ) -> Result<(), DatabaseError> {
        self.0.admit(replica, admission, looked_at).await
    }

    /// Whether any object that the replica lacks is recorded elsewhere, so that it could be copied there.
    pub async fn has_copyable_objects(&self, replica: &ReplicaName) -> Result<bool, DatabaseError> {
        self.0.has_copyable_objects(replica).await
    }
}

/// The registration of one daemon.
#[derive(Debug, Clone)]
pub struct Presence(Database);

impl Presence {
    /// As [`Database::register_daemon`], and publishes the configuration.
    pub async fn register_daemon_as(
        &self,
        host: String,
        lease_timeout: Duration,
        config: Option<PublishedConfig>,
    ) -> Result<Daemon, DatabaseError> {
        self.0.register_daemon_as(host, lease_timeout, config).await
    }

    /// Removes this process from the table.
    pub async fn deregister_daemon(&self, daemon: DaemonId) -> Result<(), DatabaseError> {
        self.0.deregister_daemon(daemon).await
    }

    /// Registers whether this daemon is idle and needs a notification; returns how many living daemons with a smaller
    /// id are idle for the same.
    pub async fn set_idle(&self, daemon: DaemonId, what: IdleKind, sleeping: bool) -> Result<u32, DatabaseError> {
        self.0.set_idle(daemon, what, sleeping).await
    }

    /// Stores how this daemon learns of new work: `notify`, `poll`, or why it cannot be notified.
    pub async fn set_wakeup(&self, daemon: DaemonId, how: &str) -> Result<(), DatabaseError> {
        self.0.set_wakeup(daemon, how).await
    }
}

/// The event log, for its readers.
#[derive(Debug, Clone)]
pub struct EventLog(Database);

impl EventLog {
    /// Returns the state and the epoch of the log.
    pub async fn log_head(&self) -> Result<LogHead, DatabaseError> {
        self.0.log_head().await
    }

    /// Returns the events after `after`, about `most_bytes` of them, but at least one.
    pub async fn log_tail(&self, after: i64, most_bytes: i64) -> Result<LogPart, DatabaseError> {
        self.0.log_tail(after, most_bytes).await
    }

    /// Returns the events from `from` on and before `end`, up to [`LOG_PAGE`](crate::log::LOG_PAGE) ids and about
    /// `most_bytes`, but at least one.
    pub async fn log_page(&self, from: i64, end: i64, most_bytes: i64) -> Result<LogPart, DatabaseError> {
        self.0.log_page(from, end, most_bytes).await
    }

    /// Gives the log a new epoch, unless another session has done so already: `seen` is the incarnation that is to end.
    pub async fn raise_log_incarnation(&self, seen: i32) -> Result<bool, DatabaseError> {
        self.0.raise_log_incarnation(seen).await
    }
}

/// The duties that one daemon at a time performs, for the sweeper.
#[derive(Debug, Clone)]
pub struct Duties(Database);

impl Duties {
    /// The replicas whose columns the statements name.
    #[must_use]
    pub fn replicas(&self) -> &[ReplicaName] {
        self.0.replicas()
    }

    /// Frees rows whose lease has expired, at most one batch; none while another daemon does so.
    pub async fn reclaim(&self, settle: Duration) -> Result<Vec<ReclaimedLease>, DatabaseError> {
        self.0.reclaim(settle).await
    }

    /// Counts the backlog if a count is due and no other daemon does it.
    pub async fn refresh_backlog(&self) -> Result<bool, DatabaseError> {
        self.0.refresh_backlog().await
    }

    /// Reads the figures of a daemon's metrics.
    pub async fn figures(&self) -> Result<Figures, DatabaseError> {
        self.0.figures().await
    }

    /// Checks whether times were written by a clock that was ahead of the present one, and corrects them.
    pub async fn pull_in(&self, stepped: bool, lease_time: Duration) -> Result<Option<ClockCorrection>, DatabaseError> {
        self.0.pull_in(stepped, lease_time).await
    }

    /// Checks due uploads of one replica, and postpones their next check by
    /// [`UPLOAD_CHECK_INTERVAL`](crate::lease::UPLOAD_CHECK_INTERVAL).
    pub async fn check_uploads(&self, replica: &ReplicaName, quiet: Duration) -> Result<UploadCheck, DatabaseError> {
        self.0.check_uploads(replica, quiet).await
    }

    /// Counts the journaled uploads at a replica, up to 100,000.
    pub async fn count_uploads(&self, replica: &ReplicaName) -> Result<i64, DatabaseError> {
        self.0.count_uploads(replica).await
    }

    /// The store's ids of all journaled uploads of a key at a replica, whichever content they are of.
    pub async fn known_uploads(&self, key: &ObjectKey, replica: &ReplicaName) -> Result<Vec<String>, DatabaseError> {
        self.0.known_uploads(key, replica).await
    }

    /// Deletes finished uploads and their parts.
    pub async fn end_uploads(&self, ids: &[i64]) -> Result<Vec<i64>, DatabaseError> {
        self.0.end_uploads(ids).await
    }

    /// Deletes some uploads at replicas that are not in our configuration and that no daemon has checked for a month.
    pub async fn forget_unserved_uploads(&self) -> Result<Vec<String>, DatabaseError> {
        self.0.forget_unserved_uploads().await
    }

    /// Moves up to `most` events of other programs from the inbox into the log, in their order, and notifies the
    /// readers.
    pub async fn move_inbox(&self, most: usize) -> Result<InboxMove, DatabaseError> {
        self.0.move_inbox(most).await
    }

    /// Moves the first event of the inbox behind the others, unless another session moves events.
    pub async fn defer_first_of_inbox(&self) -> Result<Option<i64>, DatabaseError> {
        self.0.defer_first_of_inbox().await
    }

    /// Runs one step once.
    pub async fn tidy_log(&self, duty: LogDuty, retention: Retention) -> Result<bool, DatabaseError> {
        self.0.tidy_log(duty, retention).await
    }

    /// Bytes of the log, its indexes included.
    pub async fn log_bytes(&self) -> Result<u64, DatabaseError> {
        self.0.log_bytes().await
    }

    /// Returns the sequences that are behind their tables, as after a switchover by logical replication.
    pub async fn sequences_behind(&self) -> Result<Vec<BehindSequence>, DatabaseError> {
        self.0.sequences_behind().await
    }

    /// Sets them to the greatest number in use; returns those that were behind.
    pub async fn mend_sequences(&self) -> Result<Vec<BehindSequence>, DatabaseError> {
        self.0.mend_sequences().await
    }

    /// Notes a crash of PostgreSQL since the last check of any daemon: claims may be lost with it.
    pub async fn note_crash(&self) -> Result<bool, DatabaseError> {
        self.0.note_crash().await
    }

    /// Returns the differences between the living daemons.
    pub async fn differences(&self) -> Result<Vec<Difference>, DatabaseError> {
        self.0.differences().await
    }

    /// Returns the time of the schema's clock function, in µs since the epoch.
    pub async fn database_now(&self) -> Result<i64, DatabaseError> {
        self.0.database_now().await
    }

    /// Deletes the counts of objects that no longer exist, or that lack no copy, are not leased and have no unsettled
    /// write: one page at a time.
    pub async fn tidy_swept(&self, after: Option<&ObjectKey>) -> Result<Option<ObjectKey>, DatabaseError> {
        self.0.tidy_swept(after).await
    }
}
