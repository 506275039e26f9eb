//! Files with secrets that every user of this machine may read or write.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use copyhold_core::domain::escaped;

use super::finding::{Finding, Outcome};
use crate::config::{Config, Credentials};

/// Read or written by users that are neither the owner nor in the group.
const BY_OTHERS: u32 = 0o006;
/// A path has no more.
const PATH_CHARS: usize = 4096;

/// A warning for each of them.
pub(super) fn warnings(config: &Config) -> Vec<Finding> {
    let of_chain = config.replicas.iter().any(|replica| matches!(replica.credentials, Credentials::Ambient));
    let files = config.secret_files().into_iter().chain(credentials_file().filter(|_| of_chain));
    files.filter_map(|path| warning(&path)).collect()
}

fn warning(path: &Path) -> Option<Finding> {
    let mode = fs::metadata(path).ok()?.mode() & 0o7777;
    let verb = match mode & BY_OTHERS {
        0 => return None,
        0o002 => "write",
        _ => "read",
    };
    let path = escaped(&path.to_string_lossy(), PATH_CHARS);
    let says = format!("every user may {verb} {path}, which holds a secret (mode {mode:04o}): chmod o-rwx {path}");
    Some(Finding::new("configuration", "secrets", Outcome::Warning, says))
}

/// Where the AWS chain finds keys.
fn credentials_file() -> Option<PathBuf> {
    let of_home = || Some(PathBuf::from(env::var_os("HOME")?).join(".aws/credentials"));
    env::var_os("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(of_home).filter(|path| path.is_file())
}
