//! What a request says of the objects that are to be registered.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::super::refusal::{Refusal, quoted};
use crate::{
    config::did_you_mean,
    domain::{ObjectKey, ReplicaName},
    queue::NewObject,
};

/// Objects of one request.
const MOST: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    key: String,
    size: Option<u64>,
    replicas: Option<Vec<String>>,
}

/// Objects in the order in which they were sent, checked. The first that is wrong is told with its number, from 0.
pub(super) fn objects(text: &str, replicas: &[ReplicaName]) -> Result<Vec<NewObject>, Refusal> {
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value.map_err(|why| Refusal::bad(format!("this is not JSON: {why}")))? {
            Value::Array(several) => values.extend(several),
            one => values.push(one),
        }
    }
    if values.is_empty() {
        return Err(Refusal::bad(
            "there is no object: give {\"key\": \"cats/tom.jpg\"}, or several in an array or by lines",
        ));
    }
    if values.len() > MOST {
        let text = format!(
            "there are {MOST} objects at most in one request, and these are {}: send them in several",
            values.len()
        );
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let wrong = |index: usize, why: &str| {
        Refusal::bad(format!("nothing was registered: object {index} (from 0): {why}")).with("index", index)
    };
    let object = |(index, value)| object(value, replicas).map_err(|why| wrong(index, &why));
    values.into_iter().enumerate().map(object).collect()
}

fn object(value: Value, replicas: &[ReplicaName]) -> Result<NewObject, String> {
    if !value.is_object() {
        return Err("it is no JSON object, such as {\"key\": \"cats/tom.jpg\"}".into());
    }
    let Given { key, size, replicas: wanted } = serde_json::from_value(value).map_err(|why| why.to_string())?;
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
    let wanted = wanted.map(|names| names.into_iter().map(known).collect::<Result<Vec<_>, _>>()).transpose()?;
    Ok(NewObject { key, size_bytes: size, wanted })
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

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
    async fn what_is_wrong_is_told_with_the_number_of_the_object() {
        let long = format!(r#"{{"key": "{}"}}"#, "x".repeat(1025));
        let many = "{\"key\": \"a\"}\n".repeat(MOST + 1);
        for (text, status, index, says) in [
            ("", 400, None, "there is no object"),
            ("[]", 400, None, "there is no object"),
            ("{", 400, None, "this is not JSON"),
            ("{} x", 400, None, "this is not JSON"),
            (r#"{"key": "a"} 17"#, 400, Some(1), "it is no JSON object"),
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
