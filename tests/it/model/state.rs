//! What the model knows of one key: the stores, the row, the entries, the daemons and the writes under way.

/// Replicas at most; a bound says how many take part.
pub const REPLICAS: usize = 3;
/// Each daemon works on the key once at a time.
pub const DAEMONS: usize = 2;
/// Writes that a store may still carry out, at most.
pub const WRITES: usize = 2;

/// What stands under the key in a bucket; [`NOTHING`] or one of the application's contents.
pub type Content = u8;
pub const NOTHING: Content = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub store: [Content; REPLICAS],
    pub primary: usize,
    pub row: Option<Row>,
    pub entries: [Option<Entry>; REPLICAS],
    pub attempts: [Attempt; DAEMONS],
    pub writes: [Option<Write>; WRITES],
    pub claims: Claims,
    /// What `scan --adopt` has listed and not recorded yet.
    pub listing: Option<Listing>,
    /// The application has put a content that it has not registered yet.
    pub unregistered: bool,
    /// `promote --accept-missing` was used: what our late writes do to the primary is accepted.
    pub accepted: bool,
    pub left: Budget,
}

/// The row of `object_copies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// `content_hash`, which says which content it is.
    pub hash: Option<Content>,
    pub recorded: [bool; REPLICAS],
    pub holder: Option<Holder>,
    /// The claim would be lost if PostgreSQL crashed now.
    pub claim_is_volatile: bool,
    /// The release before it would be lost as well.
    pub release_is_volatile: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    Daemon(usize),
    /// A process that has ended, or has given the row back.
    Gone,
}

/// A row of `unsettled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub sent: Option<Content>,
    pub settled: bool,
}

/// A daemon's work on the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attempt {
    pub phase: Phase,
    /// The row still has the generation that was claimed.
    pub generation: bool,
    /// What it reads from: the primary in force when the row was claimed.
    pub source: usize,
    /// The row's content when it was claimed.
    pub expected: Option<Content>,
    pub read: Option<Content>,
    pub targets: [Target; REPLICAS],
    /// Its lease was gone when the entry of that replica was noted: until that is settled it has ended.
    pub covered: [bool; REPLICAS],
    /// The same for the window after a crash.
    pub in_window: bool,
    /// It has proven copies before such a window ended.
    pub proven_in_window: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    #[default]
    Idle,
    Working,
    /// All its connections are closed; what it has to report is not written.
    Ended,
    /// Its report was refused or could not be written while it had the lease.
    Refused,
}

/// What an attempt knows of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Target {
    #[default]
    None,
    Due,
    /// Sent, and no answer yet.
    Open,
    Answered,
    /// It was read and has the content.
    Found,
}

/// A request that a store has got, or may have got, and has not carried out yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Write {
    pub replica: usize,
    pub content: Content,
    /// Whose connection is still open.
    pub from: Option<usize>,
    /// The replica's entry is not settled before this write has arrived, or never will.
    pub covered: bool,
    /// The same for the window after a crash.
    pub in_window: bool,
}

/// The table `claims_intact`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claims {
    Intact,
    /// PostgreSQL has crashed, and no daemon has noted it.
    Missing,
    /// It is noted; what is recorded until the window ends is not settled.
    Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listing {
    pub holder: usize,
    /// Replicas that have what the holder has.
    pub same: [bool; REPLICAS],
    /// The row that is there was registered before.
    pub row_is_older: bool,
}

/// How often each of these may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    pub puts: u8,
    pub deletions: u8,
    pub sent: u8,
    pub expiries: u8,
    pub kills: u8,
    pub crashes: u8,
    pub promotions: u8,
    pub acceptances: u8,
    pub scans: u8,
}

impl State {
    /// One content is at the primary and registered.
    pub fn new(left: Budget) -> Self {
        let mut store = [NOTHING; REPLICAS];
        store[0] = 1;
        Self {
            store,
            primary: 0,
            row: Some(Row::registered(0)),
            entries: [None; REPLICAS],
            attempts: [Attempt::default(); DAEMONS],
            writes: [None; WRITES],
            claims: Claims::Intact,
            listing: None,
            unregistered: false,
            accepted: false,
            left,
        }
    }

    pub fn holds(&self, daemon: usize) -> bool {
        self.row.is_some_and(|row| row.holder == Some(Holder::Daemon(daemon)))
    }

    pub fn is_noted(&self) -> bool {
        self.entries.iter().any(Option::is_some)
    }

    /// A recorded time that is false while nothing is left that could mend it.
    pub fn false_time(&self) -> Option<usize> {
        let row = self.row.filter(|row| row.holder.is_none())?;
        let pending = self.is_noted()
            || self.writes.iter().any(Option::is_some)
            || self.attempts.iter().any(|attempt| attempt.phase != Phase::Idle)
            || self.claims != Claims::Intact;
        if pending {
            return None;
        }
        (0..REPLICAS).filter(|&r| row.recorded[r]).find(|&r| {
            // What the application has put and not registered yet is its own.
            // Where there is no hash, it is the primary's content, unless missing copies were accepted there.
            let exempt =
                self.unregistered && (r == self.primary || row.hash.is_none()) || self.accepted && row.hash.is_none();
            !exempt && self.store[r] != row.hash.unwrap_or(self.store[self.primary])
        })
    }
}

impl Row {
    pub fn registered(primary: usize) -> Self {
        let mut recorded = [false; REPLICAS];
        recorded[primary] = true;
        Self { hash: None, recorded, holder: None, claim_is_volatile: false, release_is_volatile: false }
    }
}
