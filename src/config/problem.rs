//! A problem of the configuration: where it is, what is wrong, what to write instead.

use std::{fmt, path::PathBuf};

use copyhold_s3::settings::InvalidVariable;

use super::position::Position;

/// One thing that is wrong with the configuration, and its remedy. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub position: Position,
    /// `lease.heartbeat is 80s, not well under lease.timeout of 90s`
    pub what: String,
    /// `set it to a third of the timeout or less: 30s`
    pub todo: String,
}

impl From<InvalidVariable> for Problem {
    fn from(InvalidVariable { variable, what, todo }: InvalidVariable) -> Self {
        Self { position: Position::Variable(variable), what, todo }
    }
}

/// `SSL_CERT_FILE: names ca.pem, which does not exist; create it`, for what no file of settings is about.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.position.within("the configuration"), self.what, self.todo)
    }
}

/// Everything that is wrong with the configuration, in reading order; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl ConfigErrors {
    pub(super) fn new(file: impl Into<PathBuf>, mut problems: Vec<Problem>) -> Self {
        problems.sort();
        problems.dedup();
        Self { file: file.into(), problems }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// One problem per line, its remedy indented below it.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        for (number, Problem { position, what, todo }) in self.problems.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{}: {what}\n    {todo}", position.within(&file))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
