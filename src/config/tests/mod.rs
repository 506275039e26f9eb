//! What the configuration accepts and refuses, in the words that the operator reads.

mod accepted;
mod connection;
mod overridden;
mod refused;
mod replicas;
mod rules;
mod secrets;

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::{Config, ConfigErrors, load};

/// The least that is a configuration.
const LEAST: &str = r#"primary = "b2"
[database]
url = "postgres:///app?host=/run/pg"
[replicas.b2]
endpoint = "https://s3.example.com"
bucket = "photos"
access_key_id = "id"
secret_access_key = "secret"
[replicas.wasabi]
endpoint = "https://s3.wasabisys.com"
bucket = "photos"
credentials = "ambient"
"#;

/// A configuration in a folder of its own, and an environment.
struct Case {
    folder: TempDir,
    text: String,
    environment: Vec<(String, String)>,
}

impl Case {
    fn of(text: impl Into<String>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, text: text.into(), environment: Vec::new() }
    }

    /// The least, and something below it.
    fn least_and(more: &str) -> Self {
        Self::of(format!("{LEAST}{more}"))
    }

    /// The least with a piece of it replaced.
    fn least_with(old: &str, new: &str) -> Self {
        assert!(LEAST.contains(old), "{old}");
        Self::of(LEAST.replacen(old, new, 1))
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.folder.path().join(name), content).expect("a file in a temporary folder");
        self
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("copyhold.toml")
    }

    fn load(&self) -> Result<Config, ConfigErrors> {
        fs::write(self.path(), &self.text).expect("a file in a temporary folder");
        load(&self.path(), self.environment.clone())
    }

    #[track_caller]
    fn config(&self) -> Config {
        self.load().unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Refused with these words and no others, once per problem: where and what, and what to do.
    #[track_caller]
    fn is_refused(&self, problems: &[(&str, &str)]) {
        let expected: Vec<String> = problems.iter().map(|(what, todo)| format!("{what}\n    {todo}")).collect();
        assert_eq!(self.report(), expected.join("\n"));
    }

    /// The report as printed, paths shortened to the file's name.
    #[track_caller]
    fn report(&self) -> String {
        let errors = self.load().expect_err("a configuration that is refused");
        errors.to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }
}
