//! The sources of values other than the file itself.

use std::path::{Path, PathBuf};

use super::env_overrides::Environment;

pub(super) struct Sources {
    pub(super) environment: Environment,
    /// The configuration's own.
    pub(super) file: PathBuf,
    /// Of the configuration; relative paths begin there.
    pub(super) folder: PathBuf,
}

impl Sources {
    pub(super) fn new(environment: Environment, config: &Path) -> Self {
        let folder = config.parent().map(Path::to_path_buf).unwrap_or_default();
        Self { environment, file: config.to_path_buf(), folder }
    }

    /// Returns a path as the configuration means it: relative to its own folder.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}
