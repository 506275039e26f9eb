//! What is judged by the rules, and what comes of it.

use copyhold_core::domain::{ObjectKey, ReplicaName};

use super::PartSizes;
use crate::handle::Database;

/// Of each replica, in the answer.
pub(super) const FIGURES: usize = 8;

/// Objects of one statement. Most of them are only looked at.
pub(super) const PAGE: usize = 2_000;

/// Which objects are judged.
#[derive(Debug, Clone, Copy)]
pub(super) enum ObjectSelection<'a> {
    /// The next ones after this key, in the order of keys.
    After(Option<&'a ObjectKey>),
    /// Those that somebody held when they were to be written.
    These(&'a [ObjectKey]),
}

/// What a page writes of how far the walk has come.
#[derive(Debug, Clone, Copy)]
pub(super) enum WalkPosition<'a> {
    /// Nothing: it is not the whole judgement, or it only looks.
    Unkept,
    /// It must still stand there, and is moved on, up to the first object that could not be written.
    MovedFrom(Option<&'a ObjectKey>),
    /// It stays, because of an object before that could not be written.
    Stays,
}

/// What changes at one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaChanges {
    /// Copies that become wanted and are to be made, and their bytes as far as they are known.
    pub wanted: u64,
    pub wanted_bytes: u64,
    /// Requests that making them takes, at their source and at the replica.
    pub gets: u64,
    pub puts: u64,
    /// Copies that become wanted and are on record already.
    pub wanted_there: u64,
    /// Copies that were to be made, and are not any more.
    pub unwanted: u64,
    pub unwanted_bytes: u64,
    /// Copies on record that are no longer wanted. They stay.
    pub unwanted_there: u64,
}

/// What came of some objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleChanges {
    pub looked: u64,
    /// Of these, how many no rule fits: they stay as they are.
    pub undecided: u64,
    /// By replica, in the queue's order.
    pub changes: Vec<ReplicaChanges>,
}

/// What came of a page.
#[derive(Debug)]
pub(super) enum RulesPage {
    Done {
        judged: RuleChanges,
        /// `None`: there was nothing more.
        last: Option<ObjectKey>,
        /// What the place is now.
        through: Option<ObjectKey>,
        skipped: Vec<ObjectKey>,
    },
    /// The rules, or the place, are others by now, or somebody is about to change them.
    Elsewhere,
}

impl RuleChanges {
    pub(super) fn add(&mut self, other: &Self) {
        self.looked += other.looked;
        self.undecided += other.undecided;
        self.changes.resize(self.changes.len().max(other.changes.len()), ReplicaChanges::default());
        for (sum, one) in self.changes.iter_mut().zip(&other.changes) {
            let ReplicaChanges {
                wanted,
                wanted_bytes,
                gets,
                puts,
                wanted_there,
                unwanted,
                unwanted_bytes,
                unwanted_there,
            } = one;
            sum.wanted += wanted;
            sum.wanted_bytes += wanted_bytes;
            sum.gets += gets;
            sum.puts += puts;
            sum.wanted_there += wanted_there;
            sum.unwanted += unwanted;
            sum.unwanted_bytes += unwanted_bytes;
            sum.unwanted_there += unwanted_there;
        }
    }
}

/// What may become of the objects that are judged.
#[derive(Debug, Clone)]
pub struct ApplyScope {
    /// Replicas at which copies may become wanted.
    pub(super) adding: Vec<ReplicaName>,
    /// And those at which they may become unwanted.
    pub(super) dropping: Vec<ReplicaName>,
    /// It judges all there is, so that whoever comes after it can go on where it ended.
    pub(super) whole: bool,
    /// When it has come to its end, all objects are judged.
    pub(super) settles: bool,
    pub(super) dry_run: bool,
    pub(super) sizes: PartSizes,
}

impl ApplyScope {
    /// All replicas, both ways.
    #[must_use]
    pub fn everything(queue: &Database, sizes: PartSizes) -> Self {
        let all = queue.replicas().to_vec();
        Self { adding: all.clone(), dropping: all, whole: true, settles: true, dry_run: false, sizes }
    }

    /// Only adds, at replicas that have just come. `settles`: nothing else is to be judged.
    #[must_use]
    pub fn filling(replicas: &[ReplicaName], settles: bool, sizes: PartSizes) -> Self {
        Self { adding: replicas.to_vec(), dropping: Vec::new(), whole: false, settles, dry_run: false, sizes }
    }

    /// Only looks.
    #[must_use]
    pub fn dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }
}
