//! The body of an answer, and the faults that are injected into it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use s3s::StdError;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::call_counts::CallCounts;
use super::connection::{ConnectionFault, End};
use super::operation::Op;

/// How often a throttled body yields bytes.
const DRIPS_PER_SECOND: u64 = 20;

pub(super) struct AnswerBody {
    inner: s3s::Body,
    /// Bytes already read from `inner` and not yet passed on.
    ahead: Bytes,
    /// Bytes passed on.
    sent: u64,
    ill: Option<BodyFault>,
    count: Option<Sent>,
}

/// Counts the bytes that are sent.
pub(super) struct Sent {
    pub call_counts: Arc<CallCounts>,
    pub op: Op,
}

enum BodyFault {
    Flip { at: u64 },
    End { after: u64, end: End, fate: Arc<ConnectionFault> },
    Stall { after: u64, over: Pin<Box<WaitForCancellationFutureOwned>> },
    Drip { each: usize, pause: Pin<Box<Sleep>> },
}

impl AnswerBody {
    pub fn sound(inner: s3s::Body) -> Self {
        Self { inner, ahead: Bytes::new(), sent: 0, ill: None, count: None }
    }

    pub fn flipped(inner: s3s::Body, at: u64) -> Self {
        // Nothing to damage in an empty body.
        let length = inner.size_hint().exact().unwrap_or(0).max(1);
        Self { ill: Some(BodyFault::Flip { at: at % length }), ..Self::sound(inner) }
    }

    pub fn ending(inner: s3s::Body, after: u64, end: End, fate: Arc<ConnectionFault>) -> Self {
        Self { ill: Some(BodyFault::End { after, end, fate }), ..Self::sound(inner) }
    }

    pub fn stalling(inner: s3s::Body, after: u64, until: CancellationToken) -> Self {
        let over = Box::pin(until.cancelled_owned());
        Self { ill: Some(BodyFault::Stall { after, over }), ..Self::sound(inner) }
    }

    pub fn dripping(inner: s3s::Body, bytes_per_second: u64) -> Self {
        let each = usize::try_from(bytes_per_second.div_ceil(DRIPS_PER_SECOND).max(1)).unwrap_or(usize::MAX);
        let pause = Box::pin(sleep_until(Instant::now()));
        Self { ill: Some(BodyFault::Drip { each, pause }), ..Self::sound(inner) }
    }

    pub fn counted(self, count: Option<Sent>) -> Self {
        Self { count, ..self }
    }

    /// Returns the next bytes, at most `most` of them.
    fn poll_some(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Bytes, StdError>>> {
        while self.ahead.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)?) {
                // An S3 answer has no trailers.
                Some(frame) => self.ahead = frame.into_data().unwrap_or_default(),
                None => return Poll::Ready(None),
            }
        }
        let some = self.ahead.split_to(most.min(self.ahead.len()));
        self.sent += some.len() as u64;
        Poll::Ready(Some(Ok(some)))
    }

    /// Returns how many bytes may still be sent before the `after`th.
    fn room(&self, after: u64) -> usize {
        usize::try_from(after.saturating_sub(self.sent)).unwrap_or(usize::MAX)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let frame = ready!(self.as_mut().poll_uncounted(cx));
        if let (Some(Sent { call_counts, op }), Some(Ok(frame))) = (&self.count, &frame) {
            call_counts.sent(*op, frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // A body with a fault must be polled to its end, or it would end without the fault.
        self.ill.is_none() && self.ahead.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let ahead = self.ahead.len() as u64;
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact + ahead);
        } else {
            hint.set_lower(hint.lower() + ahead);
        }
        hint
    }
}

impl AnswerBody {
    fn poll_uncounted(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        let most = match &mut this.ill {
            None if this.ahead.is_empty() => return Pin::new(&mut this.inner).poll_frame(cx),
            None | Some(BodyFault::Flip { .. }) => usize::MAX,
            Some(BodyFault::End { after, end, fate }) => {
                let (after, end) = (*after, *end);
                if after <= this.sent {
                    fate.seal(end);
                    return Poll::Pending; // for ever: the flush that follows ends the connection
                }
                this.room(after)
            }
            Some(BodyFault::Stall { after, over }) => {
                let after = *after;
                if after <= this.sent {
                    ready!(over.as_mut().poll(cx));
                    this.ill = None;
                    usize::MAX
                } else {
                    this.room(after)
                }
            }
            Some(BodyFault::Drip { each, pause }) => {
                ready!(pause.as_mut().poll(cx));
                pause
                    .as_mut()
                    .reset(Instant::now() + Duration::from_secs(1) / u32::try_from(DRIPS_PER_SECOND).unwrap_or(1));
                *each
            }
        };
        let before = this.sent;
        let Some(some) = ready!(this.poll_some(cx, most)?) else { return Poll::Ready(None) };
        let some = match &this.ill {
            Some(BodyFault::Flip { at }) if (before..this.sent).contains(at) => {
                let mut damaged = some.to_vec();
                // Cannot fail: lies within this buffer.
                damaged[usize::try_from(at - before).expect("within a buffer")] ^= 1;
                damaged.into()
            }
            _ => some,
        };
        Poll::Ready(Some(Ok(Frame::data(some))))
    }
}
