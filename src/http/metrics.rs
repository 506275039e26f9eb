//! `/metrics`: what is in memory, at once. No statement is sent: PostgreSQL may be unavailable, or hang, when metrics
//! matter most.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};

use super::AppState;
use crate::metrics;

/// The figures of this process, and those of PostgreSQL as they were read last.
pub(super) async fn render(State(state): State<AppState>) -> impl IntoResponse {
    let text = metrics::render(&state.metrics, state.memory.held_bytes());
    (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
