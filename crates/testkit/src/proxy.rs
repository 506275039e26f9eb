//! A TCP proxy that injects network failures into connections.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
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

/// How the proxy treats bytes that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    Pass,
    /// Nothing arrives, without an error; new connections are accepted, and get no answer.
    Hole,
    /// Each piece is delayed by this long.
    Slow(Duration),
}

/// How one message from PostgreSQL is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenMessage {
    /// A row's first value claims to be longer than its message.
    ValueLength,
    /// A row claims more columns than it has.
    Columns,
    /// A row ends in the middle, as its length says.
    Cut,
    /// A row's first value has one byte, whatever its type.
    ShortValue,
    /// A message that no version of the protocol knows.
    Kind,
    /// A message claims a length that none can have.
    Length,
}

impl BrokenMessage {
    pub const ALL: [Self; 6] =
        [Self::ValueLength, Self::Columns, Self::Cut, Self::ShortValue, Self::Kind, Self::Length];

    /// Breaks the first row in these whole messages; `None`: there is none.
    fn garble(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + 5) {
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let end = at + 1 + length;
            // A row with at least one value.
            if head[0] == b'D' && length > 10 && end <= bytes.len() {
                let (mut before, mut row) = (bytes[..at].to_vec(), bytes[at..end].to_vec());
                match self {
                    Self::ValueLength => row[7..11].copy_from_slice(&0x00ff_ffff_u32.to_be_bytes()),
                    Self::Columns => row[5..7].copy_from_slice(&99_u16.to_be_bytes()),
                    Self::Cut => {
                        row.truncate(8);
                        row[1..5].copy_from_slice(&7_u32.to_be_bytes());
                    }
                    Self::ShortValue => {
                        let value = u32::from_be_bytes(row[7..11].try_into().unwrap());
                        if value == u32::MAX || value < 2 {
                            at = end;
                            continue;
                        }
                        row.drain(12..11 + value as usize);
                        row[7..11].copy_from_slice(&1_u32.to_be_bytes());
                        row[1..5].copy_from_slice(&(u32::try_from(length).unwrap() - value + 1).to_be_bytes());
                    }
                    Self::Kind => row[0] = 0x01,
                    Self::Length => row[1..5].copy_from_slice(&2_u32.to_be_bytes()),
                }
                before.append(&mut row);
                before.extend_from_slice(&bytes[end..]);
                return Some(before);
            }
            at = end;
        }
        None
    }
}

/// A proxy in front of a server on this machine. Its connections end when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Transfer>,
    resets: watch::Sender<u64>,
    /// How to break the next message.
    garbles: BreakRules,
}

type BreakRules = Arc<Mutex<Option<BrokenMessage>>>;

impl Proxy {
    /// Starts a proxy in front of the server on that port.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, resets) = (watch::Sender::new(Transfer::Pass), watch::Sender::new(0));
        let (ways, all_resets) = (way.subscribe(), resets.subscribe());
        let garbles = BreakRules::default();
        let orders = Arc::clone(&garbles);
        tokio::spawn(async move {
            let mut gone = ways.clone();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = until_dropped(&mut gone) => return,
                };
                let Ok((client, _)) = accepted else { return };
                tokio::spawn(carry(client, port, ways.clone(), all_resets.clone(), Arc::clone(&orders)));
            }
        });
        Self { address, way, resets, garbles }
    }

    /// Returns a database's URL through this proxy.
    pub fn url(&self, database: &str) -> String {
        let mut url = url::Url::parse(database).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.to_string()
    }

    pub fn set(&self, way: Transfer) {
        self.way.send_replace(way);
    }

    /// Breaks the next row that a server sends.
    pub fn garble(&self, how: BrokenMessage) {
        *self.garbles.lock().unwrap() = Some(how);
    }

    /// Returns whether the row has been broken.
    pub fn has_garbled(&self) -> bool {
        self.garbles.lock().unwrap().is_none()
    }

    /// Resets all open connections.
    pub fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }
}

async fn until_dropped(way: &mut watch::Receiver<Transfer>) {
    while way.changed().await.is_ok() {}
}

async fn carry(
    client: TcpStream,
    port: u16,
    way: watch::Receiver<Transfer>,
    mut resets: watch::Receiver<u64>,
    garbles: BreakRules,
) {
    resets.mark_unchanged();
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut up = tokio::spawn(pump(from_client, to_server, way.clone(), BreakRules::default()));
    let mut down = tokio::spawn(pump(from_server, to_client, way, garbles));
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

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Transfer>,
    garbles: BreakRules,
) {
    // However the connection ends here, the other side gets a reset.
    let _ = from.as_ref().set_zero_linger();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
        loop {
            let now = *way.borrow_and_update();
            match now {
                Transfer::Pass => break,
                Transfer::Slow(pause) => {
                    tokio::time::sleep(pause).await;
                    break;
                }
                Transfer::Hole => {
                    if way.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
        let broken = {
            let mut how = garbles.lock().unwrap();
            let broken = how.and_then(|how| how.garble(&buffer[..bytes]));
            if broken.is_some() {
                *how = None;
            }
            broken
        };
        if to.write_all(broken.as_deref().unwrap_or(&buffer[..bytes])).await.is_err() {
            return;
        }
    }
}
