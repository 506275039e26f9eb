//! The files of the AWS credential chain: whether the SDK can read them without hanging or filling memory.
//!
//! What is in them is the SDK's to read, but for the names of further files.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use copyhold_core::regular_file::{self, ReadError};

/// A thousand profiles have a tenth of it; a token has less.
const AT_MOST_BYTES: u64 = 4 << 20;

/// Variables that name a file of profiles, and where it is without them, below the home directory.
const PROFILES: [(&str, &str); 2] =
    [("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), ("AWS_CONFIG_FILE", ".aws/config")];
/// Variables that name a file with a token.
const TOKENS: [&str; 2] = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];
/// What names such a file in a profile.
const TOKEN_OF_PROFILE: &str = "web_identity_token_file";

/// A file that the chain reads, if it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainFile {
    path: PathBuf,
    named_by: NamedBy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NamedBy {
    Variable(&'static str),
    /// Nothing: it is where the SDK looks by itself.
    Default,
    /// A profile in this file.
    Profile(PathBuf),
}

/// Why the chain must not read a file.
#[derive(Debug, thiserror::Error)]
#[error("{file}, which {error}")]
pub struct RefusedFile {
    file: ChainFile,
    error: ReadError,
}

impl RefusedFile {
    /// The variable that names it, if one does.
    #[must_use]
    pub fn variable(&self) -> Option<&'static str> {
        match self.file.named_by {
            NamedBy::Variable(name) => Some(name),
            NamedBy::Default | NamedBy::Profile(_) => None,
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    #[must_use]
    pub fn error(&self) -> &ReadError {
        &self.error
    }
}

impl ChainFile {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses what the SDK would wait for, or read without end.
    pub fn check(&self) -> Result<(), RefusedFile> {
        let refused = |error| RefusedFile { file: self.clone(), error };
        regular_file::check(&self.path, AT_MOST_BYTES).map_err(refused)
    }

    /// Files with tokens that profiles in this file name.
    fn named_in(&self) -> Vec<Self> {
        let text = regular_file::read(&self.path, AT_MOST_BYTES).unwrap_or_default();
        let named = |line: &str| {
            let (name, value) = line.split_once('=')?;
            let path = (name.trim() == TOKEN_OF_PROFILE).then(|| PathBuf::from(value.trim()))?;
            Some(Self { path, named_by: NamedBy::Profile(self.path.clone()) })
        };
        String::from_utf8_lossy(&text).lines().filter_map(named).collect()
    }
}

/// `AWS_CONFIG_FILE names /home/me/config`
impl fmt::Display for ChainFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.named_by {
            NamedBy::Variable(name) => write!(f, "{name} names {path}"),
            NamedBy::Default => write!(f, "the AWS credential chain reads {path}"),
            NamedBy::Profile(file) => write!(f, "{TOKEN_OF_PROFILE} in {} names {path}", file.display()),
        }
    }
}

/// The files that the chain reads as this process's environment is.
#[must_use]
pub fn chain_files() -> Vec<ChainFile> {
    files(|name| env::var_os(name))
}

fn files(variable: impl Fn(&str) -> Option<OsString>) -> Vec<ChainFile> {
    let home = variable("HOME").map(PathBuf::from);
    let named = |name: &'static str| {
        let path = PathBuf::from(variable(name)?);
        // As the SDK has it.
        let below_home = path.strip_prefix("~").ok().zip(home.as_ref()).map(|(rest, home)| home.join(rest));
        Some(ChainFile { path: below_home.unwrap_or(path), named_by: NamedBy::Variable(name) })
    };
    let default = |below: &str| Some(ChainFile { path: home.as_ref()?.join(below), named_by: NamedBy::Default });
    let profiles = PROFILES.into_iter().filter_map(|(name, below)| named(name).or_else(|| default(below)));
    profiles.chain(TOKENS.into_iter().filter_map(named)).collect()
}

/// Returns the files that the chain must not read; `variable` returns the value of a variable of the environment.
#[must_use]
pub fn refused_chain_files(variable: impl Fn(&str) -> Option<OsString>) -> Vec<RefusedFile> {
    let files = files(variable);
    let refused: Vec<_> = files.iter().filter_map(|file| file.check().err()).collect();
    if !refused.is_empty() {
        return refused;
    }
    let named = files.iter().take(PROFILES.len()).flat_map(ChainFile::named_in);
    named.filter_map(|file| file.check().err()).collect()
}
