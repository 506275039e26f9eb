//! What would be missing if a replica were the primary now.

use std::fmt::Write as _;

use copyhold_core::domain::ReplicaName;
use copyhold_db::{Database, DatabaseError, lease::UnsettledState, stats::MissingCopies, walk::Holdings};

use super::{super::replica::walk, output};

/// What would be missing, or late, if a replica were the primary now.
pub(super) struct Readiness {
    missing: MissingCopies,
    /// How many of these a daemon holds, or were registered within the last minute.
    lately: i64,
    /// The failure classes of the parked ones, each with its count.
    classes: Vec<(String, i64)>,
    holdings: Holdings,
    /// Copies there that a late write may still replace, and until when at most.
    unsettled: UnsettledState,
    /// µs since the epoch, by the database's clock.
    now: i64,
}

impl Readiness {
    pub(super) async fn of(
        database: &Database,
        replica: &ReplicaName,
        others: &[ReplicaName],
    ) -> Result<Self, DatabaseError> {
        let holdings = walk::holdings(database, replica, others).await?;
        let missing = database.missing_at(std::slice::from_ref(replica)).await?.into_iter().next().unwrap_or_default();
        Ok(Self {
            missing,
            lately: database.recently_missing(replica).await?,
            // They only explain. Counting millions takes too long, and must not prevent a promotion.
            classes: database.parked_classes(replica).await.unwrap_or_default(),
            holdings,
            unsettled: database.unsettled_at(replica).await?,
            now: database.database_now().await?,
        })
    }

    /// Returns whether nothing would be missing, and no late write may arrive.
    pub(super) fn is_whole(&self) -> bool {
        self.missing.objects == 0 && self.holdings.unwanted == 0 && self.unsettled.is_settled()
    }

    pub(super) fn text(&self, replica: &ReplicaName, primary: &ReplicaName) -> String {
        let Self { missing, lately, classes, holdings, unsettled, now } = self;
        let count = |n: i64| output::count(n.unsigned_abs(), "object", "objects");
        let mut text = format!(
            "if {replica} were the primary now, in place of {primary}, of {} it would have {}\n",
            count(holdings.objects),
            holdings.recorded
        );
        // Cannot fail: a String takes all that is written to it.
        let mut line = |what: &str, says: String| {
            let _ = writeln!(text, "  {what:<11} {says}");
        };
        if missing.objects == 0 {
            line("missing", "nothing that is wanted there".into());
        } else {
            let bytes = bytes(missing.bytes, missing.objects_of_unknown_size);
            #[expect(clippy::cast_precision_loss, reason = "to be read by people, in seconds")]
            let oldest = missing.oldest_at.map(|at| (now - at) as f64 / 1e6);
            line(
                "missing",
                format!("{}, {bytes}, the oldest registered {} ago", count(missing.objects), output::age(oldest)),
            );
            let due = missing.objects - missing.in_flight - missing.waiting - missing.parked;
            let by_class = classes.iter().map(|(class, n)| format!("{} {n}", output::Untrusted(class)));
            let by_class = by_class.collect::<Vec<_>>().join(", ");
            let by_class = if by_class.is_empty() { by_class } else { format!(" ({by_class})") };
            line(
                "",
                format!(
                    "due {due}, in flight {}, waiting for another attempt {}, parked {}{by_class}",
                    missing.in_flight, missing.waiting, missing.parked
                ),
            );
            line("", format!("{lately} of them leased by a daemon or registered within the last minute"));
        }
        if holdings.unwanted > 0 {
            let bytes = bytes(holdings.unwanted_bytes, holdings.unwanted_of_unknown_size);
            line(
                "not wanted",
                format!("{}, {bytes}, which are not to be there, and would be missing", count(holdings.unwanted)),
            );
        }
        let settled_in = output::age(Some(unsettled.settled_in.as_secs_f64()));
        if unsettled.after_crash {
            line(
                "unsettled",
                format!(
                    "PostgreSQL has crashed lately, and a write of an unknown holder may be under way; for {settled_in} at most"
                ),
            );
        }
        if unsettled.copies > 0 {
            line(
                "unsettled",
                format!(
                    "{}, under which a write may still arrive whose end was not seen; all are settled in {settled_in}",
                    output::count(unsettled.copies.unsigned_abs(), "copy", "copies")
                ),
            );
        }
        if let Some(example) = &holdings.alone_example {
            line(
                "only there",
                format!("{}, \"{example}\" for one, of which there is no other copy", count(holdings.alone)),
            );
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// `47 MiB`, and how many objects are of unknown size.
fn bytes(bytes: i64, of_unknown_size: i64) -> String {
    let known = output::bytes(bytes);
    if of_unknown_size == 0 { known } else { format!("{known} and {of_unknown_size} of unknown size") }
}
