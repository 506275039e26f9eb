//! The server: started, closed and opened again, stopped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::Api;
use super::bucket::Bucket;
use super::bucket_options::BucketOptions;
use super::connection::{ConnectionFault, Socket};
use super::fault::Fault;
use super::fault_rules::{InjectedFault, When};
use super::handle::BucketHandle;
use super::service;
use super::state::{AnyName, ByHost, OneUser, ServerState};

/// Where the server listens and which keys it accepts.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Port 0 takes any free one.
    pub listen: SocketAddr,
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            access_key_id: "sandbox".to_owned(),
            secret_access_key: "sandbox-secret".to_owned(),
        }
    }
}

/// A running S3 server with its buckets. Dropping it ends its connections
/// without waiting for them; [`S3Server::stop`] waits.
pub struct S3Server {
    options: ServerOptions,
    address: SocketAddr,
    shared: Arc<ServerState>,
    user: OneUser,
    s3: S3Service,
    listening: Mutex<Option<Listening>>,
}

/// One period of listening; ends with `close`.
struct Listening {
    end: CancellationToken,
    tasks: TaskTracker,
}

impl S3Server {
    /// Starts on a free port with the default keys and no buckets.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(ServerOptions::default()).await
    }

    pub async fn start_with(options: ServerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let shared = Arc::new(ServerState::default());
        let mut builder = S3ServiceBuilder::new(Api(Arc::clone(&shared)));
        let keys = (options.access_key_id.clone(), options.secret_access_key.clone());
        let user = OneUser(Arc::new(RwLock::new(keys)));
        builder.set_auth(user.clone());
        builder.set_host(ByHost);
        builder.set_validation(AnyName);
        let (address, s3) = (listener.local_addr()?, builder.build());
        let server = Self { address, options, shared, user, s3, listening: Mutex::new(None) };
        server.listen(listener);
        Ok(server)
    }

    /// Serves until `stop` completes, for a process of its own.
    pub async fn run(self, stop: CancellationToken) {
        stop.cancelled().await;
        self.stop().await;
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`, for path-style requests; `http://localhost:PORT` works for both styles.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Accepts only these keys from now on.
    pub fn rotate_keys(&self, access_key_id: &str, secret_access_key: &str) {
        *self.user.0.write().expect("no holder panics") = (access_key_id.to_owned(), secret_access_key.to_owned());
    }

    /// Returns the keys that it was started with.
    pub fn access_key_id(&self) -> &str {
        &self.options.access_key_id
    }

    pub fn secret_access_key(&self) -> &str {
        &self.options.secret_access_key
    }

    /// Makes a bucket, or replaces the one of this name by an empty one. Counts and faults stay.
    pub fn create_bucket(&self, name: &str, options: BucketOptions) -> BucketHandle {
        let mut buckets = self.shared.buckets.write().expect("no holder panics");
        buckets.insert(name.to_owned(), Arc::new(Bucket::new(options)));
        self.bucket(name)
    }

    /// Removes the bucket with all its objects: calls are answered `NoSuchBucket`.
    pub fn drop_bucket(&self, name: &str) {
        self.shared.buckets.write().expect("no holder panics").remove(name);
    }

    /// Returns the bucket of this name, which need not exist for counts and faults.
    pub fn bucket(&self, name: &str) -> BucketHandle {
        BucketHandle::new(name, Arc::clone(&self.shared))
    }

    /// Names of all buckets.
    pub fn buckets(&self) -> Vec<String> {
        self.shared.buckets.read().expect("no holder panics").keys().cloned().collect()
    }

    /// Injects a fault for every bucket, or the one that `when` names.
    pub fn order(&self, fault: Fault, when: impl Into<When>) -> InjectedFault {
        self.shared.rules.order(fault, when.into())
    }

    /// Removes every fault, and opens the gates that hold calls.
    pub fn clear_faults(&self) {
        self.shared.rules.clear(|_| true);
    }

    /// Refuses connections and breaks open ones, as a dead server does; the objects stay.
    pub async fn close(&self) {
        let listening = self.listening.lock().expect("no holder panics").take();
        if let Some(listening) = listening {
            listening.end.cancel();
            listening.tasks.wait().await;
        }
    }

    /// Listens again on the same port.
    pub async fn open(&self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.listen(listener);
        Ok(())
    }

    /// Stops everything and waits for that.
    pub async fn stop(self) {
        self.close().await;
    }

    fn listen(&self, listener: TcpListener) {
        let listening = Listening { end: CancellationToken::new(), tasks: TaskTracker::new() };
        let (end, tasks) = (listening.end.clone(), listening.tasks.clone());
        let (shared, s3) = (Arc::clone(&self.shared), self.s3.clone());
        listening.tasks.spawn(async move {
            while let Some(accepted) = end.run_until_cancelled(listener.accept()).await {
                let Ok((stream, _)) = accepted else {
                    // A client that gave up is no matter; out of file handles, asking at once would spin.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let serve = serve(stream, Arc::clone(&shared), s3.clone());
                let end = end.clone();
                tasks.spawn(async move { end.run_until_cancelled(serve).await });
            }
        });
        listening.tasks.close();
        *self.listening.lock().expect("no holder panics") = Some(listening);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Ok(Some(listening)) = self.listening.get_mut().map(Option::take) {
            listening.end.cancel();
        }
    }
}

impl std::fmt::Debug for S3Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Server").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn serve(stream: TcpStream, shared: Arc<ServerState>, s3: S3Service) {
    let _ = stream.set_nodelay(true);
    let fate = Arc::new(ConnectionFault::default());
    let socket = TokioIo::new(Socket::new(stream, Arc::clone(&fate)));
    let service =
        service_fn(move |request| service::answer(Arc::clone(&shared), s3.clone(), Arc::clone(&fate), request));
    // An error here is a client that went away or a fault that was ordered: both are expected.
    let _ = http1::Builder::new().serve_connection(socket, service).await;
}
