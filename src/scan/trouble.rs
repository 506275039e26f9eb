use crate::store::StoreError;

/// Why a listing cannot be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Store(StoreError),
    #[error(
        "the store lists \"{later}\" before \"{key}\", which is not the order of their bytes: nobody can tell then whether a \
         listing is complete, nor go on from where it was; register what it has in another way (`copyhold enqueue`, SQL)"
    )]
    OutOfOrder { later: String, key: String },
    #[error(
        "the store begins the next page with \"{key}\", which it has listed before: it does not heed its continuation tokens"
    )]
    Repeats { key: String },
    #[error("the store says that there is more to list and not where: {0}")]
    NoNext(&'static str),
    #[error("the store asks to be spared, and has answered no listing for {minutes} minutes: {last}")]
    Throttled { minutes: u64, last: StoreError },
}
