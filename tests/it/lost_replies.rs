//! The network loses PostgreSQL's answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::harness::{Begin, Harness, cluster};

/// Passes everything on, but once: the first answer that contains `word` is swallowed, and its connection cut.
struct Proxy {
    port: u16,
    swallowed: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(server: u16, word: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let swallowed = Arc::new(AtomicBool::new(false));
        let of_each = Arc::clone(&swallowed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let swallowed = Arc::clone(&of_each);
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    pass(client, server, word, &swallowed).await;
                });
            }
        });
        Self { port, swallowed }
    }
}

/// Ends with either side, and ends both.
async fn pass(client: TcpStream, server: TcpStream, word: &str, swallowed: &AtomicBool) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = async {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
            let told = bytes[..n].windows(word.len()).any(|window| window == word.as_bytes());
            if told && !swallowed.swap(true, Ordering::SeqCst) || to_client.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = answers => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}

#[tokio::test]
async fn what_was_claimed_in_an_answer_that_was_lost_is_freed_and_copied_long_before_its_lease_ends() {
    let mut harness = Harness::with(Begin::Migrated, "[lease]\ntimeout = \"1h\"\n").await;
    let server = cluster().await.port();
    let proxy = Proxy::start(server, "the lost photo").await;
    harness.rewrite(|text| text.replace(&format!(":{server}/"), &format!(":{}/", proxy.port)));
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to wasabi").await;
    harness.upload("the lost photo", "bytes").await;
    harness.until_copied("the lost photo").await;
    assert!(proxy.swallowed.load(Ordering::SeqCst));
    daemon.until_logged("Freed 1 rows of a claim whose answer was lost").await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.swept_leases").await.unwrap(), "0");
}
