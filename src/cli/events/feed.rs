//! The log as it comes from a daemon, each event once and in order, whatever happens to the daemon or the line.

use std::time::Duration;

use anyhow::Context as _;
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use copyhold_core::domain::{Cursor, Epoch};
use serde::Deserialize;
use serde_json::Value;

use super::{
    client::{Client, Trouble},
    lines::Lines,
};
use crate::cli::output;

/// Attempts in a row, if the command is not to wait for an unavailable daemon.
const PATIENCE: usize = 5;

/// What a daemon sends.
pub(super) enum FeedItem {
    Event(Event),
    /// No wanted event up to here.
    Nothing(Cursor),
}

pub(super) struct Event {
    /// All of it, as it came.
    pub(super) line: String,
    /// The position of a reader that has seen it.
    pub(super) cursor: Cursor,
    pub(super) date_created: String,
    pub(super) data: Value,
}

impl Event {
    pub(super) fn kind(&self) -> Option<&str> {
        self.data["kind"].as_str()
    }
}

/// A line of which only the frame can be read: JSON that is deeper, or has greater numbers, than this program's parser
/// takes.
#[derive(Deserialize)]
struct Frame {
    id: i64,
    date_created: String,
}

#[derive(Deserialize)]
struct Line {
    id: Option<i64>,
    date_created: Option<String>,
    event_data: Option<Value>,
    bookmark: Option<String>,
    #[serde(default)]
    caught_up: bool,
}

pub(super) struct Feed {
    client: Client,
    /// The query, as a part of the URL.
    wanted: String,
    /// `None`: only events from now on.
    after: Option<Cursor>,
    follow: bool,
    answer: Option<(Lines, Epoch)>,
    pauses: Option<ExponentialBackoff>,
    caught_up: bool,
}

impl Feed {
    pub(super) fn new(client: Client, wanted: String, after: Option<Cursor>, follow: bool) -> Self {
        Self { client, wanted, after, follow, answer: None, pauses: None, caught_up: false }
    }

    /// Returns the next item; `None` if there is no more and the command does not follow.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<FeedItem>> {
        while !self.caught_up {
            let received = match &mut self.answer {
                Some((lines, epoch)) => {
                    let epoch = *epoch;
                    lines.next().await.map(|line| line.map(|line| (line, epoch)))
                }
                None => match self.ask().await {
                    Ok(answer) => {
                        self.answer = Some(answer);
                        continue;
                    }
                    Err(Trouble::Lasting(error)) => return Err(error),
                    Err(Trouble::Passing(error, least)) => {
                        self.pause(error, least).await?;
                        continue;
                    }
                },
            };
            match received {
                Ok(Some((line, epoch))) => {
                    self.pauses = None;
                    if let Some(item) = self.understand(line, epoch)? {
                        return Ok(Some(item));
                    }
                }
                // A daemon that shuts down ends its answer; another one continues, or its successor.
                Ok(None) => self.again(anyhow::anyhow!("the daemon has ended the answer")).await?,
                Err(error) => self.again(error).await?,
            }
        }
        Ok(None)
    }

    async fn ask(&self) -> Result<(Lines, Epoch), Trouble> {
        let mut query = self.wanted.clone();
        let mut add = |parameter: &str| {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(parameter);
        };
        if let Some(after) = self.after {
            add(&format!("after={after}"));
        }
        if !self.follow {
            add("wait=0s");
        }
        let answer = self.client.lines(&query).await?;
        let epoch = answer.headers().get("copyhold-epoch").and_then(|epoch| epoch.to_str().ok()?.parse().ok());
        let not_ours = || {
            let address = self.client.address();
            Trouble::Lasting(anyhow::anyhow!("what answers at {address} is no event log: is it Copyhold's address?"))
        };
        let epoch = epoch.ok_or_else(not_ours)?;
        Ok((Lines::of(answer.into_body()), epoch))
    }

    fn understand(&mut self, line: String, epoch: Epoch) -> anyhow::Result<Option<FeedItem>> {
        if line.is_empty() {
            return Ok(None);
        }
        let parsed: Line = match serde_json::from_str(&line) {
            Ok(parsed) => parsed,
            // Whatever an event holds, those behind it are reached.
            Err(error) => match serde_json::from_str(&line) {
                Ok(Frame { id, date_created }) => Line {
                    id: Some(id),
                    date_created: Some(date_created),
                    event_data: Some(Value::String(
                        "(cannot be shown: its JSON is too deep or has too great a number)".into(),
                    )),
                    bookmark: None,
                    caught_up: false,
                },
                Err(_) => return Err(anyhow::Error::new(error).context("the daemon says something that is no event")),
            },
        };
        self.caught_up = parsed.caught_up;
        match parsed {
            Line { bookmark: Some(cursor), .. } => {
                let cursor = cursor.parse().context("the daemon says something that is no event")?;
                self.after = Some(cursor);
                Ok(Some(FeedItem::Nothing(cursor)))
            }
            Line { id: Some(id), date_created: Some(date_created), event_data: Some(data), .. } => {
                let cursor = Cursor::new(id, epoch);
                self.after = Some(cursor);
                Ok(Some(FeedItem::Event(Event { line, cursor, date_created, data })))
            }
            _ => anyhow::bail!("the daemon says something that is no event"),
        }
    }

    async fn again(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        self.answer = None;
        self.pause(error, None).await
    }

    /// Longer and longer, and not in step with others that the same daemon has left.
    async fn pause(&mut self, error: anyhow::Error, least: Option<Duration>) -> anyhow::Result<()> {
        let first = self.pauses.is_none();
        let pauses = self.pauses.get_or_insert_with(|| {
            let pauses = ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(100))
                .with_max_delay(Duration::from_secs(10))
                .with_jitter();
            if self.follow { pauses.without_max_times().build() } else { pauses.with_max_times(PATIENCE).build() }
        });
        let Some(pause) = pauses.next() else { return Err(error) };
        if first {
            output::aside(&format!("copyhold: {}; trying again", crate::cli::chain(&error)));
        }
        tokio::time::sleep(pause.max(least.unwrap_or_default())).await;
        Ok(())
    }
}
