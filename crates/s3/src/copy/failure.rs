//! Whose failure it was, in front of what it was.

use copyhold_core::domain::{Content, Failure, FailureClass, SourceVerdict};

use crate::store::{Store, StoreError};

pub(super) fn of_source(store: &Store, error: StoreError) -> Failure {
    at_source(store, error.into_failure(format_args!("source {}", store.name())))
}

/// The failure of reading from this store.
pub(super) fn at_source(store: &Store, failure: Failure) -> Failure {
    Failure { failed_source: Some(store.name().clone()), ..failure }
}

pub(super) fn of_target(store: &Store, error: StoreError) -> Failure {
    let failure = error.into_failure(format_args!("target {}", store.name()));
    match failure.class {
        // These classes speak of a source. A target that lacks what it has just
        // taken, or has something else by now, is simply tried again.
        FailureClass::Gone | FailureClass::Changed => {
            Failure { class: FailureClass::Transient, scope: FailureClass::Transient.scope(), ..failure }
        }
        _ => failure,
    }
}

/// What to tell the targets when no source could be read: the object is gone only if
/// every source that should have it says so; else the first other reason counts.
///
/// `failures` in the order of preference, each with whether the source's copy is on record.
pub(super) fn most_telling(failures: Vec<(bool, Failure)>) -> Failure {
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

/// What stands at the primary is not written over, and nothing is copied from it.
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

/// The bytes at the primary are the object's, and its metadata is not.
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
        most_telling(failures.iter().map(|(recorded, class)| (*recorded, Failure::new(*class, ""))).collect()).class
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
        // Nobody is on record: the primary's word is all there is.
        assert_eq!(told(&[(false, FailureClass::Gone)]), FailureClass::Gone);
    }

    #[test]
    fn without_any_source_the_copy_is_tried_again() {
        assert_eq!(told(&[]), FailureClass::Transient);
    }
}
