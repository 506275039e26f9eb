//! Counts what was found, and keeps a bounded number of findings.

use copyhold_core::domain::{ObjectKey, ReplicaName};
use serde::Serialize;

/// So many findings of each kind are listed one by one.
const LISTED: usize = 1000;

/// How surely a copy was found to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchGrade {
    /// All its bytes were read and have the hash on record.
    Read,
    /// The store states that it has the hash on record.
    Checksum,
    /// It exists, and the store states the size on record. This does not detect damage.
    Size,
    /// The same, and it has the metadata on record.
    Metadata,
}

/// What is wrong with a copy on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// The store answers, and does not have it.
    Missing,
    /// It has other bytes than are on record.
    Damaged,
    /// It has other metadata than is on record.
    Metadata,
    /// The object itself is another one: it was overwritten at the primary and not registered.
    Changed,
}

/// What was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Its record was revoked, and the copy is due.
    Requeued,
    /// Its record was revoked, and nothing is copied until an operator retries it.
    Parked,
    /// A new generation begins, and all its copies are due.
    RegisteredAgain,
    /// Nothing was to be done.
    DryRun,
    /// It could not be recorded.
    NotWritten(String),
}

/// Figures of one replica. Copies of which nothing is known yet, and those that changed meanwhile, are no findings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Copies on record that were read.
    pub copies: u64,
    pub identical: u64,
    pub same_checksum: u64,
    pub same_size: u64,
    pub same_metadata: u64,
    pub missing: u64,
    pub damaged: u64,
    pub other_metadata: u64,
    pub changed: u64,
    /// No complete read has ever found out what the object is: there is nothing to compare with.
    pub not_known_yet: u64,
    /// Nothing is on record of its metadata, with which that of the copy could be compared.
    pub metadata_not_compared: u64,
    /// The store did not let it be read.
    pub unreadable: u64,
    /// Registered again, copied again or deleted while it was read.
    pub changed_meanwhile: u64,
    /// Right at last, but one reading came with other bytes.
    pub damaged_on_the_way: u64,
    /// Of those that are missing, damaged or changed, those whose record was revoked.
    pub taken_back: u64,
    /// And those whose record should have been, and could not be.
    pub not_written: u64,
    pub bytes_read: u64,
    pub requests: u64,
}

impl Counts {
    /// Copies whose state is now known.
    #[must_use]
    pub fn checked(&self) -> u64 {
        let right = self.identical + self.same_checksum + self.same_size + self.same_metadata;
        right + self.wrong()
    }

    /// Copies that differ from their records.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        self.missing + self.damaged + self.other_metadata + self.changed
    }

    pub(super) fn right(&mut self, grade: MatchGrade) {
        match grade {
            MatchGrade::Read => self.identical += 1,
            MatchGrade::Checksum => self.same_checksum += 1,
            MatchGrade::Size => self.same_size += 1,
            MatchGrade::Metadata => self.same_metadata += 1,
        }
    }

    pub(super) fn found(&mut self, what: Defect, then: &Action) {
        match what {
            Defect::Missing => self.missing += 1,
            Defect::Damaged => self.damaged += 1,
            Defect::Metadata => self.other_metadata += 1,
            Defect::Changed => self.changed += 1,
        }
        match then {
            Action::Requeued | Action::Parked | Action::RegisteredAgain => self.taken_back += 1,
            Action::NotWritten(_) => self.not_written += 1,
            Action::DryRun => {}
        }
    }
}

/// A copy that differs from its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub key: ObjectKey,
    pub replica: ReplicaName,
    pub what: Defect,
    /// Of what was read, or of the store's answer; escaped and bounded.
    pub why: String,
    pub then: Action,
}

/// A copy that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableCopy {
    pub key: ObjectKey,
    pub replica: ReplicaName,
    pub why: String,
}

/// The findings that are listed one by one.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub found: Vec<Finding>,
    /// How many more there are.
    pub found_more: u64,
    pub unread: Vec<UnreadableCopy>,
    pub unread_more: u64,
    /// Objects of which no good copy is left.
    pub lost: Vec<ObjectKey>,
    pub lost_more: u64,
}

impl Findings {
    pub(super) fn sort(&mut self) {
        self.found.sort_by(|a, b| (&a.key, &a.replica).cmp(&(&b.key, &b.replica)));
        self.unread.sort_by(|a, b| (&a.key, &a.replica).cmp(&(&b.key, &b.replica)));
        self.lost.sort();
    }

    pub(super) fn found(&mut self, finding: Finding) {
        push(&mut self.found, &mut self.found_more, finding);
    }

    pub(super) fn unread(&mut self, unread: UnreadableCopy) {
        push(&mut self.unread, &mut self.unread_more, unread);
    }

    pub(super) fn lost(&mut self, key: ObjectKey) {
        push(&mut self.lost, &mut self.lost_more, key);
    }
}

fn push<T>(listed: &mut Vec<T>, more: &mut u64, one: T) {
    if listed.len() < LISTED {
        listed.push(one);
    } else {
        *more += 1;
    }
}
