//! Environment variables `COPYHOLD_SECTION__KEY`, laid over the file before it is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
};

use super::{
    position::Position,
    problem::Problem,
    toml_tree::{Entries, Node, Value},
};

const PREFIX: &str = "COPYHOLD_";
/// Variables of the command line, which are no settings.
const NOT_SETTINGS: &[&str] = &["COPYHOLD_CONFIG"];

/// The environment as it was when the configuration was read.
#[derive(Default)]
pub(super) struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Names that are not UTF-8 cannot be ours.
    pub(super) fn of(variables: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>) -> Self {
        let named = |(name, value): (_, _)| {
            let name: OsString = Into::into(name);
            Some((name.into_string().ok()?, Into::into(value)))
        };
        Self(variables.into_iter().filter_map(named).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsString::as_os_str)
    }
}

/// The variable that overrides the setting at `path`.
pub(super) fn variable_for(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_uppercase())
}

/// Puts each override where the file would have it; returns those that fit nowhere.
pub(super) fn lay_over(root: &mut Entries, environment: &Environment) -> Vec<Problem> {
    let named_as_secrets = variables_named_in(root);
    let mut problems = Vec::new();
    for (name, value) in &environment.0 {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if NOT_SETTINGS.contains(&name.as_str())
            || named_as_secrets.contains(name)
            || is_kubernetes_service_link(rest, &value.to_string_lossy())
        {
            continue;
        }
        let mut problem = |what: &str, todo: String| {
            problems.push(Problem { position: Position::Variable(name.clone()), what: what.to_owned(), todo });
        };
        let Some(value) = value.to_str() else {
            problem("its value is not UTF-8", "set it to text".to_owned());
            continue;
        };
        match path_of(rest) {
            None => {
                problem("it names no setting", format!("write it as {PREFIX}SECTION__KEY, in upper case, or unset it"));
            }
            Some(path) => {
                if !put(root, &path, name, value) {
                    let todo = "override a single setting, with two underscores after each section, or unset it";
                    problem(&format!("{} is not a setting that holds a value", path.join(".")), todo.to_owned());
                }
            }
        }
    }
    problems
}

/// `LEASE__TIMEOUT` → `lease`, `timeout`. A replica's name may contain `__`, the settings do not,
/// so that the first and the last separator decide.
fn path_of(rest: &str) -> Option<Vec<String>> {
    if rest.contains(|c: char| c.is_ascii_lowercase()) {
        return None;
    }
    let parts: Vec<&str> = match rest.strip_prefix("REPLICAS__") {
        Some(replica) => match replica.rsplit_once("__") {
            Some((name, key)) => vec!["REPLICAS", name, key],
            None => vec!["REPLICAS", replica],
        },
        None => rest.split("__").collect(),
    };
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    Some(parts.iter().map(|part| part.to_lowercase()).collect())
}

/// False if a part of the path holds a value already, or the whole of it is a section.
fn put(entries: &mut Entries, path: &[String], variable: &str, value: &str) -> bool {
    let position = Position::Variable(variable.to_owned());
    let node = |value| Node { key: position.clone(), position: position.clone(), value };
    match path {
        [] => false,
        [key] => {
            if let Some(Node { value: Value::Section(inner), .. }) = entries.get(key)
                && !is_secret_reference(inner)
            {
                return false;
            }
            entries.insert(key.clone(), node(Value::Variable(value.to_owned())));
            true
        }
        [section, rest @ ..] => {
            let section = entries.entry(section.clone()).or_insert_with(|| node(Value::Section(Entries::new())));
            match &mut section.value {
                Value::Section(inner) => put(inner, rest, variable, value),
                _ => false,
            }
        }
    }
}

/// `{ env = "…" }` and `{ file = "…" }` are values, though TOML writes them like sections.
fn is_secret_reference(entries: &Entries) -> bool {
    !entries.is_empty() && entries.keys().all(|key| key == "env" || key == "file")
}

/// Names in `{ env = "…" }`: an operator may well call one COPYHOLD_B2_SECRET.
fn variables_named_in(entries: &Entries) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (key, node) in entries {
        match &node.value {
            Value::Text(name) if key == "env" => {
                names.insert(name.clone());
            }
            Value::Section(inner) => names.extend(variables_named_in(inner)),
            _ => {}
        }
    }
    names
}

/// Kubernetes gives every container such variables for each service of its namespace, and one
/// called `copyhold` is likely: `…_SERVICE_HOST`, `…_PORT=tcp://…`, `…_PORT_9180_TCP_ADDR`.
fn is_kubernetes_service_link(rest: &str, value: &str) -> bool {
    let is_address = || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let numbered_port = || {
        let mut words = rest.split('_').skip_while(|word| *word != "PORT").skip(1);
        words.next().is_some_and(|word| word.parse::<u16>().is_ok())
            && words.next().is_some_and(|word| ["TCP", "UDP", "SCTP"].contains(&word))
    };
    let named = |suffix: &str| rest == suffix || rest.ends_with(&format!("_{suffix}"));
    named("SERVICE_HOST")
        || rest == "SERVICE_PORT"
        || rest.starts_with("SERVICE_PORT_")
        || rest.contains("_SERVICE_PORT")
        || (named("PORT") && is_address())
        || numbered_port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_with_underscores_in_its_name_can_be_overridden() {
        let path = |rest| path_of(rest).map(|parts| parts.join("."));
        assert_eq!(path("PRIMARY").as_deref(), Some("primary"));
        assert_eq!(path("WORKERS__COUNT").as_deref(), Some("workers.count"));
        assert_eq!(path("REPLICAS__B2__ACCESS_KEY_ID").as_deref(), Some("replicas.b2.access_key_id"));
        assert_eq!(path("REPLICAS__A__B__BUCKET").as_deref(), Some("replicas.a__b.bucket"));
        assert_eq!(path("REPLICAS__A___BUCKET").as_deref(), Some("replicas.a_.bucket"));
        assert_eq!(path("WORKERS____COUNT"), None);
        assert_eq!(path("workers__count"), None);
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_called_copyhold_is_not_taken_for_settings() {
        for (name, value) in [
            ("SERVICE_HOST", "10.0.0.7"),
            ("SERVICE_PORT", "9180"),
            ("SERVICE_PORT_HTTP", "9180"),
            ("PORT", "tcp://10.0.0.7:9180"),
            ("PORT_9180_TCP", "tcp://10.0.0.7:9180"),
            ("PORT_9180_TCP_ADDR", "10.0.0.7"),
            ("HTTP_SERVICE_HOST", "10.0.0.7"),
            ("METRICS_PORT_9180_TCP_PROTO", "tcp"),
        ] {
            assert!(is_kubernetes_service_link(name, value), "{name}={value}");
        }
        for (name, value) in [("PORT", "9180"), ("PRIMARY", "b2"), ("HTTP__LISTEN", "127.0.0.1:1"), ("PORT_X", "1")] {
            assert!(!is_kubernetes_service_link(name, value), "{name}={value}");
        }
    }
}
