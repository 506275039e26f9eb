//! The file as a tree in which every value knows its place. No value here has
//! `Debug`, because any of them may be a secret.

use std::collections::BTreeMap;

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    position::{Lines, Position},
    problem::Problem,
};

/// The entries of a section by their names.
pub(super) type Entries = BTreeMap<String, Node>;

pub(super) struct Node {
    /// Of the name.
    pub(super) key: Position,
    /// Of the value.
    pub(super) position: Position,
    pub(super) value: Value,
}

pub(super) enum Value {
    Text(String),
    /// `None` where it exceeds 64 bits.
    Integer(Option<i64>),
    Boolean(bool),
    Section(Entries),
    List(Vec<Node>),
    /// A kind of value that no setting has, by its name in a sentence.
    Other(&'static str),
    /// The text of an environment variable, whose kind the setting decides.
    Variable(String),
}

/// Parses TOML; all errors of syntax at once, one a line because one slip causes several.
pub(super) fn parse(text: &str) -> Result<Entries, Vec<Problem>> {
    let lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(entries(table.into_inner(), &|offset| lines.position(offset)));
    }
    let mut problems: Vec<_> = errors
        .iter()
        .map(|error| {
            let position = error.span().map_or(Position::File, |span| lines.position(span.start));
            let line = match &position {
                Position::Position { line, .. } => text.lines().nth(line - 1),
                Position::File | Position::Variable(_) => None,
            };
            let (what, todo) = line.and_then(slip).unwrap_or_else(|| {
                let todo = "correct the syntax; the settings are checked once the file can be read";
                (error.message().to_owned(), todo.to_owned())
            });
            Problem { position, what: format!("not TOML: {what}"), todo }
        })
        .collect();
    problems.sort();
    problems.dedup_by_key(|problem| match problem.position {
        Position::Position { line, .. } => line,
        Position::File | Position::Variable(_) => 0,
    });
    Err(problems)
}

/// What is wrong with a line `name = value` that is not TOML, and what to write, for the usual slips. Of the value
/// nothing is shown but the name of a replica: it may be a secret.
fn slip(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let name_ends = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)))?;
    let (name, rest) = line.split_at(name_ends);
    let rest = rest.trim_start();
    if name.is_empty() {
        return None;
    }
    let shown = |value: &str| {
        let is_name =
            !value.is_empty() && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if name == "primary" && is_name { value.to_owned() } else { "…".to_owned() }
    };
    let quoted = |value: &str| format!("write {name} = \"{}\"", shown(value));
    if rest.starts_with(':') {
        return Some((format!("a colon follows {name}"), format!("write = between {name} and its value")));
    }
    let value = rest.strip_prefix('=')?.split('#').next()?.trim();
    let first = value.chars().next();
    match first {
        None => Some((format!("{name} has no value"), quoted(""))),
        Some('“' | '”' | '„' | '‘' | '’' | '«' | '`') => {
            let inner = value.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            Some((
                format!("the value of {name} is in quotes of another kind"),
                format!("{}, with straight quotes", quoted(inner)),
            ))
        }
        Some(quote @ ('"' | '\'')) if value.matches(quote).count() == 1 => {
            Some((format!("the quote in front of the value of {name} is not closed"), quoted(&value[1..])))
        }
        Some(c) if c.is_ascii_alphabetic() || c == '/' => {
            Some((format!("the value of {name} is not in quotes"), quoted(value)))
        }
        Some(_) => None,
    }
}

/// The text of a variable as a TOML value, if it is one.
pub(super) fn parse_value(text: &str, position: &Position) -> Option<Value> {
    let parsed = DeValue::parse(text).ok()?.into_inner();
    Some(plain(parsed, &|_| position.clone()))
}

fn entries(table: DeTable<'_>, position: &dyn Fn(usize) -> Position) -> Entries {
    let node = |(name, value): (Spanned<DeString<'_>>, Spanned<DeValue<'_>>)| {
        let (key, at) = (position(name.span().start), position(value.span().start));
        (name.into_inner().into_owned(), Node { key, position: at, value: plain(value.into_inner(), position) })
    };
    table.into_iter().map(node).collect()
}

fn plain(value: DeValue<'_>, position: &dyn Fn(usize) -> Position) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Boolean(yes) => Value::Boolean(yes),
        DeValue::Table(table) => Value::Section(entries(table, position)),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            let node = |item: Spanned<DeValue<'_>>| {
                let at = position(item.span().start);
                Node { key: at.clone(), position: at, value: plain(item.into_inner(), position) }
            };
            Value::List(items.into_iter().map(node).collect())
        }
    }
}

impl Value {
    /// Its kind, as worded in a sentence.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Variable(_) => "text",
            Self::Integer(_) => "a whole number",
            Self::Boolean(_) => "true or false",
            Self::Section(_) => "a section",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
        }
    }
}
