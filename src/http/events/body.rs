//! Streams events to one client, as Server-Sent Events or as lines of JSON.

use std::{collections::VecDeque, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use copyhold_core::domain::Cursor;
use futures::stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::connections::ReadProgress;
use crate::events::{Batch, Next, Reader};

/// How events are written.
pub(super) trait Framing: Send + 'static {
    const MEDIA: HeaderValue;
    /// What keeps proxies and clients from taking a quiet connection for a dead one.
    const QUIET: &'static [u8];
    fn opening(&self) -> Bytes;
    fn batch(&self, batch: &Batch) -> Vec<Bytes>;
    fn bookmark(&self, cursor: Cursor) -> Bytes;
    /// There is no more for the moment.
    fn caught_up(&self, cursor: Cursor) -> Bytes;
}

pub(super) struct Sse;
pub(super) struct Lines;

impl Framing for Sse {
    const MEDIA: HeaderValue = HeaderValue::from_static("text/event-stream");
    const QUIET: &'static [u8] = b":\n\n";

    /// Not all come back in the same moment when a daemon ends.
    fn opening(&self) -> Bytes {
        format!("retry: {}\n\n", rand::random_range(1000..=5000)).into()
    }

    fn batch(&self, batch: &Batch) -> Vec<Bytes> {
        batch.sse()
    }

    fn bookmark(&self, cursor: Cursor) -> Bytes {
        format!("id: {cursor}\nevent: bookmark\ndata: {{}}\n\n").into()
    }

    fn caught_up(&self, cursor: Cursor) -> Bytes {
        self.bookmark(cursor)
    }
}

impl Framing for Lines {
    const MEDIA: HeaderValue = HeaderValue::from_static("application/x-ndjson");
    const QUIET: &'static [u8] = b"\n";

    fn opening(&self) -> Bytes {
        Bytes::new()
    }

    fn batch(&self, batch: &Batch) -> Vec<Bytes> {
        batch.lines()
    }

    fn bookmark(&self, cursor: Cursor) -> Bytes {
        format!("{{\"bookmark\":\"{cursor}\"}}\n").into()
    }

    fn caught_up(&self, cursor: Cursor) -> Bytes {
        format!("{{\"bookmark\":\"{cursor}\",\"caught_up\":true}}\n").into()
    }
}

/// Sends all that `reader` finds until `drain`, or until it cannot continue: the client gets the reason when it comes
/// back. With a time, until nothing more is there when it is over.
pub(super) fn stream<F: Framing>(
    reader: Reader,
    framing: F,
    wait: Option<Duration>,
    progress: ReadProgress,
    drain: CancellationToken,
) -> Response {
    let opening = Some(framing.opening()).filter(|opening| !opening.is_empty());
    let end = wait.map_or(StreamEnd::Never, |wait| StreamEnd::At(Instant::now() + wait));
    let begin = EventStream { reader, framing, end, progress, drain, left: opening.into_iter().collect() };
    let frames = stream::unfold(begin, async |mut stream| {
        let frame = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(frame), stream))
    });
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(header::CONTENT_TYPE, F::MEDIA);
    response
}

struct EventStream<F> {
    reader: Reader,
    framing: F,
    end: StreamEnd,
    progress: ReadProgress,
    drain: CancellationToken,
    /// Of the batch at hand.
    left: VecDeque<Bytes>,
}

enum StreamEnd {
    Never,
    /// When there is nothing more.
    At(Instant),
    /// Everything is sent.
    Now,
}

impl<F: Framing> EventStream<F> {
    /// Called when the connection has room for more.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(frame) = self.left.pop_front() {
            return Some(frame);
        }
        self.progress.batch_requested();
        let next = match self.end {
            StreamEnd::Never => tokio::select! {
                next = self.reader.next() => Some(next),
                () = self.drain.cancelled() => return None,
            },
            StreamEnd::At(deadline) => tokio::select! {
                next = self.reader.next_until(deadline) => next,
                () = self.drain.cancelled() => return None,
            },
            StreamEnd::Now => return None,
        };
        self.progress.batch_sent();
        let Some(next) = next else {
            self.end = StreamEnd::Now;
            return self.reader.cursor().map(|cursor| self.framing.caught_up(cursor));
        };
        match next {
            Next::Events(batch) => {
                self.left = self.framing.batch(&batch).into();
                self.left.pop_front()
            }
            Next::Quiet => Some(Bytes::from_static(F::QUIET)),
            Next::Bookmark(cursor) => Some(self.framing.bookmark(cursor)),
            Next::End(_) => None,
        }
    }
}
