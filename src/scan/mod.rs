//! Lists a bucket and registers what is in it and not registered yet.
//!
//! The order of keys is cut into parts that are listed at the same time, each from where it was when the command was
//! last ended or killed. Holds a page per part, and with `--adopt` one per part and replica, however many keys there are.
//! From a listing it takes that a key is there, and never that one is not: a listing that fails, repeats itself or is
//! out of order ends the scan, and what was registered until then stays.

mod beside;
mod halt;
mod lister;
mod parts;
mod progress;
mod rate;
mod run;
mod trouble;
mod walk;
mod write;

pub use halt::Halt;
pub use lister::{Lister, Notes};
pub use parts::fold;
pub use progress::{Progress, Shown};
pub(crate) use rate::Rate;
pub use run::{Begin, Ended, Scan};
pub use trouble::{PageAt, Trouble};
