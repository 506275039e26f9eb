//! The responses to readers that cannot begin or continue.

use std::time::Duration;

use axum::http::StatusCode;
use copyhold_db::Database;

use super::super::error_response::ErrorResponse;
use crate::events::{End, TooManyReaders};

/// Another reader may leave soon.
pub(super) fn full(TooManyReaders: TooManyReaders) -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "as many readers as events.readers allows are there already: ask again later, or another daemon",
    )
    .again_after(Duration::from_secs(rand::random_range(5..=15)))
}

/// Why there is nothing for this reader, and what it does now.
///
/// `database`: where the log is.
pub(super) fn ended(end: End, database: &Database) -> ErrorResponse {
    match end {
        End::Gone { earliest } => ErrorResponse::new(
            StatusCode::GONE,
            format!(
                "what came next has been dropped from the log: take stock of what you follow, then go on with after={earliest}"
            ),
        )
        .with("earliest", earliest.to_string()),
        End::Ahead { head } => {
            let response = ErrorResponse::new(
                StatusCode::CONFLICT,
                format!(
                    "the log ends at {head}, before the event that you saw last: PostgreSQL failed over or was restored, or it is \
                     another one; take stock of what you follow, then go on with after={head}"
                ),
            );
            let response = response.with("head", head.to_string());
            match head.epoch {
                Some(epoch) => response.with("epoch", epoch.to_string()),
                None => response,
            }
        }
        End::OtherLog { epoch } => ErrorResponse::new(
            StatusCode::CONFLICT,
            format!(
                "this is the log {epoch}, not the one that you read so far: PostgreSQL failed over or was restored, or it is another \
                 one; take stock of what you follow, then begin with after=0 or without after"
            ),
        )
        .with("epoch", epoch.to_string()),
        End::Away => {
            // A clause that names no host.
            let why = database.read_only_server().map_or("cannot be reached", |server| server.cause.clause());
            ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, format!("PostgreSQL {why}: ask again in a moment"))
                .again_after(Duration::from_secs(rand::random_range(1..=5)))
        }
    }
}
