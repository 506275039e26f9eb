//! A secret that may be replaced while the process runs. No message here contains anything of a secret.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

/// A secret, and how to read the one that replaces it.
#[derive(Clone)]
pub struct Secret {
    /// As it was when the configuration was read.
    first: SecretString,
    /// `None`: it stands in the configuration or in the environment, where nothing changes.
    source: Option<Arc<Source>>,
    /// The file that it was read from, the configuration's own or another.
    kept_in: Option<Arc<Path>>,
}

/// Reads a secret again. Error: a clause without anything of the secret, whose subject is its file.
type Read = Arc<dyn Fn() -> Result<SecretString, String> + Send + Sync>;

struct Source {
    /// Of the setting that names it, for messages.
    setting: String,
    /// Of the file that it is read from.
    place: String,
    read: Read,
    latest: Mutex<Latest>,
}

struct Latest {
    secret: SecretString,
    read_at: Instant,
    /// Why it could not be read again last; logged once.
    complaint: Option<String>,
}

impl Source {
    fn of(first: &SecretString, setting: String, place: String, read: Read) -> Arc<Self> {
        let latest = Latest { secret: first.clone(), read_at: Instant::now(), complaint: None };
        Arc::new(Self { setting, place, read, latest: Mutex::new(latest) })
    }
}

impl Secret {
    /// A secret that `read` reads again, from the file at `place`. Its error continues a sentence that the file begins.
    #[must_use]
    pub fn rereadable(
        first: SecretString,
        place: String,
        read: impl Fn() -> Result<SecretString, String> + Send + Sync + 'static,
    ) -> Self {
        let source = Source::of(&first, String::new(), place, Arc::new(read));
        Self { first, source: Some(source), kept_in: None }
    }

    /// The same, and what `check` refuses later is not used.
    #[must_use]
    pub fn checked(self, check: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        let source = self.source.map(|source| {
            let read = Arc::clone(&source.read);
            let checked = move || read().and_then(|secret| check(secret.expose_secret()).map(|()| secret));
            Source::of(&self.first, source.setting.clone(), source.place.clone(), Arc::new(checked))
        });
        Self { first: self.first, source, kept_in: self.kept_in }
    }

    /// The same, and messages about its file name this setting.
    #[must_use]
    pub fn named(mut self, setting: &str) -> Self {
        // Cannot fail: while the configuration is read, nobody else holds it.
        if let Some(source) = self.source.as_mut().and_then(Arc::get_mut) {
            setting.clone_into(&mut source.setting);
        }
        self
    }

    /// The same, written in the file at `path` itself.
    #[must_use]
    pub fn written_in(self, path: &Path) -> Self {
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
        self.source.is_some()
    }

    /// What its source says now. While that cannot be used, for it is half written: what it said before.
    #[must_use]
    pub fn latest(&self) -> SecretString {
        self.latest_within(Duration::ZERO)
    }

    /// The same, or what it said so long ago at most.
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

    /// Why it could not be read again last, with setting and file; `None`: it could.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.source.as_ref()?.latest.lock().unwrap_or_else(PoisonError::into_inner).complaint.clone()
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
