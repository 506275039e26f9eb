//! The channels of NOTIFY, and the meaning of their payloads.

use copyhold_core::domain::SchemaName;

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
};

/// A notification on the channel of the daemons' work. It is a hint: a daemon that misses it polls within seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// There may be work.
    Work,
    /// The table `replicas` has changed.
    Replicas,
    /// Another program has appended an event.
    Inbox,
}

/// What a listening daemon may receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenEvent {
    Notification(Notification),
    /// The log has grown. The payload, its last id as text, is only a hint too.
    LogGrew,
    /// The word of a daemon's self-test.
    Echo(String),
}

/// The channels of one schema.
#[derive(Debug, Clone)]
pub struct Channels {
    pub work: String,
    /// Programs other than daemons listen to it as well.
    pub event: String,
    /// For a daemon's self-test: it notifies itself.
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

    /// Interprets a notification; an unknown one counts as work, which costs one claim.
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
    /// Notifies all daemons.
    pub async fn notify(&self, notice: Notification) -> Result<(), DatabaseError> {
        self.say("notify::notify", &Channels::of(&self.schema).work, notice.payload()).await
    }

    /// Sends a word on the channel [`Channels::echo`].
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
    fn notifications_are_distinguished_by_channel_and_payload() {
        let channels = Channels::of(&SchemaName::new("x_event").unwrap());
        let heard = |channel, payload| channels.parse(channel, payload);
        assert_eq!(heard("x_event_work", ""), ListenEvent::Notification(Notification::Work));
        assert_eq!(heard("x_event_work", "inbox"), ListenEvent::Notification(Notification::Inbox));
        assert_eq!(heard("x_event_work", "replicas"), ListenEvent::Notification(Notification::Replicas));
        // It may come from a later version.
        assert_eq!(heard("x_event_work", "else"), ListenEvent::Notification(Notification::Work));
        assert_eq!(heard("x_event_event", "17"), ListenEvent::LogGrew);
        assert_eq!(heard("x_event_echo", "17"), ListenEvent::Echo("17".to_owned()));
    }
}
