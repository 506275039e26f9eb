//! Reads settings out of the tree. Whatever is wrong is noted and reading goes on, so
//! that one look at the report suffices. A setting that was wrong reads like one that
//! is absent: its problem is noted, and no [`super::Config`] comes of it.

use std::{
    cell::{OnceCell, RefCell},
    ffi::OsString,
    path::Path,
};

use copyhold_core::domain::ReplicaName;
use copyhold_s3::settings::{Proxies, Trust};

use super::{
    env_overrides::{Environment, variable_for},
    invalid_value::InvalidValue,
    position::{Position, Positioned},
    problem::Problem,
    sources::Sources,
    suggest,
    toml_tree::{Entries, Node, Value},
    value_types::ValueType,
};

/// What is read from, and what came of it so far.
pub(super) struct Reader {
    pub(super) sources: Sources,
    /// The proxy settings of the environment.
    pub(super) proxies: Proxies,
    /// The authorities that the environment names; read when they are first needed.
    trust: OnceCell<Result<Trust, Problem>>,
    problems: RefCell<Vec<Problem>>,
    /// Paths of all settings that were asked for: these are the ones that exist.
    asked: RefCell<Vec<String>>,
    unknown: RefCell<Vec<Positioned<String>>>,
}

impl Reader {
    pub(super) fn new(environment: Environment, config: &Path) -> Self {
        Self {
            proxies: Proxies::of(|name| environment.get(name)),
            sources: Sources::new(environment, config),
            trust: OnceCell::new(),
            problems: RefCell::default(),
            asked: RefCell::default(),
            unknown: RefCell::default(),
        }
    }

    /// The authorities that the environment names, else the machine's. Error: they cannot be read.
    pub(super) fn trust(&self) -> Result<Trust, Problem> {
        self.trust
            .get_or_init(|| {
                Trust::of_environment(|name| self.sources.environment.get(name).map(OsString::from))
                    .map_err(Problem::from)
            })
            .clone()
    }

    pub(super) fn note(&self, position: Position, what: impl Into<String>, todo: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { position, what: what.into(), todo: todo.into() });
    }

    pub(super) fn note_all(&self, problems: Vec<Problem>) {
        self.problems.borrow_mut().extend(problems);
    }

    /// All problems, now that everything has been asked for.
    pub(super) fn finish(self) -> Vec<Problem> {
        let asked = self.asked.into_inner();
        let mut problems = self.problems.into_inner();
        for Positioned { value: path, position } in self.unknown.into_inner() {
            let todo = match &position {
                Position::Variable(name) => suggest::for_variable(name, &asked),
                Position::File | Position::Position { .. } => suggest::for_setting(&path, &asked),
            };
            problems.push(Problem { position, what: format!("there is no setting {}", path.escape_debug()), todo });
        }
        problems
    }
}

/// A section being read; a key that no setting has read by the end is unknown.
pub(super) struct Section<'r> {
    reader: &'r Reader,
    /// Empty for the top level.
    path: String,
    position: Position,
    entries: Entries,
    /// It is no section at all, which was noted: its settings are not missing.
    broken: bool,
}

impl<'r> Section<'r> {
    pub(super) fn top(reader: &'r Reader, entries: Entries) -> Self {
        Self { reader, path: String::new(), position: Position::File, entries, broken: false }
    }

    /// The section of that name; an empty one where there is none.
    pub(super) fn section(&mut self, name: &str) -> Section<'r> {
        let path = self.path_of(name);
        let absent = |broken| Section {
            reader: self.reader,
            path: path.clone(),
            position: self.position.clone(),
            entries: Entries::new(),
            broken,
        };
        match self.entries.remove(name) {
            None => absent(self.broken),
            Some(Node { key, value: Value::Section(entries), .. }) => {
                Section { reader: self.reader, path, position: key, entries, broken: false }
            }
            Some(Node { key, .. }) => {
                let todo = match &key {
                    Position::Variable(name) => format!("override its settings one by one, as in {name}__SETTING"),
                    Position::File | Position::Position { .. } => format!("write [{path}] and its settings below that"),
                };
                self.reader.note(key, format!("{path} is a section, not a value"), todo);
                absent(true)
            }
        }
    }

    /// The names of the replicas in a section of sections, as far as they can be such, in their order.
    pub(super) fn names_in(&self, section: &str) -> Vec<ReplicaName> {
        let Some(Node { value: Value::Section(inner), .. }) = self.entries.get(section) else { return Vec::new() };
        inner.keys().filter_map(|name| ReplicaName::new(name.clone()).ok()).collect()
    }

    /// All its sections, each with its name, for a section of sections.
    pub(super) fn sections(&mut self) -> Vec<(String, Section<'r>)> {
        let names: Vec<String> = self.entries.keys().cloned().collect();
        names.into_iter().map(|name| (name.clone(), self.section(&name))).collect()
    }

    /// The sections of that name, written `[[name]]`, in their order. `settings`: those that each may have.
    pub(super) fn list(&mut self, name: &str, settings: &[&str]) -> Vec<Section<'r>> {
        let path = self.path_of(name);
        self.reader.asked.borrow_mut().extend(settings.iter().map(|setting| format!("{path}.{setting}")));
        let Some(Node { key, value, .. }) = self.entries.remove(name) else { return Vec::new() };
        let note = |position| {
            let (what, todo) = (format!("{path} is a list of sections"), format!("write [[{path}]] above each"));
            self.reader.note(position, what, todo);
        };
        let Value::List(items) = value else {
            note(key);
            return Vec::new();
        };
        let section = |item: Node| {
            let Value::Section(entries) = item.value else {
                note(item.position);
                return None;
            };
            Some(Section { reader: self.reader, path: path.clone(), position: item.position, entries, broken: false })
        };
        items.into_iter().filter_map(section).collect()
    }

    /// The value of a setting, if it is there and of the right kind.
    pub(super) fn get<T: ValueType>(&mut self, name: &str) -> Option<Positioned<T>> {
        self.get_with(name, Ok)
    }

    /// As [`Self::get`], checked or turned into something else.
    pub(super) fn get_with<T: ValueType, U>(
        &mut self,
        name: &str,
        check: impl FnOnce(T) -> Result<U, InvalidValue>,
    ) -> Option<Positioned<U>> {
        let path = self.path_of(name);
        self.reader.asked.borrow_mut().push(path.clone());
        let node = self.entries.remove(name)?;
        let position = node.position.clone();
        match T::read(node, &self.reader.sources).map(|value| value.of_setting(&path)).and_then(check) {
            Ok(value) => Some(Positioned { value, position }),
            Err(invalid) => {
                self.reader.note(
                    invalid.position.unwrap_or(position),
                    format!("{path} {}", invalid.what),
                    invalid.todo,
                );
                None
            }
        }
    }

    /// As [`Self::get_with`], and its absence is a problem. `example` follows `name = `.
    pub(super) fn need_with<T: ValueType, U>(
        &mut self,
        name: &str,
        example: &str,
        check: impl FnOnce(T) -> Result<U, InvalidValue>,
    ) -> Option<Positioned<U>> {
        if !self.has(name) && !self.broken {
            self.missing(name, example);
        }
        self.get_with(name, check)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    fn missing(&self, name: &str, example: &str) {
        let path = self.path_of(name);
        let todo = match &self.position {
            Position::Variable(begun_by) => format!(
                "only {begun_by} speaks of [{}]: set {} too, or correct its name",
                self.path,
                variable_for(&path)
            ),
            Position::File if self.path.is_empty() => format!("write {name} = {example} above the first section"),
            Position::File => format!("write a section [{}] with {name} = {example}", self.path),
            Position::Position { .. } => format!("write {name} = {example} in this section"),
        };
        self.reader.note(self.position.clone(), format!("{path} is missing"), todo);
    }

    /// Notes a problem with the section as a whole.
    pub(super) fn note(&self, what: &str, todo: impl Into<String>) {
        self.reader.note(self.position.clone(), format!("{} {what}", self.path), todo);
    }

    /// Notes a problem with one of its settings.
    pub(super) fn note_at(&self, position: &Position, name: &str, what: &str, todo: impl Into<String>) {
        self.reader.note(position.clone(), format!("{} {what}", self.path_of(name)), todo);
    }

    /// What is left over is unknown.
    pub(super) fn finish(self) {
        for (name, node) in &self.entries {
            self.left_over(&self.path_of(name), node);
        }
    }

    /// A section that variables alone made is reported by these.
    fn left_over(&self, path: &str, node: &Node) {
        if let (Position::Variable(_), Value::Section(inner)) = (&node.key, &node.value) {
            for (name, node) in inner {
                self.left_over(&format!("{path}.{name}"), node);
            }
        } else {
            let unknown = Positioned { value: path.to_owned(), position: node.key.clone() };
            self.reader.unknown.borrow_mut().push(unknown);
        }
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    pub(super) fn reader(&self) -> &'r Reader {
        self.reader
    }
}
