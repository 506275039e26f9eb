//! Whether the objects of a chaos run keep their contents.

/// Whether objects get new contents as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Each object keeps its content.
    NeverChange,
    /// Some uploads replace an earlier object, which is registered again; some rows are deleted and inserted again; the
    /// primary changes; and writes arrive late.
    MayChange,
}
