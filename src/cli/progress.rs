//! A progress bar on stderr, for all commands that walk over objects.

use std::time::Duration;

use copyhold_core::domain::visible_line;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const EVERY: Duration = Duration::from_millis(200);

/// What is done so far, on stderr if that is a terminal.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// `total`: about how many there are, if that is known; `of`: what they are called.
    pub(super) fn new(total: Option<u64>, of: &str) -> Self {
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                format!("  {{bar:32.cyan/dim}} {{pos}} / {{len}} {of}, {{eta}} to go  {{wide_msg}}"),
            ),
            None => (ProgressBar::new_spinner(), format!("  {{spinner}} {{pos}} {of} in {{elapsed}}  {{wide_msg}}")),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        // Cannot fail: the templates are above.
        let style = ProgressStyle::with_template(&template).expect("a well-formed template");
        bar.set_style(style.progress_chars("\u{2501}\u{2578}\u{2500}"));
        Self(bar)
    }

    /// Stderr is no terminal.
    pub(super) fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }

    /// When it is to be shown again; never, if it is hidden.
    pub(super) async fn due(&self) {
        if self.is_hidden() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(EVERY).await;
    }

    pub(super) fn show(&self, done: u64, message: &str) {
        // It was an estimate, or there are more by now.
        if self.0.length().is_some_and(|total| total < done) {
            self.0.set_length(done);
        }
        self.0.set_position(done);
        self.0.set_message(visible_line(message).into_owned());
        self.0.tick();
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
