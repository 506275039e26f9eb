//! Which events a reader wants.

use copyhold_core::domain::ReplicaName;
use copyhold_db::log::LoggedEvent;
use serde_json::Value;

/// Which events a reader wants; the default: all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these, which may be other programs' own; empty: all, and those without one.
    pub kinds: Vec<String>,
    /// With which the object's key begins, byte for byte. Events that name no object do not pass.
    pub prefix: Option<String>,
    /// Among the replicas that the event names. Events that name none do not pass.
    pub replica: Option<ReplicaName>,
}

/// The parts of an event that filters compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventFacts {
    kind: Option<Box<str>>,
    key: Option<Box<str>>,
    replicas: Box<[Box<str>]>,
}

impl Filter {
    #[must_use]
    pub fn wants_all(&self) -> bool {
        self.kinds.is_empty() && self.prefix.is_none() && self.replica.is_none()
    }

    pub(super) fn passes(&self, facts: &EventFacts) -> bool {
        let kind = self.kinds.is_empty()
            || facts.kind.as_deref().is_some_and(|kind| self.kinds.iter().any(|wanted| wanted == kind));
        let key = self
            .prefix
            .as_ref()
            .is_none_or(|prefix| facts.key.as_deref().is_some_and(|key| key.starts_with(prefix.as_str())));
        let replica =
            self.replica.as_ref().is_none_or(|wanted| facts.replicas.iter().any(|name| **name == *wanted.as_str()));
        kind && key && replica
    }
}

impl EventFacts {
    pub(super) fn of(event: &mut LoggedEvent) -> Self {
        Self {
            kind: event.kind.take().map(String::into_boxed_str),
            key: event.object_key.take().map(String::into_boxed_str),
            replicas: event.replicas.take().map(|json| replicas(&json)).unwrap_or_default(),
        }
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let replicas: usize = self.replicas.iter().map(|name| name.len() + size_of::<Box<str>>()).sum();
        size_of::<Self>() + text(&self.kind) + text(&self.key) + replicas
    }
}

/// A name, a list of names, or members by name. Others may append anything, which then names none.
fn replicas(json: &str) -> Box<[Box<str>]> {
    match serde_json::from_str(json) {
        Ok(Value::String(name)) => [name.into()].into(),
        Ok(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(Into::into).collect(),
        Ok(Value::Object(members)) => members.into_iter().map(|(name, _)| name.into()).collect(),
        _ => Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kind: Option<&str>, key: Option<&str>, json: Option<&str>) -> EventFacts {
        EventFacts::of(&mut LoggedEvent {
            id: 1,
            date_created: String::new(),
            data: String::new(),
            kind: kind.map(Into::into),
            object_key: key.map(Into::into),
            replicas: json.map(Into::into),
        })
    }

    #[test]
    fn all_that_a_filter_names_must_hold() {
        let copied = facts(Some("object.copied"), Some("a/b"), Some(r#"["wasabi", "scw"]"#));
        let door = facts(Some("door.opened"), None, None);
        let bare = facts(None, None, None);
        let kinds =
            |kinds: &[&str]| Filter { kinds: kinds.iter().map(ToString::to_string).collect(), ..Filter::default() };
        let prefix = |prefix: &str| Filter { prefix: Some(prefix.into()), ..Filter::default() };
        let replica = |name: &str| Filter { replica: Some(ReplicaName::new(name).unwrap()), ..Filter::default() };
        for facts in [&copied, &door, &bare] {
            assert!(Filter::default().passes(facts));
        }
        let passing = |filter: &Filter| [&copied, &door, &bare].map(|facts| filter.passes(facts));
        assert_eq!(passing(&kinds(&["object.copied"])), [true, false, false]);
        assert_eq!(passing(&kinds(&["door.opened", "copy.failed"])), [false, true, false]);
        assert_eq!(passing(&prefix("a/")), [true, false, false]);
        assert_eq!(passing(&prefix("")), [true, false, false]);
        assert_eq!(passing(&prefix("b")), [false, false, false]);
        assert_eq!(passing(&replica("scw")), [true, false, false]);
        assert_eq!(passing(&replica("b2")), [false, false, false]);
        let two = Filter { prefix: Some("a".into()), ..kinds(&["copy.failed"]) };
        assert_eq!(passing(&two), [false, false, false]);
    }

    #[test]
    fn replicas_are_found_however_an_event_names_them() {
        let filter = Filter { replica: Some(ReplicaName::new("scw").unwrap()), ..Filter::default() };
        for json in [r#""scw""#, r#"["b2", "scw"]"#, r#"{"scw": 5}"#] {
            assert!(filter.passes(&facts(None, None, Some(json))), "{json}");
        }
        for json in ["null", "7", r#"[["scw"]]"#, r#""scw2""#] {
            assert!(!filter.passes(&facts(None, None, Some(json))), "{json}");
        }
    }
}
