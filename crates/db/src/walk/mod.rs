//! Walks through all objects in key order: a bucket scan, an audit, the holdings of one replica.

pub(crate) mod holdings;
pub(crate) mod scan;
pub(crate) mod verify;

pub use holdings::Holdings;
pub use scan::{
    KeyRange, ListedKey, ListedKeys, PageResult, ScanArguments, ScanCounts, ScanHolder, ScanId, ScanPage, ScanPart,
    UnfinishedScan,
};
pub use verify::{KeySample, ObjectRange, RecordedObject, RecordedPage};
