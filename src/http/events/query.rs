//! Parses the query of a reader of `/v1/events`.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use axum::http::{HeaderMap, header};
use copyhold_core::domain::{Cursor, EventKind, ReplicaName};
use url::form_urlencoded;

use super::super::error_response::{ErrorResponse, quoted};
use crate::{
    config::did_you_mean,
    events::{Filter, Start},
};

const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Of a key, and so of what one begins with.
const PREFIX: usize = 1024;
const PARAMETERS: [&str; 6] = ["after", "kinds", "prefix", "replica", "wait", "format"];

/// What a reader of events wants.
#[derive(Debug)]
pub(super) struct EventsQuery {
    pub(super) start: Start,
    pub(super) filter: Filter,
    pub(super) shape: ResponseFormat,
}

/// How the response is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseFormat {
    /// Server-Sent Events.
    Sse,
    /// One JSON document a line; with a time, to what is the end of the log when it is over.
    Lines(Option<Duration>),
    /// One document as soon as there is something to send, or when this time is over.
    Poll(Duration),
}

impl EventsQuery {
    pub(super) fn of(query: &str, headers: &HeaderMap) -> Result<Self, ErrorResponse> {
        let mut given = parameters(query)?;
        let mut take = |name: &str| given.remove(name);
        let after = last_event_id(headers)?.or_else(|| take("after").map(Cow::into_owned));
        let filter = Filter {
            kinds: take("kinds").map(|text| kinds(&text)).transpose()?.unwrap_or_default(),
            prefix: take("prefix").map(prefix).transpose()?,
            replica: take("replica").map(|name| replica(&name)).transpose()?,
        };
        let shape = shape(take("wait").as_deref(), take("format").as_deref(), headers)?;
        Ok(Self { start: start(after.as_deref())?, filter, shape })
    }
}

fn parameters(query: &str) -> Result<BTreeMap<&'static str, Cow<'_, str>>, ErrorResponse> {
    let mut given = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let Some(known) = PARAMETERS.into_iter().find(|known| *known == name) else {
            return Err(ErrorResponse::bad(format!(
                "there is no parameter {}: there are {}",
                quoted(&name),
                PARAMETERS.join(", ")
            )));
        };
        // It stands for what could not be decoded, and looks like something that nothing matches.
        if value.contains('\u{fffd}') {
            return Err(ErrorResponse::bad(format!("{known} is not UTF-8: encode it as UTF-8, then each byte as %XX")));
        }
        if given.insert(known, value).is_some() {
            return Err(ErrorResponse::bad(format!(
                "{known} is there twice: give it once, several kinds with commas between"
            )));
        }
    }
    Ok(given)
}

/// What a client of Server-Sent Events sends when it comes back; it then sends its first `after` again too.
fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, ErrorResponse> {
    match headers.get("last-event-id").map(|id| id.to_str()) {
        None | Some(Ok("")) => Ok(None),
        Some(Ok(id)) => Ok(Some(id.to_owned())),
        Some(Err(_)) => Err(ErrorResponse::bad("Last-Event-ID is no event's id: send one that came with an event")),
    }
}

fn start(after: Option<&str>) -> Result<Start, ErrorResponse> {
    let Some(after) = after else { return Ok(Start::Now) };
    match after.parse::<Cursor>() {
        Ok(Cursor::BEGINNING) => Ok(Start::Earliest),
        Ok(cursor) => Ok(Start::After(cursor)),
        Err(invalid) => {
            Err(ErrorResponse::bad(format!("after: {invalid}; send what came with an event, or 0 for all there are")))
        }
    }
}

fn kinds(text: &str) -> Result<Vec<String>, ErrorResponse> {
    text.split(',').map(|word| kind(word.trim())).collect()
}

/// Copyhold's own kinds are a closed set, and no others begin like them; those of other programs are free.
fn kind(word: &str) -> Result<String, ErrorResponse> {
    let ours = EventKind::ALL.map(EventKind::as_str);
    let family = |kind: &'static str| kind.split_inclusive('.').next().unwrap_or(kind);
    if ours.iter().any(|kind| word.starts_with(family(kind))) && !ours.contains(&word) {
        let todo = match did_you_mean(word, ours) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("there are {}", ours.join(", ")),
        };
        return Err(ErrorResponse::bad(format!("kinds: {} is no kind of Copyhold's events: {todo}", quoted(word))));
    }
    let mut letters = word.bytes();
    let is_name = letters.next().is_some_and(|b| b.is_ascii_lowercase())
        && letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b))
        && word.len() <= 63;
    if is_name {
        return Ok(word.to_owned());
    }
    Err(ErrorResponse::bad(format!(
        "kinds: {} is no kind: one begins with a lower-case letter, then up to 62 of a-z, 0-9, \".\", \"_\" and \"-\"",
        quoted(word)
    )))
}

fn prefix(text: Cow<'_, str>) -> Result<String, ErrorResponse> {
    if text.len() > PREFIX {
        return Err(ErrorResponse::bad(format!("prefix: no key has more than {PREFIX} bytes: give a shorter one")));
    }
    Ok(text.into_owned())
}

fn replica(name: &str) -> Result<ReplicaName, ErrorResponse> {
    ReplicaName::new(name).map_err(|_| {
        ErrorResponse::bad(format!(
            "replica: {} is no replica's name: give one of the sections [replicas.NAME]",
            quoted(name)
        ))
    })
}

fn shape(wait: Option<&str>, format: Option<&str>, headers: &HeaderMap) -> Result<ResponseFormat, ErrorResponse> {
    let accepts = |media: &str| {
        let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
        accepted.any(|accept| accept.split([',', ';']).any(|one| one.trim().eq_ignore_ascii_case(media)))
    };
    let wait = match wait.map(|wait| (wait, humantime::parse_duration(wait))) {
        None => None,
        Some((_, Ok(wait))) if wait <= LONGEST_WAIT => Some(wait),
        Some((wait, _)) => {
            return Err(ErrorResponse::bad(format!("wait is {}: write 0s to 60s, as in wait=20s", quoted(wait))));
        }
    };
    match (format, wait) {
        (Some("sse"), None) => Ok(ResponseFormat::Sse),
        (Some("sse"), Some(_)) => {
            Err(ErrorResponse::bad("wait and format=sse exclude each other: a stream of Server-Sent Events has no end"))
        }
        (Some("ndjson"), wait) => Ok(ResponseFormat::Lines(wait)),
        (Some(other), _) => Err(ErrorResponse::bad(format!("format is {}: write sse or ndjson", quoted(other)))),
        (None, wait) if accepts("application/x-ndjson") => Ok(ResponseFormat::Lines(wait)),
        (None, Some(wait)) => Ok(ResponseFormat::Poll(wait)),
        (None, None) => Ok(ResponseFormat::Sse),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(query: &str, given: &[(&'static str, &str)]) -> Result<EventsQuery, ErrorResponse> {
        let headers =
            given.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect();
        EventsQuery::of(query, &headers)
    }

    fn after(id: i64) -> Start {
        Start::After(Cursor { id, epoch: None })
    }

    #[test]
    fn a_reader_begins_at_its_cursor_and_returns_to_what_it_saw_last() {
        let start = |query, headers: &[_]| asked(query, headers).unwrap().start;
        assert_eq!(start("", &[]), Start::Now);
        assert_eq!(start("after=0", &[]), Start::Earliest);
        assert_eq!(start("after=12", &[]), after(12));
        assert_eq!(start("after=12%401a2b3c4d", &[]), Start::After("12@1a2b3c4d".parse().unwrap()));
        assert_eq!(start("after=12", &[("last-event-id", "15")]), after(15));
        assert_eq!(start("after=12", &[("last-event-id", "")]), after(12));
    }

    #[test]
    fn the_shape_is_what_was_asked_for_and_server_sent_events_else() {
        let shape = |query, headers: &[_]| asked(query, headers).unwrap().shape;
        assert_eq!(shape("", &[]), ResponseFormat::Sse);
        assert_eq!(shape("", &[("accept", "*/*")]), ResponseFormat::Sse);
        assert_eq!(shape("", &[("accept", "text/event-stream")]), ResponseFormat::Sse);
        assert_eq!(shape("", &[("accept", "application/x-ndjson; q=1")]), ResponseFormat::Lines(None));
        assert_eq!(shape("format=ndjson", &[("accept", "text/event-stream")]), ResponseFormat::Lines(None));
        assert_eq!(shape("format=ndjson&wait=1s", &[]), ResponseFormat::Lines(Some(Duration::from_secs(1))));
        assert_eq!(
            shape("wait=20s", &[("accept", "text/event-stream")]),
            ResponseFormat::Poll(Duration::from_secs(20))
        );
        assert_eq!(shape("wait=0s", &[]), ResponseFormat::Poll(Duration::ZERO));
    }

    #[test]
    fn an_invalid_query_is_refused_with_the_remedy() {
        for (query, says) in [
            ("after=-1", "negative"),
            ("after=99999999999999999999", "as large as"),
            ("after=x", "is a number"),
            ("after=", "is a number"),
            ("after=12@xyz", "hexadecimal"),
            ("kinds=object.copid", "did you mean object.copied?"),
            ("kinds=daemon.exploded", "object.copied"),
            ("kinds=Door", "lower-case letter"),
            ("kinds=", "lower-case letter"),
            ("kinds=door.opened,", "lower-case letter"),
            ("kinds=a&kinds=b", "twice"),
            ("prefix=%ff", "not UTF-8"),
            ("replica=Not-One", "[replicas.NAME]"),
            ("wait=61s", "0s to 60s"),
            ("wait=soon", "0s to 60s"),
            ("wait=20", "0s to 60s"),
            ("wait=1s&format=sse", "exclude each other"),
            ("format=xml", "sse or ndjson"),
            ("since=5", "there are after, kinds"),
            ("%1b[2J=1", "\\u{1b}"),
        ] {
            let response = asked(query, &[]).expect_err(query);
            let text = format!("{response:?}");
            assert!(text.contains(&says.escape_debug().to_string()) || text.contains(says), "{query}: {text}");
        }
    }

    #[test]
    fn kinds_of_other_programs_are_free() {
        let filter = asked("kinds=door.opened,%20object.copied&prefix=a%2Fb&replica=scw", &[]).unwrap().filter;
        assert_eq!(filter.kinds, ["door.opened", "object.copied"]);
        assert_eq!(filter.prefix.as_deref(), Some("a/b"));
        assert_eq!(filter.replica.unwrap().as_str(), "scw");
    }
}
