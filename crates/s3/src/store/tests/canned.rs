//! A server that gives prepared answers, for tests of the client.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// The first byte of a client that wants TLS: answered at once, as every plain server does.
const TLS_HANDSHAKE: u8 = 0x16;

const CLOSE: &[u8] = b"Connection: close";

/// A server that says what it was told to, one answer per request, and remembers
/// what it was asked, handshakes of TLS excepted. The last answer is repeated.
pub(super) struct Canned {
    pub endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<watch::Sender<usize>>,
    serving: JoinSet<()>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub line: String,
    /// With names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Canned {
    /// Each answer is everything after `HTTP/1.1 `, as bytes. After one that says `Connection: close`, or is empty, the
    /// connection is closed.
    pub(super) async fn new(answers: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        Self::with(answers, false).await
    }

    async fn with(answers: impl IntoIterator<Item = impl Into<Vec<u8>>>, closes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let answers: Vec<Vec<u8>> = answers.into_iter().map(Into::into).collect();
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let mut serving = JoinSet::new();
        let connections = Arc::<AtomicUsize>::default();
        let (told, count) = (requests.clone(), connections.clone());
        let open = Arc::new(watch::Sender::new(0));
        let is_open = Arc::clone(&open);
        serving.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                is_open.send_modify(|open| *open += 1);
                let (answers, told, is_open) = (answers.clone(), told.clone(), Arc::clone(&is_open));
                serving.spawn(async move {
                    serve(&mut socket, answers, told, closes).await;
                    until_client_closes(socket).await;
                    is_open.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { endpoint, requests, connections, open, serving }
    }

    /// Gives this one answer, or a part of one, and closes the connection.
    pub(super) async fn closing(answer: &str) -> Self {
        Self::with([answer], true).await
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many connections were ever made to it.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Ends when no connection is open, at either end.
    pub(super) async fn all_closed(&self) {
        self.open.subscribe().wait_for(|open| *open == 0).await.unwrap();
    }

    /// Closes the port and all connections.
    pub(super) async fn stop(mut self) {
        self.serving.shutdown().await;
    }

    pub(super) fn only_request(&self) -> Request {
        let mut all = self.requests();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

/// Closes this end, and ends when the client has closed the other.
async fn until_client_closes(mut socket: TcpStream) {
    let _ = socket.shutdown().await;
    let mut unread = [0; 1024];
    while matches!(socket.read(&mut unread).await, Ok(1..)) {}
}

async fn serve(socket: &mut TcpStream, answers: Vec<Vec<u8>>, told: Arc<Mutex<Vec<Request>>>, closes: bool) {
    while let Some(request) = read(socket).await {
        let answer = if request.line.is_empty() {
            answers[0].clone()
        } else {
            let mut told = told.lock().unwrap();
            told.push(request);
            answers[(told.len() - 1).min(answers.len() - 1)].clone()
        };
        if answer.is_empty() {
            return;
        }
        if socket.write_all(b"HTTP/1.1 ").await.is_err() || socket.write_all(&answer).await.is_err() {
            return;
        }
        if closes || answer.windows(CLOSE.len()).any(|words| words == CLOSE) {
            return;
        }
    }
}

async fn read(socket: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
        if head == [TLS_HANDSHAKE] {
            return Some(Request::default());
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut request = Request { line: lines.next()?.to_owned(), ..Request::default() };
    let headers = lines.filter_map(|line| line.split_once(": "));
    request.headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    request.body = vec![0; length];
    socket.read_exact(&mut request.body).await.ok()?;
    Some(request)
}
