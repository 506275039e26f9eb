//! The file as a tree in which every value knows its place. No value here has
//! `Debug`, because any of them may be a secret.

use std::collections::BTreeMap;

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    place::{Lines, Place},
    problem::Problem,
};

/// The entries of a section by their names.
pub(super) type Entries = BTreeMap<String, Node>;

pub(super) struct Node {
    /// Of the name.
    pub(super) key: Place,
    /// Of the value.
    pub(super) place: Place,
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
        return Ok(entries(table.into_inner(), &|offset| lines.place(offset)));
    }
    let mut problems: Vec<_> = errors
        .iter()
        .map(|error| Problem {
            place: error.span().map_or(Place::File, |span| lines.place(span.start)),
            what: format!("not TOML: {}", error.message()),
            todo: "correct the syntax; the settings are checked once the file can be read".to_owned(),
        })
        .collect();
    problems.sort();
    problems.dedup_by_key(|problem| match problem.place {
        Place::Position { line, .. } => line,
        Place::File | Place::Variable(_) => 0,
    });
    Err(problems)
}

/// The text of a variable as a TOML value, if it is one.
pub(super) fn parse_value(text: &str, place: &Place) -> Option<Value> {
    let parsed = DeValue::parse(text).ok()?.into_inner();
    Some(plain(parsed, &|_| place.clone()))
}

fn entries(table: DeTable<'_>, place: &dyn Fn(usize) -> Place) -> Entries {
    let node = |(name, value): (Spanned<DeString<'_>>, Spanned<DeValue<'_>>)| {
        let (key, at) = (place(name.span().start), place(value.span().start));
        (name.into_inner().into_owned(), Node { key, place: at, value: plain(value.into_inner(), place) })
    };
    table.into_iter().map(node).collect()
}

fn plain(value: DeValue<'_>, place: &dyn Fn(usize) -> Place) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Boolean(yes) => Value::Boolean(yes),
        DeValue::Table(table) => Value::Section(entries(table, place)),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            let node = |item: Spanned<DeValue<'_>>| {
                let at = place(item.span().start);
                Node { key: at.clone(), place: at, value: plain(item.into_inner(), place) }
            };
            Value::List(items.into_iter().map(node).collect())
        }
    }
}

impl Value {
    /// Its kind as it stands in a sentence.
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
