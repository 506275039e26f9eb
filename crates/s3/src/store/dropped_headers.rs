//! Reads the heads of answers on a connection, to find the header lines that hyper drops.
//!
//! HTTP does not allow every byte in a header. hyper can drop such lines, so that an unneeded one does no harm, but
//! does not report which. Metadata must not be lost that way.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

/// A longer head is refused by hyper.
const MOST: usize = 512 << 10;
/// The most bytes of one read while a head is expected. Bytes after the head pass unchanged.
const AT_ONCE: usize = 4 << 10;

/// A connection that records the heads of its answers.
#[derive(Debug)]
pub(super) struct HeadRecorder<S> {
    inner: S,
    /// The bytes of a head so far; `None`: none is expected.
    head: Option<Vec<u8>>,
    left_out: DroppedHeaders,
}

/// The names of the lines that were left out of the last head.
#[derive(Clone, Debug, Default)]
pub(super) struct DroppedHeaders(Arc<Mutex<Vec<String>>>);

impl DroppedHeaders {
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, names: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }
}

impl<S> HeadRecorder<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, head: None, left_out: DroppedHeaders::default() }
    }

    #[cfg(test)]
    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    /// A request goes out: what comes next is a head.
    fn expect(&mut self, written: usize) {
        if written > 0 {
            self.head.get_or_insert_default().clear();
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let Some(head) = &mut self.head else { return };
        head.extend_from_slice(bytes);
        while let Some(end) = end_of(head) {
            // Before the answer there may be words that it is coming.
            if is_interim(head) {
                head.drain(..end);
                continue;
            }
            self.left_out.set(left_out(&head[..end]));
            self.head = None;
            return;
        }
        if head.len() > MOST {
            self.head = None;
        }
    }
}

/// Returns the position after the first head.
fn end_of(head: &[u8]) -> Option<usize> {
    let of = |end: &[u8]| head.windows(end.len()).position(|window| window == end).map(|at| at + end.len());
    match (of(b"\n\r\n"), of(b"\n\n")) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn is_interim(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.1 1") || head.starts_with(b"HTTP/1.0 1")
}

/// Names, in lower case, of the lines that are no header as HTTP has them.
fn left_out(head: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut before = "";
    for line in head.split(|b| *b == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (name, value) = match line.iter().position(|b| *b == b':') {
            Some(colon) => (&line[..colon], Some(&line[colon + 1..])),
            None => (line, None),
        };
        let readable = std::str::from_utf8(name).unwrap_or_default();
        if line.is_empty() {
        } else if line.starts_with(b" ") || line.starts_with(b"\t") {
            // The rest of the line before.
            names.push(before.to_ascii_lowercase());
        } else if !is_name(name) || !value.is_some_and(is_value) {
            names.push(String::from_utf8_lossy(name).trim().to_ascii_lowercase());
        } else {
            before = readable;
        }
    }
    names
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn is_value(value: &[u8]) -> bool {
    value.iter().all(|b| *b == b'\t' || *b >= b' ' && *b != 0x7f)
}

impl<S: Connection> Connection for HeadRecorder<S> {
    fn connected(&self) -> Connected {
        self.inner.connected().extra(self.left_out.clone())
    }
}

impl<S: Read + Unpin> Read for HeadRecorder<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_none() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let mut room = [MaybeUninit::uninit(); AT_ONCE];
        let most = buffer.remaining().min(AT_ONCE);
        let mut read = ReadBuf::uninit(&mut room[..most]);
        ready!(Pin::new(&mut self.inner).poll_read(cx, read.unfilled()))?;
        buffer.put_slice(read.filled());
        self.hear(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> Write for HeadRecorder<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.expect(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bytes))?;
        self.expect(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the headers that are dropped from these pieces of a stream, which begin after a request.
    fn heard(pieces: &[&[u8]]) -> Vec<String> {
        let mut heard = HeadRecorder::new(());
        heard.expect(1);
        for piece in pieces {
            heard.hear(piece);
        }
        assert!(heard.head.is_none(), "the head has ended");
        heard.left_out.take()
    }

    #[test]
    fn lines_that_http_does_not_allow_are_known_by_their_names() {
        let usual = b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\nx-amz-meta-a: \xff\t~\r\n\r\nbody: \x01\r\n\r\n";
        assert_eq!(heard(&[usual]), Vec::<String>::new());
        for (line, name) in [
            (&b"X-Amz-Meta-A: \x01"[..], "x-amz-meta-a"),
            (b"x-amz-meta-a: a\x7f", "x-amz-meta-a"),
            (b"x-amz-meta-a : b", "x-amz-meta-a"),
            (b"x-amz-meta-\xc3\xbc: b", "x-amz-meta-\u{fc}"),
            (b"x-amz-meta-a: b\r\n c", "x-amz-meta-a"),
            (b"x-amz-meta-a", "x-amz-meta-a"),
        ] {
            let head = [b"HTTP/1.1 200 OK\r\n", line, b"\r\nETag: \"a\"\r\n\r\n"].concat();
            assert_eq!(heard(&[&head]), [name], "{line:?}");
            // However it comes, and whatever was said before.
            let bytes: Vec<_> = head.chunks(1).collect();
            assert_eq!(heard(&bytes), [name]);
            let interim = [b"HTTP/1.1 100 Continue\r\n\r\n".as_slice(), &head].concat();
            assert_eq!(heard(&[&interim]), [name]);
        }
    }

    #[test]
    fn a_head_without_end_is_not_kept() {
        let mut heard = HeadRecorder::new(());
        heard.expect(1);
        for _ in 0..1_000 {
            heard.hear(&[b'a'; 1_000]);
        }
        assert!(heard.head.is_none());
    }
}
