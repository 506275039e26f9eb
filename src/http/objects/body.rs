//! Parses the objects that a request registers.

use std::fmt;

use axum::http::StatusCode;
use copyhold_core::domain::{ObjectKey, ReplicaName};
use copyhold_db::object::NewObject;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::super::error_response::{ErrorResponse, quoted};
use crate::config::did_you_mean;

/// Objects of one request.
const MOST: usize = 10_000;
/// Replicas of one object. There are never so many.
const MOST_NAMES: usize = 100;
/// Of a sentence that names what a client has sent.
const SHOWN_CHARS: usize = 300;

/// A text that holds objects, each of which may still be wrong. Of 1 MiB of text may be made hundreds, so nothing is.
#[derive(Debug)]
pub(super) struct CountedObjects<'t> {
    text: &'t str,
    objects: usize,
}

/// The text is JSON, and has some objects, and not too many.
pub(super) fn count(text: &str) -> Result<CountedObjects<'_>, ErrorResponse> {
    let mut objects = 0;
    for value in serde_json::Deserializer::from_str(text).into_iter::<ObjectCount>() {
        objects += value.map_err(|why| ErrorResponse::bad(format!("this is not JSON: {why}")))?.0;
    }
    if objects == 0 {
        return Err(ErrorResponse::bad(
            "there is no object: give {\"key\": \"cats/tom.jpg\"}, or several in an array or by lines",
        ));
    }
    if objects > MOST {
        let text =
            format!("there are {MOST} objects at most in one request, and these are {objects}: send them in several");
        return Err(ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(CountedObjects { text, objects })
}

impl CountedObjects<'_> {
    /// The objects in the order in which they were sent, checked. The error names the first invalid object by its
    /// number, from 0.
    pub(super) fn objects(self, replicas: &[ReplicaName]) -> Result<Vec<NewObject>, ErrorResponse> {
        let mut read = ObjectReader { replicas, objects: Vec::with_capacity(self.objects), wrong: None };
        let mut text = serde_json::Deserializer::from_str(self.text);
        while text.end().is_err() {
            if let Err(error) = (&mut read).deserialize(&mut text) {
                let index = read.objects.len();
                let why: String = read.wrong.unwrap_or_else(|| error.to_string()).chars().take(SHOWN_CHARS).collect();
                let text = format!("nothing was registered: object {index} (from 0): {why}");
                return Err(ErrorResponse::bad(text).with("index", index));
            }
        }
        Ok(read.objects)
    }
}

/// How many objects a value holds: as many as an array has elements.
struct ObjectCount(usize);

impl<'de> Deserialize<'de> for ObjectCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self(0))
    }
}

impl<'de> Visitor<'de> for ObjectCount {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self, A::Error> {
        let mut count = 0;
        while elements.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Self(count))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self(1))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(Self(1))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(Self(1))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(Self(1))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(Self(1))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(Self(1))
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(Self(1))
    }
}

/// Objects that were read, and what was wrong with the next.
struct ObjectReader<'r> {
    replicas: &'r [ReplicaName],
    objects: Vec<NewObject>,
    wrong: Option<String>,
}

impl ObjectReader<'_> {
    fn take<E: serde::de::Error>(&mut self, given: ObjectFields) -> Result<(), E> {
        match object(given, self.replicas) {
            Ok(object) => self.objects.push(object),
            Err(why) => {
                self.wrong = Some(why);
                return Err(E::custom("an object is wrong"));
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut ObjectReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut ObjectReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(OBJECT)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(ArrayElement(given)) = elements.next_element()? {
            self.take(given)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<(), A::Error> {
        let given = ObjectFields::deserialize(MapAccessDeserializer::new(members))?;
        self.take(given)
    }
}

const OBJECT: &str = "a JSON object, such as {\"key\": \"cats/tom.jpg\"}";

/// An element of an array. By itself, a struct may also be given as an array of its fields.
struct ArrayElement(ObjectFields);

impl<'de> Deserialize<'de> for ArrayElement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = ArrayElement;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(OBJECT)
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<ArrayElement, A::Error> {
                ObjectFields::deserialize(MapAccessDeserializer::new(members)).map(ArrayElement)
            }
        }

        deserializer.deserialize_any(MapVisitor)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectFields {
    key: String,
    size: Option<u64>,
    replicas: Option<ReplicaNames>,
}

struct ReplicaNames(Vec<String>);

impl<'de> Deserialize<'de> for ReplicaNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SeqVisitor;

        impl<'de> Visitor<'de> for SeqVisitor {
            type Value = ReplicaNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of names of replicas")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<ReplicaNames, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = elements.next_element()? {
                    if names.len() == MOST_NAMES {
                        return Err(A::Error::custom(format_args!("more than {MOST_NAMES} names of replicas")));
                    }
                    names.push(name);
                }
                Ok(ReplicaNames(names))
            }
        }

        deserializer.deserialize_seq(SeqVisitor)
    }
}

fn object(given: ObjectFields, replicas: &[ReplicaName]) -> Result<NewObject, String> {
    let ObjectFields { key, size, replicas: wanted } = given;
    let key = ObjectKey::new(key).map_err(|why| format!("key: {why}"))?;
    if size.is_some_and(|size| i64::try_from(size).is_err()) {
        return Err("size: no object is so large".into());
    }
    let known = |name: String| {
        let found = replicas.iter().find(|replica| replica.as_str() == name).cloned();
        found.ok_or_else(|| {
            let names = || replicas.iter().map(ReplicaName::as_str);
            let todo = match did_you_mean(&name, names()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
            };
            format!("replicas: there is no {}; {todo}", quoted(&name))
        })
    };
    let wanted =
        wanted.map(|ReplicaNames(names)| names.into_iter().map(known).collect::<Result<Vec<_>, _>>()).transpose()?;
    Ok(NewObject { key, size_bytes: size, wanted })
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use serde_json::Value;

    use super::*;

    fn objects(text: &str, replicas: &[ReplicaName]) -> Result<Vec<NewObject>, ErrorResponse> {
        count(text)?.objects(replicas)
    }

    fn replicas() -> [ReplicaName; 2] {
        ["b2", "wasabi"].map(|name| ReplicaName::new(name).unwrap())
    }

    #[test]
    fn one_object_or_several_in_whatever_way_they_are_written() {
        let object = |key: &str| NewObject { key: ObjectKey::new(key).unwrap(), size_bytes: None, wanted: None };
        let [a, b] = ["a", "b\u{7}"].map(object);
        for text in [
            r#"[{"key": "a"}, {"key": "b\u0007"}]"#,
            "{\"key\": \"a\"}\n{\"key\": \"b\\u0007\", \"size\": null}\n",
            r#"[{"key": "a"}] {"key": "b\u0007", "replicas": null}"#,
        ] {
            assert_eq!(objects(text, &replicas()).unwrap(), [a.clone(), b.clone()], "{text}");
        }
        let whole = objects(r#"{"key": "a", "size": 0, "replicas": ["wasabi"]}"#, &replicas()).unwrap();
        let [_, wasabi] = replicas();
        assert_eq!(whole, [NewObject { size_bytes: Some(0), wanted: Some(vec![wasabi]), ..a }]);
    }

    #[tokio::test]
    async fn an_error_names_the_number_of_the_object() {
        let long = format!(r#"{{"key": "{}"}}"#, "x".repeat(1025));
        let names = format!(r#"{{"key": "a", "replicas": [{}"b2"]}}"#, r#""b2","#.repeat(MOST_NAMES));
        let many = "{\"key\": \"a\"}\n".repeat(MOST + 1);
        for (text, status, index, says) in [
            ("", 400, None, "there is no object"),
            ("[]", 400, None, "there is no object"),
            ("{", 400, None, "this is not JSON"),
            ("{} x", 400, None, "this is not JSON"),
            (r#"{"key": "a"} 17"#, 400, Some(1), "invalid type: integer `17`, expected a JSON object"),
            (r#"[{"key": "a"}, ["b"]]"#, 400, Some(1), "expected a JSON object"),
            (names.as_str(), 400, Some(0), "more than 100 names"),
            (r#"[{"key": "a"}, {"ky": "a"}]"#, 400, Some(1), "unknown field `ky`"),
            (r#"{"size": 1}"#, 400, Some(0), "missing field `key`"),
            (r#"{"key": ""}"#, 400, Some(0), "a key cannot be empty"),
            (long.as_str(), 400, Some(0), "a key has at most 1024 bytes, this one has 1025"),
            (r#"{"key": "a\u0000"}"#, 400, Some(0), "NUL"),
            (r#"{"key": "a", "size": -1}"#, 400, Some(0), "invalid value: integer `-1`"),
            (r#"{"key": "a", "size": 9223372036854775808}"#, 400, Some(0), "no object is so large"),
            (r#"{"key": "a", "replicas": ["wasaby"]}"#, 400, Some(0), "did you mean \\\"wasabi\\\"?"),
            (many.as_str(), 413, None, "10000 objects at most"),
        ] {
            let response = objects(text, &replicas()).unwrap_err().into_response();
            assert_eq!(response.status().as_u16(), status, "{text:.40}");
            let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            let body = str::from_utf8(&body).unwrap();
            assert!(body.contains(says), "{body}");
            let told = serde_json::from_str::<Value>(body).unwrap()["index"].as_u64();
            assert_eq!(told, index, "{body}");
        }
    }
}
