use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    audit::{Audit, Subject, Tally},
    cli::show,
};

const EVERY: Duration = Duration::from_millis(200);

/// What is done so far, on stderr if that is a terminal.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// `total`: about how many objects there are, if that is known.
    pub(super) fn new(total: Option<u64>) -> Self {
        let (bar, template) = match total {
            Some(total) => {
                (ProgressBar::new(total), "  {bar:32.cyan/dim} {pos} / {len} objects, {eta} to go  {wide_msg}")
            }
            None => (ProgressBar::new_spinner(), "  {spinner} {pos} objects in {elapsed}  {wide_msg}"),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        // Cannot fail: the templates stand above.
        let style = ProgressStyle::with_template(template).expect("a well-formed template");
        bar.set_style(style.progress_chars("\u{2501}\u{2578}\u{2500}"));
        Self(bar)
    }

    /// When it is to be shown again; never, if nobody sees it.
    pub(super) async fn due(&self) {
        if self.0.is_hidden() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(EVERY).await;
    }

    pub(super) fn show(&self, audit: &Audit) {
        let tallies: Vec<_> = audit.subjects().iter().map(Subject::tally).collect();
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
        let bytes = show::bytes(i64::try_from(sum(|t| t.bytes_read)).unwrap_or(i64::MAX));
        let bad = [
            (sum(|t| t.missing), "missing"),
            (sum(|t| t.damaged), "damaged"),
            (sum(|t| t.changed), "changed"),
            (sum(|t| t.unreadable), "unreadable"),
        ];
        let bad = bad.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}"));
        let message = [format!("{bytes} read")].into_iter().chain(bad).collect::<Vec<_>>().join(", ");
        let done = audit.objects();
        // It was an estimate, or more were registered since.
        if self.0.length().is_some_and(|total| total < done) {
            self.0.set_length(done);
        }
        self.0.set_position(done);
        self.0.set_message(message);
        self.0.tick();
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
