//! An S3 server in memory, over real HTTP and with checked signatures, that
//! can be made to fail.
//!
//! It owns its objects and loses them when it is dropped. It never writes a
//! file. Its rule: whatever it answers with success has happened, and whatever
//! it refuses has left no trace; what breaks this rule is a [`Fault`] that
//! a test injected.
//!
//! ```no_run
//! use copyhold_sandbox::s3::{BucketOptions, Fault, Op, S3Server, When};
//! # async fn example() -> std::io::Result<()> {
//! let server = S3Server::start().await?;
//! let wasabi = server.create_bucket("wasabi", BucketOptions::default());
//! wasabi.order(Fault::slow_down(), When::op(Op::PutObject).next(2));
//! // … copy something to server.endpoint() …
//! wasabi.arrived(Op::PutObject, 3).await;
//! assert_eq!(wasabi.writes("a//b"), 1);
//! # Ok(()) }
//! ```

mod api;
mod bucket;
mod bucket_options;
mod call_counts;
mod checksums;
mod connection;
mod content_index;
mod fault;
mod fault_rules;
mod generated_listing;
mod handle;
mod metadata;
mod object;
mod operation;
mod part;
mod parts;
mod pause_gate;
mod payload_headers;
mod receive_body;
mod request_body;
mod response_body;
mod server;
mod service;
mod state;
pub mod synthetic;
#[cfg(test)]
mod tests;
mod xml;

pub use bucket_options::{BodyStorage, BucketOptions, Quirk};
pub use call_counts::{BytesMoved, Counts, OperationCounts};
pub use fault::{ErrorAnswer, Fault};
pub use fault_rules::{InjectedFault, When};
pub use generated_listing::GeneratedListing;
pub use handle::{BucketHandle, ObjectInfo, UploadInfo};
pub use metadata::Metadata;
pub use object::Pieces;
pub use operation::Op;
pub use pause_gate::PauseGate;
pub use server::{S3Server, ServerOptions};
pub use synthetic::Synthetic;
