//! The pool: at most so many connections, lent to one user at a time.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgDatabaseError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    error::{READ_ONLY, ReadOnlyServer},
    guarded::guarded,
    target::{Access, Target},
};

/// How long a user waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);
/// Then a connection is made anew, so that what a name or a load balancer leads to is found again.
const LIFETIME: Duration = Duration::from_mins(5);
/// How long the answer to a statement that nobody waits for any more may take.
const DRAIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A pool of connections to one database.
#[derive(Clone)]
pub struct Connections(pub(super) Arc<Shared>);

pub(super) struct Shared {
    target: Target,
    access: Access,
    most: u32,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Live>>,
}

struct Live {
    connection: PgConnection,
    born: Instant,
    era: u64,
}

/// A connection in use.
pub struct Connected {
    live: Option<Live>,
    home: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
    fate: Fate,
}

/// What becomes of a connection that is not used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Used again: nothing is under way on it.
    Reused,
    /// Used again as soon as the answer to its last statement has been read, which nobody waits for.
    Drained,
    /// Closed.
    Closed,
}

impl Connections {
    /// Prepares a pool; connections are made when they are first needed, so this works while PostgreSQL is away.
    #[must_use]
    pub fn new(target: Target, access: Access, most: u32) -> Self {
        let permits = Arc::new(Semaphore::new(most as usize));
        Self(Arc::new(Shared { target, access, most, permits, idle: Mutex::default() }))
    }

    /// Lends a connection to a server that comes into question. It is closed when it is dropped, unless it is given back.
    pub async fn acquire(&self) -> Result<Connected, sqlx::Error> {
        let deadline = Instant::now() + ACQUIRE;
        let permits = Arc::clone(&self.0.permits);
        let permit = match tokio::time::timeout(ACQUIRE, permits.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(sqlx::Error::PoolClosed),
            Err(_) => return Err(sqlx::Error::PoolTimedOut),
        };
        let connected =
            |live| Connected { live: Some(live), home: Arc::clone(&self.0), permit: Some(permit), fate: Fate::Closed };
        while let Some(mut live) = self.0.pop() {
            let answers = tokio::time::timeout(DRAIN, guarded(live.connection.ping())).await;
            if matches!(answers, Ok(Ok(()))) {
                return Ok(connected(live));
            }
        }
        // Large, and seldom needed.
        Box::pin(self.0.connect(deadline)).await.map(connected)
    }

    /// Where its connections lead.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.0.target
    }

    /// The server that could only be read when a connection was made last.
    #[must_use]
    pub fn read_only(&self) -> Option<ReadOnlyServer> {
        self.0.target.read_only()
    }

    /// Ends all connections, as soon as nobody uses them.
    pub async fn close(&self) {
        let all = Arc::clone(&self.0.permits).acquire_many_owned(self.0.most).await;
        self.0.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.0.idle());
        // A connection that does not close in order is closed all the same.
        let _ = futures::future::join_all(idle.into_iter().map(|live| live.connection.close())).await;
    }
}

/// The same servers, reached in the same way; for those who bring a pool of their own.
impl From<PgPool> for Connections {
    fn from(pool: PgPool) -> Self {
        let options = pool.connect_options().as_ref().clone();
        Self::new(Target::fixed(options), Access::Write, pool.options().get_max_connections())
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Live>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that may be used again; the others are closed.
    fn pop(&self) -> Option<Live> {
        let (era, mut idle) = (self.target.era.now(), self.idle());
        let is_old = |live: &mut Live| live.era != era || live.born.elapsed() > LIFETIME;
        let old: Vec<_> = idle.extract_if(.., is_old).collect();
        let live = idle.pop();
        drop(idle);
        for live in old {
            tokio::spawn(live.connection.close());
        }
        live
    }

    /// Makes one, and tries again until `deadline` while PostgreSQL is starting, or full.
    async fn connect(&self, deadline: Instant) -> Result<Live, sqlx::Error> {
        let mut pause = FIRST_PAUSE;
        let mut login_refused = false;
        loop {
            let era = self.target.era.now();
            let error = match self.target.connect(self.access, deadline).await {
                Ok(connection) => return Ok(Live { connection, born: Instant::now(), era }),
                Err(error) => error,
            };
            // Secrets are read for each try: the first may have come just before they were rotated.
            let may_pass = is_starting(&error) || (is_login_refused(&error) && !login_refused);
            login_refused |= is_login_refused(&error);
            if !may_pass || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// It will be there in a moment: nobody listens on its port yet, it starts, or has no room for a connection.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(io) => match super::ConnectError::of(error) {
            None => io.kind() == std::io::ErrorKind::ConnectionRefused,
            Some(none) => none.read_only.is_none() && none.unreachable.iter().all(|why| why.contains("refused")),
        },
        sqlx::Error::Database(refused) => {
            refused.code().is_some_and(|code| ["57P03", "53300"].contains(&code.as_ref()))
        }
        _ => false,
    }
}

fn is_login_refused(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| ["28P01", "28000"].contains(&code.as_ref()))
}

impl Connected {
    /// Has it used again: nothing is under way on it, and no transaction is open.
    pub fn give_back(mut self) {
        self.fate = Fate::Reused;
    }

    pub(super) fn let_it(&mut self, fate: Fate) {
        self.fate = fate;
    }

    /// What this outcome of a statement means for it.
    pub(super) fn judge<T>(&mut self, outcome: &Result<T, sqlx::Error>) {
        let Err(error) = outcome else {
            self.fate = Fate::Reused;
            return;
        };
        self.fate = match error {
            sqlx::Error::Database(refused) => {
                let refused = refused.try_downcast_ref::<PgDatabaseError>();
                // Cannot fail: it came from PostgreSQL.
                let is_read_only = refused.is_some_and(|refused| refused.code() == READ_ONLY);
                if is_read_only && let Some(live) = &self.live {
                    self.home.target.era.end(live.era);
                }
                let goes_on = refused.is_some_and(|refused| refused.severity() == sqlx::postgres::PgSeverity::Error);
                if goes_on && !is_read_only { Fate::Reused } else { Fate::Closed }
            }
            // It was read in order.
            sqlx::Error::RowNotFound => Fate::Reused,
            // The way to the server, or what was said on it.
            _ => Fate::Closed,
        };
    }
}

impl Deref for Connected {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        // Cannot fail: it is taken in `drop` alone.
        &self.live.as_ref().expect("a connection in use").connection
    }
}

impl DerefMut for Connected {
    fn deref_mut(&mut self) -> &mut PgConnection {
        // Cannot fail: it is taken in `drop` alone.
        &mut self.live.as_mut().expect("a connection in use").connection
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let Some(mut live) = self.live.take() else { return };
        match self.fate {
            Fate::Reused => self.home.idle().push(live),
            Fate::Closed => {}
            Fate::Drained => {
                let (home, permit) = (Arc::clone(&self.home), self.permit.take());
                // Without a runtime the process is ending.
                let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
                runtime.spawn(async move {
                    if let Ok(Ok(())) = tokio::time::timeout(DRAIN, guarded(live.connection.ping())).await {
                        home.idle().push(live);
                    }
                    drop(permit);
                });
            }
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("most", &self.0.most)
            .field("access", &self.0.access)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("fate", &self.fate).finish_non_exhaustive()
    }
}
