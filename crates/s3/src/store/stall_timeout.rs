//! Time limits on progress instead of duration: a call may take as long as bytes move.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::activity::{Activity, STUCK_AFTER};

/// Bytes passed to the connection at once: small compared to what a slow line moves in the idle time, large compared to
/// the cost of a call.
const FRAME_BYTES: usize = 128 * 1024;

/// The bytes of a request that its connection has taken so far.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bytes: Arc<AtomicU64>,
    /// The activity of the copy that the request belongs to.
    activity: Option<Activity>,
}

impl Default for Progress {
    /// Makes the progress of a request of the copy that the running task works on.
    fn default() -> Self {
        Self { bytes: Arc::default(), activity: Activity::current() }
    }
}

impl Progress {
    pub(super) fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(activity) = &self.activity {
            activity.moved();
        }
    }

    pub(super) fn so_far(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn activity(&self) -> Option<&Activity> {
        self.activity.as_ref()
    }
}

/// No byte moved during the idle time.
#[derive(Debug)]
pub(super) struct Stalled;

/// Waits for `call` while `progress` continues. Gives up soon after an idle time without a byte. Calls `stuck` before
/// that, whenever nothing has moved for [`STUCK_AFTER`].
pub(super) async fn watched<T>(
    call: impl Future<Output = T>,
    progress: &Progress,
    idle: Duration,
    mut stuck: impl FnMut(),
) -> Result<T, Stalled> {
    let mut call = std::pin::pin!(call);
    let (step, mut still) = (idle.min(STUCK_AFTER), Duration::ZERO);
    loop {
        let before = progress.so_far();
        match tokio::time::timeout(step, &mut call).await {
            Ok(answer) => return Ok(answer),
            Err(_) if progress.so_far() != before => still = Duration::ZERO,
            Err(_) => {
                still += step;
                if still >= idle {
                    return Err(Stalled);
                }
                stuck();
            }
        }
    }
}

/// Lends `bytes` as a request body that counts what the connection takes, and that the SDK can send again; until the
/// loan is dropped.
///
/// A single `Bytes` would be taken at once, whatever the line does with it. And a request that is given up while its
/// store hangs stays with its connection, because hyper 1.12 does not close one before it has written its buffer
/// (`Buffered::poll_shutdown`): it would keep the memory of a whole part as long. So the connection gets copies of
/// small pieces, which costs a twentieth of hashing them, and the bytes are freed with the loan.
pub(super) fn lent(bytes: &Bytes, progress: &Progress) -> (ByteStream, LentBody) {
    let lent = LentBody(Arc::new(Mutex::new(Some(bytes.clone()))));
    let (source, progress, length) = (Arc::clone(&lent.0), progress.clone(), bytes.len());
    let body = ByteStream::new(SdkBody::retryable(move || {
        let (source, progress) = (Arc::clone(&source), progress.clone());
        SdkBody::from_body_1_x(CountedBody { source, at: 0, length, progress })
    }));
    (body, lent)
}

/// Ends the loan when dropped.
#[derive(Debug)]
pub(super) struct LentBody(Arc<Mutex<Option<Bytes>>>);

impl Drop for LentBody {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

struct CountedBody {
    source: Arc<Mutex<Option<Bytes>>>,
    at: usize,
    length: usize,
    progress: Progress,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let (from, to) = (self.at, self.length.min(self.at + FRAME_BYTES));
        if from == to {
            return Poll::Ready(None);
        }
        let frame = {
            let lent = self.source.lock().unwrap_or_else(PoisonError::into_inner);
            lent.as_ref().map(|bytes| Bytes::copy_from_slice(&bytes[from..to]))
        };
        // The request was given up.
        let Some(frame) = frame else { return Poll::Ready(Some(Err(io::ErrorKind::Interrupted.into()))) };
        self.at = to;
        self.progress.moved(frame.len());
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.length - self.at) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_call_that_moves_nothing_is_given_up() {
        let (begun, mut times) = (tokio::time::Instant::now(), 0);
        let answer = watched(std::future::pending::<()>(), &Progress::default(), IDLE, || times += 1).await;
        assert!(matches!(answer, Err(Stalled)));
        assert_eq!((begun.elapsed(), times), (IDLE, 11), "and the slot is offered to other requests");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_call_may_take_as_long_as_it_moves() {
        let progress = Progress::default();
        let slow = async {
            for _ in 0..100 {
                tokio::time::sleep(IDLE / 2).await;
                progress.moved(1);
            }
        };
        assert!(watched(slow, &progress, IDLE, || ()).await.is_ok());
    }

    #[tokio::test]
    async fn a_counted_body_is_the_bytes_in_frames_and_can_be_sent_again() {
        let progress = Progress::default();
        let bytes = Bytes::from(vec![7; 3 * FRAME_BYTES + 1]);
        let (body, _loan) = lent(&bytes, &progress);
        let body = body.into_inner();
        let again = body.try_clone().expect("retryable");
        assert_eq!(body.content_length(), Some(bytes.len() as u64));
        let mut body = ByteStream::new(body);
        assert_eq!(body.next().await.unwrap().unwrap().len(), FRAME_BYTES);
        assert_eq!(progress.so_far(), FRAME_BYTES as u64);
        assert_eq!(ByteStream::new(again).collect().await.unwrap().into_bytes(), bytes);
    }
}
