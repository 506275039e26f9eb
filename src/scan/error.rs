//! Why a listing cannot be continued.

use std::fmt;

use copyhold_s3::store::{StoreError, shown};

/// Why a listing cannot be continued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    #[error("{error}; this was {place}")]
    Store { place: PageAt, error: Box<StoreError> },
    #[error(
        "the store lists \"{later}\" before \"{key}\", which is not the order of their bytes: such a listing cannot be \
         known to be complete, nor continued; register what it has in another way (`copyhold enqueue`, SQL)"
    )]
    OutOfOrder { later: String, key: String },
    #[error(
        "the store begins the next page with \"{key}\", which it has listed before: it does not heed its continuation tokens"
    )]
    Repeats { key: String },
    #[error("the store says that there is more to list and not where: {0}")]
    NoNext(&'static str),
    #[error(
        "the store lists the folder \"{prefix}\" in place of the keys in it, though no delimiter was given: what lies in it \
         cannot be seen; register what the bucket has in another way (`copyhold enqueue`, SQL)"
    )]
    Folders { prefix: String },
    #[error("the store leads round and round: from an empty page to others, and back to it")]
    Circle,
    #[error(
        "the store gives {pages} empty pages in a row and says each time that there is more: its listing has no end, or is full of \
         what it hides; let a lifecycle rule of the bucket remove expired delete markers, or register what the bucket has in \
         another way (`copyhold enqueue`, SQL)"
    )]
    Empty { pages: u64 },
    #[error("the store asks to be spared, and has answered no listing for {minutes} minutes: {last}")]
    Throttled { minutes: u64, last: StoreError },
}

/// The page of a listing that an error concerns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageAt {
    /// Among the pages that this process has requested; 1 is the first.
    pub number: u64,
    /// The last key of the page before.
    pub behind: Option<Vec<u8>>,
}

impl fmt::Display for PageAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.behind {
            Some(key) => write!(f, "page {} (behind \"{}\")", self.number, shown(key)),
            None => write!(f, "page {}", self.number),
        }
    }
}
