//! The channels of NOTIFY, and what their payloads mean.

use copyhold_core::domain::SchemaName;

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
};

/// What daemons are told on the channel of their work. A hint: whoever misses it looks by itself within seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// There may be work.
    Work,
    /// The table `replicas` has changed.
    Replicas,
    /// Another program has appended an event.
    Inbox,
}

/// What a listening daemon can hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenEvent {
    Notification(Notification),
    /// The log has grown. Its last id, as text, is only a hint too.
    LogGrew,
    /// Somebody looks whether notices come through, with this word.
    Echo(String),
}

/// The channels of one schema.
#[derive(Debug, Clone)]
pub struct Channels {
    pub work: String,
    /// For anybody: programs that are no daemons listen to it as well.
    pub event: String,
    /// For a daemon that wants to hear itself.
    pub echo: String,
}

impl Channels {
    #[must_use]
    pub fn of(schema: &SchemaName) -> Self {
        let channel = |name: &str| format!("{schema}_{name}");
        Self { work: channel("work"), event: channel("event"), echo: channel("echo") }
    }

    #[must_use]
    pub fn all(&self) -> [&str; 3] {
        [&self.work, &self.event, &self.echo]
    }

    /// What was said on a channel; anything unknown is taken for work, which costs one look.
    #[must_use]
    pub fn parse(&self, channel: &str, payload: &str) -> ListenEvent {
        if channel == self.event {
            return ListenEvent::LogGrew;
        }
        if channel == self.echo {
            return ListenEvent::Echo(payload.to_owned());
        }
        let known =
            [Notification::Replicas, Notification::Inbox].into_iter().find(|notice| notice.payload() == payload);
        ListenEvent::Notification(known.unwrap_or(Notification::Work))
    }
}

impl Notification {
    /// Constant, so that the server folds duplicates.
    fn payload(self) -> &'static str {
        match self {
            Self::Work => "",
            Self::Replicas => "replicas",
            Self::Inbox => "inbox",
        }
    }
}

impl Database {
    /// Wakes all daemons.
    pub async fn notify(&self, notice: Notification) -> Result<(), DatabaseError> {
        self.say("notify::notify", &Channels::of(&self.schema).work, notice.payload()).await
    }

    /// Says a word that only whoever listens to the channel [`Channels::echo`] hears.
    pub async fn echo(&self, word: &str) -> Result<(), DatabaseError> {
        self.say("notify::echo", &Channels::of(&self.schema).echo, word).await
    }

    async fn say(&self, name: &'static str, channel: &str, payload: &str) -> Result<(), DatabaseError> {
        let sql = crate::sql::trusted_sql(format!("-- {name}\nSELECT pg_notify($1, $2)"));
        with_timeout(name, sqlx::query(sql).bind(channel).bind(payload).execute(&self.pool)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_is_told_apart_by_channel_and_word() {
        let channels = Channels::of(&SchemaName::new("x_event").unwrap());
        let heard = |channel, payload| channels.parse(channel, payload);
        assert_eq!(heard("x_event_work", ""), ListenEvent::Notification(Notification::Work));
        assert_eq!(heard("x_event_work", "inbox"), ListenEvent::Notification(Notification::Inbox));
        assert_eq!(heard("x_event_work", "replicas"), ListenEvent::Notification(Notification::Replicas));
        // Of a later version, perhaps.
        assert_eq!(heard("x_event_work", "else"), ListenEvent::Notification(Notification::Work));
        assert_eq!(heard("x_event_event", "17"), ListenEvent::LogGrew);
        assert_eq!(heard("x_event_echo", "17"), ListenEvent::Echo("17".to_owned()));
    }
}
