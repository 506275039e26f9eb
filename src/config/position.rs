//! Where a setting was made: line and column of the file, or an environment variable.

use std::fmt;

/// Where a setting was made. Sorts in the order in which one reads a report:
/// the file as a whole, then its lines, then variables by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    /// Nowhere in particular: what is missing from the file.
    File,
    /// Both count from 1, columns in characters as editors do.
    Position { line: usize, column: usize },
    /// An environment variable that overrides the file.
    Variable(String),
}

impl Position {
    /// In front of a problem: `config.toml:3:9`, `config.toml` or `COPYHOLD_PRIMARY`.
    pub(super) fn within<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| match self {
            Self::File => f.write_str(file),
            Self::Position { line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Variable(name) => f.write_str(name),
        })
    }
}

/// A value that remembers where it was set.
#[derive(Debug, Clone)]
pub(super) struct Positioned<T> {
    pub(super) value: T,
    pub(super) position: Position,
}

impl<T> Positioned<T> {
    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> Positioned<U> {
        Positioned { value: f(self.value), position: self.position }
    }
}

/// Turns byte offsets of a text into lines and columns.
pub(super) struct Lines<'t> {
    text: &'t str,
    /// Offsets at which lines begin.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    pub(super) fn position(&self, offset: usize) -> Position {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let column = self.text[self.starts[line - 1]..offset].chars().count() + 1;
        Position::Position { line, column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_the_end_of_the_text_has_a_place() {
        let text = "a\nbüc = 1\n";
        let lines = Lines::of(text);
        let at = |offset| lines.position(offset);
        assert_eq!(at(0), Position::Position { line: 1, column: 1 });
        assert_eq!(at(text.find('=').unwrap()), Position::Position { line: 2, column: 5 });
        assert_eq!(at(text.len()), Position::Position { line: 3, column: 1 });
        assert_eq!(at(text.len() + 7), Position::Position { line: 3, column: 1 });
    }
}
