//! The result of one check, as text and as JSON.

use serde::Serialize;

/// The result of one check.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Finding {
    pub(super) of: String,
    pub(super) what: &'static str,
    result: Outcome,
    /// False for what failed alone.
    pub(super) works: bool,
    pub(super) says: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Ok,
    /// It works, but an operator should look at it.
    Warning,
    /// It is unknown, because another check failed.
    Unknown,
    Failed,
}

impl Finding {
    pub(super) fn new(of: &str, what: &'static str, result: Outcome, says: impl Into<String>) -> Self {
        Self { of: of.to_owned(), what, result, works: result != Outcome::Failed, says: says.into() }
    }

    /// One line of the report.
    pub(super) fn line(&self) -> String {
        let mark = match self.result {
            Outcome::Ok => "ok",
            Outcome::Warning => "warn",
            Outcome::Unknown => "?",
            Outcome::Failed => "FAIL",
        };
        format!("{mark:<4}  {:<14} {:<9} {}", self.of, self.what, self.says)
    }
}

/// What works, or does not, and why.
pub(in crate::cli) fn finding(of: &str, what: &'static str, result: Result<String, String>) -> Finding {
    match result {
        Ok(says) => Finding::new(of, what, Outcome::Ok, says),
        Err(why) => Finding::new(of, what, Outcome::Failed, why),
    }
}
