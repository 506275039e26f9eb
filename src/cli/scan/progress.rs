//! Shows how far a scan has come: a bar on a terminal, lines elsewhere.

use std::time::{Duration, Instant};

use copyhold_core::domain::visible_line;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    cli::{output, output::Untrusted},
    scan::Scan,
};

const EVERY: Duration = Duration::from_millis(200);
/// Where there is no terminal for the bar: a line that stays.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Fewer parts than that say nothing of how long the others take, ...
const PARTS_TO_TELL: usize = 3;

/// What is done so far, on stderr: a bar on a terminal, else a line now and then.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    begun: Instant,
}

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_draw_target(ProgressDrawTarget::stderr());
        // Cannot fail: the template is here.
        let style = ProgressStyle::with_template("  {spinner} {elapsed}  {wide_msg}").expect("a well-formed template");
        bar.set_style(style);
        Self { bar, begun: Instant::now() }
    }

    /// When it is to be shown again.
    pub(super) async fn due(&self) {
        tokio::time::sleep(if self.bar.is_hidden() { LINE_EVERY } else { EVERY }).await;
    }

    pub(super) fn show(&mut self, scan: &Scan) {
        let text = self.text(scan);
        if self.bar.is_hidden() {
            output::aside(&format!("scan: {text}"));
        } else {
            self.bar.set_message(visible_line(&text).into_owned());
            self.bar.tick();
        }
    }

    fn text(&self, scan: &Scan) -> String {
        let shown = scan.progress().shown();
        let seconds = self.begun.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "to be read by people")]
        let rate = shown.now.listed as f64 / seconds.max(0.001);
        let mut text = vec![
            format!("{} listed, {} registered, {rate:.0}/s", shown.counts.listed, shown.counts.registered),
            format!("{} of {} parts", shown.parts_done, shown.parts),
        ];
        if shown.counts.adopted > 0 {
            text.push(format!("{} adopted", shown.counts.adopted));
        }
        // The size of a part is unknown before it is listed: the others are estimated by those that are done.
        let left = shown.parts - shown.parts_done;
        if shown.parts_done_now >= PARTS_TO_TELL && left > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
            let to_go = seconds * left as f64 / shown.parts_done_now as f64;
            text.push(format!("about {} to go", output::age(Some(to_go))));
        }
        for lister in scan.listers() {
            let throttled = lister.notes().throttled;
            if throttled > 0 {
                text.push(format!("{} throttles: asked less often", lister.name()));
            }
        }
        if let Some(what) = &shown.waits_for {
            text.push(format!("waiting for {}", Untrusted(what)));
        }
        text.join(", ")
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
