//! Reads `[[rules]]`.

use bytesize::ByteSize;
use copyhold_core::domain::{ObjectKey, ReplicaName, Rule, size_text};

use super::{
    invalid_value::InvalidValue,
    position::{Position, Positioned},
    reader::Section,
    replica, suggest,
    value_types::Text,
};

/// More would have to be gone through for each object that is registered.
const MOST: usize = 100;
const SETTINGS: [&str; 4] = ["prefix", "min_size", "max_size", "replicas"];

/// `None` if anything about them is wrong.
pub(super) fn read(top: &mut Section<'_>, replicas: &[replica::ReadReplica]) -> Option<Vec<Rule>> {
    let sections = top.list("rules", &SETTINGS);
    if let Some(first_too_many) = sections.get(MOST) {
        first_too_many.note(&format!("are more than {MOST}"), "join some of them to a rule with a shorter prefix");
    }
    let mut read: Vec<(Position, Option<Rule>)> = Vec::new();
    for section in sections {
        let position = section.position().clone();
        let rule = one(section, replicas, &read);
        read.push((position, rule));
    }
    read.into_iter().map(|(_, rule)| rule).collect()
}

fn one(
    mut section: Section<'_>,
    replicas: &[replica::ReadReplica],
    before: &[(Position, Option<Rule>)],
) -> Option<Rule> {
    let given = ["prefix", "min_size", "max_size"].map(|name| section.has(name));
    let prefix = section.get_with("prefix", prefix);
    let min = section.get_with("min_size", bytes);
    let max = section.get_with("max_size", bytes);
    let wanted = section.need_with("replicas", r#"["b2", "wasabi"]"#, |names| wanted(names, replicas));
    let mut good = given == [prefix.is_some(), min.is_some(), max.is_some()];
    if let (Some(min), Some(max)) = (&min, &max)
        && min.value > max.value
    {
        let [least, most] = [min, max].map(|size| size_text(size.value));
        let what = format!("is {least}, more than max_size of {most}: no object has such a size");
        section.note_at(&min.position, "min_size", &what, "exchange the two, or correct one of them");
        good = false;
    }
    let rule = wanted.filter(|_| good).map(|wanted| Rule {
        prefix: prefix.map(|prefix| prefix.value).unwrap_or_default(),
        min_bytes: min.map(|size| size.value),
        max_bytes: max.map(|size| size.value),
        replicas: wanted.value,
    });
    if let Some(rule) = &rule {
        check_reached(&section, rule, before);
    }
    section.finish();
    rule
}

fn prefix(Text(prefix): Text) -> Result<String, InvalidValue> {
    match ObjectKey::new(prefix.clone()) {
        // One that is empty is no key, but every key begins with it.
        Err(why) if !prefix.is_empty() => {
            Err(InvalidValue::new(format!("is the beginning of no key: {why}"), "shorten or correct it"))
        }
        Ok(_) | Err(_) => Ok(prefix),
    }
}

/// What PostgreSQL's bigint holds.
fn bytes(size: ByteSize) -> Result<u64, InvalidValue> {
    let most = i64::MAX.unsigned_abs();
    if size.as_u64() > most {
        return Err(InvalidValue::new("is beyond all bounds", "write a smaller size, or remove it"));
    }
    Ok(size.as_u64())
}

fn wanted(names: Vec<Positioned<String>>, replicas: &[replica::ReadReplica]) -> Result<Vec<ReplicaName>, InvalidValue> {
    let known = || replicas.iter().map(|found| found.name.as_str());
    let mut wanted: Vec<ReplicaName> = Vec::new();
    for Positioned { value: name, position } in names {
        let invalid = |what: String, todo: String| Err(InvalidValue { position: Some(position.clone()), what, todo });
        if !known().any(|replica| replica == name) {
            let todo = match suggest::among(&name, known()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("name some of {}", known().collect::<Vec<_>>().join(", ")),
            };
            return invalid(format!("has {name:?}, but there is no [replicas.{}]", name.escape_debug()), todo);
        }
        // A section whose name is none was noted.
        let Ok(name) = ReplicaName::new(&name) else { continue };
        if wanted.contains(&name) {
            return invalid(format!("has {:?} twice", name.as_str()), "remove one of the two".into());
        }
        wanted.push(name);
    }
    if wanted.is_empty() {
        let todo = "name some, at least the primary, or remove the rule: what no rule fits is wanted at all replicas";
        return Err(InvalidValue::new("names no replica", todo));
    }
    Ok(wanted)
}

/// A rule that can never count is a mistake: of its order, or of its bounds.
fn check_reached(section: &Section<'_>, rule: &Rule, before: &[(Position, Option<Rule>)]) {
    let wider = before.iter().filter_map(|(position, earlier)| Some((position, earlier.as_ref()?)));
    let wider: Vec<_> = wider.filter(|(_, earlier)| rule.prefix.starts_with(&earlier.prefix)).collect();
    let Some(covering) = covering(rule, &wider) else { return };
    let lines = covering.iter().map(|(position, _)| match position {
        Position::Position { line, .. } => line.to_string(),
        Position::File | Position::Variable(_) => "?".to_owned(),
    });
    let lines = lines.collect::<Vec<_>>().join(" and ");
    let (those, fit) = match covering.len() {
        1 => ("the rule in line", "fits"),
        _ => ("the rules in lines", "fit"),
    };
    let same = |earlier: &Rule| {
        earlier.replicas.len() == rule.replicas.len() && earlier.replicas.iter().all(|r| rule.replicas.contains(r))
    };
    let otherwise = if covering.iter().all(|(_, earlier)| same(earlier)) { "" } else { ", and it contradicts" };
    section.note(
        &format!("has a rule that can never count: {those} {lines} {fit} everything that it does{otherwise}"),
        "the first rule that fits counts: put the narrower one first, or remove it",
    );
}

type Earlier<'r> = (&'r Position, &'r Rule);

/// Rules, of some that fit all its keys, that together fit all its sizes; `None`: there are none.
fn covering<'r>(rule: &Rule, wider: &[Earlier<'r>]) -> Option<Vec<Earlier<'r>>> {
    let of_any_size = |rule: &Rule| rule.min_bytes.is_none() && rule.max_bytes.is_none();
    if let Some(all) = wider.iter().find(|(_, earlier)| of_any_size(earlier)) {
        return Some(vec![*all]);
    }
    // Only such a one would fit objects of unknown size.
    if of_any_size(rule) {
        return None;
    }
    let (mut from, to) = (rule.min_bytes.unwrap_or(0), rule.max_bytes.unwrap_or(u64::MAX));
    let mut covering = Vec::new();
    loop {
        let fits = |earlier: &Rule| {
            earlier.min_bytes.is_none_or(|min| min <= from) && earlier.max_bytes.is_none_or(|max| max >= from)
        };
        let farthest = wider.iter().filter(|(_, earlier)| fits(earlier));
        let next = farthest.max_by_key(|(_, earlier)| earlier.max_bytes.unwrap_or(u64::MAX))?;
        covering.push(*next);
        match next.1.max_bytes.filter(|max| *max < to) {
            Some(max) => from = max + 1,
            None => return Some(covering),
        }
    }
}
