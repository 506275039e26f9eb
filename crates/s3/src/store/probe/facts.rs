use serde::Serialize;

use super::{StoreError, Tristate};

/// One property of a store that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// A stable name, for programs.
    pub name: &'static str,
    /// The property as a sentence, which is true or false.
    pub says: String,
    /// What the profile states.
    pub profile: Tristate,
    /// `Unknown`: it could not be measured, and `detail` says why.
    pub measured: Tristate,
    pub detail: String,
    /// No copy at this store is sound without this property.
    pub needed: bool,
    /// The line to add to the replica's section of the configuration.
    pub advice: Option<String>,
}

impl Fact {
    pub(super) fn new(name: &'static str, says: impl Into<String>, profile: Tristate, found: Found) -> Self {
        let Found { measured, detail } = found;
        Self { name, says: says.into(), profile, measured, detail, needed: false, advice: None }
    }

    /// Makes a fact that every copy relies on, whatever the profile states.
    pub(super) fn needed(name: &'static str, says: impl Into<String>, found: Found) -> Self {
        Self { needed: true, ..Self::new(name, says, Tristate::Yes, found) }
    }

    pub(super) fn advise(self, advice: Option<String>) -> Self {
        Self { advice, ..self }
    }

    /// Returns whether copies to or from this store cannot be trusted, or cannot be made.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.needed && self.measured != Tristate::Yes
    }

    /// Returns whether the measurement contradicts the profile.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.profile != Tristate::Unknown && self.measured != Tristate::Unknown && self.profile != self.measured
    }
}

/// One measurement, and what it was seen by.
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

    /// Makes a `yes` or `no` without details.
    pub(super) fn plain(holds: bool) -> Self {
        Self { measured: holds.into(), detail: String::new() }
    }
}
