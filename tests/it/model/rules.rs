//! The rules that keep recorded times true, each with a switch.

/// What Copyhold does about writes that may still arrive. [`Rules::IN_FORCE`] is what the code does.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule that is in force or not, whatever the others are")]
pub struct Rules {
    /// The statement that completes an attempt notes its writes without an answer.
    pub note_unanswered: bool,
    /// A daemon that finds its lease lost notes its writes without it.
    pub note_when_lost: bool,
    /// These include the writes that were answered.
    pub note_answered_when_lost: bool,
    /// Deleting a leased row notes all replicas.
    pub note_deleted: bool,
    /// Sweeping a lease notes all replicas.
    pub note_swept: bool,
    /// What is recorded after a crash of PostgreSQL is noted as well.
    pub note_crash: bool,
    /// Two contents noted of one copy are an unknown content.
    pub two_contents_are_unknown: bool,
    /// No entry is dropped before it is settled.
    pub keep_until_settled: bool,
    /// A time to settle includes a whole lease, in which a holder learns that it has lost it.
    pub settle_includes_lease: bool,
    /// An entry under a leased row without a hash stays.
    pub keep_under_a_lease: bool,
    /// A copy that was recorded without a hash cannot be compared, and its time is cleared.
    pub take_back_without_hash: bool,
    /// `scan --adopt` records no copy while an entry of the key exists or claims may be lost.
    pub adopt_only_settled: bool,
    /// The primary's copy is read again like any other.
    pub recheck_primary: bool,
    /// `promote` waits until the replica has no entries.
    pub promote_waits: bool,
    /// So it does until the window after a crash has ended.
    pub promote_waits_for_window: bool,
    /// What was proven within that window is noted, even if it is recorded after it.
    pub window_is_of_proofs: bool,
    /// No request is sent again by the SDK.
    pub no_hidden_retry: bool,
}

impl Rules {
    pub const IN_FORCE: Self = Self {
        note_unanswered: true,
        note_when_lost: true,
        note_answered_when_lost: true,
        note_deleted: true,
        note_swept: true,
        note_crash: true,
        two_contents_are_unknown: true,
        keep_until_settled: true,
        settle_includes_lease: true,
        keep_under_a_lease: true,
        take_back_without_hash: true,
        adopt_only_settled: true,
        recheck_primary: true,
        promote_waits: true,
        promote_waits_for_window: true,
        window_is_of_proofs: true,
        no_hidden_retry: true,
    };
}
