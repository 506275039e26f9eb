//! A request body whose bytes arrive while it is sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::stall_timeout::Progress;

/// The most pieces that wait to be sent.
const WAITING: usize = 2;

/// Sends the bytes of one request. Dropped before all were sent, it fails the request, so that the store does not take
/// a part for the whole.
pub type BodySender = mpsc::Sender<Bytes>;

/// The bytes of one request, exactly as many as were announced.
#[derive(Debug)]
pub struct StreamingBody {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
}

impl StreamingBody {
    #[must_use]
    pub fn new(bytes: u64) -> (BodySender, Self) {
        let (feeder, pieces) = mpsc::channel(WAITING);
        (feeder, Self { pieces, left: bytes })
    }

    pub(super) fn len(&self) -> u64 {
        self.left
    }

    /// Returns an SDK body that counts what the connection takes. It cannot be sent twice.
    pub(super) fn into_body(self, progress: &Progress) -> ByteStream {
        ByteStream::new(SdkBody::from_body_1_x(CountedBody { feed: self, progress: progress.clone() }))
    }
}

struct CountedBody {
    feed: StreamingBody,
    progress: Progress,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.feed.left == 0 {
            return Poll::Ready(None);
        }
        let Some(piece) = ready!(self.feed.pieces.poll_recv(cx)) else {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        };
        let Some(left) = self.feed.left.checked_sub(piece.len() as u64) else {
            return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into())));
        };
        self.feed.left = left;
        self.progress.moved(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.feed.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.feed.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(bytes: u64, pieces: &[&'static [u8]]) -> Option<Bytes> {
        let (feeder, feed) = StreamingBody::new(bytes);
        let body = feed.into_body(&Progress::default());
        let feeding = async move {
            for piece in pieces {
                // The receiver is gone after an error.
                let _ = feeder.send(Bytes::from_static(piece)).await;
            }
        };
        let (collected, ()) = tokio::join!(body.collect(), feeding);
        collected.ok().map(aws_sdk_s3::primitives::AggregatedBytes::into_bytes)
    }

    #[tokio::test]
    async fn a_body_has_exactly_as_many_bytes_as_were_said_or_fails() {
        assert_eq!(sent(10, &[b"hello", b"world"]).await.unwrap(), "helloworld");
        assert_eq!(sent(10, &[b"hello"]).await, None);
        assert_eq!(sent(9, &[b"hello", b"world"]).await, None);
    }
}
