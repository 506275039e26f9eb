//! A secret that may be rotated while the process runs. No message here contains any part of a secret.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

/// A secret, and how to read its current value.
#[derive(Clone)]
pub struct Secret {
    /// The value when the configuration was read.
    first: SecretString,
    /// `None`: the value is in the configuration or in the environment and does not change.
    source: Option<Arc<SecretSource>>,
    /// The file that it was read from: the configuration itself or another.
    kept_in: Option<Arc<Path>>,
}

/// Reads a secret again. Error: a clause whose subject is the file, without any part of the secret.
type ReadSecret = Arc<dyn Fn() -> Result<SecretString, String> + Send + Sync>;

struct SecretSource {
    /// The setting that names the file, for messages.
    setting: String,
    /// The path of the file.
    place: String,
    read: ReadSecret,
    latest: Mutex<LatestValue>,
}

struct LatestValue {
    secret: SecretString,
    read_at: Instant,
    /// Why the last attempt to read it failed; logged once.
    complaint: Option<String>,
}

impl SecretSource {
    fn of(first: &SecretString, setting: String, place: String, read: ReadSecret) -> Arc<Self> {
        let latest = LatestValue { secret: first.clone(), read_at: Instant::now(), complaint: None };
        Arc::new(Self { setting, place, read, latest: Mutex::new(latest) })
    }
}

impl Secret {
    /// Makes a secret that `read` reads again from the file at `place`. Its error continues a sentence that begins with
    /// the file.
    #[must_use]
    pub fn rereadable(
        first: SecretString,
        place: String,
        read: impl Fn() -> Result<SecretString, String> + Send + Sync + 'static,
    ) -> Self {
        let source = SecretSource::of(&first, String::new(), place, Arc::new(read));
        Self { first, source: Some(source), kept_in: None }
    }

    /// Returns the secret with a check: a later value that `check` refuses is not used.
    #[must_use]
    pub fn checked(self, check: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        let source = self.source.map(|source| {
            let read = Arc::clone(&source.read);
            let checked = move || read().and_then(|secret| check(secret.expose_secret()).map(|()| secret));
            SecretSource::of(&self.first, source.setting.clone(), source.place.clone(), Arc::new(checked))
        });
        Self { first: self.first, source, kept_in: self.kept_in }
    }

    /// Returns the secret with the name of its setting, for messages about its file.
    #[must_use]
    pub fn named(mut self, setting: &str) -> Self {
        // Cannot fail: while the configuration is read, there is no other reference to it.
        if let Some(source) = self.source.as_mut().and_then(Arc::get_mut) {
            setting.clone_into(&mut source.setting);
        }
        self
    }

    /// Returns the secret as one that is written in the file at `path` itself.
    #[must_use]
    pub fn written_in(self, path: &Path) -> Self {
        Self { kept_in: Some(path.into()), ..self }
    }

    /// Returns the file that it was read from; `None`: it came from the environment or through a pipe.
    #[must_use]
    pub fn kept_in(&self) -> Option<&Path> {
        self.kept_in.as_deref()
    }

    /// Returns whether the value may change while the process runs.
    #[must_use]
    pub fn may_change(&self) -> bool {
        self.source.is_some()
    }

    /// Reads the current value. While it cannot be read or used (the file is half written), returns the previous one.
    #[must_use]
    pub fn latest(&self) -> SecretString {
        self.latest_within(Duration::ZERO)
    }

    /// Returns a value that was read at most `age` ago.
    #[must_use]
    pub fn latest_within(&self, age: Duration) -> SecretString {
        let Some(source) = &self.source else { return self.first.clone() };
        let mut latest = source.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.read_at.elapsed() < age {
            return latest.secret.clone();
        }
        let found = (source.read)();
        latest.read_at = Instant::now();
        match found {
            Ok(secret) => {
                if latest.secret.expose_secret() != secret.expose_secret() {
                    info!("Read a new {} from {}", source.setting, source.place);
                }
                latest.secret = secret;
                latest.complaint = None;
            }
            Err(what) => {
                let (setting, place) = (&source.setting, &source.place);
                let complaint =
                    format!("{setting} names the file {place}, which now {what}; the value read before stays in use");
                if latest.complaint.as_ref() != Some(&complaint) {
                    warn!("{complaint}");
                    latest.complaint = Some(complaint);
                }
            }
        }
        latest.secret.clone()
    }

    /// Returns why the last attempt to read it failed, with setting and file; `None`: it succeeded.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.source.as_ref()?.latest.lock().unwrap_or_else(PoisonError::into_inner).complaint.clone()
    }
}

/// Exposes the value that was read with the configuration.
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
        Self { first, source: None, kept_in: None }
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
