//! Shows the progress of a demo: bars on a terminal, lines elsewhere.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use copyhold_core::domain::visible_line;
use copyhold_sandbox::demo::{Progress, ProgressDisplay, Summary};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text;
use crate::cli::output;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// The same of a trickle, which may go on for days.
const TRICKLE_LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows a play on stderr, with bars on a terminal and lines elsewhere; the result goes to stdout.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    json: bool,
    begun: Instant,
    /// `None`: no terminal.
    terminal: Option<MultiProgress>,
    shown: Arc<Mutex<ScreenState>>,
}

/// What stands below the lines.
#[derive(Debug)]
enum ScreenState {
    Nothing,
    Copying {
        b2: ProgressBar,
        wasabi: ProgressBar,
        scw: ProgressBar,
        now: ProgressBar,
    },
    Comparing(ProgressBar),
    Trickling(ProgressBar),
    /// No terminal: when the last line of progress was written.
    Lines(Option<Instant>),
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        // Where it draws nothing, it would swallow the lines too.
        let terminal = (!bars.is_hidden()).then_some(bars);
        let shown = if terminal.is_some() { ScreenState::Nothing } else { ScreenState::Lines(None) };
        Self { json, begun: Instant::now(), terminal, shown: Arc::new(Mutex::new(shown)) }
    }

    /// Takes the bars away; the lines stay.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn line(&self, line: &str) {
        match &self.terminal {
            // If that fails, there is nowhere to report it.
            Some(terminal) => drop(terminal.println(visible_line(line))),
            None => output::aside(line),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ScreenState> {
        // A poisoned lock only means that a draw panicked.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProgressDisplay for Screen {
    fn say(&self, what: &str) {
        self.line(&format!("{:>6.1}s  {what}", self.begun.elapsed().as_secs_f64()));
    }

    fn show(&self, progress: &Progress) {
        let mut shown = self.lock();
        let Some(terminal) = &self.terminal else {
            let every = if matches!(progress, Progress::Trickling { .. }) { TRICKLE_LINE_EVERY } else { LINE_EVERY };
            if let ScreenState::Lines(last) = &mut *shown
                && last.is_none_or(|last| last.elapsed() >= every)
            {
                *last = Some(Instant::now());
                self.say(&text::line(progress));
            }
            return;
        };
        if !shown.update(progress) {
            shown.clear();
            *shown = ScreenState::open(terminal, progress);
            shown.update(progress);
        }
    }

    fn sum_up(&self, summary: &Summary) {
        self.clear();
        // A closed stdout is ignored.
        let _ =
            if self.json { output::json(summary) } else { output::line(&text::summary(summary)).map_err(Into::into) };
    }
}

impl ScreenState {
    fn open(terminal: &MultiProgress, progress: &Progress) -> Self {
        match progress {
            Progress::Copying { objects, .. } => {
                let bar = |name: &'static str| {
                    let bar = terminal.add(ProgressBar::new(*objects as u64));
                    bar.set_style(style("  {prefix:<7} {bar:32.cyan/dim} {pos:>6} / {len}"));
                    bar.with_prefix(name)
                };
                let (b2, wasabi, scw) = (bar("b2"), bar("wasabi"), bar("scw"));
                Self::Copying { b2, wasabi, scw, now: message(terminal) }
            }
            Progress::Comparing { of, .. } => {
                let bar = terminal.add(ProgressBar::new(*of as u64));
                bar.set_style(style("  {prefix:<7} {bar:32.green/dim} {pos:>6} / {len} read back"));
                Self::Comparing(bar.with_prefix("compare"))
            }
            Progress::Trickling { .. } => Self::Trickling(message(terminal)),
        }
    }

    /// Whether these bars are the ones for it.
    fn update(&self, progress: &Progress) -> bool {
        match (self, progress) {
            (Self::Copying { b2, wasabi, scw, now }, Progress::Copying { registered, wasabi: w, scw: s, .. }) => {
                b2.set_position(*registered as u64);
                wasabi.set_position(*w as u64);
                scw.set_position(*s as u64);
                now.set_message(text::now(progress));
                true
            }
            (Self::Comparing(bar), Progress::Comparing { done, .. }) => {
                bar.set_position(*done as u64);
                true
            }
            (Self::Trickling(now), Progress::Trickling { .. }) => {
                now.set_message(text::now(progress));
                true
            }
            _ => false,
        }
    }

    fn clear(&mut self) {
        let bars = match self {
            Self::Nothing | Self::Lines(_) => return,
            Self::Copying { b2, wasabi, scw, now } => vec![b2, wasabi, scw, now],
            Self::Comparing(bar) | Self::Trickling(bar) => vec![bar],
        };
        for bar in bars {
            bar.finish_and_clear();
        }
        *self = Self::Nothing;
    }
}

fn message(terminal: &MultiProgress) -> ProgressBar {
    let line = terminal.add(ProgressBar::new_spinner());
    line.set_style(style("  {spinner} {wide_msg}"));
    line.enable_steady_tick(Duration::from_millis(120));
    line
}

fn style(template: &str) -> ProgressStyle {
    // Cannot fail: the templates are above.
    ProgressStyle::with_template(template).expect("a well-formed template").progress_chars("\u{2501}\u{2578}\u{2500}")
}
