//! The transitions of an attempt, one by one.

use copyhold_core::domain::{
    ContentHash, Failure, FailureClass, Fence, Generation, ObjectKey, Outcome, RegistrationOrder, ReplicaState,
    Verified,
};

use super::*;

fn name(name: &str) -> ReplicaName {
    ReplicaName::new(name).unwrap()
}

/// An object that b2 has, and that is due at wasabi and scw.
fn attempt(begun: Instant) -> (Lease, AttemptState) {
    let state = |replica, recorded| ReplicaState { replica: name(replica), recorded, due: !recorded, prior: None };
    let lease = Lease {
        registration_order: RegistrationOrder(1),
        key: ObjectKey::new("a").unwrap(),
        generation: Generation(1),
        fence: Fence(7),
        until: begun + Duration::from_mins(1),
        claimed: begun,
        size_bytes: None,
        content: None,
        metadata: None,
        source: None,
        age: Duration::ZERO,
        swept: None,
        replicas: vec![state("b2", true), state("wasabi", false), state("scw", false)],
    };
    let mut record = AttemptRecord::new(&lease);
    record.expect([&name("wasabi"), &name("scw")].into_iter(), [&name("b2")].into_iter());
    let attempt = AttemptState::new(&lease, record, TimeLimit::default(), begun);
    (lease, attempt)
}

fn read() -> CopyStep {
    CopyStep::Read { from: name("b2"), content: Content { size_bytes: 1, hash: ContentHash(0) }, said: None }
}

fn written(target: &str) -> CopyStep {
    CopyStep::Target { replica: name(target), result: Ok(Verified::Compared) }
}

fn failed(target: &str) -> CopyStep {
    CopyStep::Target { replica: name(target), result: Err(Failure::new(FailureClass::Transient, "reset")) }
}

/// Sends a step and its diagnosis.
fn diagnosed(attempt: &mut AttemptState, step: CopyStep, now: Instant) {
    let mut actions = attempt.on(Event::Step(step), now);
    let Some(Action::Diagnose(step)) = actions.pop() else { panic!("{actions:?}") };
    assert!(attempt.on(Event::Diagnosed(step, Diagnosis::UNATTRIBUTED), now).is_empty());
}

fn outcomes(lease: &Lease, attempt: &mut AttemptState) -> Vec<(String, &'static str)> {
    let report = attempt.record.report(lease, true, Duration::ZERO);
    let word = |outcome: &Outcome| match outcome {
        Outcome::Recorded { .. } => "recorded",
        Outcome::Failed { .. } => "failed",
        Outcome::Deferred { .. } => "rests",
        Outcome::Cleared { .. } => "cleared",
    };
    let mut outcomes: Vec<_> = report.outcomes.iter().map(|(of, outcome)| (of.to_string(), word(outcome))).collect();
    outcomes.sort();
    outcomes
}

#[test]
fn a_step_is_diagnosed_after_its_permit_or_its_read_is_given_back() {
    let now = Instant::now();
    let (_, mut attempt) = attempt(now);
    let actions = attempt.on(Event::Step(read()), now);
    assert!(matches!(&actions[..], [Action::EndRead, Action::Diagnose(_)]), "{actions:?}");
    let actions = attempt.on(Event::Step(failed("scw")), now);
    let [Action::ReturnPermit { target, succeeded: false }, Action::Diagnose(_)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(target.as_str(), "scw");
}

#[test]
fn a_proof_waits_a_moment_for_the_others_and_is_written_with_them() {
    let now = Instant::now();
    let (_, mut attempt) = attempt(now);
    diagnosed(&mut attempt, read(), now);
    assert_eq!(attempt.deadline(), Some(now + TimeLimit::default().for_size(0)));
    diagnosed(&mut attempt, written("wasabi"), now);
    diagnosed(&mut attempt, written("scw"), now + TOGETHER / 2);
    assert_eq!(attempt.deadline(), Some(now + TOGETHER));
    assert!(attempt.on(Event::Timer, now).is_empty(), "too early");
    assert!(matches!(attempt.on(Event::Timer, now + TOGETHER)[..], [Action::WriteOutcomes]));
}

#[test]
fn a_write_that_finds_the_lease_lost_stops_the_copy() {
    let now = Instant::now();
    let (_, mut attempt) = attempt(now);
    assert!(attempt.on(Event::Written(FencedWrite::Applied), now).is_empty());
    assert!(matches!(attempt.on(Event::Written(FencedWrite::Superseded), now)[..], [Action::CancelCopy]));
    attempt.on(Event::CopyEnded(CopyEnd::Done), now);
    assert!(attempt.on(Event::Written(FencedWrite::Superseded), now).is_empty(), "there is nothing to stop");
}

#[test]
fn a_copy_that_takes_too_long_fails_at_the_targets_that_have_not_answered() {
    let now = Instant::now();
    let (lease, mut attempt) = attempt(now);
    diagnosed(&mut attempt, CopyStep::Opened { size_bytes: 64 << 20 }, now);
    let limit = TimeLimit::default().for_size(64 << 20);
    assert_eq!(attempt.deadline(), Some(now + limit), "a larger object may take longer");
    diagnosed(&mut attempt, written("wasabi"), now);
    attempt.on(Event::Timer, now + TOGETHER);
    assert!(matches!(attempt.on(Event::Timer, now + limit)[..], [Action::CancelCopy]));
    assert_eq!(attempt.deadline(), None, "once is enough");
    assert!(matches!(attempt.on(Event::CopyEnded(CopyEnd::Cancelled), now + limit)[..], [Action::EndRead]));
    assert!(attempt.is_decided());
    assert_eq!(attempt.aborted(), Some(AbortReason::TimeLimit));
    assert!(matches!(attempt.conclude(), Conclusion::Report));
    assert_eq!(outcomes(&lease, &mut attempt), [("scw".into(), "failed"), ("wasabi".into(), "recorded")]);
}

#[test]
fn a_copy_that_ended_in_spite_of_its_abort_is_reported_as_it_ended() {
    let now = Instant::now();
    let (lease, mut attempt) = attempt(now);
    assert!(matches!(attempt.on(Event::SlotChecked(Detach::CrowdedOut), now)[..], [Action::CancelCopy]));
    attempt.on(Event::CopyEnded(CopyEnd::Done), now);
    assert_eq!(attempt.aborted(), None);
    assert!(matches!(attempt.conclude(), Conclusion::Report));
    assert_eq!(outcomes(&lease, &mut attempt), []);
}

#[test]
fn a_crowded_out_copy_is_deferred_at_the_targets_that_have_not_answered() {
    let now = Instant::now();
    let (lease, mut attempt) = attempt(now);
    diagnosed(&mut attempt, written("wasabi"), now);
    attempt.on(Event::SlotChecked(Detach::CrowdedOut), now);
    attempt.on(Event::CopyEnded(CopyEnd::Cancelled), now);
    assert!(matches!(attempt.conclude(), Conclusion::Report));
    assert_eq!(outcomes(&lease, &mut attempt), [("scw".into(), "rests"), ("wasabi".into(), "recorded")]);
}

#[test]
fn a_stuck_copy_gives_back_its_slot_its_read_and_its_permits_and_goes_on() {
    let now = Instant::now();
    let (_, mut attempt) = attempt(now);
    let actions = attempt.on(Event::SlotChecked(Detach::Stuck), now);
    assert!(matches!(actions[..], [Action::ReleaseStuckTargets, Action::EndRead, Action::NotifyFreed]), "{actions:?}");
    assert!(attempt.is_copying());
    assert!(matches!(attempt.on(Event::SlotChecked(Detach::Done), now)[..], [Action::NotifyFreed]));
    assert!(attempt.on(Event::SlotChecked(Detach::NotYet), now).is_empty());
}

#[test]
fn a_stopped_copy_keeps_its_proofs_and_diagnoses_no_failure() {
    let now = Instant::now();
    let (lease, mut attempt) = attempt(now);
    attempt.on(Event::Step(failed("wasabi")), now);
    attempt.on(Event::CopyEnded(CopyEnd::Cancelled), now);
    assert!(attempt.is_decided(), "no diagnosis is waited for");
    assert_eq!(attempt.deadline(), None);
    // The last target's step comes together with the end.
    let actions = attempt.on(Event::Step(written("scw")), now);
    assert!(matches!(actions[..], [Action::ReturnPermit { succeeded: true, .. }]), "{actions:?}");
    assert!(matches!(attempt.conclude(), Conclusion::Stopped));
    assert!(attempt.record.has_proof());
    assert_eq!(outcomes(&lease, &mut attempt), [("scw".into(), "recorded")]);
}

#[test]
fn an_attempt_is_decided_when_its_last_failure_is_diagnosed() {
    let now = Instant::now();
    let (lease, mut attempt) = attempt(now);
    let mut actions = attempt.on(Event::Step(failed("scw")), now);
    let Some(Action::Diagnose(step)) = actions.pop() else { panic!() };
    attempt.on(Event::CopyEnded(CopyEnd::Done), now);
    assert!(!attempt.is_copying() && !attempt.is_decided());
    // Neither the worker slot nor what is proven waits for that.
    assert_eq!(attempt.deadline(), Some(now + TOGETHER));
    assert!(matches!(attempt.on(Event::Timer, now + TOGETHER)[..], [Action::DetachUntilDiagnosed]));
    assert_eq!(attempt.deadline(), None);
    attempt.on(Event::Diagnosed(step, Diagnosis::Store { rest: Duration::from_secs(5) }), now);
    assert!(attempt.is_decided());
    assert!(matches!(attempt.conclude(), Conclusion::Report));
    assert_eq!(outcomes(&lease, &mut attempt), [("scw".into(), "rests")]);
}

#[test]
fn another_content_at_the_primary_is_no_report() {
    let now = Instant::now();
    let (_, mut attempt) = attempt(now);
    let content = Content { size_bytes: 2, hash: ContentHash(1) };
    let said = SourceReading { replica: name("b2"), modified_us: None, tag: None };
    diagnosed(&mut attempt, CopyStep::Changed { from: name("b2"), content, said }, now);
    attempt.on(Event::CopyEnded(CopyEnd::Done), now);
    assert!(matches!(attempt.conclude(), Conclusion::Changed { from, .. } if from.as_str() == "b2"));
}
