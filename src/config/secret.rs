//! Reads secrets that the configuration names instead of holding.
//! No message here contains anything of a secret.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use copyhold_core::regular_file::{self, ReadError};
use copyhold_core::secret::Secret;
use secrecy::SecretString;

use super::{
    invalid_value::InvalidValue,
    position::Position,
    sources::Sources,
    toml_tree::{Entries, Node, Value},
    value_types::{ValueType, settled, wrong_kind},
};

const FORMS: &str = r#"write "the secret", { env = "NAME" } or { file = "/path" }"#;
/// More than any key or password has; a wrong path may lead to something endless.
const AT_MOST_BYTES: u64 = 64 * 1024;

/// The secret in the file at `path`, which is read again.
pub(super) fn of_file(path: PathBuf) -> Result<Secret, InvalidValue> {
    let first = from_file(&path)
        .map_err(|(what, todo)| InvalidValue::new(format!("names the file {}, which {what}", path.display()), todo))?;
    // A pipe gives its content once.
    if !path.metadata().is_ok_and(|found| found.is_file()) {
        return Ok(first.into());
    }
    let (position, kept_in) = (path.display().to_string(), path.clone());
    let read = move || from_file(&path).map_err(|(what, _)| what);
    Ok(Secret::rereadable(first, position, read).written_in(&kept_in))
}

/// A secret: in place, or named by `{ env = "…" }` or `{ file = "…" }`.
impl ValueType for Secret {
    fn read(node: Node, sources: &Sources) -> Result<Self, InvalidValue> {
        let position = node.position.clone();
        match settled(node.value, &node.position, |value| matches!(value, Value::Text(_) | Value::Section(_))) {
            Value::Text(text) if text.is_empty() => Err(InvalidValue::new("is empty", "give it a value")),
            Value::Text(text) if matches!(position, Position::Position { .. }) => {
                Ok(Secret::from(text).written_in(&sources.file))
            }
            Value::Text(text) => Ok(text.into()),
            Value::Section(entries) => referred_to(entries, sources),
            other => Err(wrong_kind(&other, "text in quotes", FORMS)),
        }
    }

    fn of_setting(self, path: &str) -> Self {
        self.named(path)
    }
}

/// The secret that `{ env = "…" }` or `{ file = "…" }` names.
fn referred_to(mut entries: Entries, sources: &Sources) -> Result<Secret, InvalidValue> {
    let (env, file) = (entries.remove("env"), entries.remove("file"));
    if !entries.is_empty() {
        return Err(InvalidValue::new("has something other than env or file in its braces", FORMS));
    }
    match (env, file) {
        (Some(env), None) => from_variable(env, sources).map(Secret::from),
        (None, Some(file)) => {
            let position = file.position.clone();
            let path = String::read(file, sources)?;
            of_file(sources.resolve(&path)).map_err(|invalid| InvalidValue { position: Some(position), ..invalid })
        }
        (Some(_), Some(_)) => Err(InvalidValue::new("names both a variable and a file", "leave one of them out")),
        (None, None) => Err(InvalidValue::new("names neither a variable nor a file", FORMS)),
    }
}

fn from_variable(node: Node, sources: &Sources) -> Result<SecretString, InvalidValue> {
    let position = Some(node.position.clone());
    let name = String::read(node, sources)?;
    let (problem, todo) = match sources.environment.get(&name).map(OsStr::to_str) {
        Some(Some("")) => ("is empty", format!("give {name} a value in the daemon's environment")),
        Some(Some(secret)) => return Ok(secret.into()),
        Some(None) => ("is not UTF-8", format!("give {name} a value that is text")),
        None => ("is not set", format!("set {name} in the daemon's environment, or name another")),
    };
    Err(InvalidValue { position, what: format!("names the variable {name}, which {problem}"), todo })
}

/// The content of a file without the line break at its end. Error: what is wrong with the file, after "which", and what
/// to do.
fn from_file(path: &Path) -> Result<SecretString, (String, String)> {
    let invalid = |what: &str, todo: &str| Err((what.to_owned(), todo.to_owned()));
    let bytes = match regular_file::read(path, AT_MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => {
            let what = match (error.io_kind(), &error) {
                (Some(io::ErrorKind::NotFound), _) => "does not exist".to_owned(),
                (Some(io::ErrorKind::PermissionDenied), _) => "we may not read".to_owned(),
                (_, ReadError::TooLarge(_)) => "is too long for a secret".to_owned(),
                (_, error) => error.to_string(),
            };
            return invalid(&what, error.remedy());
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => match text.trim_end_matches(['\r', '\n']) {
            "" => invalid("is empty", "write the secret into it"),
            secret => Ok(secret.into()),
        },
        Err(_) => invalid("is not UTF-8", "correct the path; a secret is text"),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_secret_that_cannot_be_read_again_is_reported_with_its_setting_and_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "first").unwrap();
        let secret = of_file(path.clone()).unwrap().named("replicas.b2.secret_access_key");
        let secret = secret.checked(|text| if text.contains(' ') { Err("contains blanks".into()) } else { Ok(()) });
        let complaint = |content: &str| {
            std::fs::write(&path, content).unwrap();
            let latest = secret.latest().expose_secret().to_owned();
            (latest, secret.complaint().unwrap_or_default().replace(&path.display().to_string(), "KEY"))
        };
        let told = |what: &str| {
            format!(
                "replicas.b2.secret_access_key names the file KEY, which now {what}; the value read before stays in use"
            )
        };
        assert_eq!(complaint(""), ("first".to_owned(), told("is empty")));
        assert_eq!(complaint("half a"), ("first".to_owned(), told("contains blanks")));
        assert_eq!(complaint("second"), ("second".to_owned(), String::new()));
        assert_eq!(complaint(&"x".repeat(70_000)), ("second".to_owned(), told("is too long for a secret")));
    }
}
