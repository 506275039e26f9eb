//! The files of the AWS credential chain: whether they can be read without hanging.
//!
//! What is in them is the SDK's to read.

use std::{fs, path::Path};

use super::{overrides::Environment, place::Place, problem::Problem};

/// Variables that name such a file.
const VARIABLES: [&str; 4] = [
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Returns those that the SDK would wait for, or read without end. `/dev/null` is how one says that there is none.
pub(super) fn problems(environment: &Environment) -> Vec<Problem> {
    let special = |name: &str| {
        let path = Path::new(environment.get(name)?);
        let found = fs::metadata(path).ok()?;
        let is_harmless = found.is_file() || path == Path::new("/dev/null");
        (!is_harmless).then(|| Problem {
            place: Place::Variable(name.to_owned()),
            what: format!("names {}, which is no regular file", path.display()),
            todo: "name a file, or unset it".to_owned(),
        })
    };
    VARIABLES.into_iter().filter_map(special).collect()
}
