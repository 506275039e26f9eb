//! The report of `retry` and `park`.

use std::collections::BTreeSet;

use copyhold_core::domain::{ObjectKey, ReplicaName};
use copyhold_db::object::Rescheduled;

use super::{Verdict, output, output::some_keys};

/// What was done at all replicas.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    changed: Vec<(ReplicaName, u64)>,
    busy: BTreeSet<ObjectKey>,
    known: BTreeSet<ObjectKey>,
}

impl Outcome {
    pub(super) fn add(&mut self, replica: ReplicaName, turned: Rescheduled) {
        self.changed.push((replica, turned.changed));
        self.busy.extend(turned.busy);
        self.known.extend(turned.known);
    }

    pub(super) fn copies(&self) -> u64 {
        self.changed.iter().map(|(_, copies)| copies).sum()
    }

    pub(super) fn touched(&self, replica: &ReplicaName) -> bool {
        self.changed.iter().any(|(name, copies)| name == replica && *copies > 0)
    }

    /// `3 copies are due now (scw 2, wasabi 1)`, or `none`
    pub(super) fn headline(&self, done: &str, none: &str) -> String {
        if self.copies() == 0 {
            return none.to_owned();
        }
        let each = self.changed.iter().filter(|(_, copies)| *copies > 0);
        let each: Vec<_> = each.map(|(replica, copies)| format!("{replica} {copies}")).collect();
        let are = if self.copies() == 1 { "copy is" } else { "copies are" };
        format!("{} {are} {done} ({})", self.copies(), each.join(", "))
    }

    /// The rows that were skipped, and of `asked` keys those that are not registered.
    pub(super) fn report_skipped(&self, asked: Option<&[ObjectKey]>) -> anyhow::Result<Verdict> {
        let busy: Vec<_> = self.busy.iter().cloned().collect();
        let unknown: Vec<_> =
            asked.unwrap_or_default().iter().filter(|key| !self.known.contains(key)).cloned().collect();
        if !busy.is_empty() {
            output::line(&format!(
                "skipped {} that a daemon holds at this moment: {}; try again",
                output::count(busy.len() as u64, "object", "objects"),
                some_keys(&busy)
            ))?;
        }
        if !unknown.is_empty() {
            output::line(&format!("not registered: {} (`copyhold enqueue` registers)", some_keys(&unknown)))?;
        }
        Ok(if busy.is_empty() && unknown.is_empty() { Verdict::Good } else { Verdict::Bad })
    }
}
