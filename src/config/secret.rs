//! Secrets that the configuration names instead of holding, and reading them again when they were rotated.
//! No message here contains anything of a secret.

use std::{
    ffi::OsStr,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

use super::{
    document::{Entries, Node},
    reader::{Flaw, Reader},
    setting::Setting as _,
};
use crate::regular_file::{self, ReadError};

pub(super) const FORMS: &str = r#"write "the secret", { env = "NAME" } or { file = "/path" }"#;
/// More than any key or password has; a wrong path may lead to something endless.
const AT_MOST_BYTES: u64 = 64 * 1024;

/// A secret, and the file that has the one that replaces it.
#[derive(Clone)]
pub struct Secret {
    /// As it was when the configuration was read.
    first: SecretString,
    /// `None`: it stands in the configuration or in the environment, where nothing changes.
    file: Option<Arc<SecretFile>>,
    /// The file that it was read from, the configuration's own or another.
    kept_in: Option<Arc<Path>>,
}

type Check = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

struct SecretFile {
    path: PathBuf,
    /// Of the setting that names it, for messages.
    setting: String,
    /// What the configuration would refuse is not used either when it comes later.
    check: Check,
    latest: Mutex<Latest>,
}

struct Latest {
    secret: SecretString,
    read_at: Instant,
    /// Why the file could not be used last; logged once.
    complaint: Option<String>,
}

impl Latest {
    fn of(secret: &SecretString) -> Self {
        Self { secret: secret.clone(), read_at: Instant::now(), complaint: None }
    }
}

impl Secret {
    /// From the file at `path`.
    pub(super) fn of_file(path: PathBuf) -> Result<Self, Flaw> {
        let first = from_file(&path)
            .map_err(|(what, todo)| Flaw::new(format!("names the file {}, which {what}", path.display()), todo))?;
        // A pipe gives its content once.
        let can_be_read_again = path.metadata().is_ok_and(|found| found.is_file());
        let latest = Mutex::new(Latest::of(&first));
        let kept_in = can_be_read_again.then(|| path.clone().into());
        let file = SecretFile { path, setting: String::new(), check: Box::new(|_| Ok(())), latest };
        Ok(Self { first, file: can_be_read_again.then(|| Arc::new(file)), kept_in })
    }

    /// The same, and what `check` refuses later is not used.
    #[must_use]
    pub(super) fn checked(self, check: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        let file = self.file.map(|file| {
            let latest = Mutex::new(Latest::of(&self.first));
            let (path, setting) = (file.path.clone(), file.setting.clone());
            Arc::new(SecretFile { path, setting, check: Box::new(check), latest })
        });
        Self { first: self.first, file, kept_in: self.kept_in }
    }

    /// The same, and messages about its file name this setting.
    #[must_use]
    pub(super) fn named(mut self, setting: &str) -> Self {
        // Cannot fail: while the configuration is read, nobody else holds it.
        if let Some(file) = self.file.as_mut().and_then(Arc::get_mut) {
            setting.clone_into(&mut file.setting);
        }
        self
    }

    /// The same, written in the file at `path` itself.
    #[must_use]
    pub(super) fn written_in(self, path: &Path) -> Self {
        Self { kept_in: Some(path.into()), ..self }
    }

    /// The file that it was read from; `None`: it came from the environment, or through a pipe.
    #[must_use]
    pub fn kept_in(&self) -> Option<&Path> {
        self.kept_in.as_deref()
    }

    /// Whether it may be another one some day.
    #[must_use]
    pub fn may_change(&self) -> bool {
        self.file.is_some()
    }

    /// What the file says now. While that cannot be used, for it is half written: what it said before.
    #[must_use]
    pub fn latest(&self) -> SecretString {
        self.latest_within(Duration::ZERO)
    }

    /// The same, or what it said so long ago at most.
    #[must_use]
    pub fn latest_within(&self, age: Duration) -> SecretString {
        let Some(file) = &self.file else { return self.first.clone() };
        let mut latest = file.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.read_at.elapsed() < age {
            return latest.secret.clone();
        }
        let found = from_file(&file.path).map_err(|(what, _)| what);
        let found = found.and_then(|secret| (file.check)(secret.expose_secret()).map(|()| secret));
        latest.read_at = Instant::now();
        match found {
            Ok(secret) => {
                if latest.secret.expose_secret() != secret.expose_secret() {
                    info!("Read a new {} from {}", file.setting, file.path.display());
                }
                latest.secret = secret;
                latest.complaint = None;
            }
            Err(what) => {
                let (setting, path) = (&file.setting, file.path.display());
                let complaint =
                    format!("{setting} names the file {path}, which now {what}; the value read before stays in use");
                if latest.complaint.as_ref() != Some(&complaint) {
                    warn!("{complaint}");
                    latest.complaint = Some(complaint);
                }
            }
        }
        latest.secret.clone()
    }
}

/// The one that was read with the configuration.
impl ExposeSecret<str> for Secret {
    fn expose_secret(&self) -> &str {
        self.first.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl From<SecretString> for Secret {
    fn from(first: SecretString) -> Self {
        Self { first, file: None, kept_in: None }
    }
}

impl From<String> for Secret {
    fn from(first: String) -> Self {
        SecretString::from(first).into()
    }
}

impl From<&str> for Secret {
    fn from(first: &str) -> Self {
        SecretString::from(first).into()
    }
}

/// The secret that `{ env = "…" }` or `{ file = "…" }` names.
pub(super) fn referred_to(mut entries: Entries, reader: &Reader) -> Result<Secret, Flaw> {
    let (env, file) = (entries.remove("env"), entries.remove("file"));
    if !entries.is_empty() {
        return Err(Flaw::new("has something other than env or file in its braces", FORMS));
    }
    match (env, file) {
        (Some(env), None) => from_variable(env, reader).map(Secret::from),
        (None, Some(file)) => {
            let place = file.place.clone();
            let path = String::read(file, reader)?;
            Secret::of_file(reader.resolve(&path)).map_err(|flaw| Flaw { place: Some(place), ..flaw })
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

/// The content of a file without the line break at its end. Error: what is wrong with the file, after "which", and what to do.
fn from_file(path: &Path) -> Result<SecretString, (String, String)> {
    let flaw = |what: &str, todo: &str| Err((what.to_owned(), todo.to_owned()));
    let bytes = match regular_file::read(path, AT_MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => {
            let what = match (error.io_kind(), &error) {
                (Some(io::ErrorKind::NotFound), _) => "does not exist".to_owned(),
                (Some(io::ErrorKind::PermissionDenied), _) => "we may not read".to_owned(),
                (_, ReadError::TooLarge(_)) => "is too long for a secret".to_owned(),
                (_, error) => error.to_string(),
            };
            return flaw(&what, error.remedy());
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => match text.trim_end_matches(['\r', '\n']) {
            "" => flaw("is empty", "write the secret into it"),
            secret => Ok(secret.into()),
        },
        Err(_) => flaw("is not UTF-8", "correct the path; a secret is text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_cannot_be_read_again_is_told_with_its_setting_and_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "first").unwrap();
        let secret = Secret::of_file(path.clone()).unwrap().named("replicas.b2.secret_access_key");
        let secret = secret.checked(|text| if text.contains(' ') { Err("contains blanks".into()) } else { Ok(()) });
        let complaint = |content: &str| {
            std::fs::write(&path, content).unwrap();
            let latest = secret.latest().expose_secret().to_owned();
            let file = secret.file.as_ref().unwrap().latest.lock().unwrap();
            (latest, file.complaint.clone().unwrap_or_default().replace(&path.display().to_string(), "KEY"))
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
