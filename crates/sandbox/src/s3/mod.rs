//! An S3 server in memory, over real HTTP and with checked signatures, that
//! can be told to fail.
//!
//! It owns its objects and loses them when it is dropped. It never writes a
//! file. Its rule: whatever it answers with success has happened, and whatever
//! it refuses has left no trace; what breaks this rule is a [`Fault`] that
//! somebody ordered.
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

mod answer;
mod api;
mod bucket;
mod call;
mod checksums;
mod connection;
mod declared;
mod fault;
mod gate;
mod generated;
mod handle;
mod known;
mod ledger;
mod loan;
mod metadata;
mod object;
mod order;
mod part;
mod parts;
mod quirks;
mod receive;
mod server;
mod service;
mod shared;
pub mod synthetic;
#[cfg(test)]
mod tests;
mod xml;

pub use call::Op;
pub use fault::{ErrorAnswer, Fault};
pub use gate::Gate;
pub use generated::Generated;
pub use handle::{BucketHandle, ObjectInfo, UploadInfo};
pub use ledger::{Counts, Moved, Tally};
pub use metadata::Metadata;
pub use object::Pieces;
pub use order::{Order, When};
pub use quirks::{BucketOptions, Keep, Quirk};
pub use server::{S3Server, ServerOptions};
pub use synthetic::Synthetic;
