//! The files of the AWS credential chain: whether the SDK can read them without hanging or filling memory.
//!
//! What is in them is the SDK's to read, but for the names of further files.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use super::{overrides::Environment, place::Place, problem::Problem};
use crate::regular_file::{self, ReadError};

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

impl ChainFile {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses what the SDK would wait for, or read without end. `/dev/null` is how one says that there is none.
    pub fn check(&self) -> Result<(), RefusedFile> {
        if self.path == Path::new("/dev/null") {
            return Ok(());
        }
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

/// Returns a problem for each file that the chain must not read.
pub(super) fn problems(environment: &Environment) -> Vec<Problem> {
    let files = files(|name| environment.get(name).map(OsString::from));
    let problem = |RefusedFile { file, error }: RefusedFile| match file.named_by {
        NamedBy::Variable(name) => Problem {
            place: Place::Variable(name.to_owned()),
            what: format!("names {}, which {error}", file.path.display()),
            todo: format!("{}, or unset {name}", error.remedy()),
        },
        NamedBy::Default | NamedBy::Profile(_) => Problem {
            place: Place::File,
            what: format!("credentials = \"ambient\" cannot be used: {file}, which {error}"),
            todo: format!("{}, or set access_key_id and secret_access_key", error.remedy()),
        },
    };
    let refused: Vec<_> = files.iter().filter_map(|file| file.check().err()).collect();
    if !refused.is_empty() {
        return refused.into_iter().map(problem).collect();
    }
    let named = files.iter().take(PROFILES.len()).flat_map(ChainFile::named_in);
    named.filter_map(|file| file.check().err()).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn told(variables: &[(&str, &str)]) -> Vec<String> {
        let environment = Environment::of(variables.iter().copied());
        let line = |Problem { place, what, todo }| match place {
            Place::Variable(name) => format!("{name} {what}: {todo}"),
            Place::File | Place::Position { .. } => format!("{what}: {todo}"),
        };
        problems(&environment).into_iter().map(line).collect()
    }

    #[test]
    fn a_file_of_the_chain_that_is_special_or_too_large_is_refused_before_the_sdk_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).display().to_string();
        let huge = path("huge");
        File::create(&huge).unwrap().set_len(2 << 30).unwrap();
        for name in PROFILES.map(|(name, _)| name).into_iter().chain(TOKENS) {
            assert_eq!(
                told(&[(name, &huge)]),
                [format!("{name} names {huge}, which is larger than 4.0 MiB: correct the path, or unset {name}")]
            );
            assert_eq!(
                told(&[(name, "/dev/zero")]),
                [format!("{name} names /dev/zero, which is a device: name a regular file, or unset {name}")]
            );
            assert!(told(&[(name, "/dev/null")]).is_empty() && told(&[(name, &path("none"))]).is_empty(), "{name}");
            let below_home = told(&[(name, "~/huge"), ("HOME", &path(""))]);
            assert!(below_home.len() == 1 && below_home[0].contains("is larger than 4.0 MiB"), "{below_home:?}");
        }
    }

    #[test]
    fn files_that_the_chain_finds_by_itself_or_in_a_profile_are_looked_at_too() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).display().to_string();
        let variables = [("HOME", path("")), ("AWS_SHARED_CREDENTIALS_FILE", path("none"))];
        let told = || told(&variables.each_ref().map(|(name, value)| (*name, value.as_str())));
        fs::create_dir(path(".aws")).unwrap();
        fs::write(path(".aws/config"), "[default]\nrole_arn = r\nweb_identity_token_file = /dev/zero\n").unwrap();
        let config = path(".aws/config");
        let todo = "name a regular file, or set access_key_id and secret_access_key";
        let begin = "credentials = \"ambient\" cannot be used:";
        assert_eq!(
            told(),
            [format!("{begin} web_identity_token_file in {config} names /dev/zero, which is a device: {todo}")]
        );
        fs::remove_file(&config).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &config).unwrap();
        assert_eq!(told(), [format!("{begin} the AWS credential chain reads {config}, which is a device: {todo}")]);
        fs::remove_file(&config).unwrap();
        assert!(told().is_empty());
    }
}
