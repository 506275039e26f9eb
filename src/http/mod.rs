//! The HTTP server: liveness, readiness and metrics; reading and appending events; registering objects.

mod auth;
mod connection_limit;
mod connections;
mod error_response;
mod events;
mod fd_limit;
mod health;
mod host;
mod metrics;
mod objects;
mod request_body;

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    http::StatusCode,
    middleware,
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use auth::Auth;
pub use events::check_events_query;
pub use request_body::WriteLimits;

use copyhold_db::Database;
use copyhold_s3::copy::Memory;

use crate::events::Log;
use error_response::ErrorResponse;

/// How often the recorder folds old samples, also while no scrape comes.
const UPKEEP: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Clone)]
pub struct AppState {
    pub database: Database,
    pub memory: Memory,
    pub metrics: PrometheusHandle,
    pub log: Log,
    pub auth: Auth,
    pub write_limits: WriteLimits,
    /// Cancelled when the daemon takes on nothing new: it is alive, but not ready.
    pub drain: CancellationToken,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState").finish_non_exhaustive()
    }
}

/// Opens the listening socket, before anything else starts, so that a port in use is reported at once.
pub fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    connections::bind(listen)
}

/// Serves until `end`; up to `readers` of events, and some connections more.
pub async fn serve(listener: TcpListener, state: AppState, readers: usize, end: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        info!("Serving /livez, /readyz, /metrics, /v1/events and /v1/objects on http://{address}");
    }
    let upkeep = state.metrics.clone();
    let router = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::render))
        .route("/v1/events", get(events::read).post(events::append).fallback(wrong_method))
        .route("/v1/objects", post(objects::register).fallback(only_post))
        .fallback(not_found)
        .layer(middleware::from_fn(host::checked))
        .with_state(state);
    let most = fd_limit::connections_for(readers);
    let fold = async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    };
    tokio::select! {
        () = connections::serve(listener, router, most, &end) => {}
        () = fold => {}
        // Connections that are kept open would hold up a graceful end for ever.
        () = async { end.cancelled().await; tokio::time::sleep(Duration::from_secs(1)).await } => {}
    }
}

async fn not_found() -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::NOT_FOUND,
        "not found; available paths: /v1/events, /v1/objects, /livez, /readyz and /metrics",
    )
}

async fn wrong_method() -> ErrorResponse {
    ErrorResponse::new(StatusCode::METHOD_NOT_ALLOWED, "events are read with GET and appended with POST")
}

async fn only_post() -> ErrorResponse {
    ErrorResponse::new(StatusCode::METHOD_NOT_ALLOWED, "objects are registered with POST")
}
