//! The HTTP client of the event log's tests: one connection per request, and answers that are read as they come.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    body::Incoming,
    client::conn::http1,
    header::{AUTHORIZATION, HOST},
    http::HeaderMap,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::harness::{DaemonProcess, Harness, eventually, soon};

pub const TOKEN: &str = "a-token-of-more-than-16";
/// Among the headers of a request: it is sent without the token.
pub const WITHOUT_TOKEN: (&str, &str) = ("authorization", "");

pub fn bearer() -> String {
    format!("Bearer {TOKEN}")
}

/// Of a port without a listener.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Settings with a token and a port that stays the same when the daemon is started again.
pub fn settings(more: &str) -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("[http]\nlisten = \"{port}\"\ntoken = \"{TOKEN}\"\n{more}")
}

/// The door of a daemon.
#[derive(Clone, Copy)]
pub struct Http(pub SocketAddr);

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    held: Vec<u8>,
}

impl Http {
    /// Of a daemon whose log can be read.
    pub async fn of(harness: &Harness, _running: &DaemonProcess) -> Self {
        let http = Self(harness.config.http.listen);
        let answers = async || http.get("/v1/events?wait=0s", &[]).await.is_some_and(|answer| answer.status == 200);
        eventually("the log can be read", answers).await;
        http
    }

    /// `None`: the connection was refused or cut before an answer.
    pub async fn get(self, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
        self.ask("GET", path, headers, "").await
    }

    /// An answer that must come.
    pub async fn read(self, path: &str) -> Answer {
        self.get(path, &[]).await.unwrap()
    }

    pub async fn post(self, body: impl Into<Bytes>, headers: &[(&str, &str)]) -> Answer {
        self.ask("POST", "/v1/events", headers, body).await.unwrap()
    }

    /// Sends the token, unless the headers say otherwise.
    pub async fn ask(
        self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Answer> {
        let stream = TcpStream::connect(self.0).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header(HOST, self.0.to_string());
        }
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header(AUTHORIZATION, bearer());
        }
        for (name, value) in headers.iter().filter(|header| **header != WITHOUT_TOKEN) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let answer = soon("an answer", sender.send_request(request)).await.ok()?;
        let (head, body) = answer.into_parts();
        Some(Answer { status: head.status.as_u16(), headers: head.headers, body, held: Vec::new() })
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The next line without its end; `None`: the answer has come to a proper end.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.held.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            match soon("more of an answer", self.body.frame()).await {
                Some(frame) => self.held.extend_from_slice(frame.unwrap().data_ref().unwrap()),
                None => return None,
            }
        }
    }

    /// The next line that is not empty.
    pub async fn telling(&mut self) -> Option<String> {
        loop {
            let line = self.line().await?;
            if !line.is_empty() && line != ":" {
                return Some(line);
            }
        }
    }

    /// The next event of an NDJSON answer.
    pub async fn event(&mut self) -> Option<Value> {
        loop {
            let line: Value = serde_json::from_str(&self.telling().await?).unwrap();
            if line.get("bookmark").is_none() {
                return Some(line);
            }
        }
    }

    /// The members `n` of the next events of an NDJSON answer.
    pub async fn numbers(&mut self, count: usize) -> Vec<i64> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            numbers.push(self.event().await.expect("an event")["event_data"]["n"].as_i64().unwrap());
        }
        numbers
    }

    pub async fn json(self) -> Value {
        let body = soon("an answer's end", self.body.collect()).await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"))
    }
}

/// Appends events `first` to `last` of the kind test.tick, in one transaction.
pub async fn append(harness: &Harness, first: i64, last: i64) {
    harness
        .execute(&format!(
            "SELECT copyhold.append_log(ARRAY(
                 SELECT jsonb_build_object('kind', 'test.tick', 'n', n) FROM generate_series({first}, {last}) n ORDER BY n))"
        ))
        .await;
}
