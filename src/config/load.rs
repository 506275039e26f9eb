//! Loads a configuration: file, environment, and the checks across sections.

use std::{collections::HashMap, ffi::OsString, io, path::Path};

use copyhold_core::{domain::ReplicaName, regular_file};
use url::Url;

use super::{
    Config, ConfigErrors, Problem, database, endpoint,
    env_overrides::{self, Environment},
    events,
    position::{Lines, Position, Positioned},
    process,
    reader::{Reader, Section},
    replica, rules, suggest, toml_tree,
};

/// A thousand sections have a tenth of it; a wrong path may lead to anything.
const AT_MOST_BYTES: u64 = 4 << 20;

/// Reads the file, lays the environment's `COPYHOLD_SECTION__KEY` over it and checks everything.
///
/// `environment` is passed in (`std::env::vars_os()` elsewhere than in tests), because secrets
/// come from it too. Reports all problems at once.
pub fn load(
    path: &Path,
    environment: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
) -> Result<Config, ConfigErrors> {
    let text = read_file(path).map_err(|problem| ConfigErrors::new(path, vec![problem]))?;
    parse(path, &text, environment)
}

/// Does the same for a text that was read already; `path` only names it.
pub fn parse(
    path: &Path,
    text: &str,
    environment: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
) -> Result<Config, ConfigErrors> {
    let environment = Environment::of(environment);
    let mut entries = toml_tree::parse(text).map_err(|problems| ConfigErrors::new(path, problems))?;
    let misplaced = env_overrides::lay_over(&mut entries, &environment);

    let reader = Reader::new(environment, path);
    reader.note_all(misplaced);
    let config = read(Section::top(&reader, entries));
    let problems = reader.finish();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigErrors::new(path, problems)),
    }
}

fn read_file(path: &Path) -> Result<String, Problem> {
    const ANOTHER: &str = "name another with --config PATH or COPYHOLD_CONFIG";
    let problem = |position, what: String, todo: String| Problem { position, what, todo };
    let bytes = regular_file::read(path, AT_MOST_BYTES).map_err(|error| {
        let (what, first) = match error.io_kind() {
            Some(io::ErrorKind::NotFound) => ("there is no such file".to_owned(), "create it"),
            Some(io::ErrorKind::PermissionDenied) => ("we may not read it".to_owned(), error.remedy()),
            Some(_) => (format!("it {error}"), "make it readable"),
            None => (format!("it {error}"), error.remedy()),
        };
        problem(Position::File, what, format!("{first}, or {ANOTHER}"))
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let position = Lines::of(&valid).position(valid.len());
        problem(position, "not UTF-8".to_owned(), "save the file as UTF-8".to_owned())
    })
}

fn read(mut top: Section<'_>) -> Option<Config> {
    let known = top.names_in("replicas");
    let example = known.first().map_or_else(|| r#""b2""#.to_owned(), |first| format!("\"{first}\""));
    let primary = top.need_with("primary", &example, Ok::<String, _>);
    let database = database::read(top.section("database"));
    let mut all = top.section("replicas");
    let replicas: Vec<_> = all.sections().into_iter().map(|(name, section)| replica::read(name, section)).collect();
    check_replicas(&all, &replicas);
    check_primary(&top, primary.as_ref(), &replicas);
    let rules = rules::read(&mut top, &replicas);
    let workers = process::workers(top.section("workers"));
    let lease = process::lease(top.section("lease"));
    let guard = process::guard(top.section("guard"));
    let sweeper = process::sweeper(top.section("sweeper"));
    let events = events::read(top.section("events"));
    let shutdown = process::shutdown(top.section("shutdown"));
    let http = process::http(top.section("http"));
    let log = process::log(top.section("log"));
    top.finish();

    Some(Config {
        primary: ReplicaName::new(primary?.value).ok()?,
        database: database?,
        replicas: replicas.into_iter().map(|found| found.replica).collect::<Option<_>>()?,
        rules: rules?,
        workers,
        lease,
        guard,
        sweeper,
        events,
        shutdown,
        http,
        log,
    })
}

/// There must be something to copy to, and no bucket may be copied onto itself.
fn check_replicas<'f>(section: &Section<'_>, replicas: &'f [replica::ReadReplica]) {
    match replicas {
        _ if section.is_broken() => {}
        [] => section.reader().note(
            section.position().clone(),
            "there is no replica",
            "write a section [replicas.NAME] for each bucket, two at least",
        ),
        [only] => section.reader().note(
            only.position.clone(),
            format!("replicas.{} is the only replica: there is nothing to copy to", only.name),
            "write a section [replicas.NAME] for the bucket that is to hold the copies",
        ),
        _ => {}
    }
    let located = |found: &'f replica::ReadReplica| Some((found.location.as_ref()?, found.name.as_str()));
    let mut by_place: Vec<(&Positioned<(Url, String)>, &str)> = replicas.iter().filter_map(located).collect();
    by_place.sort_by_key(|(location, _)| &location.position);
    let mut seen = HashMap::new();
    for (Positioned { value: (endpoint, bucket), position }, name) in by_place {
        let same = (endpoint::server(endpoint), bucket);
        if let Some(first) = seen.get(&same) {
            section.reader().note(
                position.clone(),
                format!("replicas.{name} is the same bucket as replicas.{first}: {bucket:?} at {endpoint}"),
                "give it a bucket of its own, or remove one of the two sections",
            );
        } else {
            seen.insert(same, name);
        }
    }
}

fn check_primary(top: &Section<'_>, primary: Option<&Positioned<String>>, replicas: &[replica::ReadReplica]) {
    let Some(Positioned { value: primary, position }) = primary else { return };
    let Some(found) = replicas.iter().find(|found| found.name == *primary) else {
        let names: Vec<&str> = replicas.iter().map(|found| found.name.as_str()).collect();
        let todo = match (suggest::among(primary, names.iter().copied()), names.as_slice()) {
            (Some(meant), _) => format!("did you mean {meant:?}?"),
            (None, []) => "write a section for it".to_owned(),
            (None, names) => format!("name one of {}, or write a section for it", names.join(", ")),
        };
        top.note_at(position, "primary", &format!("is {primary:?}, but there is no [replicas.{primary}]"), todo);
        return;
    };
    if let Some(Positioned { value: false, position }) = &found.readable {
        top.reader().note(
            position.clone(),
            format!("replicas.{primary}.read is false, but it is the primary, which everything is read from"),
            "set it to true, or name another primary",
        );
    }
}
