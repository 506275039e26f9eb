//! Consecutive events of the log, framed once as bytes for all readers.

use std::sync::Arc;

use bytes::Bytes;
use copyhold_core::domain::{Epoch, visible_json};
use copyhold_db::log::LoggedEvent;

use super::filter::{EventFacts, Filter};

/// Consecutive events of the log as they are sent, built once for all readers.
#[derive(Debug)]
pub(super) struct Chunk {
    /// `id: 12@1a2b3c4d`, `data: {…}` and an empty line for each.
    frames: Bytes,
    /// Not empty, in the order of the ids.
    spans: Vec<EventSpan>,
    facts: Vec<EventFacts>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct EventSpan {
    id: i64,
    /// Where the JSON begins; the first of the two line ends behind it makes it a line.
    json: u32,
    end: u32,
}

impl Chunk {
    /// Frames `events`, in chunks that are full with `full_bytes`: one may have more by its last event.
    pub(super) fn build(events: Vec<LoggedEvent>, epoch: Epoch, full_bytes: usize) -> Vec<Arc<Self>> {
        let mut chunks = Vec::new();
        let mut frames = Vec::new();
        let (mut spans, mut facts) = (Vec::new(), Vec::new());
        let mut left = events.len();
        for mut event in events {
            left -= 1;
            let LoggedEvent { id, ref date_created, ref data, .. } = event;
            frames.extend_from_slice(format!("id: {id}@{epoch}\ndata: ").as_bytes());
            let json = at(&frames);
            frames
                .extend_from_slice(format!(r#"{{"id":{id},"date_created":"{date_created}","event_data":"#).as_bytes());
            // Followed with curl, it comes to a terminal as it is.
            frames.extend_from_slice(visible_json(data).as_bytes());
            frames.extend_from_slice(b"}\n\n");
            spans.push(EventSpan { id, json, end: at(&frames) });
            facts.push(EventFacts::of(&mut event));
            if left == 0 || frames.len() >= full_bytes {
                chunks.push(Arc::new(Self::new(&mut frames, &mut spans, &mut facts)));
            }
        }
        chunks
    }

    fn new(frames: &mut Vec<u8>, spans: &mut Vec<EventSpan>, facts: &mut Vec<EventFacts>) -> Self {
        // Copied, because a buffer that grew has room for half as much again.
        let buffer = Bytes::copy_from_slice(frames);
        frames.clear();
        let (mut spans, mut facts) = (std::mem::take(spans), std::mem::take(facts));
        spans.shrink_to_fit();
        facts.shrink_to_fit();
        let bytes = size_of::<Self>()
            + buffer.len()
            + spans.len() * size_of::<EventSpan>()
            + facts.iter().map(EventFacts::bytes).sum::<usize>();
        Self { frames: buffer, spans, facts, bytes }
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn events(&self) -> usize {
        self.spans.len()
    }

    pub(super) fn last(&self) -> i64 {
        // Cannot fail: none is empty.
        self.spans.last().expect("an event").id
    }

    /// The number of the first event behind `id`.
    pub(super) fn behind(&self, id: i64) -> usize {
        self.spans.partition_point(|span| span.id <= id)
    }

    pub(super) fn id(&self, event: usize) -> i64 {
        self.spans[event].id
    }

    pub(super) fn passes(&self, event: usize, filter: &Filter) -> bool {
        filter.passes(&self.facts[event])
    }

    /// All frames from an event on, without copying them.
    pub(super) fn frames_from(&self, event: usize) -> Bytes {
        self.frames.slice(self.start(event)..)
    }

    pub(super) fn frame(&self, event: usize) -> &[u8] {
        &self.frames[self.start(event)..self.spans[event].end as usize]
    }

    /// `{…}` and a line end.
    pub(super) fn line(&self, event: usize) -> &[u8] {
        let EventSpan { json, end, .. } = self.spans[event];
        &self.frames[json as usize..end as usize - 1]
    }

    fn start(&self, event: usize) -> usize {
        if event == 0 { 0 } else { self.spans[event - 1].end as usize }
    }
}

fn at(frames: &[u8]) -> u32 {
    // Cannot fail: a chunk is full long before, and one event is less than PostgreSQL's 1 GiB.
    u32::try_from(frames.len()).expect("less than 4 GiB")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::events) fn event(id: i64, data: &str) -> LoggedEvent {
        LoggedEvent {
            id,
            date_created: "2026-11-22T04:20:08.123456Z".into(),
            data: data.into(),
            kind: None,
            object_key: None,
            replicas: None,
        }
    }

    #[test]
    fn an_event_is_framed_once_and_its_line_is_a_part_of_its_frame() {
        let chunks = Chunk::build(vec![event(7, r#"{"a": 1}"#), event(9, "[]")], Epoch(0x1a2b_3c4d), 1 << 16);
        let [chunk] = &chunks[..] else { panic!("{chunks:?}") };
        let seven = "{\"id\":7,\"date_created\":\"2026-11-22T04:20:08.123456Z\",\"event_data\":{\"a\": 1}}\n";
        let nine = "{\"id\":9,\"date_created\":\"2026-11-22T04:20:08.123456Z\",\"event_data\":[]}\n";
        assert_eq!(chunk.line(0), seven.as_bytes());
        assert_eq!(chunk.line(1), nine.as_bytes());
        let first = format!("id: 7@1a2b3c4d\ndata: {seven}\n");
        let second = format!("id: 9@1a2b3c4d\ndata: {nine}\n");
        assert_eq!(chunk.frame(0), first.as_bytes());
        assert_eq!(chunk.frame(1), second.as_bytes());
        assert_eq!(chunk.frames_from(0), first.clone() + &second);
        assert_eq!(chunk.frames_from(1), second);
        assert_eq!((chunk.behind(6), chunk.behind(7), chunk.behind(8), chunk.behind(9)), (0, 1, 1, 2));
    }

    #[test]
    fn control_characters_are_escaped_and_parse_to_the_same() {
        let data = "{\"object_key\": \"a\u{9b}2J\u{202e}b\"}";
        let chunks = Chunk::build(vec![event(1, data)], Epoch(0), 1 << 16);
        let line = str::from_utf8(chunks[0].line(0)).unwrap();
        assert!(line.ends_with("{\"object_key\": \"a\\u009b2J\\u202eb\"}}\n"), "{line}");
        let told: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(told["event_data"]["object_key"], "a\u{9b}2J\u{202e}b");
    }

    #[test]
    fn a_chunk_is_full_with_so_many_bytes_or_has_one_event() {
        let events: Vec<_> = (1..=10).map(|id| event(id, &"x".repeat(1000))).collect();
        let sizes = |full| Chunk::build(events.clone(), Epoch(0), full).iter().map(|c| c.events()).collect::<Vec<_>>();
        assert_eq!(sizes(1), [1; 10]);
        assert_eq!(sizes(4000), [4, 4, 2]);
        assert_eq!(sizes(1 << 20), [10]);
        assert!(Chunk::build(Vec::new(), Epoch(0), 100).is_empty());
    }
}
