//! Why a value was refused.

use super::position::Place;

/// Why a value was refused: `what` continues a sentence that the setting's path begins.
#[derive(Debug)]
pub(super) struct Flaw {
    /// Of the flaw, where it is not that of the value.
    pub(super) place: Option<Place>,
    pub(super) what: String,
    pub(super) todo: String,
}

impl Flaw {
    pub(super) fn new(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { place: None, what: what.into(), todo: todo.into() }
    }
}
