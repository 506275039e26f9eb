//! Why a value was refused.

use super::position::Position;

/// Why a value was refused: `what` continues a sentence that the setting's path begins.
#[derive(Debug)]
pub(super) struct InvalidValue {
    /// The position of the fault, where it is not that of the value.
    pub(super) position: Option<Position>,
    pub(super) what: String,
    pub(super) todo: String,
}

impl InvalidValue {
    pub(super) fn new(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { position: None, what: what.into(), todo: todo.into() }
    }
}
