//! A TCP proxy that can do to a connection what networks do.

#![allow(dead_code, reason = "the benchmarks need less of it")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What becomes of bytes that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Pass,
    /// Nothing arrives, and nobody is told; new connections are made, and get no answer.
    Hole,
    /// Each piece takes so long.
    Slow(Duration),
}

/// Stands before a server on this machine. Its connections end with it.
pub struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Way>,
    resets: watch::Sender<u64>,
}

impl Proxy {
    /// Before whatever listens on that port.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, resets) = (watch::Sender::new(Way::Pass), watch::Sender::new(0));
        let (ways, all_resets) = (way.subscribe(), resets.subscribe());
        tokio::spawn(async move {
            let mut gone = ways.clone();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = until_dropped(&mut gone) => return,
                };
                let Ok((client, _)) = accepted else { return };
                tokio::spawn(carry(client, port, ways.clone(), all_resets.clone()));
            }
        });
        Self { address, way, resets }
    }

    /// A database's address with this proxy on the way.
    pub fn url(&self, database: &str) -> String {
        let mut url = url::Url::parse(database).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.to_string()
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Resets all connections that are open.
    pub fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }
}

async fn until_dropped(way: &mut watch::Receiver<Way>) {
    while way.changed().await.is_ok() {}
}

async fn carry(client: TcpStream, port: u16, way: watch::Receiver<Way>, mut resets: watch::Receiver<u64>) {
    resets.mark_unchanged();
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut up = tokio::spawn(pump(from_client, to_server, way.clone()));
    let mut down = tokio::spawn(pump(from_server, to_client, way));
    tokio::select! {
        _ = &mut up => down.abort(),
        _ = &mut down => up.abort(),
        _ = resets.changed() => {
            // The sockets are closed when both halves of each are dropped.
            for pump in [up, down] {
                pump.abort();
                let _ = pump.await;
            }
        }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    // However the connection ends here, whoever is on the other side learns it by a reset.
    let _ = from.as_ref().set_zero_linger();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
        loop {
            let now = *way.borrow_and_update();
            match now {
                Way::Pass => break,
                Way::Slow(pause) => {
                    tokio::time::sleep(pause).await;
                    break;
                }
                Way::Hole => {
                    if way.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}
