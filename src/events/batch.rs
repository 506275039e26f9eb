//! A batch of events as bytes, ready to be sent to one reader.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use copyhold_core::domain::Cursor;

use super::{chunk::Chunk, filter::Filter};

/// Some events, at least one, in order, as bytes to be sent.
pub struct Batch {
    runs: Vec<Run>,
    count: usize,
    last_event: i64,
    last: Cursor,
}

/// Events of one chunk.
struct Run {
    chunk: Arc<Chunk>,
    selection: Selection,
}

enum Selection {
    /// All from this one on.
    From(usize),
    These(Vec<usize>),
}

impl Batch {
    /// Of these chunks, all that is behind `after` and passes; `None`: nothing does.
    pub(super) fn pick(chunks: Vec<Arc<Chunk>>, after: i64, filter: &Filter, last: Cursor) -> Option<Self> {
        let runs: Vec<_> = chunks.into_iter().filter_map(|chunk| Run::pick(chunk, after, filter)).collect();
        let last_event = runs.last()?.last();
        Some(Self { count: runs.iter().map(Run::count).sum(), runs, last_event, last })
    }

    /// How many events.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The position of the reader after these: the last of them, or further if the following ones did not pass.
    #[must_use]
    pub fn last(&self) -> Cursor {
        self.last
    }

    /// The id of the last of them.
    #[must_use]
    pub fn last_event(&self) -> i64 {
        self.last_event
    }

    /// As Server-Sent Events, whose ids are [`Cursor`]s. Not copied, unless a filter left pieces of them.
    #[must_use]
    pub fn sse(&self) -> Vec<Bytes> {
        let mut all = Vec::with_capacity(self.runs.len());
        for Run { chunk, selection } in &self.runs {
            all.push(match selection {
                Selection::From(from) => chunk.frames_from(*from),
                Selection::These(these) => these.iter().flat_map(|&event| chunk.frame(event)).copied().collect(),
            });
        }
        all
    }

    /// One JSON document a line. Copied: a few large pieces are sent faster than thousands of slices.
    #[must_use]
    pub fn lines(&self) -> Vec<Bytes> {
        let gather = |run: &Run| {
            let mut lines = Vec::new();
            run.for_each(|event| lines.extend_from_slice(run.chunk.line(event)));
            Bytes::from(lines)
        };
        self.runs.iter().map(gather).collect()
    }

    /// The events' ids.
    #[must_use]
    pub fn ids(&self) -> Vec<i64> {
        let mut ids = Vec::with_capacity(self.count);
        for run in &self.runs {
            run.for_each(|event| ids.push(run.chunk.id(event)));
        }
        ids
    }
}

impl Run {
    fn pick(chunk: Arc<Chunk>, after: i64, filter: &Filter) -> Option<Self> {
        let (from, end) = (chunk.behind(after), chunk.events());
        let selection = if filter.wants_all() {
            Selection::From(from)
        } else {
            Selection::These((from..end).filter(|&event| chunk.passes(event, filter)).collect())
        };
        let run = Self { chunk, selection };
        (run.count() > 0).then_some(run)
    }

    fn count(&self) -> usize {
        match &self.selection {
            Selection::From(from) => self.chunk.events() - from,
            Selection::These(these) => these.len(),
        }
    }

    fn last(&self) -> i64 {
        match &self.selection {
            Selection::From(_) => self.chunk.last(),
            // Cannot fail: no run is empty.
            Selection::These(these) => self.chunk.id(*these.last().expect("an event")),
        }
    }

    fn for_each(&self, visit: impl FnMut(usize)) {
        match &self.selection {
            Selection::From(from) => (*from..self.chunk.events()).for_each(visit),
            Selection::These(these) => these.iter().copied().for_each(visit),
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} events, up to {})", self.count, self.last)
    }
}
