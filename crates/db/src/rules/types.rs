//! The scope and the results of applying the rules.

use copyhold_core::domain::{ObjectKey, ReplicaName};

use super::PartSizes;
use crate::handle::Database;

/// Figures per replica in the answer.
pub(super) const FIGURES: usize = 8;

/// Objects of one statement. Most of them are only read.
pub(super) const PAGE: usize = 2_000;

/// The objects of a page.
#[derive(Debug, Clone, Copy)]
pub(super) enum ObjectSelection<'a> {
    /// The next ones after this key, in the order of keys.
    After(Option<&'a ObjectKey>),
    /// Objects whose rows were locked before.
    These(&'a [ObjectKey]),
}

/// How a page stores the walk's position.
#[derive(Debug, Clone, Copy)]
pub(super) enum WalkPosition<'a> {
    /// It stores none: the walk does not cover everything, or is a dry run.
    Unkept,
    /// It expects this position, and moves it on, up to the first object that was locked.
    MovedFrom(Option<&'a ObjectKey>),
    /// It leaves the position, because of an earlier object that was locked.
    Stays,
}

/// The changes at one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaChanges {
    /// Copies that become wanted and have to be made, and their bytes as far as they are known.
    pub wanted: u64,
    pub wanted_bytes: u64,
    /// Requests for making them, at their source and at the replica.
    pub gets: u64,
    pub puts: u64,
    /// Copies that become wanted and are recorded already.
    pub wanted_there: u64,
    /// Copies that had to be made, and no longer have to.
    pub unwanted: u64,
    pub unwanted_bytes: u64,
    /// Recorded copies that are no longer wanted. They stay.
    pub unwanted_there: u64,
}

/// The result for some objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleChanges {
    pub looked: u64,
    /// Of these, how many no rule fits: they stay as they are.
    pub undecided: u64,
    /// By replica, in the order of [`Database::replicas`].
    pub changes: Vec<ReplicaChanges>,
}

/// The result of a page.
#[derive(Debug)]
pub(super) enum RulesPage {
    Done {
        judged: RuleChanges,
        /// `None`: there were no more objects.
        last: Option<ObjectKey>,
        /// The stored position after the page.
        through: Option<ObjectKey>,
        skipped: Vec<ObjectKey>,
    },
    /// The rules or the position have changed, or another transaction has locked them.
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

/// What a walk may change.
#[derive(Debug, Clone)]
pub struct ApplyScope {
    /// Replicas at which copies may become wanted.
    pub(super) adding: Vec<ReplicaName>,
    /// Replicas at which copies may become unwanted.
    pub(super) dropping: Vec<ReplicaName>,
    /// It covers all objects and replicas, so a later run can resume where it ended.
    pub(super) whole: bool,
    /// At its end the rules are applied to all objects.
    pub(super) settles: bool,
    pub(super) dry_run: bool,
    pub(super) sizes: PartSizes,
}

impl ApplyScope {
    /// All replicas, in both directions.
    #[must_use]
    pub fn everything(database: &Database, sizes: PartSizes) -> Self {
        let all = database.replicas().to_vec();
        Self { adding: all.clone(), dropping: all, whole: true, settles: true, dry_run: false, sizes }
    }

    /// Only adds copies, at new replicas. `settles`: the rules are applied to everything else.
    #[must_use]
    pub fn filling(replicas: &[ReplicaName], settles: bool, sizes: PartSizes) -> Self {
        Self { adding: replicas.to_vec(), dropping: Vec::new(), whole: false, settles, dry_run: false, sizes }
    }

    /// With `dry_run`, it writes nothing.
    #[must_use]
    pub fn dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }
}
