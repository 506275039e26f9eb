//! Secrets that the configuration names instead of holding. No message here
//! contains anything of a secret.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use secrecy::SecretString;

use super::{
    document::{Entries, Node},
    reader::{Flaw, Reader},
    setting::Setting as _,
};

pub(super) const FORMS: &str = r#"write "the secret", { env = "NAME" } or { file = "/path" }"#;
/// More than any key or password has; a wrong path may lead to something endless.
const AT_MOST_BYTES: u64 = 64 * 1024;

/// The secret that `{ env = "…" }` or `{ file = "…" }` names.
pub(super) fn referred_to(mut entries: Entries, reader: &Reader) -> Result<SecretString, Flaw> {
    let (env, file) = (entries.remove("env"), entries.remove("file"));
    if !entries.is_empty() {
        return Err(Flaw::new("has something other than env or file in its braces", FORMS));
    }
    match (env, file) {
        (Some(env), None) => from_variable(env, reader),
        (None, Some(file)) => {
            let place = file.place.clone();
            let path = String::read(file, reader)?;
            from_file(&reader.resolve(&path)).map_err(|flaw| Flaw { place: Some(place), ..flaw })
        }
        (Some(_), Some(_)) => Err(Flaw::new("names both a variable and a file", "leave one of them out")),
        (None, None) => Err(Flaw::new("names neither a variable nor a file", FORMS)),
    }
}

fn from_variable(node: Node, reader: &Reader) -> Result<SecretString, Flaw> {
    let place = Some(node.place.clone());
    let name = String::read(node, reader)?;
    let (problem, todo) = match reader.environment.get(&name).map(OsStr::to_str) {
        Some(Some("")) => ("is empty", format!("give {name} a value in the daemon's environment")),
        Some(Some(secret)) => return Ok(secret.into()),
        Some(None) => ("is not UTF-8", format!("give {name} a value that is text")),
        None => ("is not set", format!("set {name} in the daemon's environment, or name another")),
    };
    Err(Flaw { place, what: format!("names the variable {name}, which {problem}"), todo })
}

/// The content of a file without the line break at its end.
pub(super) fn from_file(path: &Path) -> Result<SecretString, Flaw> {
    let flaw = |what: &str, todo: &str| {
        Err(Flaw::new(format!("names the file {}, which {what}", path.display()), todo.to_owned()))
    };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(AT_MOST_BYTES + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > AT_MOST_BYTES => flaw("is too long for a secret", "correct the path"),
        Ok(_) => match text.trim_end_matches(['\r', '\n']) {
            "" => flaw("is empty", "write the secret into it"),
            secret => Ok(secret.into()),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => flaw("does not exist", "create it, or correct the path"),
            io::ErrorKind::PermissionDenied => flaw("we may not read", "let the daemon's user read it"),
            io::ErrorKind::InvalidData => flaw("is not UTF-8", "correct the path; a secret is text"),
            io::ErrorKind::IsADirectory => flaw("is a folder", "name the file in it"),
            _ => flaw(&format!("cannot be read: {error}"), "correct the path"),
        },
    }
}
