//! Lists a bucket and registers what is in it and not registered yet.
//!
//! The order of keys is cut into parts that are listed at the same time, each from where it was when the command was
//! last ended or killed. Holds a page per part, and with `--adopt` one per part and replica, however many keys there
//! are. From a listing it takes that a key is there, and never that one is not: a listing that fails, repeats itself or
//! is out of order ends the scan, and what was registered until then stays.

mod error;
mod halt;
mod lister;
mod lister_pages;
mod peer_listing;
mod progress;
mod ranges;
mod rate;
mod run;
mod write;

pub use error::{ListingError, PageAt};
pub use halt::ScanError;
pub use lister::{Lister, ListingStats};
pub use progress::{Progress, ProgressSnapshot};
pub use ranges::fold;
pub(crate) use rate::RequestSpacing;
pub use run::{Begin, Scan, ScanResult};
