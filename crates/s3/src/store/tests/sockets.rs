//! What becomes of connections.

use bytes::Bytes;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use super::*;

const BODY: usize = 64 << 20;

/// A store that accepts one connection and reads no more than asked for here.
async fn deaf_store() -> (TcpListener, Store) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store(&format!("http://{}", listener.local_addr().unwrap())).await;
    (listener, store)
}

/// Reads what is still to come. `Err`: the connection was reset.
async fn rest_of(mut socket: TcpStream) -> std::io::Result<usize> {
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await
}

#[tokio::test]
async fn a_request_that_is_given_up_closes_its_connection_and_sends_no_more() {
    let (listener, store) = deaf_store().await;
    let bytes = Bytes::from(vec![7; BODY]);
    let (key, md5, metadata) = (key("k"), md5(b""), Metadata::default());
    let (given_up, drop_it) = tokio::sync::oneshot::channel::<()>();
    let putting = async {
        tokio::select! {
            answer = store.put(&key, &bytes, &md5, &metadata) => panic!("{answer:?}"),
            _ = drop_it => {}
        }
    };
    let reading = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        // The first byte has come; what follows fills the buffers of both ends.
        socket.read_u8().await.unwrap();
        given_up.send(()).unwrap();
        socket
    };
    let ((), socket) = tokio::join!(putting, reading);
    // Without the abort hyper would wait here for room to write what it has buffered, which never comes.
    let kind = rest_of(socket).await.map_err(|error| error.kind());
    assert_eq!(kind, Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_connection_that_is_being_made_is_no_failure_of_whoever_gives_up() {
    let (listener, store) = deaf_store().await;
    let key = key("k");
    let mut heading = Box::pin(store.head(&key));
    assert!(futures::poll!(&mut heading).is_pending());
    drop(heading);
    drop(listener);
}
