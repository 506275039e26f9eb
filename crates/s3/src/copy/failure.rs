//! Failures of a copy, with the replica at fault in front of the message.

use copyhold_core::domain::{Content, Failure, FailureClass, SourceVerdict};

use crate::store::{Store, StoreError};

/// Why bytes that were read from a source are not copied.
pub(super) enum ReadMismatch {
    /// They came damaged, or the evidence is insufficient.
    Failed(Failure),
    /// The source's copy is damaged or stale.
    Stale(Failure),
    /// The object has changed since.
    Changed(Failure),
}

pub(super) fn of_source(store: &Store, error: StoreError) -> Failure {
    at_source(store, error.into_failure(format_args!("source {}", store.name())))
}

/// Marks a failure as one of reading from this store.
pub(super) fn at_source(store: &Store, failure: Failure) -> Failure {
    Failure { failed_source: Some(store.name().clone()), ..failure }
}

pub(super) fn of_target(store: &Store, error: StoreError) -> Failure {
    let failure = error.into_failure(format_args!("target {}", store.name()));
    match failure.class {
        // These classes describe a source. A target that lacks what it has just accepted, or has other bytes by now, is
        // retried.
        FailureClass::Gone | FailureClass::Changed => {
            Failure { class: FailureClass::Transient, scope: FailureClass::Transient.scope(), ..failure }
        }
        _ => failure,
    }
}

/// Returns the failure that the targets get when no source could be read. The object is gone only if every source that
/// should have it answers so; otherwise the first other failure counts.
///
/// `failures` are in the order of preference, each with whether the source's copy is on record.
pub(super) fn most_relevant(failures: Vec<(bool, Failure)>) -> Failure {
    let any_recorded = failures.iter().any(|(recorded, _)| *recorded);
    let counts = |recorded: bool| recorded || !any_recorded;
    let gone = failures.iter().all(|(recorded, why)| !counts(*recorded) || why.class == FailureClass::Gone);
    let told = failures.into_iter().find(|(recorded, why)| {
        if gone { counts(*recorded) && why.class == FailureClass::Gone } else { why.class != FailureClass::Gone }
    });
    told.map_or_else(
        || Failure::new(FailureClass::Transient, "no replica may be read from at the moment"),
        |(_, why)| why,
    )
}

pub(super) fn stale(store: &Store, known: &Content, found: &str) -> Failure {
    let what = format!("its copy is not what this generation's first read found ({found} instead of {known})");
    Failure::new(FailureClass::Corrupt, format!("source {}: {what}", store.name()))
}

/// Makes the failure of a primary with other bytes: it is not overwritten, and nothing is copied from it.
pub(super) fn at_primary(store: &Store, known: &Content, found: &Content, verdict: SourceVerdict) -> Failure {
    let name = store.name();
    let what = format!(
        "its object is not what this generation's first read found ({found} instead of {known}), in two readings: {}. It is \
         not written over, and the others are copied from each other. Put the right object there, or delete it, and retry; or \
         register the key again (`copyhold enqueue`), if this is the content that is wanted",
        verdict.words()
    );
    Failure::new(FailureClass::Corrupt, format!("source {name}: {what}"))
}

pub(super) fn changed(store: &Store, known: &Content, found: &Content) -> Failure {
    let what = format!("the object is no longer what this generation's first read found ({found} instead of {known})");
    Failure::new(FailureClass::Changed, format!("source {}: {what}", store.name()))
}

/// Makes the failure of a primary that has the object's bytes and other metadata.
pub(super) fn other_metadata(store: &Store, verdict: SourceVerdict) -> Failure {
    let name = store.name();
    let how = match verdict {
        SourceVerdict::Stale => "; it is older than what was copied: an earlier state has come back",
        SourceVerdict::Changed => "; it was written over there",
        SourceVerdict::Corrupt | SourceVerdict::Undecided => "; nothing there says that it was written",
    };
    let what = format!(
        "its object has other metadata than is on record, in two answers{how}. No copy is made with that: give it the right \
         metadata and retry; or register the key again (`copyhold enqueue`), if this is the metadata that is wanted; or set \
         altered_metadata = \"accept\" for it, if it or a proxy before it makes up headers"
    );
    Failure::new(FailureClass::Corrupt, format!("source {name}: {what}"))
}

pub(super) fn metadata_changed(store: &Store) -> Failure {
    let what = "the object was written over there with the same bytes and other metadata";
    Failure::new(FailureClass::Changed, format!("source {}: {what}", store.name()))
}

pub(super) fn other_size(store: &Store, stated: u64, found: u64) -> Failure {
    let what = format!(
        "it holds {found} bytes under this key and {stated} were registered: another content, or its upload has not ended"
    );
    Failure::new(FailureClass::Gone, format!("source {}: {what}", store.name()))
}

pub(super) fn refused(store: &Store, what: &str) -> Failure {
    Failure::new(FailureClass::Refused, format!("target {}: {what}", store.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failures: &[(bool, FailureClass)]) -> FailureClass {
        most_relevant(failures.iter().map(|(recorded, class)| (*recorded, Failure::new(*class, ""))).collect()).class
    }

    #[test]
    fn an_object_is_gone_only_if_all_that_should_have_it_say_so() {
        assert_eq!(told(&[(true, FailureClass::Gone)]), FailureClass::Gone);
        assert_eq!(told(&[(true, FailureClass::Gone), (true, FailureClass::Gone)]), FailureClass::Gone);
        assert_eq!(told(&[(true, FailureClass::Gone), (true, FailureClass::Transient)]), FailureClass::Transient);
        assert_eq!(told(&[(true, FailureClass::Denied), (true, FailureClass::Gone)]), FailureClass::Denied);
    }

    #[test]
    fn a_source_that_need_not_have_the_object_says_nothing_about_its_loss() {
        assert_eq!(told(&[(true, FailureClass::Gone), (false, FailureClass::Denied)]), FailureClass::Gone);
        assert_eq!(told(&[(false, FailureClass::Gone), (true, FailureClass::Throttled)]), FailureClass::Throttled);
        // No copy is on record: only the primary's answer counts.
        assert_eq!(told(&[(false, FailureClass::Gone)]), FailureClass::Gone);
    }

    #[test]
    fn without_any_source_the_copy_is_tried_again() {
        assert_eq!(told(&[]), FailureClass::Transient);
    }
}
