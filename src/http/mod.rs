//! The small HTTP surface: is it alive, is it ready, what does it measure. No object data, no changes, no secrets.

mod health;
mod metrics;

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{copy::Memory, queue::Queue};

/// How often old samples are folded away, whether or not somebody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// What the pages are made from.
#[derive(Clone)]
pub struct Pages {
    pub queue: Queue,
    pub memory: Memory,
    pub metrics: PrometheusHandle,
    /// Cancelled when the daemon takes on nothing new: it is alive, but not ready.
    pub drain: CancellationToken,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// The door, opened before anything else starts, so that a port in use is told at once.
pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

/// Serves until `end`.
pub async fn serve(listener: TcpListener, pages: Pages, end: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        info!("Serving /livez, /readyz and /metrics on http://{address}");
    }
    let upkeep = pages.metrics.clone();
    let router = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::render))
        .with_state(pages);
    let served = axum::serve(listener, router).with_graceful_shutdown(end.clone().cancelled_owned());
    let fold = async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    };
    tokio::select! {
        result = served => if let Err(error) = result {
            warn!(error = %error, "The HTTP server has ended");
        },
        () = fold => {}
        // Connections that are kept open would hold up a graceful end for ever.
        () = async { end.cancelled().await; tokio::time::sleep(Duration::from_secs(1)).await } => {}
    }
}
