//! Finds PostgreSQL's server programs on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::SandboxError;

/// A folder that has PostgreSQL's server programs.
#[derive(Debug, Clone)]
pub(super) struct Binaries(PathBuf);

/// Folders whose names begin so have one version each. The programs are in a folder `bin` below;
/// Alpine puts them there directly.
const VERSIONED: &[(&str, &str)] = &[
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/usr/lib", "postgresql"),
    ("/usr/libexec", "postgresql"),
    ("/usr/lib64", "postgresql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@"),
    ("/Applications/Postgres.app/Contents/Versions", ""),
];
const PLAIN: &[&str] =
    &["/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql/bin", "/usr/local/opt/postgresql/bin", "/usr/local/bin"];

impl Binaries {
    /// Returns the first of PATH, the folder of `pg_config`, and the usual places of systems, newest version first.
    pub(super) async fn find() -> Result<Self, SandboxError> {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut candidates: Vec<PathBuf> = env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
        candidates.extend(from_pg_config().await);
        for (folder, prefix) in VERSIONED {
            candidates.extend(newest_first(Path::new(folder), prefix));
        }
        candidates.extend(PLAIN.iter().map(PathBuf::from));
        match candidates.iter().find(|folder| has_server(folder)) {
            Some(folder) => Ok(Self(folder.clone())),
            None => Err(SandboxError::NoBinaries { also_looked_in: patterns() }),
        }
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.0.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }
}

/// Returns the searched places for messages.
fn patterns() -> Vec<String> {
    let versioned = VERSIONED.iter().map(|(folder, prefix)| format!("{folder}/{prefix}*/bin"));
    versioned.chain(PLAIN.iter().map(|folder| (*folder).to_owned())).collect()
}

fn has_server(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file())
}

/// Asks `pg_config`, which comes with the client libraries too: its answer does not mean that there is a server.
async fn from_pg_config() -> Option<PathBuf> {
    let output = tokio::process::Command::new("pg_config").arg("--bindir").output().await.ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(folder.trim_end()))
}

fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let versioned = |name: &str| name.strip_prefix(prefix).and_then(version);
    let mut found: Vec<(f64, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((versioned(entry.file_name().to_str()?)?, entry.path()))
        })
        .collect();
    found.sort_by(|(left, _), (right, _)| right.total_cmp(left));
    found.into_iter().flat_map(|(_, folder)| [folder.join("bin"), folder]).collect()
}

/// Parses `15`, or `9.6` as in old versions.
fn version(text: &str) -> Option<f64> {
    text.parse().ok().filter(|version: &f64| version.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first_and_ten_is_newer_than_nine() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["9.6", "15", "10", "contrib", "nan"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found = newest_first(folder.path(), "");
        let bins: Vec<_> = found.iter().filter(|path| path.ends_with("bin")).collect();
        assert_eq!(bins, ["15/bin", "10/bin", "9.6/bin"].map(|name| folder.path().join(name)).each_ref());
    }

    #[test]
    fn a_folder_with_clients_alone_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("postgres"), "").unwrap();
        assert!(!has_server(folder.path()));
        fs::write(folder.path().join("initdb"), "").unwrap();
        assert!(has_server(folder.path()));
    }
}
