//! Reads the lines of a response as they arrive.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// A daemon sends something at least every fifteen seconds.
const SILENT_FOR: Duration = Duration::from_secs(50);
/// No event is nearly as long.
const LONGEST: usize = 64 << 20;

/// An answer line by line, as it comes.
pub(super) struct Lines {
    body: Incoming,
    held: Vec<u8>,
    /// So much of what is held has been given out, and so much was searched for a line's end.
    given: usize,
    searched: usize,
    /// The number of the line that comes next, from 1.
    number: u64,
}

impl Lines {
    pub(super) fn of(body: Incoming) -> Self {
        Self { body, held: Vec::new(), given: 0, searched: 0, number: 1 }
    }

    /// The next line without its end; `None` when the daemon has ended the answer.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(length) = self.held[self.searched..].iter().position(|b| *b == b'\n') {
                let end = self.searched + length;
                let number = self.number;
                let line = str::from_utf8(&self.held[self.given..end])
                    .with_context(|| format!("line {number} of the daemon's answer is not UTF-8"))?;
                let line = line.to_owned();
                self.number += 1;
                (self.given, self.searched) = (end + 1, end + 1);
                return Ok(Some(line));
            }
            self.held.drain(..self.given);
            (self.given, self.searched) = (0, self.held.len());
            if self.held.len() > LONGEST {
                bail!("line {} of the daemon's answer is longer than {LONGEST} bytes, which no event is", self.number);
            }
            match tokio::time::timeout(SILENT_FOR, self.body.frame()).await {
                Ok(Some(Ok(frame))) => self.held.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Ok(Some(Err(error))) => return Err(anyhow::Error::new(error).context("the connection broke")),
                // What is left is half a line: it comes again.
                Ok(None) => return Ok(None),
                Err(_) => bail!("nothing was heard for {} seconds", SILENT_FOR.as_secs()),
            }
        }
    }
}
