//! Reads the bucket's own configuration: versioning and object lock. It writes nothing.

use aws_sdk_s3::types::DefaultRetention;

use super::{
    Probe, Store, StoreError, Tristate,
    facts::{Fact, Found},
};
use crate::store::{Operation, Reason, stall_timeout::Progress, versions::Versioning, xml_document::WholeDocument};

/// Whether the probe can delete the objects that it writes.
pub(super) enum Lock {
    None,
    /// The bucket's default retention keeps each object that is written; the text is its mode and length.
    Default(String),
    /// The store did not let us see whether there is a default retention.
    Unseen(StoreError),
}

impl Probe<'_> {
    /// Asks the store whether the bucket keeps versions. If the store does not answer, a write measures it later.
    pub(super) async fn read_bucket_settings(&mut self) {
        let found = match self.store.versioning().await {
            Ok(Versioning::Enabled) => Found::yes("the bucket says so"),
            Ok(Versioning::Suspended) => Found::yes("the bucket says so, suspended for the moment"),
            Ok(Versioning::Off) => Found::no("the bucket says so"),
            Ok(Versioning::Unsupported(error)) => Found::no(error.brief()),
            Err(_) => return,
        };
        self.versioned = found.measured;
        self.versions(found);
    }

    pub(super) fn versions(&mut self, found: Found) {
        self.found(Fact::new("keeps_versions", "older versions are kept", self.profile().keeps_versions, found));
    }

    pub(super) async fn lock(&self) -> Lock {
        let Store { client, bucket, .. } = self.store;
        let call = client.get_object_lock_configuration().bucket(bucket);
        let call = call.customize().interceptor(WholeDocument::OBJECT_LOCK);
        let answer = self.store.call(Operation::GetObjectLockConfiguration, &Progress::default(), call.send()).await;
        match answer {
            Ok(answer) => {
                let rule = answer.object_lock_configuration.and_then(|lock| lock.rule);
                rule.and_then(|rule| rule.default_retention).map_or(Lock::None, |rule| Lock::Default(words(&rule)))
            }
            Err(error) if has_no_locks(&error) => Lock::None,
            // A lock needs versions: if the bucket reports none, an unparsable answer cannot hide a lock.
            Err(error) if error.reason() == Reason::NotUnderstood && self.versioned == Tristate::No => Lock::None,
            Err(error) => Lock::Unseen(error),
        }
    }
}

/// Returns whether the store answers that the bucket has no such configuration, or that it does not support locks.
fn has_no_locks(error: &StoreError) -> bool {
    let says_so = |code| ["ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"].contains(&code);
    error.reason() == Reason::Unsupported || error.code().is_some_and(says_so)
}

fn words(rule: &DefaultRetention) -> String {
    let mode = rule.mode.as_ref().map_or("locked", |mode| mode.as_str());
    match (rule.days, rule.years) {
        (Some(1), _) => format!("{mode}, 1 day"),
        (Some(days), _) => format!("{mode}, {days} days"),
        (None, Some(1)) => format!("{mode}, 1 year"),
        (None, Some(years)) => format!("{mode}, {years} years"),
        (None, None) => mode.to_owned(),
    }
}

impl Tristate {
    pub(super) fn is_yes(self) -> bool {
        self == Self::Yes
    }
}
