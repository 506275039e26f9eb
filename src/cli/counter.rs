use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const EVERY: Duration = Duration::from_millis(200);

/// How many objects a long command has been through, on stderr if that is a terminal.
#[derive(Debug)]
pub(super) struct Counter(ProgressBar);

impl Counter {
    /// `total`: about how many there are; `None`: nobody knows, or it began amid them.
    pub(super) fn new(total: Option<u64>) -> Self {
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "  {bar:32.cyan/dim} {pos} / {len} objects, {per_sec}, {eta} to go  {wide_msg}",
            ),
            None => (ProgressBar::new_spinner(), "  {spinner} {pos} objects in {elapsed}, {per_sec}  {wide_msg}"),
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

    pub(super) fn show(&self, done: u64) {
        // It was an estimate, or more have come since.
        if self.0.length().is_some_and(|total| total < done) {
            self.0.set_length(done);
        }
        self.0.set_position(done);
        self.0.tick();
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
