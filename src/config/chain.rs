//! The files of the AWS credential chain that the SDK must not read, as problems of the configuration.

use std::ffi::OsString;

use copyhold_s3::settings::{RefusedFile, refused_chain_files};

use super::{env_overrides::Environment, position::Position, problem::Problem};

/// Returns a problem for each file that the chain must not read.
pub(super) fn problems(environment: &Environment) -> Vec<Problem> {
    refused_chain_files(|name| environment.get(name).map(OsString::from)).iter().map(problem).collect()
}

fn problem(refused: &RefusedFile) -> Problem {
    let (error, remedy) = (refused.error(), refused.error().remedy());
    match refused.variable() {
        Some(name) => Problem {
            position: Position::Variable(name.to_owned()),
            what: format!("names {}, which {error}", refused.path().display()),
            todo: format!("{remedy}, or unset {name}"),
        },
        None => Problem {
            position: Position::File,
            what: format!("credentials = \"ambient\" cannot be used: {refused}"),
            todo: format!("{remedy}, or set access_key_id and secret_access_key"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    const VARIABLES: [&str; 4] = [
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONFIG_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ];

    fn told(variables: &[(&str, &str)]) -> Vec<String> {
        let environment = Environment::of(variables.iter().copied());
        let line = |Problem { position, what, todo }| match position {
            Position::Variable(name) => format!("{name} {what}: {todo}"),
            Position::File | Position::Position { .. } => format!("{what}: {todo}"),
        };
        problems(&environment).into_iter().map(line).collect()
    }

    #[test]
    fn a_file_of_the_chain_that_is_special_or_too_large_is_refused_before_the_sdk_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).display().to_string();
        let huge = path("huge");
        File::create(&huge).unwrap().set_len(2 << 30).unwrap();
        for name in VARIABLES {
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
