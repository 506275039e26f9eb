//! The body of a request: lent to the S3 library for reading, and taken back with the bytes that it leaves unread.
//!
//! The rest must be read before the answer is sent: closing a connection with unread bytes resets it, and the answer
//! might be lost.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

/// Reads the rest of an upload and drops it.
pub(super) async fn drain(body: Incoming) {
    read_some(body, u64::MAX).await;
}

/// Reads at least this many bytes, if there are, and drops the body.
pub(super) async fn read_some(mut body: Incoming, bytes: u64) {
    let mut read = 0;
    while read < bytes
        && let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    {
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}

/// Returns the body for the S3 library, and the receiver that gets it back if anything is left. Calls `read` with the
/// size of each frame.
pub(super) fn lend(
    body: Incoming,
    bytes_per_second: Option<u64>,
    read: impl Fn(usize) + Send + Sync + 'static,
) -> (s3s::Body, Option<oneshot::Receiver<Incoming>>) {
    if body.is_end_stream() {
        return (s3s::Body::empty(), None);
    }
    let (back, leftover) = oneshot::channel();
    let pace = bytes_per_second.map(|rate| Throttle { rate: rate.max(1), next: Box::pin(sleep_until(Instant::now())) });
    (s3s::Body::http_body(LentBody { body: Some(body), back: Some(back), pace, read }), Some(leftover))
}

struct LentBody<F> {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
    pace: Option<Throttle>,
    read: F,
}

// Nothing in it is ever pinned.
impl<F> Unpin for LentBody<F> {}

/// Limits the bytes that are read per second.
struct Throttle {
    rate: u64,
    next: Pin<Box<Sleep>>,
}

impl Throttle {
    fn spend(&mut self, bytes: usize) {
        let time = Duration::from_secs(bytes as u64) / u32::try_from(self.rate).unwrap_or(u32::MAX);
        self.next.as_mut().reset(Instant::now() + time);
    }
}

impl<F> LentBody<F> {
    fn body(&self) -> &Incoming {
        // Cannot fail: only `drop` takes it.
        self.body.as_ref().expect("lent until dropped")
    }
}

impl<F> Drop for LentBody<F> {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            let _ = back.send(body); // fails only if the call was given up
        }
    }
}

impl<F: Fn(usize)> Body for LentBody<F> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some(pace) = &mut this.pace {
            ready!(pace.next.as_mut().poll(cx));
        }
        let body = this.body.as_mut().expect("lent until dropped");
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            (this.read)(bytes);
            if let Some(pace) = &mut this.pace {
                pace.spend(bytes);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}
