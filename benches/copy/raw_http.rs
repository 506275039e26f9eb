use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::bail;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::{
    Method, Request, Uri,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One persistent HTTP connection to a store, for presigned URLs.
pub(super) struct RawConnection {
    requests: SendRequest<Frames>,
    host: String,
}

/// A body in the frames in which it was received.
#[derive(Debug, Default, Clone)]
pub(super) struct Frames {
    frames: VecDeque<Bytes>,
    bytes: u64,
}

impl RawConnection {
    pub(super) async fn connect(store: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(store).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; the request under way reports what broke it.
        tokio::spawn(connection);
        Ok(Self { requests, host: store.to_string() })
    }

    /// Passes each frame of the object, or of a range of it, to `take` as it arrives.
    pub(super) async fn get(
        &mut self,
        url: &Uri,
        range: Option<Range<u64>>,
        mut take: impl FnMut(Bytes),
    ) -> anyhow::Result<()> {
        let mut request = Request::builder().method(Method::GET).uri(path(url)).header(header::HOST, &self.host);
        if let Some(range) = range {
            request = request.header(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        let mut body = self.send(request.body(Frames::default())?).await?;
        while let Some(frame) = next(&mut body).await {
            take(frame?);
        }
        Ok(())
    }

    /// Stores a body; `md5` is its MD5 in base64, if known.
    pub(super) async fn put(&mut self, url: &Uri, body: Frames, md5: Option<&str>) -> anyhow::Result<()> {
        let mut request = Request::builder().method(Method::PUT).uri(path(url)).header(header::HOST, &self.host);
        if let Some(md5) = md5 {
            request = request.header("content-md5", md5);
        }
        let mut answer = self.send(request.body(body)?).await?;
        while let Some(frame) = next(&mut answer).await {
            frame?;
        }
        Ok(())
    }

    async fn send(&mut self, request: Request<Frames>) -> anyhow::Result<Incoming> {
        self.requests.ready().await?;
        let answer = self.requests.send_request(request).await?;
        let (head, mut body) = answer.into_parts();
        if !head.status.is_success() {
            let mut said = Vec::new();
            while let Some(Ok(frame)) = next(&mut body).await {
                said.extend_from_slice(&frame);
            }
            bail!("{}: {}", head.status, String::from_utf8_lossy(&said));
        }
        Ok(body)
    }
}

/// Returns the target of the request line.
fn path(url: &Uri) -> Uri {
    // Cannot fail: a URL of an object has a path.
    Uri::from(url.path_and_query().expect("a path").clone())
}

async fn next(body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

impl Frames {
    pub(super) fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len() as u64;
        self.frames.push_back(frame);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.frames.iter()
    }
}

impl From<Bytes> for Frames {
    fn from(whole: Bytes) -> Self {
        Self::from_iter([whole])
    }
}

impl FromIterator<Bytes> for Frames {
    fn from_iter<T: IntoIterator<Item = Bytes>>(frames: T) -> Self {
        let mut all = Self::default();
        frames.into_iter().for_each(|frame| all.push(frame));
        all
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.frames.pop_front();
        self.bytes -= frame.as_ref().map_or(0, |frame| frame.len() as u64);
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}
