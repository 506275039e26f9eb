use serde::Serialize;

use super::{StoreError, Tristate};

/// One thing that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// For programs; it does not change.
    pub name: &'static str,
    /// What was asked, as a sentence that is true or is not.
    pub says: String,
    /// The profile's word.
    pub profile: Tristate,
    /// `Unknown`: it could not be measured, and `detail` says why.
    pub measured: Tristate,
    pub detail: String,
    /// Without it no copy here is sound.
    pub needed: bool,
    /// What to write into the replica's section.
    pub advice: Option<String>,
}

impl Fact {
    pub(super) fn new(name: &'static str, says: impl Into<String>, profile: Tristate, found: Found) -> Self {
        let Found { measured, detail } = found;
        Self { name, says: says.into(), profile, measured, detail, needed: false, advice: None }
    }

    /// What every copy relies on, whatever the profile says.
    pub(super) fn needed(name: &'static str, says: impl Into<String>, found: Found) -> Self {
        Self { needed: true, ..Self::new(name, says, Tristate::Yes, found) }
    }

    pub(super) fn advise(self, advice: Option<String>) -> Self {
        Self { advice, ..self }
    }

    /// Copies to or from this store cannot be trusted, or not be made.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.needed && self.measured != Tristate::Yes
    }

    /// The profile says otherwise.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.profile != Tristate::Unknown && self.measured != Tristate::Unknown && self.profile != self.measured
    }
}

/// An answer to one question, and how it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub measured: Tristate,
    pub detail: String,
}

impl Found {
    pub(super) fn yes(detail: impl Into<String>) -> Self {
        Self { measured: Tristate::Yes, detail: detail.into() }
    }

    pub(super) fn no(detail: impl Into<String>) -> Self {
        Self { measured: Tristate::No, detail: detail.into() }
    }

    pub(super) fn unclear(why: &StoreError) -> Self {
        Self { measured: Tristate::Unknown, detail: why.to_string() }
    }

    /// `yes` or `no`, with nothing more to say.
    pub(super) fn plain(holds: bool) -> Self {
        Self { measured: holds.into(), detail: String::new() }
    }
}
